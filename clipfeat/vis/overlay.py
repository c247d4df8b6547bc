"""Paints the colours of scattered points over the picture that they were seen in."""

import numpy as np
from numpy.typing import NDArray

from clipfeat.types import FloatArray

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def reach_px(count: int, height: int, width: int) -> float:
    """How far from a point, in pixels, its colour is painted.

    1.7 times the spacing of as many points spread over all of the picture: of randomly placed ones, fewer than one
    pixel in a thousand then lies out of reach, while holes in the depth stay open. Never more than a 16th of the
    width: few points are dots.
    """
    spacing = (height * width / max(count, 1)) ** 0.5
    return max(1.0, min(1.7 * spacing, width / 16))


def fill_nearest(
    uv: FloatArray, colors: FloatArray, height: int, width: int, reach: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gives each pixel the colour of the nearest point.

    Args:
        uv: (N, 2) pixels, u to the right and v down; pixel centres lie on integers.
        colors: (N, K).
        height: of the picture.
        width: of the picture.
        reach: distance in pixels beyond which a point does not count.

    Returns:
        (height, width, K) float32 colours, 0 out of reach; and (height, width) float32 distances to the nearest point
        in pixels, inf out of reach.
    """
    from scipy.spatial import cKDTree

    filled = np.zeros((height * width, colors.shape[1]), np.float32)
    distance = np.full(height * width, np.inf, np.float32)
    if len(uv):
        v, u = np.mgrid[:height, :width]
        pixels = np.stack([u.ravel(), v.ravel()], axis=1).astype(np.float64)
        found, nearest = cKDTree(uv.astype(np.float64)).query(pixels, distance_upper_bound=reach)
        near = np.isfinite(found)
        filled[near] = colors[nearest[near]]
        distance = found.astype(np.float32)
    return filled.reshape(height, width, -1), distance.reshape(height, width)


def close_gaps(distance: NDArray[np.float32], reach: float) -> NDArray[np.bool_]:
    """The pixels (h, w) that are painted: those within reach, and specks between them that no point fell near.

    Points are placed at random, so here and there is a gap a little wider than the reach. Drawn back as the borders of
    holes are, it would become a grey disc that looks like something.

    Args:
        distance: (h, w) to the nearest point in pixels, inf where that is farther than twice the reach.
        reach: in pixels.
    """
    from scipy.ndimage import label

    inside = distance <= reach
    parts, count = label(~inside)
    if count:
        small = np.bincount(parts.ravel()) < np.pi * (0.5 * reach) ** 2
        inside |= small[parts] & np.isfinite(distance)
    return inside


def soften(filled: NDArray[np.float32], inside: NDArray[np.bool_], sigma: float) -> NDArray[np.float32]:
    """Blurs (h, w, K) colours by a Gaussian of ``sigma`` pixels that sees only the pixels ``inside`` (h, w)."""
    from scipy.ndimage import gaussian_filter

    weight = gaussian_filter(inside.astype(np.float32), sigma, truncate=3.0)
    total = gaussian_filter(filled * inside[..., None], (sigma, sigma, 0), truncate=3.0)
    return np.where(inside[..., None], total / np.maximum(weight, 1e-6)[..., None], 0.0)


def coverage(distance: NDArray[np.float32], reach: float) -> NDArray[np.float32]:
    """How much of each pixel is painted, (h, w) float32 in [0, 1], with a smooth border.

    All pixels within reach are taken, which closes the gaps between points; then the border is drawn back to 0.4 times
    the reach around the outermost points, so that holes in the depth keep about their size.

    Args:
        distance: (h, w) to the nearest point in pixels, inf out of reach.
        reach: in pixels.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    inside = np.isfinite(distance)
    if inside.all():
        return np.ones(distance.shape, np.float32)
    drawn_back = 0.6 * reach
    to_border = distance_transform_edt(inside).astype(np.float32) - drawn_back
    # Smoothing the distance, not the area, rounds the border and leaves it sharp.
    to_border = gaussian_filter(np.clip(to_border, -drawn_back, drawn_back), 0.25 * reach, truncate=3.0)
    return np.clip(to_border + 0.5, 0.0, 1.0)


def paint(
    picture: NDArray[np.uint8], uv: FloatArray, colors: FloatArray, opacity: float | FloatArray = 0.75
) -> NDArray[np.uint8]:
    """Blends the colours of points over the picture in grey, which stays as it is where no point is within reach.

    Args:
        picture: (h, w, 3) uint8 RGB.
        uv: (N, 2) pixels of ``picture``. N may be 0.
        colors: (N, 3) RGB in [0, 1].
        opacity: share of the point's colour, in [0, 1], of all points or (N,) of each.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    height, width = picture.shape[:2]
    grey = grey_of(picture)
    reach = reach_px(len(uv), height, width)
    of_each = isinstance(opacity, np.ndarray)
    values = np.column_stack([colors, opacity]) if of_each else colors
    filled, distance = fill_nearest(uv, values, height, width, 2 * reach)
    distance[~close_gaps(distance, reach)] = np.inf
    # A third of the reach rounds off the cells of the nearest neighbours without mixing distant points.
    filled = soften(filled, np.isfinite(distance), reach / 3)
    share = (filled[..., 3:] if of_each else opacity) * coverage(distance, reach)[..., None]
    filled = filled[..., :3]
    return np.rint(255 * np.clip((1 - share) * grey + share * filled, 0.0, 1.0)).astype(np.uint8)


def grey_of(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The (h, w, 1) luminance in [0.22, 1]. Black is lifted: it would swallow the colours and look like a hole."""
    return (0.22 + 0.78 / 255 * (picture.astype(np.float32) @ LUMA))[..., None]
