"""Which points are seen in which frames: frustum, depth test or z-buffer, and the confidence that follows from it.

``project_views`` is the one way from world points to pixels and status in this package; ``project_frame`` is one view
of it. It goes through the points in chunks that fit into the processor's cache, which makes it several times faster
than whole-array steps, and bounds its memory by the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.projection import EDGE_PX, valid_depth, world_to_cam
from clipfeat.camera.zbuffer import ZBuffer
from clipfeat.types import FloatArray, Frame, PointStatus, Projection

CHUNK = 16384
"""Points a step: the dozen float64 temporaries of a step then stay in the second-level cache."""


@dataclass(frozen=True)
class VisibilityRule:
    """When a point counts as seen.

    Attributes:
        near: nearest z in metres.
        far: farthest z in metres.
        border: pixels of the colour picture along its edges that do not count as in view.
        tolerance: allowed |z - depth| in metres.
        tolerance_rel: allowed |z - depth| as a share of z; the larger of the two counts.
        keep_holes: whether points that fall into a hole of the depth count as visible, with the confidence that a point
            at the tolerance has. Otherwise they are NO_DEPTH.
        zbuffer: whether, in a frame without depth, the points hide each other. Otherwise all in view are visible.
    """

    near: float = 0.1
    far: float = 20.0
    border: float = 0.0
    tolerance: float = 0.03
    tolerance_rel: float = 0.01
    keep_holes: bool = False
    zbuffer: bool = True


def project_frame(points: NDArray[np.float64], frame: Frame, rule: VisibilityRule | None = None) -> Projection:
    """Projects world points into a frame's colour picture and tests whether they are seen there.

    Args:
        points: (N, 3) world metres.
        frame: the frame.
        rule: when a point counts as seen.

    Returns:
        uv (N, 2) in colour pixels, z, status and confidence a point.

    Raises:
        ValueError: As for ``project_views``.
    """
    many = project_views(points, [frame], rule)
    return Projection(many.uv[0], many.depth_m[0], many.status[0], many.conf_2d[0])


def project_views(
    points: NDArray[np.float64], frames: Sequence[Frame], rule: VisibilityRule | None = None
) -> Projection:
    """Projects the points of a scene into V of its frames at once; the same numbers as V calls of ``project_frame``.

    The depth test is done in the depth picture with the depth camera's own K, which shares the pose with the colour
    camera. A frame without depth falls back on a z-buffer of the points themselves, see ``VisibilityRule.zbuffer``.

    Args:
        points: (N, 3) world metres.
        frames: V frames of one scene.
        rule: when a point counts as seen.

    Returns:
        uv (V, N, 2), z, status and confidence (V, N). Beyond that result it needs a few megabytes.

    Raises:
        ValueError: If points is not (N, 3), a pose holds inf or NaN, or a frame has depth but no depth camera.
    """
    rule = rule or VisibilityRule()
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points must be (N, 3), got {points.shape}")
    shape = len(frames), len(points)
    uv = np.empty((*shape, 2), np.float32)
    z = np.empty(shape, np.float32)
    status = np.empty(shape, np.uint8)
    conf = np.zeros(shape, np.float32)
    columns = np.ascontiguousarray(points.T)
    zbuffer = ZBuffer(points) if rule.zbuffer and any(frame.depth_m is None for frame in frames) else None
    for view, frame in enumerate(frames):
        one = Projection(uv[view], z[view], status[view], conf[view])
        for begin in range(0, len(points), CHUNK):
            rows = slice(begin, min(begin + CHUNK, len(points)))
            part = Projection(one.uv[rows], one.depth_m[rows], one.status[rows], one.conf_2d[rows])
            _project_chunk(columns[:, rows], frame, rule, part)
        if frame.depth_m is None and zbuffer is not None:
            hidden = zbuffer.hidden(one, frame.color_camera, rule.tolerance, rule.tolerance_rel)
            one.status[hidden] = PointStatus.OCCLUDED
            one.conf_2d[hidden] = 0
    return Projection(uv, z, status, conf)


def _project_chunk(columns: NDArray[np.float64], frame: Frame, rule: VisibilityRule, out: Projection) -> None:
    """Fills ``out`` for the points in the columns of a (3, M) array."""
    color = frame.color_camera
    to_cam = world_to_cam(frame.cam_to_world)
    # K is multiplied into the pose: a product of small matrices instead of two passes over the points.
    pixel = color.intrinsics @ to_cam[:3, :3] @ columns
    pixel += (color.intrinsics @ to_cam[:3, 3])[:, None]
    z = pixel[2]
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = pixel[0] / z, pixel[1] / z
    in_front = z > 0
    inside = (z >= rule.near) & (z <= rule.far) & in_front
    low = rule.border - EDGE_PX
    inside &= (u >= low) & (u <= color.width - 1 - low) & (v >= low) & (v <= color.height - 1 - low)
    out.uv[:, 0] = np.where(in_front, u, np.nan)
    out.uv[:, 1] = np.where(in_front, v, np.nan)
    out.depth_m[:] = z
    out.status[:] = np.where(in_front, PointStatus.OUT_OF_VIEW, PointStatus.BEHIND)
    out.conf_2d[:] = 0

    # Only the points in view, a fifth of a room's, go on to the depth test.
    candidates = np.flatnonzero(inside)
    if frame.depth_m is None:
        out.status[candidates] = PointStatus.VISIBLE
        out.conf_2d[candidates] = 1
        return
    if frame.depth_camera is None:
        raise ValueError(f"{frame.scene_id} frame {frame.frame_id}: depth without a depth camera")
    to_depth = frame.depth_camera.intrinsics @ np.linalg.inv(color.intrinsics)
    uc, vc, zc = u[candidates], v[candidates], z[candidates]
    uv_depth = np.stack((uc, vc), -1) @ to_depth[:2, :2].T + to_depth[:2, 2]
    measured = lookup_depth(frame.depth_m, uv_depth)
    allowed = depth_tolerance(zc, rule.tolerance, rule.tolerance_rel)
    delta = np.abs(zc - measured)
    status = np.where(delta <= allowed, PointStatus.VISIBLE, PointStatus.OCCLUDED)
    confidence = np.where(delta <= allowed, depth_confidence(delta, allowed), 0.0)
    hole = measured == 0
    status[hole] = PointStatus.VISIBLE if rule.keep_holes else PointStatus.NO_DEPTH
    confidence[hole] = np.exp(-4.5) if rule.keep_holes else 0.0
    out.status[candidates] = status
    out.conf_2d[candidates] = confidence


def lookup_depth(depth_m: NDArray[np.floating], uv: FloatArray) -> NDArray[np.float64]:
    """Depth of the pixel nearest to each position.

    Nearest and not bilinear: between a chair and the wall behind it there is no surface to interpolate.

    Args:
        depth_m: (h, w) metres, 0 for holes.
        uv: (..., 2) pixels of the depth picture.

    Returns:
        (...,) metres, 0 for holes and for positions outside the picture.
    """
    height, width = depth_m.shape
    u, v = uv[..., 0], uv[..., 1]
    # Half a pixel beyond the outermost centres still belongs to the outermost pixels.
    inside = (u >= -0.5) & (u <= width - 0.5) & (v >= -0.5) & (v <= height - 0.5)
    # The right and lower edges themselves would round up to one cell too far.
    column = np.minimum(np.where(inside, np.floor(u + 0.5), 0).astype(np.intp), width - 1)
    row = np.minimum(np.where(inside, np.floor(v + 0.5), 0).astype(np.intp), height - 1)
    found = depth_m[row, column].astype(np.float64)
    return np.where(inside & valid_depth(found), found, 0.0)


def depth_tolerance(z: FloatArray, absolute: float, relative: float) -> FloatArray:
    """Allowed |z - depth| in metres: ``max(absolute, relative·z)``."""
    return np.maximum(absolute, relative * z)


def depth_confidence(delta_z: FloatArray, tolerance: FloatArray) -> FloatArray:
    """``exp(-½(Δz/σ)²)`` with σ a third of the tolerance: 1 on the surface, 0.011 at the tolerance."""
    return np.exp(-0.5 * (3.0 * delta_z / tolerance) ** 2)
