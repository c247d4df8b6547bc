"""Files of one number a pixel that are no PNG: PGM, TIFF, NumPy's NPY and OpenEXR (exr.py), whole or not at all.

None of them has a checksum: what can be known of damage is whether each byte is there that the header promises.

Sources: PGM, Netpbm's specification (pgm.5); NPY, NumPy's NEP 1.
"""

import math
import re
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from clipfeat.data.exr import MAGIC, decode_exr

_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PGM = re.compile(rb"P([25])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})\s")
"""Netpbm's header: how pixels are written, width, height and the largest value, with comments between."""

_TIFF_MODES = ("L", "P", "I", "I;16", "I;16B", "F")
"""Pillow's names for one number a pixel."""


def decode_pgm(encoded: bytes, max_pixels: int) -> NDArray[Any]:
    """Decodes a PGM of 8 or 16 bits, binary (P5) or text (P2).

    Args:
        encoded: the file's content.
        max_pixels: of a picture; nothing is allocated for a header that says more.

    Returns:
        (h, w) uint8 or uint16, as stored: not scaled to the type's range, as Pillow would.

    Raises:
        ValueError: If it is damaged; says what is wrong.
    """
    header = _PGM.match(encoded)
    if header is None:
        raise ValueError("its PGM header is damaged")
    kind, width, height, largest = map(int, header.groups())
    _check_size(width, height, max_pixels)
    if not 0 < largest <= 65535:
        raise ValueError(f"its largest value is said to be {largest}, which no PGM has")
    stored = np.dtype(np.uint8 if largest < 256 else ">u2")
    pixels = encoded[header.end() :]
    if kind == 2:
        values = np.array([int(word) for word in pixels.split()], dtype=np.int64)
        if len(values) != width * height:
            raise ValueError(f"holds {len(values)} values, but {width}×{height} pixels")
    else:
        _check_bytes(len(pixels), width * height * stored.itemsize)
        values = np.frombuffer(pixels, stored).astype(np.int64)
    if values.max() > largest or values.min() < 0:
        raise ValueError(f"a value of {values.max()}, above the {largest} that its header says")
    return values.reshape(height, width).astype(stored.newbyteorder("="))


def decode_npy(encoded: bytes, max_pixels: int) -> NDArray[Any]:
    """Decodes an array that ``numpy.save`` wrote; see ``decode_pgm``. Nothing is unpickled.

    Returns:
        (h, w) of whole numbers or floats, as stored.

    Raises:
        ValueError: If it is damaged, or no picture of numbers.
    """
    file = BytesIO(encoded)
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"NPY of version {version[0]}.{version[1]}")
    shape, by_column, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    if dtype.kind not in "uif":
        raise ValueError(f"an array of {dtype}")
    if len(shape) == 3 and shape[2] == 1:
        shape = shape[:2]
    if len(shape) != 2:
        raise ValueError(f"an array of shape {shape}")
    _check_size(shape[1], shape[0], max_pixels)
    _check_bytes(len(encoded) - file.tell(), math.prod(shape) * dtype.itemsize)
    values = np.frombuffer(encoded, dtype, offset=file.tell()).reshape(shape, order="F" if by_column else "C")
    return np.ascontiguousarray(values, dtype.newbyteorder("="))


def decode_tiff(encoded: bytes, max_pixels: int) -> NDArray[Any]:
    """Decodes a TIFF of one page and one channel; see ``decode_pgm``.

    Returns:
        (h, w) of whole numbers or float32, as stored.

    Raises:
        Exception: If it is damaged, or has more; Pillow's own among them.
    """
    with Image.open(BytesIO(encoded), formats=("TIFF",)) as image:
        _check_size(*image.size, max_pixels)
        if (pages := getattr(image, "n_frames", 1)) != 1:
            raise ValueError(f"{pages} pages")
        if image.mode not in _TIFF_MODES:
            raise ValueError(f"TIFF of mode {image.mode}")
        image.load()
        values = np.asarray(image)
        return values.astype(values.dtype.newbyteorder("="))


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1 or width * height > max_pixels:
        raise ValueError(f"its header says {width}×{height} pixels, {max_pixels >> 20} million are read at most")


def _check_bytes(found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"{found} bytes of pixels, its header says {expected}")


DECODERS: dict[bytes, Callable[[bytes, int], NDArray[Any]]] = {
    b"P5": decode_pgm, b"P2": decode_pgm, b"\x93NUMPY": decode_npy,
    MAGIC: decode_exr, b"II*\0": decode_tiff, b"MM\0*": decode_tiff, b"II+\0": decode_tiff, b"MM\0+": decode_tiff,
}  # fmt: skip
"""What reads a file, by how it begins: its name may say anything."""
