"""Folders told by patterns alone, in ScanNet's own layout."""

import json
import logging

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation
from twins import random_pose, ray_lengths

from clipfeat.cli.explain import explain
from clipfeat.data.config import PosedRgbdConfig
from clipfeat.data.posed_rgbd import PosedRgbdDataset
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.errors import ClipfeatError, ConfigError, DataError, FrameError
from clipfeat.types import Distortion

SCENE = "demo0000_00"
SCANNET = {
    "color": "{scene}/color/{frame}.jpg",
    "depth": "{scene}/depth/{frame}.png",
    "pose": "{scene}/pose/{frame}.txt",
    "pose_format": "matrix_per_frame",
    "pose_direction": "camera_to_world",
    "pose_axes": "opencv",
    "intrinsics_file": "{scene}/intrinsic/intrinsic_color.txt",
    "depth_intrinsics_file": "{scene}/intrinsic/intrinsic_depth.txt",
}


def dataset_of(root, **changes):
    return PosedRgbdDataset(PosedRgbdConfig(root=str(root), **(SCANNET | changes)))


def test_a_new_layout_needs_no_code(demo_root):
    """ScanNet's own layout, told by patterns, gives what its own reader gives."""
    ours, theirs = dataset_of(demo_root), ScanNetDataset(demo_root)
    assert ours.scenes() == theirs.scenes()
    for frame_id in theirs.frame_ids(SCENE):
        frame, expected = ours.load(SCENE, frame_id), theirs.load(SCENE, frame_id)
        for key in ("image", "depth_m", "cam_to_world"):
            np.testing.assert_array_equal(getattr(frame, key), getattr(expected, key))
        for key in ("color_camera", "depth_camera"):
            np.testing.assert_array_equal(getattr(frame, key).intrinsics, getattr(expected, key).intrinsics)


def test_world_to_camera_is_inverted(scans):
    expected = dataset_of(scans).load(SCENE, 20).cam_to_world
    path = scans / SCENE / "pose" / "20.txt"
    np.savetxt(path, np.linalg.inv(expected))
    frame = dataset_of(scans, pose_direction="world_to_camera").load(SCENE, 20)
    np.testing.assert_allclose(frame.cam_to_world, expected, atol=1e-12)
    path.unlink()
    with pytest.raises(FrameError, match="20.txt: no such file, a 4×4 world-to-camera pose was expected"):
        dataset_of(scans, pose_direction="world_to_camera").load(SCENE, 20)


@pytest.mark.parametrize("direction", ["camera_to_world", "world_to_camera"])
def test_poses_of_opengl_axes_are_turned(scans, direction):
    expected = dataset_of(scans).load(SCENE, 20).cam_to_world
    stored = expected @ np.diag([1, -1, -1, 1])
    np.savetxt(scans / SCENE / "pose" / "20.txt", np.linalg.inv(stored) if "world_to" in direction else stored)
    frame = dataset_of(scans, pose_direction=direction, pose_axes="opengl").load(SCENE, 20)
    np.testing.assert_allclose(frame.cam_to_world, expected, atol=1e-12)


def test_depth_scale_and_invalid_values(scans):
    plain = dataset_of(scans).load(SCENE, 0).depth_m
    np.testing.assert_allclose(dataset_of(scans, depth_scale=500).load(SCENE, 0).depth_m, 2 * plain, rtol=1e-6)
    value = int(np.rint(plain.max() * 1000))
    without = dataset_of(scans, depth_invalid=[0, value]).load(SCENE, 0).depth_m
    np.testing.assert_array_equal(without == 0, (plain == 0) | (plain == plain.max()))


@pytest.mark.parametrize("suffix", ["pgm", "tiff", "npy"])
def test_depth_in_another_format_is_the_same_depth(scans, suffix):
    folder = scans / SCENE / "depth"
    plain = dataset_of(scans).load(SCENE, 0)
    raw = np.rint(plain.depth_m * 1000).astype(np.uint16)
    path = folder / f"000.{suffix}"
    np.save(path, raw) if suffix == "npy" else Image.fromarray(raw).save(path, "PPM" if suffix == "pgm" else None)
    pattern = "{scene}/depth/{frame}." + suffix
    np.testing.assert_array_equal(dataset_of(scans, depth=pattern).load(SCENE, 0).depth_m, plain.depth_m)
    if suffix == "pgm":
        return
    np.save(path, plain.depth_m) if suffix == "npy" else Image.fromarray(plain.depth_m).save(path)
    with pytest.raises(FrameError, match=f"000.{suffix}: depth in floats, whose unit is not said"):
        dataset_of(scans, depth=pattern).load(SCENE, 0)
    frame = dataset_of(scans, depth=pattern, depth_float_scale=1).load(SCENE, 0)
    np.testing.assert_array_equal(frame.depth_m, plain.depth_m)


def test_k_that_counts_from_the_edge(scans):
    plain, half = dataset_of(scans).load(SCENE, 0), dataset_of(scans, pixel_center=0.5).load(SCENE, 0)
    for camera in ("color_camera", "depth_camera"):
        off = getattr(plain, camera).intrinsics - getattr(half, camera).intrinsics
        np.testing.assert_allclose(off, [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]], atol=1e-12)
    # Taken away before K is resized: a third of the size, a third of it.
    size = [3 * plain.picture.width, 3 * plain.picture.height]
    third = dataset_of(
        scans, pixel_center=0.5, intrinsics_size=size, intrinsics_file=None, intrinsics=[700, 700, 324, 243]
    )
    k = third.load(SCENE, 0).color_camera.intrinsics
    np.testing.assert_allclose(k[:2, 2], [324 / 3 - 0.5, 243 / 3 - 0.5])


def test_depth_along_the_ray(scans):
    plain = dataset_of(scans).load(SCENE, 0)
    np.save(scans / SCENE / "depth" / "0.npy", ray_lengths(plain))
    changes = {"depth": "{scene}/depth/{frame}.npy", "depth_float_scale": 1, "depth_along": "ray"}
    np.testing.assert_allclose(dataset_of(scans, **changes).load(SCENE, 0).depth_m, plain.depth_m, rtol=1e-5)


def write_polycam(scans, scene):
    """A JSON file a frame: K, which differs from frame to frame, and the pose; names are padded otherwise."""
    folder = scans / scene / "cameras"
    folder.mkdir()
    expected = {}
    for frame_id in (0, 20, 40, 60):
        frame = dataset_of(scans).load(scene, frame_id)
        k = frame.color_camera.intrinsics + np.diag([frame_id, 0.5 * frame_id, 0])
        pose = frame.cam_to_world @ np.diag([1, -1, -1, 1])
        camera = {f"t_{i}{j}": pose[i, j] for i in range(3) for j in range(4)}
        camera |= {"fx": k[0, 0], "fy": k[1, 1], "cx": k[0, 2], "cy": k[1, 2], "blur_score": 3.5}
        camera |= {"width": frame.picture.width, "height": frame.picture.height}
        (folder / f"{frame_id:06d}.json").write_text(json.dumps(camera))
        expected[frame_id] = k, frame.cam_to_world
    return expected


CAMERAS = {
    "pose": "{scene}/cameras/{frame}.json", "pose_format": "json_per_frame", "pose_axes": "opengl",
    "intrinsics_file": "{scene}/cameras/{frame}.json", "depth_intrinsics_file": None,
}  # fmt: skip


def test_a_k_and_a_pose_a_frame_in_json(scans):
    expected = write_polycam(scans, SCENE)
    dataset = dataset_of(scans, **CAMERAS)
    for frame_id in dataset.frame_ids(SCENE):
        frame, (k, pose) = dataset.load(SCENE, frame_id), expected[frame_id]
        np.testing.assert_allclose(frame.color_camera.intrinsics, k, atol=1e-12)
        np.testing.assert_allclose(frame.cam_to_world, pose, atol=1e-12)
        height, width = frame.depth_m.shape
        np.testing.assert_array_equal(
            frame.depth_camera.intrinsics, frame.color_camera.resized(width, height).intrinsics
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "20.json: no such file, a camera-to-world pose was expected: t_00 to t_23, or transform_matrix"),
        ("", r"000020.json: not JSON, or cut off \(.*; a camera-to-world pose was expected"),
        ("[1, 2]", "000020.json: is a list and not an object; a camera-to-world pose"),
        ('{"w": 640, "frames": []}', "000020.json: has no t_00, but w, frames; a camera-to-world pose was expected"),
        ('{"t_00": "one"}', "000020.json: t_00 is 'one', a number was expected; a camera-to-world pose"),
        ('{"transform_matrix": [[1, 2], [3]]}', "000020.json: not a matrix of numbers; a camera-to-world pose"),
        ('{"transform_matrix": [[1, 2]]}', r"000020.json: of shape \(1, 2\), expected 4×4 or 3×4; a camera-to-world"),
        ('{"transform_matrix": [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]}', "the upper left 3×3 is no rotation"),
        ('{"transform_matrix": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]}', "000020.json: has no 'fx', expected fx"),
    ],
)
def test_a_damaged_camera_costs_its_frame_alone(scans, content, message):
    write_polycam(scans, SCENE)
    path = scans / SCENE / "cameras" / "000020.json"
    path.unlink() if content is None else path.write_text(content)
    dataset = dataset_of(scans, **CAMERAS)
    with pytest.raises(FrameError, match=message):
        dataset.load(SCENE, 20)
    assert dataset.load(SCENE, 40).frame_id == 40


def test_a_k_that_is_missing_costs_its_frame_alone(scans):
    write_polycam(scans, SCENE)
    dataset = dataset_of(scans, intrinsics_file=CAMERAS["intrinsics_file"])
    (scans / SCENE / "cameras" / "000020.json").unlink()
    with pytest.raises(
        FrameError, match=r"cameras/20.json: no such file, a JSON file with fx, fy, cx, cy was expected"
    ):
        dataset.load(SCENE, 20)


def test_files_of_k_and_pose_that_are_of_no_picture_are_told_once(scans, caplog):
    write_polycam(scans, SCENE)
    (scans / SCENE / "color" / "20.jpg").unlink()
    with caplog.at_level(logging.INFO, "clipfeat"):
        dataset_of(scans, **CAMERAS).load(SCENE, 0)
    told = [record.getMessage() for record in caplog.records if "cameras/" in record.getMessage()]
    assert [one.split(": ", 1)[1] for one in told] == ["1 of 4 files are of no picture: frame 20"]


QUATERNIONS = [(f"{order}{ending}", order) for order in ("xyzw", "wxyz") for ending in ("_per_frame", "")]


@pytest.mark.parametrize(("name", "order"), QUATERNIONS)
def test_quaternions_in_either_order(scans, name, order):
    """Each is read as what it says: the other order gives another pose, which nothing in the numbers tells."""
    dataset = dataset_of(scans)
    expected = {number: dataset.load(SCENE, number).cam_to_world for number in dataset.frame_ids(SCENE)}
    rows = {}
    for number, pose in expected.items():
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
        numbers = [*pose[:3, 3], *([x, y, z, w] if order == "xyzw" else [w, x, y, z])]
        rows[number] = " ".join(f"{value:.15g}" for value in numbers)
        (scans / SCENE / "pose" / f"{number}.txt").write_text(rows[number].replace(" ", "\t") + "\n")
    (scans / SCENE / "poses.txt").write_text("# tx ty tz q\n" + "\n".join(rows.values()) + "\n")
    lines = {"pose": "{scene}/poses.txt", "pose_rows": "picture_order"} if name == order else {}
    style = f"trajectory_{order}" if name == order else name
    ours = dataset_of(scans, pose_format=style, **lines)
    for number, pose in expected.items():
        np.testing.assert_allclose(ours.load(SCENE, number).cam_to_world, pose, atol=1e-9)
    other = dataset_of(scans, pose_format=style.replace(order, "wxyz" if order == "xyzw" else "xyzw"), **lines)
    assert np.abs(other.load(SCENE, 20).cam_to_world - expected[20]).max() > 0.1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 2 3 0 0 0 0", "pose/20.txt: the quaternion is zero, so tracking was lost in this frame"),
        ("1 2 3 nan 0 0 1", "pose/20.txt: the quaternion holds inf or NaN, so tracking was lost"),
        ("1 2 3 0 0 0 2", r"20.txt: the quaternion has length 2, expected 1 \(columns: tx ty tz qw qx qy qz\)"),
        ("1 0 0 0", "pose/20.txt: 4 values, expected the 'tx ty tz qw qx qy qz' of a camera-to-world pose"),
        (
            "1 2 3 0 0 0 one",
            "pose/20.txt, line 1: could not convert string to float: 'one', a number was expected, a cam",
        ),
        ("", "pose/20.txt: is empty, expected 'tx ty tz qw qx qy qz', a camera-to-world pose"),
        (None, "pose/20.txt: no such file, expected 'tx ty tz qw qx qy qz', a camera-to-world pose"),
    ],
)
def test_a_bad_quaternion_costs_its_frame_alone(scans, content, message):
    path = scans / SCENE / "pose" / "20.txt"
    path.unlink() if content is None else path.write_text(content)
    (scans / SCENE / "pose" / "40.txt").write_text("1 2 3 1 0 0 0")
    dataset = dataset_of(scans, pose_format="wxyz_per_frame")
    with pytest.raises(FrameError, match=message):
        dataset.load(SCENE, 20)
    np.testing.assert_array_equal(dataset.load(SCENE, 40).cam_to_world[:3], [[1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3]])


def test_a_bad_quaternion_in_a_trajectory(scans):
    path = scans / SCENE / "poses.txt"
    rows = ["0 0 0 1 0 0 0", "0 0 0 0 0 0 0", "0 0 0 1 0 0 0", "0 0 0 1 0 0 0"]
    changes = {"pose": "{scene}/poses.txt", "pose_format": "trajectory_wxyz", "pose_rows": "picture_order"}
    path.write_text("\n".join(rows))
    dataset = dataset_of(scans, **changes)
    assert dataset.load(SCENE, 0)
    with pytest.raises(FrameError, match="poses.txt, pose 1: the pose holds inf or NaN, so tracking was lost"):
        dataset.load(SCENE, 20)
    for row, message in (
        ("0 0 0 1 1 0 0", r"poses.txt, line 2: the quaternion has length 1.414, expected 1 \(columns: tx ty tz qw"),
        ("0 0 0 1", "poses.txt, line 2: 4 values, expected 'tx ty tz qw qx qy qz'"),
    ):
        path.write_text("\n".join([rows[0], row, *rows[2:]]))
        with pytest.raises(DataError, match=message):
            dataset_of(scans, **changes).load(SCENE, 0)


def test_names_are_sorted_as_numbers_and_paddings_may_differ(scans):
    color = scans / SCENE / "color"
    (color / "20.jpg").rename(color / "0000000009.jpg")
    for folder, suffix in (("depth", "png"), ("pose", "txt")):
        (scans / SCENE / folder / f"20.{suffix}").rename(scans / SCENE / folder / f"9.{suffix}")
    dataset = dataset_of(scans)
    assert dataset.frame_ids(SCENE) == [0, 9, 40, 60]
    assert dataset.load(SCENE, 9).depth_m is not None
    (color / "040.jpg").symlink_to(color / "40.jpg")
    with pytest.raises(DataError, match=r"40.jpg and 0?40.jpg are both frame 40; remove one"):
        dataset_of(scans).frame_ids(SCENE)


def test_without_depth(scans):
    (scans / SCENE / "depth" / "0.png").unlink()
    frame = dataset_of(scans).load(SCENE, 0)
    assert frame.depth_m is None
    assert frame.depth_camera is None
    frame = dataset_of(scans, depth=None).load(SCENE, 20)
    assert frame.depth_m is None


def test_folders_without_pictures_are_no_scenes_and_bad_names_are_refused(scans, tmp_path):
    (scans / "notes").mkdir()
    (scans / "empty" / "color").mkdir(parents=True)
    assert dataset_of(scans).scenes() == [SCENE, "demo0001_00"]
    with pytest.raises(DataError, match="no such scene empty, expected {scene}/color/{frame}.jpg"):
        dataset_of(scans).frame_ids("empty")
    with pytest.raises(DataError, match="scene name '../x' is not allowed"):
        dataset_of(scans).frame_ids("../x")
    with pytest.raises(FrameError, match="scene demo0000_00 has no frame 7"):
        dataset_of(scans).load(SCENE, 7)
    with pytest.raises(DataError, match="nowhere: no such folder, expected one that holds {scene}/color"):
        dataset_of(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no {scene}/color/{frame}.jpg"):
        dataset_of(scans / "notes").scenes()
    (scans / "demo0001_00").rename(scans / "my scene")
    with pytest.raises(DataError, match="scene name 'my scene' is not allowed"):
        dataset_of(scans).scenes()


def test_two_sequences_with_one_id_are_refused(tmp_path):
    for folder in ("a-b/c", "a/b-c"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "0.jpg").touch()
    patterns = {"color": "{scene}/{sequence}/{frame}.jpg", "pose": "{scene}/{sequence}/{frame}.txt", "depth": None}
    numbers = {"intrinsics": [1, 1, 0, 0], "intrinsics_file": None, "depth_intrinsics_file": None}
    with pytest.raises(DataError, match=r"a-b/c and a/b-c would both be scene a-b-c; rename one"):
        dataset_of(tmp_path, **patterns, **numbers).scenes()


def test_a_scene_may_share_its_name_with_the_frame(tmp_path):
    for name in ("a_0.jpg", "a_10.jpg", "b_5.jpg"):
        (tmp_path / name).touch()
    changes = {"color": "{scene}_{frame}.jpg", "pose": "{scene}_{frame}.txt", "depth": None}
    dataset = dataset_of(tmp_path, **changes)
    assert dataset.scenes() == ["a", "b"]
    assert dataset.frame_ids("a") == [0, 10]


def test_whatever_goes_wrong_is_one_line(scans):
    """No layout's trouble is anything but an error that explains itself."""
    rng = np.random.default_rng(0)
    path = scans / SCENE / "pose" / "0.txt"
    for text in ("", "\0", "1 2", "nan " * 16, str(random_pose(rng)[:2]), "9" * 5000):
        path.write_text(text)
        with pytest.raises(ClipfeatError) as caught:
            dataset_of(scans).load(SCENE, 0)
        assert "\n" not in explain(caught.value, "extract")


# Lenses

OWN_K = {"intrinsics_file": SCANNET["intrinsics_file"], "depth_intrinsics_file": None}


def test_a_lens_is_said_by_its_model_and_numbers(demo_root):
    bent = [-0.2, 0.05, 0.001, 0.002]
    frame = dataset_of(demo_root, **OWN_K, distortion=["OPENCV", *bent]).load(SCENE, 20)
    lens = Distortion(radial=(-0.2, 0.05, 0, 0), tangential=(0.001, 0.002))
    assert frame.color_camera.distortion == frame.depth_camera.distortion == lens
    both = dataset_of(demo_root, distortion=["OPENCV", *bent], depth_distortion=["PINHOLE"]).load(SCENE, 20)
    assert (both.color_camera.distortion, both.depth_camera.distortion) == (lens, None)
    plain = dataset_of(demo_root).load(SCENE, 20)
    np.testing.assert_array_equal(both.depth_m, plain.depth_m)
    folded = dataset_of(demo_root, **OWN_K, distortion=["SIMPLE_RADIAL", -1]).load(SCENE, 20)
    assert (folded.depth_m[0, 0], plain.depth_m[0, 0] > 0) == (0, True)


def test_a_wrong_lens_is_named(demo_root, scans):
    for said, message in (
        (
            [],
            r"data.distortion=\[\]: expected \[MODEL,number,…\], such as \[OPENCV,k1,k2,p1,p2\] or .*; models are SIMP",
        ),
        ([0.1, 0.2, 0, 0], r"data.distortion=\[0.1, .*: expected \[MODEL,number,…\], such as"),
        (["FOV", 1], r"data.distortion=\['FOV', 1\]: camera model FOV is not known, expected one of SIMPLE_PINHOLE, "),
        (["RADIAL", 1], "1 numbers of distortion for RADIAL, expected 2"),
        (["RADIAL", 1, "x"], "could not convert"),
    ):
        with pytest.raises(ConfigError, match=message):
            dataset_of(demo_root, **OWN_K, distortion=said)
    with pytest.raises(
        ConfigError, match="data.depth_distortion is not set, and depth has a K of its own: say how its pi"
    ):
        dataset_of(demo_root, distortion=["RADIAL", 0.1, 0])
    with pytest.raises(
        ConfigError, match=r"data.depth_distortion=\['PINHOLE'\] is set, but depth has no K of its own: "
    ):
        dataset_of(demo_root, **OWN_K, depth_distortion=["PINHOLE"])
    k = dict.fromkeys(("fx", "fy", "cx", "cy"), 100.0)
    (scans / SCENE / "k.json").write_text(json.dumps(k | {"k1": 0.1, "p2": 0.0}))
    (scans / "demo0001_00" / "k.json").write_text(json.dumps(k))
    changes = OWN_K | {"intrinsics_file": "{scene}/k.json"}
    with pytest.raises(
        DataError, match=r"k.json: pictures are distorted \(k1=0.1\), and by whose model it doesn't say; s"
    ):
        dataset_of(scans, **changes).load(SCENE, 20)
    assert dataset_of(scans, **changes, distortion=["PINHOLE"]).load(SCENE, 20).color_camera.distortion is None
