"""Pictures of one number a pixel: depth, masks and labels, as PNG, PGM, TIFF or NPY."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from clipfeat.data.images import DECODE_ERRORS, MAX_PIXELS, open_picture, read_bytes
from clipfeat.data.png import decode_grey16
from clipfeat.data.raster_formats import DECODERS
from clipfeat.errors import FrameError

INVALID_DEPTH = (0, 65535)
"""Raw depth values that mean: nothing was measured."""

_KINDS = "(PNG, PGM, TIFF or NPY)"


def read_depth(
    path: Path, depth_scale: float, invalid: Collection[int] = INVALID_DEPTH, float_scale: float | None = None
) -> NDArray[np.float32]:
    """Reads a picture of 16-bit numbers, or of floats, as (h, w) float32 metres, with 0 where nothing was measured.

    Args:
        path: the file.
        depth_scale: units of whole numbers in a metre.
        invalid: raw values that mean: nothing was measured. Of floats, 0, NaN and inf mean it, too.
        float_scale: units of floats in a metre; None where nobody said it, and floats are refused.

    Raises:
        FrameError: If the file is missing, damaged, or is something else.
    """
    raw = _read(path, f"a 16-bit depth picture {_KINDS}")
    if raw.dtype == np.uint8:
        raise FrameError(f"{path}: 8-bit depth, but 16 bits in one channel were expected; export it without scaling")
    if raw.dtype != np.float32:
        return depth_in_metres(raw, depth_scale, invalid)
    if float_scale is None:
        raise FrameError(
            f"{path}: depth in floats, whose unit is not said: data.depth_float_scale=1 for metres, 1000 for "
            "millimetres"
        )
    return depth_in_metres(without_gaps(raw, str(path)), float_scale, invalid)


def without_gaps(raw: NDArray[np.float32], where: str) -> NDArray[np.float32]:
    """Depth in floats, with 0 where NaN or inf says that nothing was measured.

    Raises:
        FrameError: If some is below 0.
    """
    depth = np.where(np.isfinite(raw), raw, np.float32(0))
    if (below := int(np.count_nonzero(depth < 0))) > 0:
        raise FrameError(
            f"{where}: {below} depths below 0, the least {depth.min():g}; expected distances along z, "
            f"and 0, NaN or inf where nothing was measured"
        )
    return depth


def depth_in_metres(
    raw: NDArray[Any], depth_scale: float, invalid: Collection[int] = INVALID_DEPTH
) -> NDArray[np.float32]:
    """Raw (h, w) depth in float32 metres, with 0 where nothing was measured.

    Args:
        raw: as stored.
        depth_scale: units in a metre.
        invalid: raw values that mean: nothing was measured.
    """
    depth_m = raw.astype(np.float32) / np.float32(depth_scale)
    for value in invalid:
        if value != 0:  # 0 is 0 m already, and there are many: to write them again would take ten times as long
            depth_m[raw == value] = 0
    return depth_m


def read_labels(path: Path, what: str = "label") -> NDArray[np.uint16]:
    """Reads whole numbers of 8 or 16 bits in one channel, or a palette's indices, as (h, w) uint16.

    Raises:
        FrameError: If the file is missing, damaged, or has something else.
    """
    return _read_whole(path, what).astype(np.uint16)


def bits_of_picture(path: Path, what: str) -> int:
    """Bits of a pixel of a picture of whole numbers, 8 or 16.

    Raises:
        FrameError: See ``read_labels``.
    """
    return _read_whole(path, what).dtype.itemsize * 8


def _read_whole(path: Path, what: str) -> NDArray[Any]:
    expected = f"an 8- or 16-bit {what} picture {_KINDS}"
    values = _read(path, expected)
    if values.dtype == np.float32:
        raise FrameError(f"{path}: floats, but {expected} was expected")
    return values


def _read(path: Path, expected: str) -> NDArray[Any]:
    """(h, w) uint8, uint16 or float32, whatever holds it."""
    encoded = read_bytes(path, expected)
    decoded = decode_grey16(encoded, MAX_PIXELS)
    if decoded is not None:
        return decoded
    decode = next((decode for start, decode in DECODERS.items() if encoded.startswith(start)), None)
    values = _of_png(encoded, path, expected) if decode is None else _of_other(decode, encoded, path, expected)
    return _plain(values, path)


def _of_png(encoded: bytes, path: Path, expected: str) -> NDArray[Any]:
    """What ``decode_grey16`` refuses goes to Pillow, for a second opinion and a message."""
    image = open_picture(encoded, str(path), expected)
    if image.format != "PNG" or not (image.mode in ("L", "P") or image.mode.startswith("I")):
        raise FrameError(f"{path}: {image.format} of mode {image.mode}, expected {expected} with one channel")
    return np.asarray(image)


def _of_other(decode: Callable[[bytes, int], NDArray[Any]], encoded: bytes, path: Path, expected: str) -> NDArray[Any]:
    try:
        return decode(encoded, MAX_PIXELS)
    except UnidentifiedImageError as error:
        raise FrameError(
            f"{path}: a TIFF that is damaged or of a kind that is not read, expected {expected} with one channel"
        ) from error
    except DECODE_ERRORS as error:
        raise FrameError(
            f"{path}: can't be read as {expected} with one channel ({error}); copy or export it again"
        ) from error


def _plain(values: NDArray[Any], path: Path) -> NDArray[Any]:
    """As uint8, uint16 or float32; wider whole numbers are taken if 16 bits hold each of them."""
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # of float64: inf, which is no measurement
            return values.astype(np.float32)
    if values.dtype in (np.uint8, np.uint16):
        return values
    low, high = values.min(), values.max()
    if low < 0 or high > 65535:
        raise FrameError(f"{path}: whole numbers from {low} to {high}, expected 0 to 65535")
    return values.astype(np.uint16)
