import importlib.util
import logging
import os
import struct
import sys
import threading
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKOUT
from sens_writer import COLOR_CODES, DEPTH_CODES, FIXED, SensWriter, encode_color, encode_depth, patch, write_like
from twins import random_pose

from clipfeat.data.config import SensConfig
from clipfeat.data.layouts import build_dataset
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.data.sens import SensDataset
from clipfeat.data.sens_file import SensFile
from clipfeat.data.sens_format import unpack_depth
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Camera, Frame, Picture

SCENE = "scene0000_00"


@pytest.fixture
def frames():
    """Five small frames; colour and depth differ in size, depth holds 0 and 65535."""
    rng = np.random.default_rng(0)
    v, u = np.indices((12, 16))
    made = []
    for number in range(5):
        raw = rng.integers(500, 3000, (6, 8), dtype=np.uint16)
        raw[0, :2] = 0, 65535
        made.append(
            Frame(
                scene_id=SCENE,
                frame_id=number,
                picture=Picture.of(np.stack([40 * number + u, 200 - 3 * v, u + v], axis=-1).astype(np.uint8)),
                depth_m=raw / np.float32(1000),
                color_camera=Camera(np.array([[14.1, 0, 7.6], [0, 14.2, 5.4], [0, 0, 1]]), 16, 12),
                depth_camera=Camera(np.array([[7.1, 0, 3.6], [0, 7.2, 2.4], [0, 0, 1]]), 8, 6),
                cam_to_world=random_pose(rng),
            )
        )
    return made


@pytest.fixture
def sens(frames, tmp_path):
    """A recording of five frames and the bytes at which they start."""
    path = tmp_path / "scans" / f"{SCENE}.sens"
    return path, write_like(path, frames).starts


@pytest.fixture
def export():
    """``scripts/export_sens.py`` as a function of its arguments."""
    spec = importlib.util.spec_from_file_location("export_sens", CHECKOUT / "scripts" / "export_sens.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["export_sens"] = module
    spec.loader.exec_module(module)
    yield lambda *arguments: module.main([str(a) for a in arguments])
    del sys.modules["export_sens"]


def same(a, b):
    """Two frames hold the same numbers, to the last bit."""
    for key in ("image", "depth_m", "cam_to_world"):
        np.testing.assert_array_equal(getattr(a, key), getattr(b, key))
        assert getattr(a, key).dtype == getattr(b, key).dtype
    for key in ("color_camera", "depth_camera"):
        np.testing.assert_array_equal(getattr(a, key).intrinsics, getattr(b, key).intrinsics)
        assert (getattr(a, key).width, getattr(a, key).height) == (getattr(b, key).width, getattr(b, key).height)


@pytest.mark.parametrize("color", COLOR_CODES)
@pytest.mark.parametrize("depth", DEPTH_CODES)
def test_every_compression_gives_the_frames_back_in_any_order(tmp_path, frames, color, depth):
    write_like(tmp_path / SCENE / f"{SCENE}.sens", frames, color=color, depth=depth)
    dataset = SensDataset(tmp_path)
    assert dataset.scenes() == [SCENE]
    assert dataset.frame_ids(SCENE) == [0, 1, 2, 3, 4]
    for i in (4, 0, 2, 2, 3):
        frame = dataset.load(SCENE, i)
        difference = np.abs(frame.image.astype(int) - frames[i].image)
        assert difference.max() <= (12 if color == "jpeg" else 0)
        assert frame.image.shape == (12, 16, 3)
        assert frame.image.dtype == np.uint8
        expected = frames[i].depth_m.copy()
        expected[0, :2] = 0
        np.testing.assert_allclose(frame.depth_m, expected, rtol=1e-6)
        assert frame.depth_m.dtype == np.float32
        np.testing.assert_allclose(frame.cam_to_world, frames[i].cam_to_world, atol=1e-6)
        np.testing.assert_allclose(frame.color_camera.intrinsics, frames[i].color_camera.intrinsics, rtol=1e-6)
        np.testing.assert_allclose(frame.depth_camera.intrinsics, frames[i].depth_camera.intrinsics, rtol=1e-6)
        assert (frame.scene_id, frame.frame_id) == (SCENE, i)


def test_the_header_says_the_depth_scale(tmp_path, frames):
    write_like(tmp_path / "a.sens", frames, depth_shift=4000.0)
    depth_m = SensDataset(tmp_path).load("a", 1).depth_m
    np.testing.assert_allclose(depth_m[1:], frames[1].depth_m[1:] / 4, rtol=1e-6)


def test_a_picture_of_another_size_than_the_headers_has_a_resized_camera(tmp_path, frames):
    camera, depth_camera = frames[0].color_camera, frames[0].depth_camera
    with SensWriter(tmp_path / "a.sens", (16, 12), (8, 6), camera.intrinsics, depth_camera.intrinsics) as sens:
        sens.add(encode_color(np.zeros((24, 32, 3), np.uint8)), encode_depth(np.ones((6, 8))), np.eye(4))
    frame = SensDataset(tmp_path).load("a", 0)
    assert (frame.color_camera.width, frame.color_camera.height) == (32, 24)
    np.testing.assert_allclose(frame.color_camera.intrinsics, camera.resized(32, 24).intrinsics, rtol=1e-6)


def test_both_layouts_are_found_and_shadows_passed_over(tmp_path, frames):
    write_like(tmp_path / "b" / "b.sens", frames)
    write_like(tmp_path / "a.sens", frames)
    write_like(tmp_path / "c" / "other.sens", frames)
    (tmp_path / "._a.sens").touch()
    (tmp_path / "d.sens").mkdir()
    dataset = build_dataset(SensConfig(root=str(tmp_path)))
    assert dataset.scenes() == ["a", "b"]
    same(dataset.load("a", 3), dataset.load("b", 3))


def test_what_is_not_there_is_named(sens, tmp_path):
    path, _ = sens
    with pytest.raises(DataError, match="nowhere: no such folder, expected one that holds recordings"):
        SensDataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="_00.sens: a file, expected the folder that holds it"):
        SensDataset(path)
    (tmp_path / "hollow").mkdir()
    with pytest.raises(DataError, match="holds no recording, expected files such as scene0000_00/scene0000_00.sens"):
        SensDataset(tmp_path / "hollow").scenes()
    dataset = SensDataset(path.parent)
    with pytest.raises(DataError, match=r"scene0707_00: no such scene, expected .*/scene0707_00/scene0707_00.sens or"):
        dataset.frame_ids("scene0707_00")
    with pytest.raises(DataError, match=r"scene name '../x' is not allowed"):
        dataset.load("../x", 0)
    for number in (5, -1):
        with pytest.raises(FrameError, match=f"{SCENE}.sens: holds no frame {number}, only 0 to 4"):
            dataset.load(SCENE, number)
    with pytest.raises(DataError, match="none.sens: no such file, expected a ScanNet recording"):
        SensFile(tmp_path / "none.sens")
    with pytest.raises(DataError, match="hollow: not a file, expected a ScanNet recording"):
        SensFile(tmp_path / "hollow")


HEADER = {"sensor length": 4, "color K": 27, "color code": 283, "color width": 291, "depth width": 299, "scale": 307}
"""Where the fields stand behind a sensor's name of 15 bytes; the number of frames is at 311, the frames at 319."""


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


def test_of_a_cut_off_file_the_whole_frames_are_used_with_one_warning(sens, frames, caplog):
    path, starts = sens
    before = SensDataset(path.parent).load(SCENE, 2)
    whole = path.read_bytes()
    for length in (starts[3], starts[3] + 1, starts[3] + FIXED, starts[3] + FIXED + 10, starts[4] - 1):
        path.write_bytes(whole[:length])
        caplog.clear()
        dataset = SensDataset(path.parent, max_open=1)
        with caplog.at_level(logging.WARNING):
            assert dataset.frame_ids(SCENE) == [0, 1, 2]
            same(dataset.load(SCENE, 2), before)
            dataset._open.clear()  # opened again, not warned of again
            dataset.load(SCENE, 0)
        assert len(caplog.messages) == 1
        assert f"{SCENE}.sens: 3 of 5 declared frames are there and used (frame 3 " in caplog.text
        assert "download the file again to have them all" in caplog.text
        with pytest.raises(FrameError, match="holds no frame 3, only 0 to 2"):
            dataset.load(SCENE, 3)


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


def test_a_damaged_picture_harms_only_its_frame(sens):
    path, starts = sens
    dataset = SensDataset(path.parent)
    patch(path, starts[1] + FIXED, b"no picture")
    patch(path, starts[2] + FIXED + 45, b"\xff" * 20)
    with pytest.raises(FrameError, match=f"{SCENE}.sens: frame 1, colour: not a picture, a JPEG or PNG"):
        dataset.load(SCENE, 1)
    with pytest.raises(FrameError, match=f"{SCENE}.sens: frame 2, colour: damaged"):
        dataset.load(SCENE, 2).image  # decoded when it is asked for
    assert dataset.load(SCENE, 3).frame_id == 3


def one_frame(path, color_blob, depth_blob, **options):
    k_color, k_depth = np.diag([14.0, 14, 1]), np.diag([7.0, 7, 1])
    with SensWriter(path, (16, 12), (8, 6), k_color, k_depth, **options) as sens:
        sens.add(color_blob, depth_blob, np.eye(4))
    return SensDataset(path.parent)


JPEG = encode_color(np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8))
DEPTH = encode_depth(np.ones((6, 8)))


def test_a_corrupt_jpeg_is_named(tmp_path):
    for damaged in (JPEG[:-100], JPEG[:30], b"\0" * 500):
        with pytest.raises(FrameError, match="a.sens: frame 0, colour: (damaged file|not a picture)"):
            one_frame(tmp_path / "a.sens", damaged, DEPTH).load("a", 0).image  # decoded when it is asked for


def test_a_frame_without_depth_is_a_frame_and_one_without_colour_is_none(tmp_path):
    frame = one_frame(tmp_path / "a.sens", JPEG, b"").load("a", 0)
    assert frame.depth_m is None
    assert frame.depth_camera is None
    with pytest.raises(FrameError, match="b.sens: frame 0: has no colour picture"):
        one_frame(tmp_path / "b.sens", b"", DEPTH).load("b", 0)


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


def test_a_lost_track_makes_the_frame_unusable(tmp_path, frames):
    frames[2] = replace(frames[2], cam_to_world=np.full((4, 4), -np.inf))
    write_like(tmp_path / "a.sens", frames)
    dataset = SensDataset(tmp_path)
    assert dataset.frame_ids("a") == [0, 1, 2, 3, 4]
    with pytest.raises(FrameError, match="a.sens: frame 2: the pose holds inf or NaN, so tracking was lost"):
        dataset.load("a", 2)


def test_extrinsics_other_than_the_identity_are_warned_of(tmp_path, frames, caplog):
    almost, moved = np.eye(4), np.eye(4)
    almost[0, 3], moved[0, 3] = 1e-7, 0.02
    write_like(tmp_path / "a.sens", frames, extrinsics=(almost, moved))
    write_like(tmp_path / "b.sens", frames)
    dataset = SensDataset(tmp_path)
    with caplog.at_level(logging.WARNING):
        same(dataset.load("a", 0), dataset.load("b", 0))
        dataset.load("a", 1)
    assert len(caplog.messages) == 1
    assert "a.sens: the depth extrinsics in the header are not the identity; they are not applied" in caplog.text


def test_a_file_that_shrinks_while_it_is_read_is_named(sens):
    path, starts = sens
    dataset = SensDataset(path.parent)
    dataset.load(SCENE, 4)
    with path.open("r+b") as file:
        file.truncate(starts[4])
    with pytest.raises(FrameError, match="frame 4: the file became shorter while it was read"):
        dataset.load(SCENE, 4)


def test_threads_read_more_recordings_than_are_kept_open(tmp_path, frames):
    scenes = [f"s{n}" for n in range(6)]
    for n, scene in enumerate(scenes):
        write_like(tmp_path / f"{scene}.sens", [replace(f, picture=Picture.of(f.image // (n + 1))) for f in frames])
    dataset = SensDataset(tmp_path, max_open=2)
    jobs = [(n, i) for i in range(5) for n in range(6)] * 4
    start = threading.Barrier(8)

    def read(worker):
        start.wait()
        for n, i in jobs[worker:] + jobs[:worker]:
            frame = dataset.load(scenes[n], i)
            np.testing.assert_array_equal(frame.image, frames[i].image // (n + 1))
            np.testing.assert_allclose(frame.cam_to_world, frames[i].cam_to_world, atol=1e-6)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(8)))
    descriptors = Path("/proc/self/fd")
    if descriptors.is_dir():
        targets = [str(p.readlink()) for p in list(descriptors.iterdir()) if p.is_symlink()]
        assert 1 <= sum(str(tmp_path) in target for target in targets) <= 2


def test_threads_that_read_one_file_do_not_move_each_others_position(tmp_path, frames):
    write_like(tmp_path / "a.sens", frames, color="raw", depth="raw")
    file = SensFile(tmp_path / "a.sens")
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            read = list(pool.map(lambda n: file.picture(n % 5).pixels, range(2000)))
    finally:
        sys.setswitchinterval(usual)
    for n, image in enumerate(read):
        np.testing.assert_array_equal(image, frames[n % 5].image)


def test_an_evicted_file_stays_open_for_who_still_reads_it(tmp_path, frames):
    for name in "abc":
        write_like(tmp_path / f"{name}.sens", frames)
    dataset = SensDataset(tmp_path, max_open=1)
    held = dataset.file("a")
    dataset.file("b")
    dataset.file("c")
    np.testing.assert_array_equal(held.picture(3).pixels, frames[3].image)


def test_the_index_reads_no_picture_and_is_small(tmp_path, monkeypatch):
    """A recording of ScanNet's size, its pictures a hole: opening it touches the fixed parts alone."""
    path, count, color_bytes, depth_bytes = tmp_path / "a.sens", 3000, 350_000, 150_000
    k = np.array([[1170.0, 0, 648], [0, 1170, 484], [0, 0, 1]])
    with SensWriter(path, (1296, 968), (640, 480), k, Camera(k, 1296, 968).resized(640, 480).intrinsics) as sens:
        for number in range(count):
            sens.add(b"", b"", np.eye(4) * [[1], [1], [1], [1 + number]])
            sens.file.seek(-16, 1)
            sens.file.write(struct.pack("<QQ", color_bytes, depth_bytes))
            sens.file.seek(color_bytes + depth_bytes, 1)
    assert path.stat().st_size > 1.5e9
    read = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: read.append(size) or pread(fd, size, offset))
    file = SensFile(path)
    assert len(file) == count
    assert sum(read) < count * 100 + 10_000
    assert sum(a.nbytes for a in (file._index.offsets, file._index.sizes, file._index.poses)) == 80 * count
    assert file.pose(1234)[3, 3] == 1235
    assert len(file.depth_blob(2999)) == depth_bytes


@pytest.mark.parametrize(("color", "depth"), [("jpeg", "zlib"), ("png", "raw"), ("raw", "zlib")])
def test_the_export_gives_identical_frames(tmp_path, frames, export, capsys, color, depth):
    frames[1] = replace(frames[1], cam_to_world=np.full((4, 4), -np.inf))
    write_like(tmp_path / "scans" / SCENE / f"{SCENE}.sens", frames, color=color, depth=depth)
    assert export(tmp_path / "scans", tmp_path / "out") == 0
    assert "5 frames written" in capsys.readouterr().out
    recorded, exported = SensDataset(tmp_path / "scans"), ScanNetDataset(tmp_path / "out")
    assert exported.scenes() == recorded.scenes()
    assert exported.frame_ids(SCENE) == recorded.frame_ids(SCENE)
    for i in (0, 2, 3, 4):
        same(recorded.load(SCENE, i), exported.load(SCENE, i))
    with pytest.raises(FrameError, match="tracking was lost"):
        exported.load(SCENE, 1)
    if color != "raw":
        stored = (tmp_path / "out" / SCENE / "color").glob("2.*")
        assert next(stored).read_bytes() == recorded.file(SCENE).color_blob(2)


def test_the_export_goes_on_where_it_stopped_and_takes_every_nth(sens, tmp_path, export, capsys):
    path, _ = sens
    out = tmp_path / "out"
    assert export(path, out, "--every", 2) == 0
    assert sorted(p.name for p in (out / SCENE / "color").iterdir()) == ["0.png", "2.png", "4.png"]
    kept = (out / SCENE / "color" / "2.png").stat().st_mtime_ns
    (out / SCENE / "depth" / "4.png").unlink()
    capsys.readouterr()
    assert export(path, out) == 0
    assert "3 frames written" in capsys.readouterr().out
    assert (out / SCENE / "color" / "2.png").stat().st_mtime_ns == kept
    assert len(ScanNetDataset(out).frame_ids(SCENE)) == 5
    assert not [p for p in out.rglob("*") if p.name.startswith(".")]
    same(SensDataset(path.parent).load(SCENE, 4), ScanNetDataset(out).load(SCENE, 4))


def test_the_export_keeps_the_k_of_pictures_that_differ_from_the_header(tmp_path, export):
    scans = tmp_path / "scans"
    scans.mkdir()
    recorded = one_frame(scans / "a.sens", encode_color(np.zeros((24, 32, 3), np.uint8)), DEPTH)
    assert export(scans, tmp_path / "out") == 0
    same(recorded.load("a", 0), ScanNetDataset(tmp_path / "out").load("a", 0))


def test_the_export_names_what_it_leaves_out(sens, frames, tmp_path, export, capsys):
    path, starts = sens
    patch(path, starts[1] + FIXED, b"no picture")
    (path.parent / "broken.sens").write_bytes(b"")
    write_like(path.parent / "other.sens", frames, depth_shift=500.0)
    assert export(path.parent, tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "9 frames written" in said.out
    assert "1 failed" in said.out
    assert "not exported:" in said.err
    assert f"{SCENE}.sens: frame 1, colour: not a picture" in said.err
    assert "broken.sens: empty file" in said.err
    assert "other.sens: read the export with data.depth_scale=500" in said.err
    assert ScanNetDataset(tmp_path / "out").frame_ids(SCENE) == [0, 2, 3, 4]
    (tmp_path / "out" / SCENE / "intrinsic" / "intrinsic_color.txt").write_text("1 0 0\n")
    assert export(path, tmp_path / "out") == 1
    assert "intrinsic_color.txt: of another recording" in capsys.readouterr().err
    assert export(tmp_path / "none.sens", tmp_path / "out") == 1
    assert "none.sens: no such file" in capsys.readouterr().err


def test_the_exports_help_and_its_bad_numbers(export, capsys):
    with pytest.raises(SystemExit) as stop:
        export("--help")
    assert stop.value.code == 0
    assert "--every 20 scans exported" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        export("a", "b", "--every", 0)
    assert "0: expected a whole number of at least 1" in capsys.readouterr().err


def test_the_command_reads_recordings(frames, tmp_path, run_cli):
    write_like(tmp_path / "scans" / "demo.sens", frames)
    code, err = run_cli("data=sens", f"data.root={tmp_path / 'scans'}", "frames_per_scene=2", "output_dir=out")
    assert code == 0, err
    assert sorted(p.name for p in (tmp_path / "out" / "demo").glob("*.npz")) == ["frame_0.npz", "frame_1.npz"]
    code, err = run_cli("data=sens", f"data.root={tmp_path / 'scans'}", "data.depth_scale=1", "output_dir=out")
    assert code == 1
    assert "data.depth_scale: not a key of the chosen data; it belongs to another choice" in err


def test_real_frames_come_back_as_they_were(office, tmp_path):
    exported = ScanNetDataset(office)
    for scene in exported.scenes():
        chosen = exported.frame_ids(scene)[:4]
        frames = [exported.load(scene, i) for i in chosen]
        write_like(tmp_path / f"{scene}.sens", frames)
        recorded = SensDataset(tmp_path)
        for number, frame in enumerate(frames):
            back = recorded.load(scene, number)
            np.testing.assert_array_equal(back.image, frame.image)
            np.testing.assert_array_equal(back.depth_m, frame.depth_m)
            np.testing.assert_array_equal(back.cam_to_world, frame.cam_to_world.astype(np.float32))
            for key in ("color_camera", "depth_camera"):
                expected = getattr(frame, key).intrinsics.astype(np.float32)
                np.testing.assert_array_equal(getattr(back, key).intrinsics, expected)
