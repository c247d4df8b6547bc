"""The innermost loops of the projection, compiled: each point goes from the world to its status, or back, in one go.

In NumPy the same takes some thirty passes over arrays that do not fit into a processor's cache. Compiled by numba on
first use (a second; kept beside the package or in the user's cache afterwards), and run without Python's lock.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.system.compiled import compiled
from clipfeat.types import PointStatus

_VISIBLE = int(PointStatus.VISIBLE)
_OCCLUDED = int(PointStatus.OCCLUDED)
_OUT_OF_VIEW = int(PointStatus.OUT_OF_VIEW)
_BEHIND = int(PointStatus.BEHIND)
_NO_DEPTH = int(PointStatus.NO_DEPTH)


@compiled(error_model="numpy")
def project_points(
    points: NDArray[np.float64],
    to_pixel: NDArray[np.float64],
    view: tuple[float, float, float, float, float],
    depth_m: NDArray[np.float32],
    to_depth: NDArray[np.float64],
    tolerance: tuple[float, float],
    keep_holes: bool,
    uv: NDArray[np.float32],
    z_out: NDArray[np.float32],
    status: NDArray[np.uint8],
    conf: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Fills the last four arrays for N points in one view.

    Args:
        points: (N, 3) world metres.
        to_pixel: (3, 4) K·[R|t] of the colour camera, world to homogeneous pixels.
        view: lowest u and v, highest u, highest v, near, far.
        depth_m: (h, w) of the depth picture; (0, 0) for a frame without depth.
        to_depth: (2, 3) affine map from colour pixels to depth pixels.
        tolerance: absolute in metres, and relative to z.
        keep_holes: whether points in holes of the depth count as visible.
        uv: (N, 2), NaN where the point is behind the camera.
        z_out: (N,).
        status: (N,).
        conf: (N,).
    """
    low, high_u, high_v, near, far = view
    height, width = depth_m.shape
    m = to_pixel
    for i in range(points.shape[0]):
        x, y, w = points[i, 0], points[i, 1], points[i, 2]
        z = m[2, 0] * x + m[2, 1] * y + m[2, 2] * w + m[2, 3]
        z_out[i] = z
        conf[i] = 0.0
        if not z > 0:
            uv[i, 0] = uv[i, 1] = np.nan
            status[i] = _BEHIND
            continue
        u = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * w + m[0, 3]) / z
        v = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * w + m[1, 3]) / z
        uv[i, 0], uv[i, 1] = u, v
        if not (low <= u <= high_u and low <= v <= high_v and near <= z <= far):
            status[i] = _OUT_OF_VIEW
            continue
        if height == 0:
            status[i] = _VISIBLE
            conf[i] = 1.0
            continue
        # The nearest depth pixel, and not four of them: between a chair and the wall there is no surface. Half a pixel
        # beyond the outermost centres still belongs to the outermost pixels.
        u_depth = to_depth[0, 0] * u + to_depth[0, 1] * v + to_depth[0, 2] + 0.5
        v_depth = to_depth[1, 0] * u + to_depth[1, 1] * v + to_depth[1, 2] + 0.5
        measured = 0.0
        if 0 <= u_depth <= width and 0 <= v_depth <= height:
            measured = depth_m[min(int(v_depth), height - 1), min(int(u_depth), width - 1)]
        if not 0 < measured < np.inf:
            status[i] = _VISIBLE if keep_holes else _NO_DEPTH
            conf[i] = math.exp(-4.5) if keep_holes else 0.0
            continue
        allowed = max(tolerance[0], tolerance[1] * z)
        delta = abs(z - measured)
        if delta <= allowed:
            status[i] = _VISIBLE
            conf[i] = math.exp(-0.5 * (3.0 * delta / allowed) ** 2)
        else:
            status[i] = _OCCLUDED


@compiled(error_model="numpy")
def unproject_pixels(
    u: NDArray[Any],
    v: NDArray[Any],
    z: NDArray[np.floating],
    k: NDArray[np.float64],
    cam_to_world: NDArray[np.float64],
    points: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    """Fills (N, 3) world points of pixels u, v (N,) and their z (N,) in metres."""
    m = cam_to_world
    for i in range(z.size):
        depth = np.float64(z[i])
        y = (v[i] - k[1, 2]) / k[1, 1]
        x = (u[i] - k[0, 2] - k[0, 1] * y) / k[0, 0] * depth
        y *= depth
        for row in range(3):
            points[i, row] = m[row, 0] * x + m[row, 1] * y + m[row, 2] * depth + m[row, 3]


@compiled()
def positive(values: NDArray[np.floating]) -> NDArray[np.int64]:  # pragma: no cover - compiled
    """Indices, ascending, of the (N,) values that are finite and above 0."""
    found = np.empty(values.size, np.int64)
    count = 0
    for i in range(values.size):
        found[count] = i  # without a branch: holes are ragged, and a processor guesses them badly
        count += 0 < values[i] < np.inf
    return found[:count].copy()
