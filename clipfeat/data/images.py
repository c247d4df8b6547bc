"""Reading pictures from disk: every way a file can be bad ends in a FrameError that names it."""

from collections.abc import Collection
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from clipfeat.errors import FrameError
from clipfeat.types import Picture

INVALID_DEPTH = (0, 65535)
"""Raw depth values that mean: nothing was measured."""

# What Pillow raises on damaged files: OSError (truncated), SyntaxError and ValueError (broken PNG chunks),
# DecompressionBombError (a header that lies about its size), and now and then struct.error or an EOFError.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, IndexError, KeyError)


_PICTURE = "a JPEG or PNG picture"


def read_picture(path: Path) -> Picture:
    """Reads a JPEG or PNG and looks at its header alone: it is decoded when its pixels are asked for.

    Raises:
        FrameError: If the file is missing or no picture. That it is damaged is found when it is decoded.
    """
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, _PICTURE, error) from error
    size = _identify(path, _PICTURE, encoded).size
    return Picture(size, encoded, lambda data: read_color(path, data))


def read_color(path: Path, encoded: bytes | None = None) -> NDArray[np.uint8]:
    """Reads a JPEG or PNG as (H, W, 3) uint8 RGB; ``encoded`` is the file's content, if it has been read.

    Raises:
        FrameError: If the file is missing, damaged, or no picture with 8 bits a channel.
    """
    image = _open(path, _PICTURE, encoded)
    if image.mode not in ("RGB", "RGBA", "L", "P"):
        raise FrameError(f"{path}: a colour picture with 8 bits a channel was expected, got mode {image.mode}")
    try:
        return np.asarray(image.convert("RGB"))
    except _DECODE_ERRORS as error:
        raise FrameError(f"{path}: damaged picture ({error}); copy or export the file again") from error


def read_depth(path: Path, depth_scale: float, invalid: Collection[int] = INVALID_DEPTH) -> NDArray[np.float32]:
    """Reads a 16-bit PNG as (h, w) float32 metres, with 0 where nothing was measured.

    Args:
        path: the file.
        depth_scale: units of the file in a metre.
        invalid: raw values that mean: nothing was measured.

    Raises:
        FrameError: If the file is missing, damaged, or has not 16 bits in one channel.
    """
    raw = read_uint16(path, "depth")
    depth_m = raw.astype(np.float32) / np.float32(depth_scale)
    depth_m[np.isin(raw, list(invalid))] = 0
    return depth_m


def read_uint16(path: Path, what: str) -> NDArray[np.uint16]:
    """Reads a 16-bit single-channel PNG as (h, w) uint16.

    Raises:
        FrameError: If the file is missing, damaged, or has not 16 bits in one channel.
    """
    image = _open(path, f"a 16-bit {what} PNG")
    if not image.mode.startswith("I"):
        bits = "8-bit" if image.mode in ("L", "P", "RGB", "RGBA") else f"mode {image.mode}"
        raise FrameError(f"{path}: {bits} {what}, but 16 bits in one channel were expected; export it without scaling")
    try:
        values = np.asarray(image)
    except _DECODE_ERRORS as error:
        raise FrameError(f"{path}: damaged {what} ({error}); copy or export the file again") from error
    return values.astype(np.uint16)


def _open(path: Path, expected: str, encoded: bytes | None = None) -> Image.Image:
    """Opens and decodes: Pillow alone would put off the decoding until the pixels are asked for."""
    image = _identify(path, expected, encoded)
    try:
        image.load()
    except _DECODE_ERRORS as error:
        raise _unreadable(path, expected, error) from error
    return image


def _identify(path: Path, expected: str, encoded: bytes | None = None) -> Image.Image:
    """Opens without decoding: mode and size are known, the pixels are not."""
    try:
        return Image.open(path if encoded is None else BytesIO(encoded))
    except _DECODE_ERRORS as error:
        raise _unreadable(path, expected, error) from error


def _unreadable(path: Path, expected: str, error: Exception) -> FrameError:
    if isinstance(error, FileNotFoundError):
        return FrameError(f"{path}: no such file, {expected} was expected")
    if isinstance(error, UnidentifiedImageError):
        return FrameError(f"{path}: not a picture, {expected} was expected; copy or export the file again")
    return FrameError(f"{path}: damaged file ({error}), {expected} was expected; copy or export it again")
