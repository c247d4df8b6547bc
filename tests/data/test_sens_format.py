import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from recordings import DEPTH, JPEG, SCENE, one_frame, small_recording
from sens_writer import FIXED, patch

from clipfeat.data.sens import SensDataset
from clipfeat.data.sens_file import SensFile
from clipfeat.data.sens_format import unpack_depth
from clipfeat.errors import DataError, FrameError

HEADER = {"sensor length": 4, "color K": 27, "color code": 283, "color width": 291, "depth width": 299, "scale": 307}
"""Where the fields stand behind a sensor's name of 15 bytes; the number of frames is at 311, the frames at 319."""


@pytest.fixture
def sens(tmp_path):
    return small_recording(tmp_path / "scans")


@pytest.mark.parametrize(
    ("offset", "data", "message"),
    [
        (0, struct.pack("<I", 3), "version 3 of the .sens format, expected 4; is it a ScanNet v2 recording?"),
        (0, b"<htm", "version 1836345404 of the .sens format, expected 4"),
        (HEADER["sensor length"], struct.pack("<Q", 2**62), "damaged header: a sensor name of 4611686018427387904"),
        (HEADER["color K"], struct.pack("<f", 0), "colour intrinsics: focal lengths must be positive, got fx=0"),
        (
            HEADER["color K"] + 8,
            struct.pack("<f", 99),
            r"colour intrinsics: principal point \(99, 5.4\) lies outside",
        ),
        (HEADER["color code"], struct.pack("<i", -1), "unknown colour compression -1, expected 0 .raw., 1 .png., 2"),
        (HEADER["color code"] + 4, struct.pack("<i", -1), "unknown depth compression -1, expected 0 .raw., 1 .zlib."),
        (HEADER["color code"] + 4, struct.pack("<i", 2), "depth compressed with occi .2. is not supported"),
        (HEADER["color width"], struct.pack("<I", 0), "damaged header: colour of 0×12 pixels"),
        (HEADER["depth width"], struct.pack("<I", 2**32 - 1), "damaged header: depth of 4294967295×6 pixels"),
        (HEADER["scale"], struct.pack("<f", 0), "damaged header: depth_shift 0, expected units in a metre"),
        (HEADER["scale"], struct.pack("<f", np.nan), "damaged header: depth_shift nan"),
        (HEADER["scale"] + 4, struct.pack("<Q", 0), "the header declares 0 frames, expected 1 to"),
        (HEADER["scale"] + 4, struct.pack("<Q", 2**60), "the header declares 1152921504606846976 frames, expected 1"),
        (
            HEADER["scale"] + 12 + 80,
            struct.pack("<Q", 2**63),
            "holds no whole frame of 5 declared .frame 0 declares 92",
        ),
    ],
)
def test_a_bad_header_is_named(sens, offset, data, message):
    path, starts = sens
    assert starts[0] == 319
    patch(path, offset, data)
    with pytest.raises(DataError, match=f"{SCENE}.sens: {message}") as caught:
        SensDataset(path.parent).frame_ids(SCENE)
    assert "\n" not in str(caught.value)


def test_a_file_that_ends_in_the_header_is_named_wherever_it_ends(sens):
    path, starts = sens
    whole = path.read_bytes()
    for length in range(starts[0] + FIXED):
        path.write_bytes(whole[:length])
        expected = "empty file" if not length else "cut off in the header" if length < 319 else "holds no whole frame"
        with pytest.raises(DataError, match=f"{SCENE}.sens: {expected}.*download the file again|{expected}.*damaged"):
            SensFile(path)
    path.write_bytes(whole[:4] + struct.pack("<Q", 4000) + whole[12:1000])
    with pytest.raises(DataError, match="cut off in the header, after 1000 bytes"):
        SensFile(path)


@pytest.mark.parametrize("field", [80, 88])
@pytest.mark.parametrize("lie", [10**6, 2**31, 2**63, 2**64 - 1])
def test_a_blob_that_lies_about_its_size_ends_the_recording_there(sens, field, lie):
    path, starts = sens
    patch(path, starts[2] + field, struct.pack("<Q", lie))
    file = SensFile(path)
    assert len(file) == 2
    assert "2 of 5 declared frames" in file.warnings[0]
    assert f"frame 2 declares {lie} + " in file.warnings[0] or f" + {lie} bytes" in file.warnings[0]


def test_more_frames_declared_than_there_are(sens):
    path, _ = sens
    patch(path, HEADER["scale"] + 4, struct.pack("<Q", 4_000_000))
    file = SensFile(path)
    assert len(file) == 5
    assert "5 of 4000000 declared frames" in file.warnings[0]


def test_a_blob_too_large_for_a_picture_is_refused_though_the_file_is_larger(sens):
    path, starts = sens
    with path.open("r+b") as file:
        file.truncate(2**31)  # a hole: it takes no space
    patch(path, starts[2] + 80, struct.pack("<Q", 2**30))
    assert "declares 1073741824 + " in SensFile(path).warnings[0]
    assert "too many for one frame" in SensFile(path).warnings[0]


def test_the_zeros_of_an_unfinished_download_are_no_frames(sens):
    path, starts = sens
    length = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(starts[3])
        file.truncate(length)
    file = SensFile(path)
    assert len(file) == 3
    assert f"frame 3, at byte {starts[3]}, is all zeros" in file.warnings[0]


def test_a_whole_file_and_a_cut_imu_block_give_no_warning(sens):
    path, _ = sens
    assert SensFile(path).warnings == []
    path.write_bytes(path.read_bytes()[:-40])
    assert SensFile(path).warnings == []
    assert len(SensFile(path)) == 5


def test_a_corrupt_jpeg_is_named(tmp_path):
    for damaged in (JPEG[:-100], JPEG[:30], b"\0" * 500):
        with pytest.raises(FrameError, match="a.sens: frame 0, colour: (damaged file|not a picture)"):
            one_frame(tmp_path / "a.sens", damaged, DEPTH).load("a", 0).image  # decoded when it is asked for


@pytest.mark.parametrize(
    ("blob", "kind", "message"),
    [
        (bytes(95), "raw", "95 bytes, expected 96 for 8×6 pixels"),
        (zlib.compress(bytes(95)), "zlib", "95 bytes, expected 96 for 8×6 pixels"),
        (zlib.compress(bytes(97)), "zlib", "inflates to more than the 96 bytes of 8×6 pixels"),
        (zlib.compress(bytes(96))[:-3], "zlib", "cut-off zlib data, 96 bytes of 96 are there"),
        (zlib.compress(bytes(range(96)))[:20], "zlib", "cut-off zlib data, .* bytes of 96 are there"),
        (b"no zlib data", "zlib", "damaged zlib data"),
        (zlib.compress(bytes(range(96)))[:-4] + b"xxxx", "zlib", "damaged zlib data"),
    ],
)
def test_bad_depth_is_named(tmp_path, blob, kind, message):
    with pytest.raises(FrameError, match=f"a.sens: frame 0, depth: {message}"):
        one_frame(tmp_path / "a.sens", JPEG, blob, depth=kind).load("a", 0)


def test_raw_colour_of_another_size_is_named(tmp_path):
    with pytest.raises(FrameError, match="a.sens: frame 0, colour: 575 bytes, expected 576 for 16×12 pixels"):
        one_frame(tmp_path / "a.sens", bytes(575), DEPTH, color="raw").load("a", 0)


def test_a_zlib_bomb_is_not_inflated():
    bomb = zlib.compress(bytes(200_000_000), 1)
    tracemalloc.start()
    try:
        with pytest.raises(FrameError, match="inflates to more than"):
            unpack_depth(bomb, "zlib", (640, 480), "x")
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
