import shutil

import numpy as np
import pytest
from PIL import Image
from twins import random_pose

from clipfeat.data.config import Matterport3DConfig
from clipfeat.data.layouts import build_dataset
from clipfeat.errors import ConfigError, DataError, FrameError

HOUSE = "17DRP5sb8fy"
OPENGL = np.diag([1.0, -1, -1, 1])
FOLDERS = "depth_directory undistorted_depth_images\ncolor_directory undistorted_color_images\n"
HEAD = f"dataset matterport\nn_images 3\n{FOLDERS}"
POSES = [random_pose(np.random.default_rng(number)) for number in range(3)]


def scan(pano, camera, yaw, pose):
    numbers = " ".join(map(repr, (pose @ OPENGL).ravel().tolist()))
    return f"scan {pano}_d{camera}_{yaw}.png {pano}_i{camera}_{yaw}.jpg {numbers}\n"


@pytest.fixture
def house(tmp_path):
    """Two panoramas, the first seen by two cameras, each with a K of its own; cy is 9 from the top of 24 rows."""
    base = tmp_path / HOUSE
    for name in ("color_images", "depth_images", "camera_parameters"):
        (base / f"undistorted_{name}").mkdir(parents=True)
    for i, name in enumerate(("a_{}0_1", "b_{}0_0", "a_{}2_5")):
        Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(
            base / "undistorted_color_images" / f"{name.format('i')}.jpg"
        )
        depth = np.full((24, 32), 4000 + 4 * i, np.uint16)
        Image.fromarray(depth).save(base / "undistorted_depth_images" / f"{name.format('d')}.png")
    k = "intrinsics_matrix {} 0 16.5  0 31 14  0 0 1\n"
    lines = [k.format(30), scan("a", 0, 1, POSES[0]), scan("b", 0, 0, POSES[1]), "\n", k.format(33)]
    text = HEAD + "".join(lines) + scan("a", 2, 5, POSES[2])
    (base / "undistorted_camera_parameters" / f"{HOUSE}.conf").write_text(text)
    return base


def opened(root, **changes):
    return build_dataset(Matterport3DConfig(root=str(root), **changes))


def test_each_scan_has_the_k_above_it_from_the_top_row(house):
    dataset = opened(house.parent)
    assert (dataset.scenes(), dataset.frame_ids(HOUSE)) == ([HOUSE], [1, 25, 100])
    assert dataset.names_of(HOUSE, 25) == {"scene": HOUSE, "frame": "a_i2_5"}
    for number, (i, fx) in {1: (0, 30), 100: (1, 30), 25: (2, 33)}.items():
        frame = dataset.load(HOUSE, number)
        np.testing.assert_allclose(frame.cam_to_world, POSES[i], atol=1e-12)
        np.testing.assert_array_equal(frame.color_camera.intrinsics, [[fx, 0, 16.5], [0, 31, 9], [0, 0, 1]])
        np.testing.assert_allclose(frame.depth_m, 1 + i / 1000)
    halved = opened(house.parent, intrinsics_size=[64, 48]).load(HOUSE, 1)
    assert halved.color_camera.intrinsics[1, 2] == (48 - 1 - 14 + 0.5) / 2 - 0.5
    with pytest.raises(FrameError, match=r"line 6: principal point \(16.5, -3\) lies outside the 16×12 picture; if K"):
        opened(house.parent, intrinsics_size=[16, 12]).load(HOUSE, 1)


def test_a_house_without_the_folder_of_depth_has_none(house):
    shutil.rmtree(house / "undistorted_depth_images")
    frame = opened(house.parent).load(HOUSE, 1)
    assert (frame.depth_m, frame.depth_camera) == (None, None)


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("scan a_d0_1", "scan a_d0_1.png b", DataError, "conf, line 6: 19 values after scan, expected 18"),
        (
            "intrinsics_matrix 30 0",
            "intrinsics_matrix 30",
            DataError,
            "line 5: 8 values after intrinsics_matrix, expected",
        ),
        ("intrinsics_matrix", "#", DataError, "line 6: a scan before any intrinsics_matrix, which holds for the lines"),
        (
            "_i0_1.jpg",
            "_0.jpg",
            DataError,
            "line 6: 'a_0.jpg', expected <panorama>_i<camera>_<yaw>.jpg, as the data set",
        ),
        ("a_i2_5.jpg", "a_i0_1.jpg", DataError, "line 10: a_i0_1.jpg is listed before, .*conf, line 6; remove one"),
        (
            "a_d0_1.png",
            "../a.png",
            DataError,
            r"line 6: '../a.png', expected the name of a file or folder, and no path",
        ),
        ("scan", "scans", DataError, "conf: lists no scan, expected lines 'scan <depth> <colour> <16 numbers>'"),
        ("31 14", "31 x", DataError, "line 5: could not convert string to float: 'x', a number was expected"),
        ("31 14", "31 -140", FrameError, r"line 6: principal point \(16.5, 163\) lies outside the 32×24 picture"),
        ("a_d0_1.png", "a_d0_3.png", FrameError, "a_d0_3.png: no such file, a 16-bit depth picture"),
    ],
)
def test_what_is_damaged_is_named(house, old, new, error, message):
    path = house / "undistorted_camera_parameters" / f"{HOUSE}.conf"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(error, match=message):
        opened(house.parent).load(HOUSE, 1)


def test_what_is_not_there_is_named(house, tmp_path):
    with pytest.raises(DataError, match=r"data.root=.*: holds no \{scene\}/undistorted_camera_parameters"):
        opened(house).scenes()
    with pytest.raises(DataError, match="no such scene x, expected {scene}/undistorted"):
        opened(house.parent).frame_ids("x")
    with pytest.raises(FrameError, match="scene 17DRP5sb8fy has no frame 3"):
        opened(house.parent).load(HOUSE, 3)
    with pytest.raises(ConfigError, match=r"data.parameters=.*has no \{scene\}"):
        Matterport3DConfig(root="x", parameters="a.conf")
