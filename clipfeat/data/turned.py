"""Pictures that lie on their side: nothing is turned by itself, and what contradicts itself is refused.

A phone held upright stores a lying picture and a note (EXIF's orientation) by which viewers turn it. Depth, K and poses
may be of the one or of the other. ``data.rotate`` says it: the degrees by which colour is turned clockwise when it is
read, so that depth, K, poses, masks and labels fit it.
"""

import numpy as np
from numpy.typing import NDArray

from clipfeat.errors import DataError
from clipfeat.types import Picture

_CLOCKWISE = {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}
"""Degrees by which a viewer turns a picture, by EXIF's orientation (section 4.6.4)."""

_NEAR, _FAR = 0.05, 0.1
"""How near a principal point is to the middle of one picture, and how far from that of another: shares of the side."""


def check_turn(
    where: str,
    picture: Picture,
    intrinsics: NDArray[np.float64],
    depth_shape: tuple[int, ...] | None,
    *,
    said: int | None,
    own_depth_k: bool,
    by: str | None = None,
) -> str | None:
    """Compares the colour picture, as it was read, with K and depth.

    Args:
        where: the picture, for messages.
        picture: turned already, where that was said.
        intrinsics: (3, 3) K of pictures of this very size; of another size it says nothing.
        depth_shape: (h, w), or None.
        said: ``data.rotate``, None if it is not set.
        own_depth_k: whether depth has a K of its own.
        by: what notes the picture's orientation; None: EXIF.

    Returns:
        What a user should know, or None.

    Raises:
        DataError: If one of them is upright and the other lies.
    """
    width, height = picture.width, picture.height
    noted = _CLOCKWISE.get(picture.orientation)
    by = by or f"EXIF orientation {picture.orientation}"
    note = f", and its {by} says it is to be turned by {noted}°" if noted else ""
    turns = f"data.rotate={noted}" if noted else "data.rotate=90 or data.rotate=270"
    readings = (
        f"{note}; if K, depth and poses are of the picture turned clockwise, say {turns}; if they are of the picture "
        f"as it is stored"
    )
    if depth_shape is not None and (said is None or not own_depth_k):
        h, w = depth_shape
        if (width - height) * (w - h) < 0:
            instead = ", turn the depth files" if not own_depth_k else ", data.rotate=0"
            raise DataError(
                f"{where}: colour of {width}×{height} pixels, but depth of {w}×{h}: one of them lies on its "
                f"side{readings}{instead}"
            )
    if said is not None:
        return None
    if _of_the_side(intrinsics, width, height):
        cx, cy = intrinsics[:2, 2]
        raise DataError(
            f"{where}: the principal point ({cx:g}, {cy:g}) is the middle of a picture of {height}×{width} pixels, but "
            f"this one has {width}×{height}{readings}, data.rotate=0"
        )
    return f"{where}: is taken as it is stored{readings}, data.rotate=0" if noted else None


def _of_the_side(k: NDArray[np.float64], width: int, height: int) -> bool:
    """Whether K is that of a picture of ``height`` × ``width`` pixels, and can't be of this one."""
    cx, cy = k[:2, 2]
    if width == height:
        return False
    turned = abs(cx - (height - 1) / 2) < _NEAR * height and abs(cy - (width - 1) / 2) < _NEAR * width
    return bool(turned and abs(cx - (width - 1) / 2) > _FAR * width and abs(cy - (height - 1) / 2) > _FAR * height)
