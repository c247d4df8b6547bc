"""Lenses that distort: points are moved to where the lens shows them, and pixels back; pictures stay as they are.

A pixel's own ray is exact: Newton's method runs until a millionth of a pixel is far away. Beyond a certain angle the
polynomials of a calibration turn back, so that points far outside the view would fall into the picture. There the lens
shows nothing: such points have no pixel, and pixels that no ray leads to are holes.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera import lens_kernel
from clipfeat.types import Camera, Distortion


def bent(points_cam: NDArray[np.float64], distortion: Distortion) -> NDArray[np.float64]:
    """The points that a pinhole would see where this lens sees the given ones.

    Args:
        points_cam: (..., 3) in camera axes, metres.
        distortion: of the lens.

    Returns:
        (..., 3) of the same z; x and y are NaN where the lens shows nothing, and as they were where z <= 0.
    """
    flat = np.ascontiguousarray(points_cam, dtype=np.float64).reshape(-1, 3)
    moved = np.empty_like(flat)
    lens_kernel.bend(flat, lens_array(distortion), moved)
    return moved.reshape(points_cam.shape)


def rays_of(uv: NDArray[Any], intrinsics: NDArray[np.float64], distortion: Distortion | None) -> NDArray[np.float64]:
    """Where the rays of pixels meet the plane z = 1 of the camera: the exact inverse of the projection.

    Args:
        uv: (..., 2) pixels.
        intrinsics: (3, 3) K of these pixels.
        distortion: of the lens; None for a pinhole.

    Returns:
        (..., 2) x/z and y/z, NaN where no ray leads to the pixel.
    """
    k = intrinsics
    d = (uv[..., 1] - k[1, 2]) / k[1, 1]
    c = (uv[..., 0] - k[0, 2] - k[0, 1] * d) / k[0, 0]
    if distortion is None:
        return np.stack((c, d), -1)
    flat = np.empty((c.size, 2))
    c_flat, d_flat = (np.ascontiguousarray(axis, dtype=np.float64).reshape(-1) for axis in (c, d))
    lens_kernel.straighten(c_flat, d_flat, lens_array(distortion), flat)
    return flat.reshape(*c.shape, 2)


def carried_pixels(uv: NDArray[Any], of: Camera, to: Camera) -> NDArray[np.float64]:
    """Pixels of one camera of a frame as pixels of the other: they share the pose, so a ray is one of both.

    Args:
        uv: (..., 2) pixels of ``of``.
        of: one camera.
        to: the other.

    Returns:
        (..., 2) pixels of ``to``, NaN where either lens has none.
    """
    if of.distortion == to.distortion:  # bent alike: K alone tells the pictures apart
        affine = (to.intrinsics @ np.linalg.inv(of.intrinsics))[:2]
        return np.stack([row[0] * uv[..., 0] + row[1] * uv[..., 1] + row[2] for row in affine], -1)
    xy = rays_of(uv, of.intrinsics, of.distortion)
    rays = np.concatenate((xy, np.ones((*xy.shape[:-1], 1))), -1)
    rays = rays if to.distortion is None else bent(rays, to.distortion)
    pixels: NDArray[np.float64] = rays @ to.intrinsics[:2].T
    return pixels


def without_blind_pixels(depth_m: NDArray[np.float32], camera: Camera) -> NDArray[np.float32]:
    """The (h, w) depth with holes where no ray leads to the pixel, as in the corners of some lenses' pictures."""
    if camera.distortion is None:
        return depth_m
    size = (camera.width, camera.height)
    blind = _blind_pixels(camera.intrinsics.tobytes(), size, camera.distortion)
    return depth_m if blind is None else np.where(blind, np.float32(0), depth_m)


@lru_cache(maxsize=8)
def _blind_pixels(k: bytes, size: tuple[int, int], distortion: Distortion) -> NDArray[np.bool_] | None:
    """(h, w) pixels that no ray leads to; None if there are none. K is that of all frames of most recordings."""
    v, u = np.indices(size[::-1])
    rays = rays_of(np.stack((u, v), -1), np.frombuffer(k).reshape(3, 3), distortion)
    blind: NDArray[np.bool_] = np.isnan(rays[..., 0])
    return blind if blind.any() else None


@lru_cache(maxsize=64)
def lens_array(distortion: Distortion) -> NDArray[np.float64]:
    """(13,) the numbers of a lens as the loops take them: fisheye, its polynomials, the radius that they hold to."""
    lens = np.array(
        [distortion.fisheye, *distortion.radial, *distortion.divisor, *distortion.tangential, *distortion.prism, 0.0]
    )
    lens[-1] = lens_kernel.limit_of(lens)
    lens.setflags(write=False)
    return lens
