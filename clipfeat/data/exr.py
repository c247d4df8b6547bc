"""OpenEXR files of one channel, as depth is written: whole or not at all.

Source: OpenEXR's documentation, "OpenEXR File Layout" and "ZIP compression": a header of named attributes, a table of
offsets, blocks of 1 or 16 rows. A packed block is what zlib makes of its bytes after two steps, which are undone here:
the even bytes were moved before the odd ones, and each byte holds the difference to the one before, plus 128.

OpenCV is no reader for these: of a channel "R" alone its 4.x make 0.64 × the depth, of "Z" zeros, and 5.0 reads none.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"\x76\x2f\x31\x01"

_ROWS = {0: 1, 2: 1, 3: 16}
"""Rows of a block, by compression: none, ZIPS, ZIP."""

_COMPRESSIONS = ("none", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A", "DWAA", "DWAB")

_TYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}
"""Of pixels, by a channel's code: UINT, HALF, FLOAT."""

_NOT_PLAIN = 0x200 | 0x800 | 0x1000
"""Flags of the version: tiles, deep pixels, several parts."""


def decode_exr(encoded: bytes, max_pixels: int) -> NDArray[Any]:
    """Decodes a file of one part of scan lines with one channel, whatever that is called.

    Args:
        encoded: the file's content.
        max_pixels: of a picture; nothing is allocated for a header that says more.

    Returns:
        (h, w) float32 or uint32.

    Raises:
        ValueError: If it is damaged or of another kind; says what is wrong.
    """
    if len(encoded) < 8 or not encoded.startswith(MAGIC):
        raise ValueError("its EXR header is damaged")
    version = int.from_bytes(encoded[4:8], "little")
    if version & 0xFF != 2 or version & _NOT_PLAIN:
        raise ValueError("an EXR of tiles, deep pixels or several parts")
    attributes, at = _header(encoded)
    try:
        compression = attributes["compression"][0]
        left, top, right, bottom = struct.unpack("<4i", attributes["dataWindow"])
        channels = list(_channels(attributes["channels"]))
    except (KeyError, IndexError, struct.error) as error:
        raise ValueError(f"its EXR header is damaged ({error})") from error
    if len(channels) != 1:
        raise ValueError(f"an EXR of the channels {', '.join(name for name, _ in channels)[:60]}")
    if compression not in _ROWS:
        named = _COMPRESSIONS[compression] if compression < len(_COMPRESSIONS) else compression
        raise ValueError(f"an EXR compressed by {named}; none, ZIPS and ZIP are read")
    width, height, dtype = right - left + 1, bottom - top + 1, channels[0][1]
    if width < 1 or height < 1 or width * height > max_pixels:
        raise ValueError(f"its header says {width}×{height} pixels, {max_pixels >> 20} million are read at most")
    values = np.empty((height, width), dtype)
    rows = _ROWS[compression]
    blocks = -(-height // rows)
    offsets = encoded[at : at + 8 * blocks]
    if len(offsets) < 8 * blocks:
        raise ValueError("it is cut off")
    for block, (offset,) in enumerate(struct.iter_unpack("<Q", offsets)):
        first = block * rows
        part = values[first : first + rows]
        part[:] = np.frombuffer(_block(encoded, offset, top + first, part.nbytes, compression), dtype).reshape(
            part.shape
        )
    return values.astype(np.float32) if dtype.kind == "f" else values.astype(np.uint32)


def _header(encoded: bytes) -> tuple[dict[str, bytes], int]:
    """The attributes by name, and where they end."""
    found: dict[str, bytes] = {}
    at = 8
    while True:
        name, at = _text(encoded, at)
        if not name:
            return found, at
        _, at = _text(encoded, at)
        size = int.from_bytes(encoded[at : at + 4], "little")
        found[name] = encoded[at + 4 : at + 4 + size]
        at += 4 + size


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.find(b"\0", at)
    if end < 0:
        raise ValueError("its EXR header is damaged")
    return data[at:end].decode("latin-1"), end + 1


def _channels(data: bytes) -> Iterator[tuple[str, np.dtype[Any]]]:
    at = 0
    while True:
        name, at = _text(data, at)
        if not name:
            return
        code, across, down = struct.unpack_from("<i4xii", data, at)
        if code not in _TYPES or (across, down) != (1, 1):
            raise ValueError(f"channel {name[:20]} of an unknown type, or with fewer pixels than the picture")
        yield name, _TYPES[code]
        at += 16


def _block(encoded: bytes, offset: int, row: int, expected: int, compression: int) -> bytes:
    """The bytes of a block's pixels."""
    y, size = struct.unpack_from("<ii", encoded, offset) if offset <= len(encoded) - 8 else (row, 0)
    packed = encoded[offset + 8 : offset + 8 + max(size, 0)]
    if y != row or size < 1 or len(packed) != size:
        raise ValueError("it is cut off or damaged")
    if size == expected:  # what packing would not make smaller is stored as it is
        return packed
    if compression == 0:
        raise ValueError(f"{size} bytes of pixels in rows of {expected}")
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(packed, expected + 1)
    except zlib.error as error:
        raise ValueError(f"damaged pixels ({error})") from error
    if len(plain) != expected or not stream.eof:
        raise ValueError(f"{len(plain)} bytes of pixels in rows of {expected}")
    deltas = np.frombuffer(plain, np.uint8).copy()
    deltas[1:] -= np.uint8(128)
    summed = np.cumsum(deltas, dtype=np.uint8)
    ordered = np.empty_like(summed)
    half = (expected + 1) // 2
    ordered[0::2], ordered[1::2] = summed[:half], summed[half:]
    return ordered.tobytes()
