"""Reading pictures, from files and from memory: every way one can be bad ends in a FrameError that names it.

Those of one number a pixel, as depth and labels are, stand in rasters.py.
"""

import struct
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from simplejpeg import decode_jpeg, decode_jpeg_header

from clipfeat.data.png import png_damage
from clipfeat.errors import FrameError
from clipfeat.types import Picture

MAX_PIXELS = 1 << 26
"""Of one picture: 8192×8192, far above any real recording. Nothing is allocated for a header that says more."""

# What Pillow raises on damaged files: OSError (truncated), SyntaxError and ValueError (broken PNG chunks),
# DecompressionBombError (a header that lies about its size), and now and then struct.error or an EOFError.
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, IndexError, KeyError, TypeError,
    OverflowError, struct.error, zlib.error,
)  # fmt: skip


_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_JPEG_PIXELS_A_BYTE = 512
"""At most: 8×8 pixels of a grey JPEG take a bit or more. Of a header that says more, libjpeg makes much grey memory."""

_PNG_BYTES = {"1": 1 / 8, "P": 1 / 8, "RGB": 3, "RGBA": 4, "I": 2, "I;16": 2}
"""Of a pixel, at least, by Pillow's mode; of others one."""

_PNG_PACKS = 1032
"""Bytes that zlib makes one of, at most."""

_ORIENTATION = 0x0112
"""EXIF's tag."""

_PICTURE = "a JPEG or PNG picture"


def read_picture(path: Path, rotate: int = 0) -> Picture:
    """Reads a JPEG or PNG file; it is decoded when its pixels are asked for.

    Args:
        path: the file.
        rotate: degrees by which it is turned clockwise: 0, 90, 180 or 270.

    Raises:
        FrameError: If the file is missing or no picture. That it is damaged is found when it is decoded.
    """
    return picture_of(read_bytes(path, _PICTURE), str(path), rotate)


def picture_of(encoded: bytes, name: str, rotate: int = 0) -> Picture:
    """A picture from a JPEG or PNG in memory; its header alone is looked at.

    Args:
        encoded: the file's content.
        name: of its source, for messages.
        rotate: see ``read_picture``.

    Raises:
        FrameError: If it is no picture, or its header claims more pixels than it can hold.
    """
    image = _identify(BytesIO(encoded), name, _PICTURE)
    width, height = image.size
    if encoded.startswith(_JPEG_START) and width * height > _JPEG_PIXELS_A_BYTE * len(encoded):
        raise _too_large(name, f"{width}×{height} pixels in {len(encoded)} bytes", _PICTURE)
    orientation = _orientation(image)
    if rotate == 0:
        return Picture((width, height), encoded, lambda data: decode_color(data, name), orientation, is_plain_jpeg)
    mark = f"turned by {rotate}".encode()  # or its digest would be that of the picture as it is stored

    def decode(data: bytes) -> NDArray[np.uint8]:
        return np.ascontiguousarray(np.rot90(decode_color(data[: -len(mark)], name), -rotate // 90))

    return Picture((width, height) if rotate == 180 else (height, width), encoded + mark, decode, orientation)


def decode_color(encoded: bytes, name: str) -> NDArray[np.uint8]:
    """Decodes a JPEG or PNG to (H, W, 3) uint8 RGB.

    A JPEG is decoded by simplejpeg, which gives the very pixels that Pillow gives (both use libjpeg-turbo) in half the
    time, for it writes them where they are wanted. What it refuses, damaged files above all, goes to Pillow for a
    second opinion and a message. Of a PNG the checksums decide, before anybody decodes it.

    Args:
        encoded: the file's content.
        name: of its source, for messages.

    Raises:
        FrameError: If it is damaged, or no picture with 8 bits a channel.
    """
    with suppress(ValueError):
        if encoded.startswith(_JPEG_START) and decode_jpeg_header(encoded)[2] in ("YCbCr", "Gray"):
            return decode_jpeg(encoded, "RGB", strict=True)
    image = open_picture(encoded, name, _PICTURE)
    if image.mode not in ("RGB", "RGBA", "L", "P"):
        raise FrameError(f"{name}: a colour picture with 8 bits a channel was expected, got mode {image.mode}")
    try:
        # Pillow's convert copies even where nothing is to be converted: a tenth of the time of a frame.
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except DECODE_ERRORS as error:
        raise FrameError(f"{name}: damaged picture ({error}); copy or export the file again") from error


def is_plain_jpeg(encoded: bytes) -> bool:
    """Whether a file is a JPEG as all decoders know it: baseline, YCbCr or grey, and there to its end."""
    if not (encoded.startswith(_JPEG_START) and encoded.endswith(_JPEG_END)):
        return False
    with suppress(*DECODE_ERRORS):
        progressive = Image.open(BytesIO(encoded), formats=("JPEG",)).info.get("progressive", 0)
        return not progressive and decode_jpeg_header(encoded)[2] in ("YCbCr", "Gray")
    return False


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1 where there is none."""
    if "exif" not in image.info:  # Pillow would decode a PNG to look for it at its end
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except DECODE_ERRORS:  # of EXIF alone; the picture may be whole
        return 1


def picture_size(source: Path | BytesIO, name: str) -> tuple[int, int]:
    """(width, height) of a JPEG or PNG in pixels; decodes nothing.

    Raises:
        FrameError: If the file is missing or no picture.
    """
    return _identify(source, name, _PICTURE).size


def read_bytes(path: Path, expected: str) -> bytes:
    """The content of a file.

    Raises:
        FrameError: If it can't be read; ``expected`` says what should have been there.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(str(path), expected, error) from error


def open_picture(encoded: bytes, name: str, expected: str) -> Image.Image:
    """Opens and decodes a JPEG or PNG: Pillow alone would put off the decoding until the pixels are asked for.

    Raises:
        FrameError: If it is damaged or no such picture.
    """
    image = _identify(BytesIO(encoded), name, expected)
    if (damage := png_damage(encoded)) is not None:
        raise FrameError(f"{name}: damaged file ({damage}), {expected} was expected; copy or export it again")
    try:
        image.load()
    except DECODE_ERRORS as error:
        raise _unreadable(name, expected, error) from error
    return image


def _identify(source: Path | BytesIO, name: str, expected: str) -> Image.Image:
    """Opens without decoding: format, mode and size are known, the pixels are not."""
    try:
        image = Image.open(source, formats=("JPEG", "PNG"))  # of others, some start programs
    except DECODE_ERRORS as error:
        raise _unreadable(name, expected, error, _kind_of(source)) from error
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        stored = source.stat().st_size if isinstance(source, Path) else source.getbuffer().nbytes
        png = _PNG_PACKS / _PNG_BYTES.get(image.mode, 1)
        if pixels > stored * (png if image.format == "PNG" else _JPEG_PIXELS_A_BYTE):
            raise _too_large(name, f"{image.width}×{image.height} pixels", expected)
        raise FrameError(
            f"{name}: {image.width}×{image.height} pixels, but {MAX_PIXELS >> 20} million are read at most; make the "
            f"pictures smaller, and say what size K belongs to (data.intrinsics_size)"
        )
    return image


def _too_large(name: str, size: str, expected: str) -> FrameError:
    return FrameError(
        f"{name}: damaged file (its header says {size}), {expected} was expected; copy or export it again"
    )


_OTHERS = {
    b"P5": "PGM", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"\x93NUMPY": "NumPy", b"\x76\x2f\x31\x01": "OpenEXR",
}  # fmt: skip
"""How files begin that are whole pictures to other programs."""


def _kind_of(source: Path | BytesIO) -> str | None:
    """What ``_OTHERS`` calls a file."""
    try:
        begin = source.getvalue()[:8] if isinstance(source, BytesIO) else source.read_bytes()[:8]
    except OSError:
        return None
    return next((kind for start, kind in _OTHERS.items() if begin.startswith(start)), None)


def _unreadable(name: str, expected: str, error: Exception, kind: str | None = None) -> FrameError:
    if isinstance(error, FileNotFoundError):
        return FrameError(f"{name}: no such file, {expected} was expected")
    if isinstance(error, UnidentifiedImageError):
        if kind is not None:
            return FrameError(f"{name}: a {kind} file, which is not read; convert it to {expected}")
        return FrameError(f"{name}: not a picture, {expected} was expected; copy or export the file again")
    return FrameError(f"{name}: damaged file ({error}), {expected} was expected; copy or export it again")
