"""16-bit grey PNGs, as depth is stored, decoded in half of Pillow's time: isal unpacks, a compiled loop unfilters.

What is not plainly that is left to Pillow, for a second opinion and a message. Where a checksum is wrong there is none:
Pillow does not look at those of pixels, and a flipped bit there may move a third of the picture by metres.

Source of the format: PNG (Third Edition), W3C Recommendation 2025: chunks in section 5, filters in section 9.
"""

import struct

import numba
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY_16 = bytes((16, 0, 0, 0, 0))
"""The end of a header: 16 bits, grey, the one compression, the one set of filters, not interlaced."""


def decode_grey16(encoded: bytes, max_pixels: int) -> NDArray[np.uint16] | None:
    """Decodes a 16-bit grey PNG.

    Args:
        encoded: the file's content.
        max_pixels: of a picture; nothing is allocated for a header that says more.

    Returns:
        (h, w) uint16, or None if the file is another kind of picture, or damaged.
    """
    if not encoded.startswith(SIGNATURE):
        return None
    width = height = 0
    begin, packed, last = len(SIGNATURE), [], b""
    while last != b"IEND":
        if begin + 12 > len(encoded):
            return None
        (size,) = struct.unpack_from(">I", encoded, begin)
        last, end = encoded[begin + 4 : begin + 8], begin + 8 + size
        chunk = encoded[begin + 8 : end]
        if end + 4 > len(encoded) or encoded[end : end + 4] != isal_zlib.crc32(encoded[begin + 4 : end]).to_bytes(4):
            return None
        if last == b"IHDR":
            if chunk[8:] != _GREY_16:
                return None
            width, height = struct.unpack_from(">II", chunk)
            if width * height > max_pixels:
                return None
        elif last == b"IDAT":
            packed.append(chunk)
        elif last == b"tRNS":
            return None
        begin = end + 4
    rows = _unpacked(b"".join(packed), height * (1 + 2 * width))
    if rows is None:
        return None
    values = np.empty((height, width), np.uint16)
    good = unfilter(np.frombuffer(rows, np.uint8).reshape(height, 1 + 2 * width), values)
    return values if good else None


def png_damage(encoded: bytes) -> str | None:
    """What is wrong with the chunks of a PNG, by their lengths and checksums; None where all are whole.

    Args:
        encoded: the file's content. Of another format nothing is said.
    """
    if not encoded.startswith(SIGNATURE):
        return None
    begin, last = len(SIGNATURE), b""
    while last != b"IEND":
        if begin + 12 > len(encoded):
            return "it is cut off"
        (size,) = struct.unpack_from(">I", encoded, begin)
        last, end = encoded[begin + 4 : begin + 8], begin + 8 + size
        if end + 4 > len(encoded):
            return "it is cut off"
        if encoded[end : end + 4] != isal_zlib.crc32(encoded[begin + 4 : end]).to_bytes(4):
            return f"the checksum of its chunk {last.decode('ascii', 'replace')} is wrong"
        begin = end + 4
    return None


def _unpacked(packed: bytes, size: int) -> bytes | None:
    """Exactly ``size`` bytes of a zlib stream that is whole, or None."""
    if size == 0:
        return None
    stream = isal_zlib.decompressobj()
    try:
        data: bytes = stream.decompress(packed, size)
        return data if len(data) == size and (stream.eof or not stream.decompress(stream.unconsumed_tail, 1)) else None
    except isal_zlib.error:  # type: ignore[misc]  # the stub forgets its base
        return None


@numba.njit(nogil=True, cache=True)
def unfilter(rows: NDArray[np.uint8], values: NDArray[np.uint16]) -> bool:  # pragma: no cover - compiled
    """Undoes the filters of a picture with two bytes a pixel.

    Args:
        rows: (h, 1 + 2·w): each row's filter, and its filtered bytes.
        values: (h, w), filled.

    Returns:
        Whether all filters are known ones.
    """
    height, width = values.shape
    above = np.zeros(2 * width, np.int32)
    row = np.zeros(2 * width, np.int32)
    for y in range(height):
        kind, line = rows[y, 0], rows[y, 1:]
        if kind == 0:
            row[:] = line
        elif kind == 1:
            row[0], row[1] = line[0], line[1]
            for x in range(2, 2 * width):
                row[x] = (line[x] + row[x - 2]) & 255
        elif kind == 2:
            for x in range(2 * width):
                row[x] = (line[x] + above[x]) & 255
        elif kind == 3:
            row[0], row[1] = (line[0] + (above[0] >> 1)) & 255, (line[1] + (above[1] >> 1)) & 255
            for x in range(2, 2 * width):
                row[x] = (line[x] + ((row[x - 2] + above[x]) >> 1)) & 255
        elif kind == 4:
            # Both bytes of a pixel in one step: they don't depend on each other, so a processor does them together.
            left, left2, corner, corner2 = 0, 0, 0, 0
            for x in range(0, 2 * width, 2):
                up, up2 = above[x], above[x + 1]
                left = (line[x] + _paeth(left, up, corner)) & 255
                left2 = (line[x + 1] + _paeth(left2, up2, corner2)) & 255
                corner, corner2 = up, up2
                row[x], row[x + 1] = left, left2
        else:
            return False
        for x in range(width):
            values[y, x] = (row[2 * x] << 8) | row[2 * x + 1]
        above, row = row, above
    return True


@numba.njit(nogil=True, inline="always")
def _paeth(left: int, up: int, corner: int) -> int:  # pragma: no cover - compiled
    """Whichever of the three is nearest to left + up - corner; without branches, which noise makes hard to guess."""
    to_left, to_up = abs(up - corner), abs(left - corner)
    to_corner = abs(left + up - 2 * corner)
    second, to_second = (up, to_up) if to_up <= to_corner else (corner, to_corner)
    return left if to_left <= to_second else second
