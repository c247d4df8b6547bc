import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from clipfeat.data.matching import nearest
from clipfeat.data.trajectories import (
    read_log,
    read_matrix_lines,
    read_tum_list,
    read_tum_poses,
    rotation_from_quaternion,
)
from clipfeat.errors import DataError, FrameError


def test_quaternions_agree_with_scipy():
    for q in np.random.default_rng(0).normal(size=(50, 4)):
        unit = q / np.linalg.norm(q)
        np.testing.assert_allclose(rotation_from_quaternion(unit, "x"), Rotation.from_quat(q).as_matrix(), atol=1e-12)
        rounded = np.round(unit, 4)
        rotation = rotation_from_quaternion(rounded, "x")
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("q", "message"),
    [
        ([0, 0, 0, 0], "is zero, so tracking was lost"),
        ([0, 0, np.nan, 1], "holds inf or NaN"),
        ([0, 0, np.inf, 1], "holds inf or NaN"),
        ([0, 0, 0, 2], "has length 2, expected 1"),
        ([0, 1e300, 1e300, 0], r"has length 1.414e\+300, expected 1"),
        ([0.5, 0.5, 0.5, 0.45], "has length 0.976, expected 1"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bad_quaternions_are_named(q, message):
    with pytest.raises(FrameError, match="groundtruth.txt: the quaternion " + message):
        rotation_from_quaternion(np.array(q, float), "groundtruth.txt")


def test_nearest_agrees_with_a_search_through_all():
    rng = np.random.default_rng(0)
    times = np.sort(np.round(rng.uniform(0, 10, 40), 1))
    for t in np.round(rng.uniform(-1, 11, 200), 2):
        assert abs(times[nearest(times, t)] - t) == np.abs(times - t).min()
    assert nearest(np.array([1.0, 2.0]), 1.5) == 0
    assert nearest(np.array([1.0]), 5) == 0


def check(tmp_path, read, text, message):
    path = tmp_path / "file.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=r"file.txt" + message):
        read(path)


ONE = "0 0 1\n1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"


def test_matrix_lines_and_logs_come_back(tmp_path):
    matrices = np.random.default_rng(0).normal(size=(3, 4, 4))
    np.savetxt(tmp_path / "t.txt", matrices.reshape(3, 16))
    np.testing.assert_allclose(read_matrix_lines(tmp_path / "t.txt").matrices, matrices)
    np.savetxt(tmp_path / "t.txt", matrices[:, :3].reshape(3, 12))
    poses = read_matrix_lines(tmp_path / "t.txt")
    np.testing.assert_allclose(poses.matrices[:, :3], matrices[:, :3])
    np.testing.assert_array_equal(poses.matrices[:, 3], [[0, 0, 0, 1]] * 3)
    (tmp_path / "t.log").write_text("# made by hand\n\n" + ONE.replace("0 0 1\n", "7 7 8\n", 1) + ONE)
    log = read_log(tmp_path / "t.log")
    assert log.numbers == [7, 0]
    np.testing.assert_array_equal(log.matrices, [np.eye(4)] * 2)


def test_a_lost_track_is_one_frame_s_trouble(tmp_path):
    (tmp_path / "t.txt").write_text(" ".join(["-inf"] * 16) + "\n" + " ".join(["nan"] * 16))
    assert not np.isfinite(read_matrix_lines(tmp_path / "t.txt").matrices).any()


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_matrix_lines, "1 2 3\n", ", line 1: 3 values, expected the 16"),
        (read_matrix_lines, "# only\n\n", ": is empty, expected a pose a line"),
        (read_matrix_lines, "1 " * 15 + "one", ", line 1: could not convert string to float: 'one'"),
        (read_log, ONE + ONE[:12], r", line 6: the pose has 1 rows, expected 4: the file is cut off"),
        (read_log, ONE.replace("0 1 0 0", "0 1 0"), ", line 3: 3 values, expected the 4 of a pose's row"),
        (read_log, ONE.replace("0 0 1\n", "0 1 50\n", 1), ", line 1: '0 1 50' heads the pose of a pair of fragments"),
        (read_log, "1 0 0 0\n" + ONE, ", line 1: '1 0 0 0', expected a pose's head"),
        (read_log, "a a b\n", ", line 1: 'a a b', expected a pose's head"),
        (read_log, ONE + ONE, ": pose 0 comes twice"),
        (read_tum_poses, "1.0 0 0 0 0 0 1\n", ", line 1: 7 values, expected 'timestamp tx ty tz qx qy qz qw'"),
        (read_tum_poses, "1.0,0,0,0,0,0,0,1\n", ", line 1: 1 values"),
        (read_tum_poses, "# t\n13o5 0 0 0 0 0 0 1\n", ", line 2: could not convert string to float: '13o5'"),
        (read_tum_poses, "nan 0 0 0 0 0 0 1\n", ", line 1: the timestamp is nan, expected seconds"),
        (
            read_tum_poses,
            "2 0 0 0 0 0 0 1\n#\n1 0 0 0 0 0 0 1\n",
            ", line 3: time 1.000000 comes after 2.000000, expected ascending",
        ),
        (read_tum_list, "2 a.png\n1 b.png\n", ", line 2: time 1.000000 comes after 2.000000"),
        (read_tum_list, "1 a b.png\n", ", line 1: 3 values, expected 'timestamp filename'"),
        (read_tum_list, "1 ../../etc/passwd\n", ", line 1: '../../etc/passwd' leaves the folder"),
        (read_tum_list, "1 /etc/passwd\n", ", line 1: '/etc/passwd' leaves the folder"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path, read, text, message):
    check(tmp_path, read, text, message)


@pytest.mark.parametrize("read", [read_matrix_lines, read_log, read_tum_poses, read_tum_list])
def test_missing_and_binary_files_are_named(tmp_path, read):
    with pytest.raises(DataError, match="none.txt: no such file, expected"):
        read(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="binary.txt: can't be read as text"):
        read(tmp_path / "binary.txt")
