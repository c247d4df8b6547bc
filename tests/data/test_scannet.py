import numpy as np
import pytest
from PIL import Image

from clipfeat.data.scannet import ScanNetDataset
from clipfeat.errors import DataError, FrameError


def test_frames_are_sorted_as_numbers_and_other_files_passed_over(scans):
    scene = scans / "demo0000_00"
    (scene / "color" / "20.jpg").rename(scene / "color" / "9.jpg")
    (scene / "color" / "40.jpg").rename(scene / "color" / "100.JPG")
    (scene / "color" / "notes.txt").touch()
    (scene / "color" / ".DS_Store").touch()
    assert ScanNetDataset(scans).frame_ids("demo0000_00") == [0, 9, 60, 100]


def test_a_frame_has_both_cameras_in_their_own_resolution(demo_root):
    frame = ScanNetDataset(demo_root).load("demo0000_00", 20)
    assert frame.image.shape == (162, 216, 3)
    assert frame.depth_m.shape == (96, 128)
    assert (frame.color_camera.width, frame.color_camera.height) == (216, 162)
    assert (frame.depth_camera.width, frame.depth_camera.height) == (128, 96)
    expected = frame.color_camera.resized(128, 96).intrinsics
    np.testing.assert_allclose(frame.depth_camera.intrinsics, expected, atol=1e-5)
    assert 0.2 < np.median(frame.depth_m) < 10
    np.testing.assert_allclose(frame.cam_to_world[:3, :3] @ frame.cam_to_world[:3, :3].T, np.eye(3), atol=1e-6)


def test_png_colour_is_read_too(scans):
    scene = scans / "demo0000_00"
    image = Image.open(scene / "color" / "0.jpg")
    (scene / "color" / "0.jpg").unlink()
    image.save(scene / "color" / "0.png")
    frame = ScanNetDataset(scans).load("demo0000_00", 0)
    np.testing.assert_array_equal(frame.image, np.asarray(image))


def test_resized_pictures_with_the_k_of_the_export(scans):
    scene = scans / "demo0000_00"
    full = ScanNetDataset(scans).load("demo0000_00", 0).color_camera
    Image.open(scene / "color" / "0.jpg").resize((108, 81)).save(scene / "color" / "0.jpg")
    frame = ScanNetDataset(scans, color_intrinsics_size=(216, 162)).load("demo0000_00", 0)
    np.testing.assert_allclose(frame.color_camera.intrinsics, full.resized(108, 81).intrinsics)


def test_k_beside_the_folders_as_in_the_25k_set(scans):
    scene = scans / "demo0000_00"
    expected = ScanNetDataset(scans).load("demo0000_00", 0)
    for kind in ("color", "depth"):
        (scene / "intrinsic" / f"intrinsic_{kind}.txt").rename(scene / f"intrinsics_{kind}.txt")
    frame = ScanNetDataset(scans).load("demo0000_00", 0)
    np.testing.assert_array_equal(frame.color_camera.intrinsics, expected.color_camera.intrinsics)
    np.testing.assert_array_equal(frame.depth_camera.intrinsics, expected.depth_camera.intrinsics)


def test_a_missing_depth_file_makes_a_frame_without_depth_and_a_missing_pose_none(scans):
    (scans / "demo0000_00" / "depth" / "0.png").unlink()
    frame = ScanNetDataset(scans).load("demo0000_00", 0)
    assert frame.depth_m is None
    assert frame.depth_camera is None
    (scans / "demo0000_00" / "pose" / "0.txt").unlink()
    with pytest.raises(FrameError, match=r"0.txt: no such file"):
        ScanNetDataset(scans).load("demo0000_00", 0)


def test_what_is_not_there_is_named(scans, tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder, expected one that holds a folder a scene"):
        ScanNetDataset(tmp_path / "nowhere")
    (tmp_path / "hollow").mkdir()
    with pytest.raises(DataError, match="holds no scene, expected folders such as scene0000_00/color"):
        ScanNetDataset(tmp_path / "hollow").scenes()
    dataset = ScanNetDataset(scans)
    with pytest.raises(DataError, match="scene0707_00: no such scene"):
        dataset.frame_ids("scene0707_00")
    with pytest.raises(DataError, match="scene name '../x' is not allowed"):
        dataset.frame_ids("../x")
    with pytest.raises(FrameError, match="holds no frame 7"):
        dataset.load("demo0000_00", 7)
    (scans / "bare" / "color").mkdir(parents=True)
    with pytest.raises(DataError, match="bare/color: holds no frames"):
        dataset.frame_ids("bare")
    (scans / "demo0000_00" / "intrinsic" / "intrinsic_depth.txt").unlink()
    with pytest.raises(DataError, match="intrinsic_depth.txt: no such file"):
        dataset.load("demo0000_00", 0)
