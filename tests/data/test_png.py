"""16-bit PNGs are decoded as Pillow decodes them, or not at all."""

import struct
import zlib
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from clipfeat.data.images import read_picture
from clipfeat.data.png import SIGNATURE, decode_grey16, png_damage, unfilter
from clipfeat.data.rasters import read_depth, read_labels
from clipfeat.errors import FrameError

PIXELS = 1 << 20


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def png(rows, width, *, header=(16, 0, 0, 0, 0), pieces=1, extra=b""):
    packed = zlib.compress(rows.tobytes())
    cuts = np.linspace(0, len(packed), pieces + 1).astype(int)
    data = b"".join(chunk(b"IDAT", packed[a:b]) for a, b in pairwise(cuts))
    start = chunk(b"IHDR", struct.pack(">II", width, len(rows)) + bytes(header))
    return SIGNATURE + start + extra + data + chunk(b"IEND", b"")


def some_rows(seed, kinds, height=23, width=31):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (height, 1 + 2 * width), np.uint8)
    rows[:, 0] = rng.choice(kinds, height)
    return rows, width


@pytest.mark.parametrize("kinds", [[0], [1], [2], [3], [4], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("pieces", [1, 3])
def test_every_filter_gives_what_pillow_gives(kinds, pieces):
    rows, width = some_rows(sum(kinds), kinds)
    file = png(rows, width, pieces=pieces)
    expected = np.asarray(Image.open(BytesIO(file))).astype(np.uint16)
    np.testing.assert_array_equal(decode_grey16(file, PIXELS), expected)


def test_one_pixel_and_one_column():
    for shape in ((1, 1), (5, 1), (1, 7)):
        values = np.random.default_rng(1).integers(0, 65536, shape).astype(np.uint16)
        file = BytesIO()
        Image.fromarray(values).save(file, "PNG")
        np.testing.assert_array_equal(decode_grey16(file.getvalue(), PIXELS), values)


@pytest.mark.parametrize("header", [(8, 0, 0, 0, 0), (16, 2, 0, 0, 0), (16, 0, 1, 0, 0), (16, 0, 0, 0, 1)])
def test_other_pictures_are_left_to_pillow(header):
    rows, width = some_rows(2, [0])
    assert decode_grey16(png(rows, width), PIXELS) is not None
    assert decode_grey16(png(rows, width, header=header), PIXELS) is None
    assert decode_grey16(png(rows, width), rows.size // 4) is None
    assert decode_grey16(png(rows, width, extra=chunk(b"tRNS", b"\0\0")), PIXELS) is None
    assert decode_grey16(b"\xff\xd8\xff" + png(rows, width), PIXELS) is None


def test_damaged_files_are_not_taken_for_whole():
    rows, width = some_rows(3, [0, 1, 2, 3, 4])
    file = png(rows, width)
    for at in range(len(file)):
        flipped = bytearray(file)
        flipped[at] ^= 0x10
        assert decode_grey16(bytes(flipped), PIXELS) is None, at
        assert decode_grey16(file[:at], PIXELS) is None, at
    # Checksums that fit a wrong content.
    assert decode_grey16(png(rows[:-1], width).replace(chunk(b"IEND", b""), b""), PIXELS) is None
    tall = png(rows, width)[len(SIGNATURE) + 25 :]
    header = chunk(b"IHDR", struct.pack(">II", width, len(rows) + 1) + bytes((16, 0, 0, 0, 0)))
    assert decode_grey16(SIGNATURE + header + tall, PIXELS) is None
    header = chunk(b"IHDR", struct.pack(">II", width, len(rows) - 1) + bytes((16, 0, 0, 0, 0)))
    assert decode_grey16(SIGNATURE + header + tall, PIXELS) is None
    rows[4, 0] = 5
    assert decode_grey16(png(rows, width), PIXELS) is None
    assert not unfilter(rows, np.empty((len(rows), width), np.uint16))
    assert decode_grey16(SIGNATURE + chunk(b"IHDR", b"\0\0") + chunk(b"IEND", b""), PIXELS) is None
    assert decode_grey16(SIGNATURE + chunk(b"IEND", b""), PIXELS) is None


def flipped(path, picture, step):
    """Files with one bit flipped, here and there behind the header."""
    Image.fromarray(picture).save(path)
    whole = path.read_bytes()
    for at in range(34, len(whole), step):
        damaged = bytearray(whole)
        damaged[at] ^= 4
        path.write_bytes(damaged)
        yield at


@pytest.mark.parametrize("kind", ["depth", "label", "colour"])
def test_no_flipped_bit_changes_a_value(tmp_path, kind):
    rng = np.random.default_rng(0)
    smooth = np.linspace(1000, 5000, 60 * 80).reshape(60, 80) + rng.integers(0, 4, (60, 80))
    picture = {
        "depth": smooth.astype(np.uint16),
        "label": (smooth // 40).astype(np.uint8),
        "colour": np.repeat((smooth // 20).astype(np.uint8)[..., None], 3, 2),
    }[kind]
    read = {
        "depth": lambda path: read_depth(path, 1000),
        "label": read_labels,
        "colour": lambda path: read_picture(path).decode(),
    }[kind]
    path = tmp_path / "0.png"
    for _ in flipped(path, picture, 53):
        with pytest.raises(FrameError, match=r"0.png: (damaged file|not a picture)"):
            read(path)


def test_the_chunk_whose_checksum_is_wrong_is_named(tmp_path):
    path = tmp_path / "0.png"
    Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(60, 80)).save(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        FrameError, match=r"damaged file \(the checksum of its chunk IDAT is wrong\), a 16-bit depth picture"
    ):
        read_depth(path, 1000)
    assert png_damage(b"no PNG at all") is None
    assert png_damage(bytes(data)[:-3]) == "the checksum of its chunk IDAT is wrong"
