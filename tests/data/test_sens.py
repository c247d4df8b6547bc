import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recordings import DEPTH, JPEG, SCENE, assert_same_frames, one_frame, small_frames, small_recording
from sens_writer import COLOR_CODES, DEPTH_CODES, FIXED, SensWriter, encode_color, encode_depth, patch, write_like

from clipfeat.data.config import SensConfig
from clipfeat.data.layouts import build_dataset
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.data.sens import SensDataset
from clipfeat.data.sens_file import SensFile
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Picture


@pytest.fixture
def frames():
    return small_frames()


@pytest.fixture
def sens(tmp_path):
    return small_recording(tmp_path / "scans")


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
    assert_same_frames(dataset.load("a", 3), dataset.load("b", 3))


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
            assert_same_frames(dataset.load(SCENE, 2), before)
            dataset._open.clear()  # opened again, not warned of again
            dataset.load(SCENE, 0)
        assert len(caplog.messages) == 1
        assert f"{SCENE}.sens: 3 of 5 declared frames are there and used (frame 3 " in caplog.text
        assert "download the file again to have them all" in caplog.text
        with pytest.raises(FrameError, match="holds no frame 3, only 0 to 2"):
            dataset.load(SCENE, 3)


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


def test_a_frame_without_depth_is_a_frame_and_one_without_colour_is_none(tmp_path):
    frame = one_frame(tmp_path / "a.sens", JPEG, b"").load("a", 0)
    assert frame.depth_m is None
    assert frame.depth_camera is None
    with pytest.raises(FrameError, match="b.sens: frame 0: has no colour picture"):
        one_frame(tmp_path / "b.sens", b"", DEPTH).load("b", 0)


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
        assert_same_frames(dataset.load("a", 0), dataset.load("b", 0))
        dataset.load("a", 1)
    assert len(caplog.messages) == 1
    assert "a.sens: the depth extrinsics in the header are not the identity; they are not applied" in caplog.text


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


def test_an_evicted_file_stays_open_for_who_still_reads_it(tmp_path, frames):
    for name in "abc":
        write_like(tmp_path / f"{name}.sens", frames)
    dataset = SensDataset(tmp_path, max_open=1)
    held = dataset.file("a")
    dataset.file("b")
    dataset.file("c")
    np.testing.assert_array_equal(held.picture(3).pixels, frames[3].image)


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
