"""One matrix, pose or list, as different programs write it."""

import numpy as np
import pytest
from PIL import Image
from test_images import lie_about_size

from clipfeat.data.base import read_scenes_file
from clipfeat.data.images import read_picture
from clipfeat.data.matrices import pinhole, read_calibration, read_intrinsics, read_pose
from clipfeat.data.trajectories import read_log, read_matrix_lines, read_tum_list, read_tum_poses
from clipfeat.errors import DataError, FrameError

BOM = "\ufeff"
POSE = np.array([[0, -1, 0, 1.5], [1, 0, 0, 2.5], [0, 0, 1, 3.5], [0, 0, 0, 1]])
K = pinhole(577.5, 578.5, 319.5, 239.5)


def rows(matrix, between=" "):
    return "\n".join(between.join(map(repr, row)) for row in matrix.tolist()) + "\n"


POSES = {
    "4×4": rows(POSE),
    "3×4": rows(POSE[:3]),
    "flat": " ".join(map(str, POSE.reshape(-1))),
    "flat 3×4": " ".join(map(str, POSE[:3].reshape(-1))),
    "commas": rows(POSE, ", "),
    "semicolons": rows(POSE, ";"),
    "lists": str(POSE.tolist()),
    "lists of lines": str(POSE.tolist()).replace("], [", "],\n ["),
    "byte-order mark": BOM + rows(POSE),
}


@pytest.mark.parametrize("spelling", POSES)
def test_a_pose_however_it_is_written(tmp_path, spelling):
    path = tmp_path / "0.txt"
    path.write_text(POSES[spelling], encoding="utf-8")
    np.testing.assert_array_equal(read_pose(path), POSE)


KS = {
    "3×3": rows(K),
    "4×4": rows(np.block([[K, np.zeros((3, 1))], [np.zeros((1, 3)), 1]])),
    "3×4": rows(np.hstack((K, np.zeros((3, 1))))),
    "flat": " ".join(map(str, K.reshape(-1))),
    "commas": rows(K, ","),
    "byte-order mark": BOM + rows(K),
}


@pytest.mark.parametrize("spelling", KS)
def test_a_camera_matrix_however_it_is_written(tmp_path, spelling):
    path = tmp_path / "k.txt"
    path.write_text(KS[spelling], encoding="utf-8")
    np.testing.assert_array_equal(read_intrinsics(path), K)
    np.testing.assert_array_equal(read_calibration(path).intrinsics, K)


def test_four_numbers_and_json_may_have_commas_and_a_byte_order_mark(tmp_path):
    for text in ("577.5, 578.5, 319.5, 239.5", BOM + "577.5 578.5\n319.5 239.5\n"):
        (tmp_path / "k.txt").write_text(text, encoding="utf-8")
        np.testing.assert_array_equal(read_calibration(tmp_path / "k.txt").intrinsics, K)
    text = BOM + '{"fx": 577.5, "fy": 578.5, "cx": 319.5, "cy": 239.5}'
    (tmp_path / "k.json").write_text(text, encoding="utf-8")
    np.testing.assert_array_equal(read_calibration(tmp_path / "k.json").intrinsics, K)


def test_a_scenes_own_file_is_a_calibration_of_both_cameras(tmp_path):
    path = tmp_path / "scene0000_00.txt"
    said = {
        "colorWidth": 1296, "colorHeight": 968, "depthWidth": 640, "depthHeight": 480,
        "fx_color": 1170.5, "fy_color": 1171.5, "mx_color": 647.5, "my_color": 483.5,
        "fx_depth": 577.5, "fy_depth": 578.5, "mx_depth": 319.5, "my_depth": 239.5,
    }  # fmt: skip
    path.write_text("".join(f"{name} = {value}\n" for name, value in said.items()))
    color, depth = read_calibration(path), read_calibration(path, "depth")
    np.testing.assert_array_equal(color.intrinsics, pinhole(1170.5, 1171.5, 647.5, 483.5))
    np.testing.assert_array_equal(depth.intrinsics, K)
    assert (color.size, depth.size, color.depth_scale) == ((1296, 968), (640, 480), None)


def test_an_info_file_is_a_calibration_of_both_cameras(tmp_path):
    path = tmp_path / "_info.txt"
    flat = " ".join(map(str, np.block([[K, np.zeros((3, 1))], [np.zeros((1, 3)), 1]]).reshape(-1)))
    path.write_text(
        f"m_versionNumber = 4\nm_sensorName = x\nm_colorWidth = 640\nm_colorHeight = 480\nm_depthShift = 1000\n"
        f"m_calibrationColorIntrinsic = {flat}\n"
    )
    found = read_calibration(path)
    np.testing.assert_array_equal(found.intrinsics, K)
    assert (found.size, found.depth_scale) == ((640, 480), 1000)
    with pytest.raises(DataError, match=r"_info.txt: says no K of depth, expected fx_depth, … or m_calibrationDepth"):
        read_calibration(path, "depth")
    path.write_text("m_calibrationColorIntrinsic = 1 2 3\n")
    with pytest.raises(DataError, match="a matrix of 3 numbers, expected the 9, 12 or 16 of a K"):
        read_calibration(path)


def test_lists_and_trajectories_may_have_commas_and_a_byte_order_mark(tmp_path):
    def written(name, text):
        (tmp_path / name).write_text(BOM + text, encoding="utf-8")
        return tmp_path / name

    line = ", ".join(map(str, POSE.reshape(-1)))
    np.testing.assert_array_equal(read_matrix_lines(written("traj.txt", line)).matrices[0], POSE)
    np.testing.assert_array_equal(read_log(written("x.log", "0 0 1\n" + rows(POSE, ","))).matrices[0], POSE)
    assert read_tum_poses(written("gt.txt", "1.5 1 2 3 0 0 0 1\n")).times_s.tolist() == [1.5]
    assert read_tum_list(written("rgb.txt", "1.5 rgb/a,b.png\n")).names == ["rgb/a,b.png"]
    assert read_scenes_file(written("scenes.txt", "scene0000_00\r\nscene0000_01\r\n")) == [
        "scene0000_00",
        "scene0000_01",
    ]


def test_a_picture_that_may_be_as_large_as_it_says_is_not_called_damaged(tmp_path):
    path = tmp_path / "large.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (700, 800), dtype=np.uint8)).save(path)
    lie_about_size(path, 9000, 8000)
    with pytest.raises(
        FrameError, match=r"large.png: 9000×8000 pixels, but 64 million are read at most; make the pictures"
    ):
        read_picture(path)
