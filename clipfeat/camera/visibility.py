"""Which points are seen in which frames: frustum, depth test or z-buffer, and the confidence that follows from it.

``project_views`` is the one way from world points to pixels and status in this package; ``project_frame`` is one view
of it.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.distortion import bent, carried_pixels
from clipfeat.camera.kernel import project_points
from clipfeat.camera.projection import EDGE_PX, transform_points, valid_depth, world_to_cam
from clipfeat.camera.zbuffer import ZBuffer
from clipfeat.system.shards import usable_cores
from clipfeat.types import Camera, FloatArray, Frame, PointStatus, Projection


@dataclass(frozen=True)
class VisibilityRule:
    """When a point counts as seen: in view, and ``|z - depth| <= max(tolerance, tolerance_rel·z)``.

    The confidence of a point that is seen is ``exp(-½(Δz/σ)²)`` with σ a third of that bound: 1 on the surface, 0.011
    at the bound.

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

    The depth test is done in the depth picture with the depth camera's own K and lens, which shares the pose with the
    colour camera. Confidence is multiplied by ``Frame.depth_weight``, where there is one, of the pixel that it was done
    in. A frame without depth falls back on a z-buffer of the points themselves, see ``VisibilityRule.zbuffer``.

    Args:
        points: (N, 3) world metres.
        frames: V frames of one scene.
        rule: when a point counts as seen.

    Returns:
        uv (V, N, 2), z, status and confidence (V, N). Beyond that result it needs nothing worth mentioning.
        Several views are worked on at once, in threads.

    Raises:
        ValueError: If points is not (N, 3), a pose holds inf or NaN, or a frame has depth but no depth camera.
    """
    rule = rule or VisibilityRule()
    points = np.ascontiguousarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points must be (N, 3), got {points.shape}")
    shape = len(frames), len(points)
    many = Projection(
        uv=np.empty((*shape, 2), np.float32),
        depth_m=np.empty(shape, np.float32),
        status=np.empty(shape, np.uint8),
        conf_2d=np.empty(shape, np.float32),
    )
    zbuffer = ZBuffer(points) if rule.zbuffer and any(frame.depth_m is None for frame in frames) else None

    def project(view: int) -> None:
        one = Projection(many.uv[view], many.depth_m[view], many.status[view], many.conf_2d[view])
        _project_view(points, frames[view], rule, one)
        if frames[view].depth_m is None and zbuffer is not None:
            hidden = zbuffer.hidden(one, frames[view].color_camera, rule.tolerance, rule.tolerance_rel)
            one.status[hidden] = PointStatus.OCCLUDED
            one.conf_2d[hidden] = 0

    if len(frames) == 1:
        project(0)
    else:
        with ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(project, range(len(frames))))
    return many


def _project_view(points: NDArray[np.float64], frame: Frame, rule: VisibilityRule, out: Projection) -> None:
    """Fills ``out`` for all points in one view."""
    color, depth_camera, to_cam = frame.color_camera, frame.depth_camera, world_to_cam(frame.cam_to_world)
    to_depth, depth_m = np.zeros((2, 3)), np.zeros((0, 0), np.float32)
    if frame.depth_m is not None and depth_camera is None:
        raise ValueError(f"{frame.scene_id} frame {frame.frame_id}: depth without a depth camera")
    # Both cameras share the pose, so a colour pixel's ray meets the depth picture in one place, whatever its depth. It
    # is the affine map of their K, unless their lenses differ.
    alike = depth_camera is not None and depth_camera.distortion == color.distortion
    if frame.depth_m is not None and depth_camera is not None and alike:
        to_depth = (depth_camera.intrinsics @ np.linalg.inv(color.intrinsics))[:2]
        depth_m = np.ascontiguousarray(frame.depth_m, dtype=np.float32)
    to_pixel = color.intrinsics @ to_cam[:3]
    if color.distortion is not None:
        points, to_pixel = bent(transform_points(to_cam, points), color.distortion), color.intrinsics @ np.eye(3, 4)
    low = rule.border - EDGE_PX
    project_points(
        points,
        to_pixel,
        (low, color.width - 1 - low, color.height - 1 - low, float(rule.near), float(rule.far)),
        depth_m,
        to_depth,
        (float(rule.tolerance), float(rule.tolerance_rel)),
        rule.keep_holes,
        out.uv,
        out.depth_m,
        out.status,
        out.conf_2d,
    )
    if color.distortion is not None:  # what the lens doesn't show is NaN, but it does lie before the camera
        unseen = np.isnan(points[:, 0]) & (points[:, 2] > 0)
        out.depth_m[unseen], out.status[unseen] = points[unseen, 2], PointStatus.OUT_OF_VIEW
    if frame.depth_m is not None and depth_camera is not None and not alike:
        _judge_by_depth(frame.depth_m, depth_camera, color, rule, out)
    if frame.depth_weight is not None and depth_camera is not None:
        rows = np.flatnonzero(out.visible)
        pixels = carried_pixels(out.uv[rows].astype(np.float64), color, depth_camera)
        row, column, inside = nearest_pixels(pixels, frame.depth_weight.shape)
        out.conf_2d[rows] *= np.where(inside, frame.depth_weight[row, column], 0)


def _judge_by_depth(
    depth_m: NDArray[np.float32], depth_camera: Camera, color: Camera, rule: VisibilityRule, out: Projection
) -> None:
    """The depth test of points in view, where colour and depth were taken through two lenses."""
    rows = np.flatnonzero(out.visible)
    measured = lookup_depth(depth_m, carried_pixels(out.uv[rows].astype(np.float64), color, depth_camera))
    z = out.depth_m[rows].astype(np.float64)
    allowed = depth_tolerance(z, rule.tolerance, rule.tolerance_rel)
    off = np.abs(z - measured)
    hole, near = measured == 0, off <= allowed
    unmeasured = PointStatus.VISIBLE if rule.keep_holes else PointStatus.NO_DEPTH
    out.status[rows] = np.where(hole, unmeasured, np.where(near, PointStatus.VISIBLE, PointStatus.OCCLUDED))
    seen = np.where(near, np.exp(-0.5 * (3 * off / allowed) ** 2), 0)
    out.conf_2d[rows] = np.where(hole, np.exp(-4.5) if rule.keep_holes else 0, seen)


def lookup_depth(depth_m: NDArray[np.floating], uv: FloatArray) -> NDArray[np.float64]:
    """Depth of the pixel nearest to each position.

    Nearest and not bilinear: between a chair and the wall behind it there is no surface to interpolate.

    Args:
        depth_m: (h, w) metres, 0 for holes.
        uv: (..., 2) pixels of the depth picture.

    Returns:
        (...,) metres, 0 for holes and for positions outside the picture.
    """
    row, column, inside = nearest_pixels(uv, depth_m.shape)
    found = depth_m[row, column].astype(np.float64)
    return np.where(inside & valid_depth(found), found, 0.0)


def nearest_pixels(
    uv: FloatArray, shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Row and column (...,) of the pixel nearest to each position (..., 2) in a picture of (h, w), and which are in it.

    Those that are not have row and column 0.
    """
    height, width = shape
    u, v = uv[..., 0], uv[..., 1]
    # Half a pixel beyond the outermost centres still belongs to the outermost pixels.
    inside = (u >= -0.5) & (u <= width - 0.5) & (v >= -0.5) & (v <= height - 0.5)
    # The right and lower edges themselves would round up to one cell too far.
    column = np.minimum(np.where(inside, np.floor(u + 0.5), 0).astype(np.intp), width - 1)
    row = np.minimum(np.where(inside, np.floor(v + 0.5), 0).astype(np.intp), height - 1)
    return row, column, inside


def depth_tolerance(z: FloatArray, absolute: float, relative: float) -> FloatArray:
    """Allowed |z - depth| in metres: ``max(absolute, relative·z)``."""
    return np.maximum(absolute, relative * z)
