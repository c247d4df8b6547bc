"""A fused scene as one picture, drawn without a display: its points from obliquely above, the nearest in front."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from clipfeat.types import FloatArray

WIDTH, HEIGHT = 1280, 960
_FOCAL_PX = 1100.0
_BACKGROUND = 255
_NOTE = (110, 110, 110)
_LARGEST_PX = 9
"""Side of the largest square that a point is drawn as."""

_WIDER = 1.6
"""By so much a square is wider than points lie apart, or the grid of a mesh would show through."""

_SPACED = 2000
"""Points whose nearest neighbours are looked for."""


def up_axis(poses: Sequence[FloatArray]) -> list[float]:
    """Where up is in the world, by how cameras of (4, 4) poses were held."""
    return up_of(np.mean([np.asarray(pose)[:3, 1] for pose in poses], axis=0) if len(poses) else np.zeros(3))


def up_of(down: FloatArray) -> list[float]:
    """Where up is, by where down was on average (3,), of any length: the nearest axis, as cameras are tilted.

    It is z where nothing is known (0).
    """
    if not np.any(down):
        return [0.0, 0.0, 1.0]
    axis = int(np.abs(down).argmax())
    return [float(value) for value in -np.sign(down[axis]) * np.eye(3)[axis]]


def scene_picture(
    xyz: FloatArray,
    rgb: NDArray[np.uint8],
    up: Sequence[float],
    center: FloatArray | None = None,
    *,
    turn: float = 0.0,
    width: int = WIDTH,
    note: str = "",
) -> NDArray[np.uint8]:
    """Draws points by a z-buffer: each as a square as large as the points lie apart, the nearest last.

    What is above most of the scene, such as a ceiling, is left out: it would hide the rest.

    Args:
        xyz: (N, 3) metres.
        rgb: (N, 3).
        up: (3,) unit vector.
        center: (M, 3) points that the picture is to show; None for all.
        turn: by how much the camera has gone around the scene, in radians, seen from above against the clock.
        width: of the picture in pixels; it is three quarters as high.
        note: what stands in the corner, such as which features these are.

    Returns:
        (height, width, 3) RGB.
    """
    height = width * HEIGHT // WIDTH
    picture = np.full((height, width, 3), _BACKGROUND, np.uint8)
    if len(xyz):
        _draw(picture, xyz, rgb, up, center, turn)
    return _noted(picture, note) if note else picture


def _draw(
    picture: NDArray[np.uint8],
    xyz: FloatArray,
    rgb: NDArray[np.uint8],
    up: Sequence[float],
    center: FloatArray | None,
    turn: float,
) -> None:
    height, width = picture.shape[:2]
    points, direction = xyz.astype(np.float64), np.asarray(up, np.float64)
    shown = points if center is None or len(center) == 0 else center.astype(np.float64)
    low, high = np.percentile(shown, (2, 98), axis=0)
    heights = points @ direction
    bottom, top = np.percentile(shown @ direction, (2, 98))
    kept = heights <= bottom + 0.8 * (top - bottom)
    points, rgb = points[kept], rgb[kept]
    spacing = _spacing(points)
    middle, radius = 0.5 * (low + high), max(0.5 * float(np.linalg.norm(high - low)), 1e-3)
    sideways = np.eye(3)[int(np.abs(direction).argmin())]
    across = np.cross(direction, sideways)
    toward = (0.6 * np.cos(turn) - 0.35 * np.sin(turn)) * sideways + direction
    toward += (0.6 * np.sin(turn) + 0.35 * np.cos(turn)) * across
    toward /= np.linalg.norm(toward)
    # A camera with x to the right, y down and z forward that looks at the middle.
    forward = -toward
    right = np.cross(forward, direction)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    seen = (points - middle - 2.5 * radius * toward) @ rotation.T
    in_front = seen[:, 2] > 0.1 * radius
    seen, rgb = seen[in_front], rgb[in_front]
    focal_px = _FOCAL_PX * width / WIDTH
    u = np.rint(focal_px * seen[:, 0] / seen[:, 2] + 0.5 * width).astype(np.int64)
    v = np.rint(focal_px * seen[:, 1] / seen[:, 2] + 0.5 * height).astype(np.int64)
    far_first = np.argsort(-seen[:, 2], kind="stable")
    u, v, z, rgb = u[far_first], v[far_first], seen[far_first, 2], rgb[far_first]
    sides = np.clip(np.ceil(_WIDER * spacing * focal_px / z), 2, _LARGEST_PX).astype(np.int64)
    drawn = np.full((height, width), -1, np.int64)
    for down in range(int(sides.max(initial=0))):
        for aside in range(int(sides.max(initial=0))):
            x, y = u + aside - sides // 2, v + down - sides // 2
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (max(down, aside) < sides)
            # The rows are sorted by distance, so the nearest point of a pixel has the largest number.
            np.maximum.at(drawn, (y[inside], x[inside]), np.flatnonzero(inside))
    hit = drawn >= 0
    picture[hit] = rgb[drawn[hit]]


def _noted(picture: NDArray[np.uint8], note: str) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    image = Image.fromarray(picture)
    place, font = (width // 100, height - width // 100), ImageFont.load_default(max(10, width // 80))
    ImageDraw.Draw(image).text(place, note, fill=_NOTE, font=font, anchor="ls")
    return np.asarray(image)


def _spacing(points: FloatArray) -> float:
    """How far points lie apart, in metres, where they are few: the distance to the nearest that most do not exceed."""
    if len(points) < 2:
        return 0.0
    from scipy.spatial import cKDTree

    some = points[:: 1 + len(points) // _SPACED]
    distance = cKDTree(points).query(some, k=2)[0][:, 1]
    return float(np.percentile(distance, 80))
