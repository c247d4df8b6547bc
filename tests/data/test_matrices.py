import numpy as np
import pytest
from twins import random_pose

from clipfeat.data.matrices import camera_for, check_pose, read_calibration, read_intrinsics, read_pose
from clipfeat.errors import DataError, FrameError

K = np.array([[577.0, 0, 319.5], [0, 578.0, 239.5], [0, 0, 1]])


def test_a_pose_is_read_as_written(tmp_path):
    pose = random_pose(np.random.default_rng(0))
    np.savetxt(tmp_path / "0.txt", pose)
    np.testing.assert_allclose(read_pose(tmp_path / "0.txt"), pose, atol=1e-15)


def bad(change):
    pose = random_pose(np.random.default_rng(0))
    change(pose)
    return pose


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        (np.full((4, 4), -np.inf), "holds inf or NaN, so tracking was lost"),
        (bad(lambda p: p.__setitem__((0, 3), np.nan)), "holds inf or NaN"),
        (np.eye(3), r"pose of shape \(3, 3\), expected 4×4 camera-to-world"),
        (bad(lambda p: p.__imul__(1.5)), "is no rotation"),
        (bad(lambda p: p.__setitem__((0, 0), 1e300)), "is no rotation"),
        (bad(lambda p: p.__setitem__((1, 2), -1e308)), "is no rotation"),
        (bad(lambda p: p.__setitem__((slice(3), 0), -p[:3, 0])), "is no rotation"),
        (bad(lambda p: p.__setitem__((1, 3), -1e300)), r"a translation by 1e\+300 m; the pose is damaged"),
        (random_pose(np.random.default_rng(0)).T, r"the last row is .* \(transposed\?\)"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bad_poses_are_named(pose, message):
    with pytest.raises(FrameError, match=r"pose/9.txt: .*" + message):
        check_pose(pose, "pose/9.txt")


def test_bad_matrix_files_are_named(tmp_path):
    with pytest.raises(FrameError, match="0.txt: no such file, a 4×4 camera-to-world pose was expected"):
        read_pose(tmp_path / "0.txt")
    (tmp_path / "words.txt").write_text("not numbers\n")
    with pytest.raises(FrameError, match="words.txt: not a 4×4 camera-to-world pose"):
        read_pose(tmp_path / "words.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\x00\x80\x81")
    with pytest.raises(FrameError, match="binary.txt: not a 4×4 camera-to-world pose"):
        read_pose(tmp_path / "binary.txt")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(FrameError, match="empty.txt: "):
        read_pose(tmp_path / "empty.txt")
    with pytest.raises(DataError, match="none.txt: no such file, a 3×3 or 4×4 camera matrix was expected"):
        read_intrinsics(tmp_path / "none.txt")
    np.savetxt(tmp_path / "k.txt", np.ones((2, 3)))
    with pytest.raises(DataError, match=r"k.txt: matrix of shape \(2, 3\), expected a 3×3 or 4×4"):
        read_intrinsics(tmp_path / "k.txt")


def test_three_by_three_and_four_by_four_k_are_the_same(tmp_path):
    np.savetxt(tmp_path / "3.txt", K)
    four = np.eye(4)
    four[:3, :3] = K
    np.savetxt(tmp_path / "4.txt", four)
    np.testing.assert_array_equal(read_intrinsics(tmp_path / "3.txt"), read_intrinsics(tmp_path / "4.txt"))


def test_a_k_of_another_resolution_is_refused_unless_it_is_said():
    with pytest.raises(
        DataError, match=r"principal point \(319.5, 239.5\) lies outside the 320×240 picture.*data.size="
    ):
        camera_for(K, None, (320, 240), "k.txt", "data.size")
    said = camera_for(K, (640, 480), (320, 240), "k.txt", "data.size")
    assert (said.width, said.height) == (320, 240)
    assert said.intrinsics[0, 0] == pytest.approx(577.0 / 2)
    assert said.intrinsics[0, 2] == pytest.approx(320 / 2 - 0.5)
    with pytest.raises(
        DataError, match=r"far from the middle of 1280×960 pixels, as if K belonged to some 639×479; K "
    ):
        camera_for(K, None, (1280, 960), "k.txt", None)
    with pytest.raises(DataError, match=r"K and the size that is given with it must be of the same picture"):
        camera_for(K, (1280, 960), (640, 480), "transforms.json", None)
    zero = K.copy()
    zero[0, 0] = 0
    with pytest.raises(DataError, match=r"k.txt: focal lengths must be positive, got fx=0"):
        camera_for(zero, None, (640, 480), "k.txt", "data.size")


def test_a_picture_of_another_aspect_than_its_k_is_not_taken_for_a_smaller_one():
    """Cut out or squeezed, nobody can know; but 1296×968 and 640×480 are as good as one."""
    with pytest.raises(
        DataError, match=r"k.txt: K belongs to 640×480 pixels, but the picture has 640×360, another asp"
    ):
        camera_for(K, (640, 480), (640, 360), "k.txt", "data.size")
    large = K * [[2], [2], [1]]
    camera = camera_for(large, (1296, 968), (640, 480), "k.txt", None)
    np.testing.assert_allclose(camera.intrinsics[:2, 2], (large[:2, 2] + 0.5) * [640 / 1296, 480 / 968] - 0.5)


@pytest.mark.parametrize("at", [(0, 0), (1, 1), (0, 1)])
@pytest.mark.parametrize("value", [1e-300, 3.0, 1e6, 1e308])
def test_a_k_of_no_camera_is_refused(at, value):
    k = K.copy()
    k[at] = value
    if at == (0, 1) and value < 577:  # some skew is possible
        assert camera_for(k, None, (640, 480), "k.txt", None).intrinsics[at] == value
        return
    with pytest.raises(DataError, match=r"k.txt: focal lengths .* of a 640×480 picture; no camera has those"):
        camera_for(k, None, (640, 480), "k.txt", None)


@pytest.mark.parametrize(
    ("name", "text", "size", "scale"),
    [
        ("camera.param", "# fx, fy, cx, cy\n577\n578\n319.5\n239.5\n", None, None),
        ("k.txt", "577 578 319.5 239.5", None, None),
        ("k.txt", "# K\n577 0 319.5\n0 578 239.5\n0 0 1\n", None, None),
        ("k.txt", "577 0 319.5 0\n0 578 239.5 0\n0 0 1 0\n0 0 0 1\n", None, None),
        (
            "p.json",
            '{"camera": {"w": 640, "h": 480, "fx": 577, "fy": 578, "cx": 319.5, "cy": 239.5, "scale": 6553.5}}',
            (640, 480),
            6553.5,
        ),
        ("p.json", '{"fx": 577, "fy": 578, "cx": 319.5, "cy": 239.5}', None, None),
        (
            "open3d.json",
            '{"width": 640, "height": 480, "intrinsic_matrix": [577, 0, 0, 0, 578, 0, 319.5, 239.5, 1]}',
            (640, 480),
            None,
        ),
    ],
)
def test_calibrations_in_all_their_forms(tmp_path, name, text, size, scale):
    (tmp_path / name).write_text(text)
    found = read_calibration(tmp_path / name)
    np.testing.assert_array_equal(found.intrinsics, K)
    assert (found.size, found.depth_scale) == (size, scale)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("k.txt", "1 2 3", r"matrix of shape \(1, 3\)"),
        ("k.txt", "a b c d", "not a camera matrix"),
        ("k.json", "{", "not a calibration, expected JSON with fx, fy, cx, cy"),
        ("k.json", "[1, 2]", "not a calibration"),
        ("k.json", '{"fx": 1, "fy": 1, "cx": 1}', "has no 'cy', expected fx, fy, cx, cy or intrinsic_matrix"),
        ("k.json", '{"fx": null, "fy": 1, "cx": 1, "cy": 1}', "not a calibration"),
        ("k.json", '{"intrinsic_matrix": [1, 2]}', "not a calibration"),
        ("k.json", "[" * 100_000, "not a calibration"),
        ("k.json", '{"fx": %s, "fy": 1, "cx": 1, "cy": 1}' % ("9" * 400), "not a calibration"),
        ("k.json", '{"w": 1e999, "h": 1, "fx": 1, "fy": 1, "cx": 1, "cy": 1}', "not a calibration"),
        ("k.json", '{"w": 1e30, "h": 1, "fx": 1, "fy": 1, "cx": 1, "cy": 1}', "not a calibration.*pixels"),
        ("k.json", '{"w": 0, "h": 1, "fx": 1, "fy": 1, "cx": 1, "cy": 1}', r"not a calibration.*0×1 pixels"),
    ],
)
def test_bad_calibrations_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=rf"{name}: {message}"):
        read_calibration(tmp_path / name)


def test_missing_calibrations_are_named(tmp_path):
    for name in ("k.txt", "k.json"):
        with pytest.raises(DataError, match=rf"{name}: no such file"):
            read_calibration(tmp_path / name)
