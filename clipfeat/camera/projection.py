"""From world points to pixels and back: the one place where poses and intrinsics are applied.

All of it is float64 up to uv. Each function takes any leading batch dimensions and NumPy arrays or torch tensors;
what goes in decides what comes out, and on which device.

Source of the formulas: the pinhole model, Hartley and Zisserman, Multiple View Geometry (2004), chapter 6.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from clipfeat.camera import kernel
from clipfeat.camera.distortion import bent, rays_of
from clipfeat.types import Distortion, PointStatus, Projection

EDGE_PX = 1e-3
"""Pixels. Points of the outermost pixels, stored as float32, come back up to some 1e-4 px outside; that is rounding."""


def world_to_cam(cam_to_world: NDArray[np.float64]) -> NDArray[np.float64]:
    """The full inverse of (..., 4, 4) poses.

    The transposed rotation is not enough: the rotations of real recordings are orthonormal to 1e-3 only, which is
    several pixels.

    Raises:
        ValueError: If a pose is not (4, 4) or not finite.
    """
    poses = np.asarray(cam_to_world, dtype=np.float64)
    if poses.shape[-2:] != (4, 4):
        raise ValueError(f"cam_to_world must be (..., 4, 4), got {poses.shape}")
    if not np.isfinite(poses).all():
        raise ValueError("cam_to_world holds inf or NaN: a lost track, leave the frame out")
    inverse: NDArray[np.float64] = np.asarray(np.linalg.inv(poses), dtype=np.float64)
    return inverse


def transform_points(transform: Any, points: Any) -> Any:
    """Applies (..., 4, 4) rigid transforms to (..., N, 3) points; leading dimensions broadcast."""
    return points @ transform[..., :3, :3].swapaxes(-1, -2) + transform[..., None, :3, 3]


def project_camera_points(points_cam: Any, intrinsics: Any, distortion: Distortion | None = None) -> tuple[Any, Any]:
    """Pinhole projection ``u = fx·x/z + s·y/z + cx``, ``v = fy·y/z + cy``, of points that the lens has bent before.

    Args:
        points_cam: (..., N, 3) in camera axes, metres.
        intrinsics: (..., 3, 3).
        distortion: of the lens; None for a pinhole.

    Returns:
        uv (..., N, 2) pixels, NaN where z <= 0 or where the lens shows nothing, and z (..., N) metres.
    """
    if distortion is not None:
        points_cam = _bent(points_cam, distortion)
    x, y, z = points_cam[..., 0], points_cam[..., 1], points_cam[..., 2]
    xp: Any = torch if isinstance(points_cam, torch.Tensor) else np
    in_front = xp.where(z > 0, z, xp.nan)
    x, y = x / in_front, y / in_front
    k = intrinsics[..., None, :, :]
    u = k[..., 0, 0] * x + k[..., 0, 1] * y + k[..., 0, 2]
    v = k[..., 1, 1] * y + k[..., 1, 2]
    return xp.stack((u, v), -1), z


def _bent(points_cam: Any, distortion: Distortion) -> Any:
    if not isinstance(points_cam, torch.Tensor):
        return bent(points_cam, distortion)
    return torch.from_numpy(bent(_float64(points_cam), distortion)).to(points_cam.device)


def frustum_status(uv: Any, z: Any, image_size: tuple[Any, Any] | None, near: float, far: float) -> Any:
    """VISIBLE, OUT_OF_VIEW or BEHIND for each point, by position alone; occlusion is ``visibility``'s.

    In view is ``0 <= u <= W-1``, ``0 <= v <= H-1`` and ``near <= z <= far``.

    Returns:
        (..., N) uint8 of ``PointStatus``.
    """
    inside = (z >= near) & (z <= far)
    if image_size is not None:
        width, height = image_size
        u, v = uv[..., 0], uv[..., 1]
        # NaN compares false, so points behind the camera are never inside.
        inside = inside & (u >= -EDGE_PX) & (u <= width - 1 + EDGE_PX) & (v >= -EDGE_PX) & (v <= height - 1 + EDGE_PX)
    behind = ~(z > 0)  # a NaN depth is no place in front of the camera either
    status: Any
    if isinstance(z, torch.Tensor):
        status = torch.full(z.shape, int(PointStatus.OUT_OF_VIEW), dtype=torch.uint8, device=z.device)
    else:
        status = np.full(z.shape, PointStatus.OUT_OF_VIEW, dtype=np.uint8)
    status[inside] = int(PointStatus.VISIBLE)
    status[behind] = int(PointStatus.BEHIND)
    return status


def build_uv_index(
    points: Any,
    intrins: Any,
    extrins: Any,
    image_size: tuple[Any, Any] | None = None,
    near: float = 0.0,
    far: float = float("inf"),
    distortion: Distortion | None = None,
) -> Projection:
    """Projects world points into pictures.

    Args:
        points: (..., N, 3) world points in metres, NumPy or torch.
        intrins: (..., 3, 3) or (..., 4, 4) camera matrices in pixels of the picture that uv shall be in.
        extrins: (..., 4, 4) WORLD-TO-CAMERA transforms, the full inverse of ScanNet's poses (``world_to_cam``).
        image_size: (width, height) of that picture, or arrays (..., 1) of those of several. Without it, points beyond
            its edges are not told apart.
        near: nearest z in metres.
        far: farthest z in metres.
        distortion: of the lens that took the pictures; None for pinholes.

    Leading dimensions broadcast: points (N, 3) with extrins (V, 4, 4) give uv (V, N, 2).

    Returns:
        uv (..., N, 2) in pixels of that picture, z, status VISIBLE (in view), OUT_OF_VIEW or BEHIND, and conf_2d 1
        where in view: occlusion needs a depth picture, see ``project_frame``. Torch tensors on the points' device if
        points are one.

    Raises:
        ValueError: If a shape does not fit, or a matrix holds inf or NaN.
    """
    if isinstance(points, torch.Tensor):
        points = points.to(torch.float64)
        intrins = torch.as_tensor(intrins, dtype=torch.float64, device=points.device)
        extrins = torch.as_tensor(extrins, dtype=torch.float64, device=points.device)
    else:
        points, intrins, extrins = (_float64(a) for a in (points, intrins, extrins))
    if points.shape[-1:] != (3,) or points.ndim < 2:
        raise ValueError(f"points must be (..., N, 3), got {tuple(points.shape)}")
    if intrins.shape[-2:] not in ((3, 3), (4, 4)):
        raise ValueError(f"intrins must be (..., 3, 3) or (..., 4, 4), got {tuple(intrins.shape)}")
    if extrins.shape[-2:] != (4, 4):
        raise ValueError(f"extrins must be (..., 4, 4) world-to-camera, got {tuple(extrins.shape)}")
    xp: Any = torch if isinstance(points, torch.Tensor) else np
    if not (xp.isfinite(intrins).all() and xp.isfinite(extrins).all()):
        raise ValueError("intrins or extrins hold inf or NaN: a lost track, leave the frame out")
    uv, z = project_camera_points(transform_points(extrins, points), intrins, distortion)
    status = frustum_status(uv, z, image_size, near, far)
    in_view = status == int(PointStatus.VISIBLE)
    if isinstance(points, torch.Tensor):
        return Projection(uv.to(torch.float32), z.to(torch.float32), status, in_view.to(torch.float32))
    return Projection(uv.astype(np.float32), z.astype(np.float32), status, in_view.astype(np.float32))


def unproject_depth(
    depth_m: NDArray[np.floating],
    intrinsics: ArrayLike,
    cam_to_world: ArrayLike,
    pixels: NDArray[np.integer] | None = None,
    distortion: Distortion | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Lifts depth pixels to world points: ``X = cam_to_world · (z·K⁻¹·(u, v, 1))``, and straightened where distorted.

    Args:
        depth_m: (h, w) z-depth in metres; 0, negative and non-finite pixels are holes.
        intrinsics: (3, 3) K of the depth picture.
        cam_to_world: (4, 4).
        pixels: (M,) flat indices v·w + u to lift; None for all. Holes among them are dropped, and
            so are those that the lens has no ray for.
        distortion: of the lens that took the depth; None for a pinhole.

    Returns:
        (N, 3) float64 world points and (N,) int64 flat indices of the pixels that they come from, in the order of
        ``pixels``, ascending without.

    Raises:
        ValueError: If a shape does not fit.
    """
    k, pose = _float64(intrinsics), _float64(cam_to_world)
    if depth_m.ndim != 2 or k.shape != (3, 3) or pose.shape != (4, 4):
        raise ValueError(f"expected depth (h, w), K (3, 3), pose (4, 4), got {depth_m.shape}, {k.shape}, {pose.shape}")
    flat = depth_m.reshape(-1)
    if pixels is None:
        index = measured_pixels(depth_m)
        z = flat[index]
    else:
        index = np.array(pixels, dtype=np.int64)
        z = flat[index]
        valid = valid_depth(z)
        if not valid.all():
            index, z = index[valid], z[valid]
    v, u = np.divmod(index, depth_m.shape[1])
    points = unproject_pixels(u, v, z, k, pose, distortion)
    if distortion is not None and (blind := np.isnan(points[:, 0])).any():
        return points[~blind], index[~blind]
    return points, index


def unproject_pixels(
    u: NDArray[Any],
    v: NDArray[Any],
    depth_m: NDArray[np.floating],
    intrinsics: NDArray[np.float64],
    cam_to_world: NDArray[np.float64],
    distortion: Distortion | None = None,
) -> NDArray[np.float64]:
    """World points (N, 3) of pixels u, v (N,) and their z (N,) in metres: ``cam_to_world · (z·K⁻¹·(u, v, 1))``.

    Where a lens distorts, of the rays that lead to these pixels; NaN where none does.
    """
    if not u.shape == v.shape == depth_m.shape:
        raise ValueError(f"u, v and depth must be (N,) all, got {u.shape}, {v.shape}, {depth_m.shape}")
    if distortion is not None:
        u, v = np.moveaxis(rays_of(np.stack((u, v), -1), intrinsics, distortion), -1, 0)
        intrinsics = np.eye(3)
    points = np.empty((len(depth_m), 3))
    kernel.unproject_pixels(u, v, depth_m, intrinsics, cam_to_world, points)
    return points


def measured_pixels(depth_m: NDArray[np.floating]) -> NDArray[np.int64]:
    """Flat indices v·w + u, ascending, of the pixels where something was measured: ``flatnonzero(valid_depth(…))``."""
    indices: NDArray[np.int64] = kernel.positive(np.ascontiguousarray(depth_m).reshape(-1))
    return indices


def valid_depth(depth_m: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Where something was measured: finite and above 0."""
    return np.isfinite(depth_m) & (depth_m > 0)


def _float64(array: Any) -> NDArray[np.float64]:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu().numpy()
    return np.asarray(array, dtype=np.float64)
