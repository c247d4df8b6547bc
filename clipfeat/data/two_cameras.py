"""Depth of a camera of its own, seen from the colour camera: after this they share one pose, as everywhere inside."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.distortion import bent, rays_of
from clipfeat.errors import ConfigError
from clipfeat.types import Camera

_FARTHEST_M = 1.0
"""Two cameras of one device are no farther apart."""


def color_from_depth_matrix(numbers: Sequence[Any] | None) -> NDArray[np.float64] | None:
    """The (4, 4) transform from axes of the depth camera to those of colour; None where none is set.

    Args:
        numbers: three of a translation in metres, or sixteen, row after row, perhaps as four lists.

    Raises:
        ConfigError: If they are something else, or no rigid motion of a device's size.
    """
    if numbers is None:
        return None
    named = f"data.color_from_depth={list(numbers)}"
    try:
        flat = np.array(numbers, dtype=np.float64).reshape(-1)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{named}: expected 3 numbers (a translation in metres) or the 16 of a 4×4 matrix") from error
    if flat.size not in (3, 16) or not np.isfinite(flat).all():
        raise ConfigError(f"{named}: expected 3 numbers (a translation in metres) or the 16 of a 4×4 matrix")
    matrix = np.eye(4)
    if flat.size == 3:
        matrix[:3, 3] = flat
    else:
        matrix = flat.reshape(4, 4)
    rotation = matrix[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 0.01 or np.linalg.det(rotation) < 0:
        raise ConfigError(f"{named}: the upper left 3×3 is no rotation")
    if np.any(matrix[3] != (0, 0, 0, 1)) or np.abs(matrix[:3, 3]).max() > _FARTHEST_M:
        raise ConfigError(f"{named}: expected metres, and 0 0 0 1 as the last row")
    return matrix


def seen_from_color(
    depth_m: NDArray[np.float32],
    depth_camera: Camera,
    color_camera: Camera,
    color_from_depth: NDArray[np.float64],
) -> tuple[NDArray[np.float32], Camera]:
    """The depth picture that the colour camera would have measured, of the same size.

    Each measured pixel goes to the pixel that it falls on, by at most half a pixel beside its true place; of several
    the nearest is kept, and a pixel that none falls on is a hole.

    Args:
        depth_m: (h, w) metres, 0 where nothing was measured.
        depth_camera: K of it, and its lens.
        color_camera: K of the colour picture, of whatever size.
        color_from_depth: (4, 4), from axes of the depth camera to those of colour.

    Returns:
        (h, w) float32 metres, and its camera: that of colour, resized.
    """
    height, width = depth_m.shape
    camera = color_camera.resized(width, height)
    v, u = np.nonzero(depth_m > 0)
    z = depth_m[v, u].astype(np.float64)
    rays = np.linalg.inv(depth_camera.intrinsics) @ np.stack((u, v, np.ones_like(u)))
    if depth_camera.distortion is not None:
        rays[:2] = rays_of(np.stack((u, v), -1), depth_camera.intrinsics, depth_camera.distortion).T
    points = color_from_depth[:3, :3] @ (rays * z) + color_from_depth[:3, 3:]
    points = points[:, points[2] > 0]
    if camera.distortion is not None:
        points = bent(points.T, camera.distortion).T
        points = points[:, np.isfinite(points[0])]
    pixels = camera.intrinsics @ points
    u, v = np.rint(pixels[:2] / pixels[2]).astype(np.int64)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    flat, z = v[inside] * width + u[inside], points[2, inside]
    nearest = np.full(height * width, np.inf)
    np.minimum.at(nearest, flat, z)
    nearest[np.isinf(nearest)] = 0
    return nearest.reshape(height, width).astype(np.float32), camera
