"""Pillow's bicubic and bilinear resizing to the bit, in less than half of its time.

Resizing is the dearest step beside the network. Pillow works along the rows and along the columns, with weights of 22
bits and rounding to 8 bits in between. The same is done here, compiled by numba, on 64 rows at once, so that the
processor's vector units have something to hold.

Source: Pillow's ``Resample.c``, its part for 8 bits a channel; ``tests/model/test_resize.py`` compares every bit.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipfeat.system.compiled import compiled

BITS = 22
HALF = 1 << (BITS - 1)

_ROWS = 64
"""Rows that are worked on at once: few enough to stay in the cache, enough to fill vectors."""

_UNROLL = 4
"""Weights that are applied at once; every output pixel has a multiple of them, filled up with zeros."""


def resize_pillow(image: NDArray[np.uint8], size: tuple[int, int], interpolation: str = "bicubic") -> NDArray[np.uint8]:
    """Antialiased resizing, bit-equal to ``PIL.Image.resize(size, BICUBIC)``, or BILINEAR.

    Args:
        image: (H, W, 3) uint8.
        size: (width, height) of the result.
        interpolation: bicubic or bilinear.

    Returns:
        (height, width, 3) uint8; the picture's own memory where it has that size already.
    """
    rows_first = pillow_s_order((image.shape[1], image.shape[0]), size, interpolation)
    if rows_first is None:
        return _by_pillow(image, size, interpolation)
    return _compiled(image, size, interpolation, rows_first=rows_first)


@lru_cache(maxsize=256)
def pillow_s_order(size_from: tuple[int, int], size_to: tuple[int, int], interpolation: str) -> bool | None:
    """Whether Pillow resizes along the rows first, for these sizes; None where only Pillow gives Pillow's bits.

    Which comes first changes some bits, and versions of Pillow differ in it. So Pillow is asked, once for every size.
    """
    both = _both(size_from, size_to, interpolation)
    if any(taps.shape[1] > length for length, (_, taps) in zip(size_from, both, strict=True)):
        return None  # a picture of a few pixels
    probe = np.random.default_rng(0).integers(0, 256, (size_from[1], size_from[0], 3), dtype=np.uint8)
    expected = _by_pillow(probe, size_to, interpolation)
    for rows_first in (True, False):
        if np.array_equal(_compiled(probe, size_to, interpolation, rows_first=rows_first), expected):
            return rows_first
    return None


def _by_pillow(image: NDArray[np.uint8], size: tuple[int, int], interpolation: str) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling[interpolation.upper()]))


def _compiled(
    image: NDArray[np.uint8], size: tuple[int, int], interpolation: str, *, rows_first: bool
) -> NDArray[np.uint8]:
    (height, width), (new_width, new_height) = image.shape[:2], size
    horizontal, vertical = _both((width, height), size, interpolation)
    pixels = np.ascontiguousarray(image).reshape(height, 3 * width)
    for along_rows in (rows_first, not rows_first):
        if along_rows and new_width != width:
            narrow = np.empty((len(pixels), 3 * new_width), np.uint8)
            _along_rows(pixels, *horizontal, narrow)
            pixels = narrow
        elif not along_rows and new_height != height:
            short = np.empty((new_height, pixels.shape[1]), np.uint8)
            _along_columns(pixels, *vertical, short)
            pixels = short
    return pixels.reshape(new_height, new_width, 3)


def _both(
    size_from: tuple[int, int], size_to: tuple[int, int], interpolation: str
) -> list[tuple[NDArray[np.int64], NDArray[np.int32]]]:
    """The weights along the rows and along the columns."""
    return [fixed_weights(length, new, interpolation) for length, new in zip(size_from, size_to, strict=True)]


@lru_cache(maxsize=64)
def fixed_weights(length: int, new_length: int, interpolation: str) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Of each output pixel the first input pixel (new_length,) and the fixed-point weights (new_length, K) from it on.

    All K input pixels lie within the picture, unless it has less than K.
    """
    scale = length / new_length
    stretch = max(scale, 1.0)
    kernel, support = _KERNELS[interpolation]
    lows, weights = [], []
    for i in range(new_length):
        center = (i + 0.5) * scale
        low, high = max(int(center - support * stretch + 0.5), 0), min(int(center + support * stretch + 0.5), length)
        raw = [kernel((x + low - center + 0.5) * (1.0 / stretch)) for x in range(high - low)]
        lows.append(low)
        weights.append([_fixed(value / sum(raw)) for value in raw])
    taps = -(-max(map(len, weights)) // _UNROLL) * _UNROLL
    first, filled = np.empty(new_length, np.int64), np.zeros((new_length, taps), np.int32)
    for i, (low, own) in enumerate(zip(lows, weights, strict=True)):
        first[i] = max(min(low, length - taps), 0)  # zeros go to the left where there is no room to the right
        filled[i, low - first[i] : low - first[i] + len(own)] = own
    return first, filled


def _bicubic(x: float) -> float:
    """Keys' cubic kernel (1981) with a = -½."""
    a, x = -0.5, abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def _bilinear(x: float) -> float:
    """The triangle."""
    return max(1.0 - abs(x), 0.0)


_KERNELS: dict[str, tuple[Callable[[float], float], int]] = {"bicubic": (_bicubic, 2), "bilinear": (_bilinear, 1)}
"""Each interpolation's kernel, and how far it reaches."""


def _fixed(weight: float) -> int:
    return int(weight * (1 << BITS) + (0.5 if weight >= 0 else -0.5))


@compiled(error_model="numpy")
def _along_rows(
    rows: NDArray[np.uint8], first: NDArray[np.int64], weights: NDArray[np.int32], out: NDArray[np.uint8]
) -> None:  # pragma: no cover - compiled
    """(H, 3·W) to (H, 3·w). Every sum is kept at 32 bits by hand: numba would widen it to 64, and halve the speed."""
    height, width = rows.shape
    int32 = np.int32
    turned = np.empty((width, _ROWS), np.uint8)  # the same pixel of all rows side by side
    total = np.empty(_ROWS, np.int32)
    for top in range(0, height, _ROWS):
        count = min(_ROWS, height - top)
        for x in range(width):
            for j in range(count):
                turned[x, j] = rows[top + j, x]
        for i in range(len(first)):
            for channel in range(3):
                for j in range(_ROWS):
                    total[j] = HALF
                x = 3 * first[i] + channel
                for k in range(0, weights.shape[1], 4):
                    a, b, c, d = weights[i, k], weights[i, k + 1], weights[i, k + 2], weights[i, k + 3]
                    for j in range(_ROWS):
                        left = int32(int32(a * int32(turned[x, j])) + int32(b * int32(turned[x + 3, j])))
                        right = int32(int32(c * int32(turned[x + 6, j])) + int32(d * int32(turned[x + 9, j])))
                        total[j] = int32(total[j] + int32(left + right))
                    x += 12
                for j in range(count):
                    out[top + j, 3 * i + channel] = min(max(total[j] >> BITS, 0), 255)


@compiled(error_model="numpy")
def _along_columns(
    rows: NDArray[np.uint8], first: NDArray[np.int64], weights: NDArray[np.int32], out: NDArray[np.uint8]
) -> None:  # pragma: no cover - compiled
    """(H, 3·w) to (h, 3·w)."""
    width = rows.shape[1]
    int32 = np.int32
    total = np.empty(width, np.int32)
    for i in range(len(first)):
        for x in range(width):
            total[x] = HALF
        for k in range(0, weights.shape[1], 4):
            a, b, c, d = weights[i, k], weights[i, k + 1], weights[i, k + 2], weights[i, k + 3]
            y = first[i] + k
            for x in range(width):
                upper = int32(int32(a * int32(rows[y, x])) + int32(b * int32(rows[y + 1, x])))
                lower = int32(int32(c * int32(rows[y + 2, x])) + int32(d * int32(rows[y + 3, x])))
                total[x] = int32(total[x] + int32(upper + lower))
        for x in range(width):
            out[i, x] = min(max(total[x] >> BITS, 0), 255)
