"""Which of the points in view are seen: the depth test, and the confidence that follows from it."""

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.projection import build_uv_index, valid_depth, world_to_cam
from clipfeat.types import FloatArray, Frame, PointStatus, Projection


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
    # Half a pixel beyond the outermost centres still belongs to the outermost pixels.
    with np.errstate(invalid="ignore"):
        inside = (
            (uv[..., 0] >= -0.5) & (uv[..., 0] <= width - 0.5) & (uv[..., 1] >= -0.5) & (uv[..., 1] <= height - 0.5)
        )
        cells = np.where(inside[..., None], np.floor(uv + 0.5), 0).astype(np.int64)
    # The right and lower edges themselves round up to one cell too far.
    u, v = np.minimum(cells[..., 0], width - 1), np.minimum(cells[..., 1], height - 1)
    found = depth_m[v, u].astype(np.float64)
    return np.where(inside & valid_depth(found), found, 0.0)


def depth_tolerance(z: FloatArray, absolute: float, relative: float) -> FloatArray:
    """Allowed |z - depth| in metres: ``max(absolute, relative·z)``."""
    return np.maximum(absolute, relative * z)


def depth_confidence(delta_z: FloatArray, tolerance: FloatArray) -> FloatArray:
    """``exp(-½(Δz/σ)²)`` with σ a third of the tolerance: 1 on the surface, 0.011 at the tolerance."""
    return np.exp(-0.5 * (3.0 * delta_z / tolerance) ** 2)


def project_frame(
    points: NDArray[np.float64],
    frame: Frame,
    *,
    near: float = 0.1,
    far: float = 20.0,
    tolerance: float = 0.05,
    tolerance_rel: float = 0.02,
) -> Projection:
    """Projects world points into a frame's colour picture and tests them against its depth.

    The test is done in the depth picture with the depth camera's own K, which shares the pose with the colour camera.
    A frame without depth sees all that is in view, with confidence 1.

    Args:
        points: (N, 3) world metres.
        frame: the frame.
        near: nearest z in metres.
        far: farthest z in metres.
        tolerance: allowed |z - depth| in metres.
        tolerance_rel: allowed |z - depth| as a share of z.

    Returns:
        uv in colour pixels, z, status and confidence a point.
    """
    to_cam = world_to_cam(frame.cam_to_world)
    color = frame.color_camera
    in_view = build_uv_index(points, color.intrinsics, to_cam, (color.width, color.height), near, far)
    if frame.depth_m is None:
        return in_view
    if frame.depth_camera is None:
        raise ValueError(f"{frame.scene_id} frame {frame.frame_id}: depth without a depth camera")
    status, conf = in_view.status, in_view.conf_2d
    candidates = np.flatnonzero(in_view.visible)
    in_depth = build_uv_index(points[candidates], frame.depth_camera.intrinsics, to_cam)
    measured = lookup_depth(frame.depth_m, in_depth.uv)
    allowed = depth_tolerance(in_depth.depth_m, tolerance, tolerance_rel)
    delta = np.abs(in_depth.depth_m - measured)
    hole, hidden = measured == 0, delta > allowed
    status[candidates[hidden]] = PointStatus.OCCLUDED
    status[candidates[hole]] = PointStatus.NO_DEPTH
    conf[candidates] = np.where(hole | hidden, 0.0, depth_confidence(delta, allowed))
    return in_view
