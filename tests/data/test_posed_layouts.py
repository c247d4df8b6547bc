"""The layouts that are a YAML file each: those of 7-Scenes, TUM, Replica and Open3D."""

import json
import logging
import re
from itertools import pairwise

import layouts
import numpy as np
import pytest
from conftest import SHARED
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from clipfeat.camera.projection import build_uv_index, unproject_depth, world_to_cam
from clipfeat.camera.visibility import lookup_depth
from clipfeat.cli.schemas import register_schemas
from clipfeat.config.folder import config_dir
from clipfeat.data.layouts import build_dataset
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.errors import DataError, FrameError

SCENE = "demo0000_00"
WRITERS = {
    "sevenscenes": layouts.write_sevenscenes,
    "tum": layouts.write_tum,
    "replica": layouts.write_replica,
    "open3d": layouts.write_open3d,
}


def open_layout(name, root, *overrides):
    register_schemas()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("extract", [f"data={name}", f"data.root={root}", *overrides])
    return build_dataset(OmegaConf.to_object(cfg.data))


@pytest.fixture(scope="session")
def written(demo_root, tmp_path_factory):
    """Layout name to the root of the demo scans in that layout."""
    root = tmp_path_factory.mktemp("layouts")
    for name, write in WRITERS.items():
        (root / name).mkdir()
        write(demo_root, root / name)
    return root


@pytest.fixture
def layout(demo_root, tmp_path):
    """Writes the demo scans in a layout, for a test to damage."""

    def write(name):
        root = tmp_path / name
        root.mkdir()
        WRITERS[name](demo_root, root)
        return root

    return write


@pytest.fixture
def own_k(demo_frames):
    """The demo's K as an override, for layouts whose K is the same numbers for everybody."""
    numbers = layouts.four_numbers(demo_frames[0])
    return [f"data.intrinsics={numbers}", f"data.intrinsics_size={list(layouts.COLOR_SIZE)}"]


REGISTERED = ["data.color_from_depth=null", "data.depth_intrinsics=null", "data.depth_intrinsics_size=null"]
"""Of 7-Scenes: the demo's depth is registered, unlike the data set's."""

LAYOUT_CASES = {
    # ids of the two scenes, what a frame's number becomes, [needs own K, other overrides], depth and pose tolerance
    "sevenscenes": (["demo0000_00-seq-01", "demo0001_00-seq-01"], lambda i: 20 * i, True, REGISTERED, 1e-6, 1e-8),
    "tum": (["demo0000_00", "demo0001_00"], lambda i: i, True, [], 1e-6, 2e-6),
    "replica": (["demo0000_00", "demo0001_00"], lambda i: i, False, [], 1e-4, 1e-12),
    "open3d": (["demo0000_00", "demo0001_00"], lambda i: i, False, ["data.root_is_scene=false"], 1e-6, 1e-12),
}


@pytest.mark.parametrize("name", LAYOUT_CASES)
def test_each_layout_gives_the_frames_of_the_scans_it_was_made_from(name, demo_root, written, own_k):
    scene_ids, number, needs_k, overrides, depth_atol, pose_atol = LAYOUT_CASES[name]
    dataset = open_layout(name, written / name, *(own_k if needs_k else []), *overrides)
    scannet = ScanNetDataset(demo_root)
    assert dataset.scenes() == scene_ids
    for scene_id, original in zip(scene_ids, scannet.scenes(), strict=True):
        assert dataset.frame_ids(scene_id) == [number(i) for i in range(4)]
        for frame_id, original_id in zip(dataset.frame_ids(scene_id), scannet.frame_ids(original), strict=True):
            frame, expected = dataset.load(scene_id, frame_id), scannet.load(original, original_id)
            assert (frame.scene_id, frame.frame_id) == (scene_id, frame_id)
            np.testing.assert_array_equal(frame.image, expected.image)
            assert frame.depth_m.dtype == np.float32
            np.testing.assert_allclose(frame.depth_m, expected.depth_m, atol=depth_atol)
            np.testing.assert_array_equal(frame.depth_m == 0, expected.depth_m == 0)
            np.testing.assert_allclose(frame.cam_to_world, expected.cam_to_world, atol=pose_atol)
            for ours, theirs in (
                (frame.color_camera, expected.color_camera),
                (frame.depth_camera, expected.depth_camera),
            ):
                assert (ours.width, ours.height) == (theirs.width, theirs.height)
                np.testing.assert_allclose(ours.intrinsics, theirs.intrinsics, atol=1e-4)


# Scenes


def test_the_root_itself_as_a_scene(written, monkeypatch):
    root = written / "open3d" / SCENE
    frame = open_layout("open3d", written / "open3d", "data.root_is_scene=false").load(SCENE, 1)
    for given in (root, "."):
        monkeypatch.chdir(root)
        dataset = open_layout("open3d", given)
        assert dataset.scenes() == [SCENE]
        np.testing.assert_array_equal(dataset.load(SCENE, 1).image, frame.image)
        np.testing.assert_array_equal(dataset.load(SCENE, 1).cam_to_world, frame.cam_to_world)
    with pytest.raises(DataError, match="no such scene demo0001_00"):
        dataset.frame_ids("demo0001_00")


def test_a_root_taken_the_wrong_way_is_noticed(written):
    with pytest.raises(DataError, match=r"holds no .*; it is there for data.root_is_scene=false"):
        open_layout("open3d", written / "open3d").scenes()
    with pytest.raises(DataError, match=r"holds no .*; it is there for data.root_is_scene=true"):
        open_layout("open3d", written / "open3d" / SCENE, "data.root_is_scene=false").scenes()
    # One recording of TUM's, and one scene of 7-Scenes with its sequences
    assert open_layout("tum", written / "tum" / SCENE, "data.root_is_scene=true").scenes() == [SCENE]
    dataset = open_layout("sevenscenes", written / "sevenscenes" / SCENE, "data.root_is_scene=true")
    assert dataset.scenes() == [f"{SCENE}-seq-01"]


# Trajectories


def damage(path, change):
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)) + "\n")


def test_fewer_poses_than_pictures_fail_the_frames_beyond(layout):
    root = layout("replica")
    damage(root / SCENE / "traj.txt", lambda lines: lines[:2])
    dataset = open_layout("replica", root)
    assert dataset.frame_ids(SCENE) == [0, 1, 2, 3]
    dataset.load(SCENE, 1)
    with pytest.raises(FrameError, match=r"traj.txt: holds 2 poses for 4 pictures, and none for frame 2: pose k goes"):
        dataset.load(SCENE, 2)
    dataset.load("demo0001_00", 2)


def test_more_poses_than_pictures_warn_once(layout, caplog):
    root = layout("replica")
    damage(root / SCENE / "traj.txt", lambda lines: [*lines, lines[0]])
    dataset = open_layout("replica", root)
    with caplog.at_level(logging.WARNING, "clipfeat"):
        for frame_id in (0, 1, 2):
            dataset.load(SCENE, frame_id)
        dataset.load("demo0001_00", 2)
        dataset.dataset._poses.cache_clear()
        dataset.load(SCENE, 3)
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        "holds 5 poses for 4 pictures; pose k goes with the picture of number k (data.pose_rows=frame_number)"
    ]


@pytest.mark.parametrize(("name", "file", "length"), [("replica", "traj.txt", 1), ("open3d", "trajectory.log", 5)])
def test_pictures_that_were_thinned_out_keep_their_poses_by_number(layout, name, file, length):
    root = layout(name)
    many = ["data.root_is_scene=false"] if name == "open3d" else []
    whole = open_layout(name, root, *many).load(SCENE, 2)
    next((root / SCENE).glob("*/*01.jpg")).unlink()
    by_number = open_layout(name, root, *many)
    assert by_number.frame_ids(SCENE) == [0, 2, 3]
    np.testing.assert_array_equal(by_number.load(SCENE, 2).cam_to_world, whole.cam_to_world)
    # Where the poses were thinned out with the pictures, they go by order; a log's heads still bear the numbers.
    damage(root / SCENE / file, lambda lines: lines[:length] + lines[2 * length :])
    by_order = open_layout(name, root, "data.pose_rows=picture_order", *many)
    np.testing.assert_array_equal(by_order.load(SCENE, 2).cam_to_world, whole.cam_to_world)
    again = open_layout(name, root, *many)
    if name == "open3d":
        np.testing.assert_array_equal(again.load(SCENE, 2).cam_to_world, whole.cam_to_world)
    else:
        with pytest.raises(DataError, match=r"poses 0 to 2 \(3\), but pictures 0 to 3 \(3\), which may be off by one"):
            again.load(SCENE, 3)


def test_a_lost_track_in_a_trajectory_fails_its_frame_alone(layout):
    root = layout("replica")
    damage(root / SCENE / "traj.txt", lambda lines: [" ".join(["-inf"] * 16), *lines[1:]])
    dataset = open_layout("replica", root)
    with pytest.raises(FrameError, match="traj.txt, pose 0: the pose holds inf or NaN, so tracking was lost"):
        dataset.load(SCENE, 0)
    dataset.load(SCENE, 1)


@pytest.mark.parametrize(
    ("name", "file"), [("replica", "traj.txt"), ("tum", "groundtruth.txt"), ("open3d", "trajectory.log")]
)
def test_a_missing_trajectory_fails_when_frames_are_read(layout, name, file):
    root = layout(name)
    (root / SCENE / file).unlink()
    dataset = open_layout(name, root, *(["data.root_is_scene=false"] if name == "open3d" else []))
    assert dataset.frame_ids(SCENE) == [0, 1, 2, 3]
    with pytest.raises(DataError, match=f"{file}: no such file, expected"):
        dataset.load(SCENE, 0)


# Times


def test_frames_without_a_pose_in_time_fail_and_say_how_far_it_is(layout, own_k):
    root = layout("tum")
    damage(root / SCENE / "groundtruth.txt", lambda lines: lines[:3] + lines[6:])
    dataset = open_layout("tum", root, *own_k)
    assert dataset.frame_ids(SCENE) == [0, 1, 2, 3]
    with pytest.raises(FrameError, match=r"no pose for frame 0 at 1305031102.175304 s, the nearest is 0.060 s away"):
        dataset.load(SCENE, 0)
    dataset.load(SCENE, 1)
    open_layout("tum", root, "data.max_dt=0.1", *own_k).load(SCENE, 0)
    with pytest.raises(
        DataError, match=r"groundtruth.txt: no pose is within data.max_dt=0 s of a picture; pictures are"
    ):
        open_layout("tum", root, "data.max_dt=0", "data.depth_list=null", *own_k).load(SCENE, 1)


def test_frames_without_depth_in_time_have_none(layout, own_k):
    root = layout("tum")
    damage(root / SCENE / "depth.txt", lambda lines: lines[:3] + lines[4:])
    dataset = open_layout("tum", root, *own_k)
    assert [dataset.load(SCENE, i).depth_m is None for i in range(4)] == [True, False, False, False]
    assert open_layout("tum", root, "data.depth_list=null", *own_k).load(SCENE, 2).depth_m is None


@pytest.mark.parametrize(
    ("file", "change", "error", "message"),
    [
        ("groundtruth.txt", lambda t: re.sub(r"( \S+){4}\n", " 0 0 0 0\n", t), FrameError, "the quaternion is zero"),
        ("groundtruth.txt", lambda t: re.sub(r"( \S+){4}\n", " 1 1 0 0\n", t), FrameError, "length 1.414, expected 1"),
        ("groundtruth.txt", lambda t: re.sub(r" \S+\n", "\n", t), DataError, "line 4: 7 values"),
        ("groundtruth.txt", lambda t: t + "1.0 0 0 0 0 0 0 1\n", DataError, "line 16: time 1.000000 comes after"),
        ("groundtruth.txt", lambda t: t.replace("\n1305", "\nx305"), DataError, "could not convert string to float"),
        ("rgb.txt", lambda t: t.replace("rgb/", "../rgb/"), DataError, "leaves the folder of the list"),
        ("rgb.txt", lambda t: t.replace("rgb/", "rbg/"), FrameError, "no such file, a JPEG or PNG"),
        ("depth.txt", lambda t: t.replace("depth/", "detph/"), FrameError, "no such file, a 16-bit depth picture"),
        ("depth.txt", lambda t: "", DataError, "depth.txt: is empty, expected 'timestamp filename' a line"),
    ],
)
def test_bad_timed_files_are_named(layout, own_k, file, change, error, message):
    root = layout("tum")
    path = root / SCENE / file
    path.write_text(change(path.read_text()))
    with pytest.raises(error, match=message):
        open_layout("tum", root, *own_k).load(SCENE, 1)


# Intrinsics


def test_bad_intrinsics_are_named(layout, written):
    root = layout("replica")
    path = root / "cam_params.json"
    found = json.loads(path.read_text())
    with pytest.raises(DataError, match=r"cam_params.json: depth scale 6553.5, but data.depth_scale=1000; if the"):
        open_layout("replica", root, "data.depth_scale=1000").load(SCENE, 0)
    found["camera"]["cx"] = 600
    path.write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"principal point \(600, .*outside the 216×162 picture.*data.intrinsics_size="):
        open_layout("replica", root).load(SCENE, 0)
    path.write_text("{")
    with pytest.raises(DataError, match="cam_params.json: not a calibration"):
        open_layout("replica", root).load(SCENE, 0)
    path.unlink()
    with pytest.raises(DataError, match="cam_params.json: no such file"):
        open_layout("replica", root).load(SCENE, 0)
    # TUM's own numbers do not fit pictures that are not 640×480, unless they are told to be.
    with pytest.raises(DataError, match=r"data.intrinsics=\[525.0, 525.0, 319.5, 239.5\]: principal point"):
        open_layout("tum", written / "tum", "data.intrinsics_size=null").load(SCENE, 0)


def test_k_of_a_json_file_is_resized_from_the_file_s_size(layout):
    root = layout("replica")
    plain = open_layout("replica", root).load(SCENE, 0).color_camera
    path = root / "cam_params.json"
    found = json.loads(path.read_text())["camera"]
    double = plain.resized(432, 324).intrinsics
    found |= {"w": 432, "h": 324, "fx": double[0, 0], "fy": double[1, 1], "cx": double[0, 2], "cy": double[1, 2]}
    path.write_text(json.dumps({"camera": found}))
    np.testing.assert_allclose(open_layout("replica", root).load(SCENE, 0).color_camera.intrinsics, plain.intrinsics)


def test_from_the_command_line(written, run_cli, tmp_path):
    code, err = run_cli("data=posed_rgbd", "data.root=x", "data.pose_format=matrix_per_frame")
    assert (code, "data.pose_direction is not set and has no default" in err) == (1, True)
    code, err = run_cli("data=tum", "data.root=x", "data.intrinsic=3")
    assert (code, "data.intrinsic: no such key; did you mean data.intrinsics" in err) == (1, True)
    code, err = run_cli("data=open3d", f"data.root={written / 'open3d' / SCENE}", "output_dir=out")
    assert code == 0, err
    assert len(list((tmp_path / "out" / SCENE).glob("*.npz"))) == 4


# A real recording


def test_a_real_recording_of_open3d_s_test_data():
    """Depth carried from each frame to the next agrees: the poses are taken the right way round, and so is K."""
    if not (SHARED / "open3d_rgbd").is_dir():
        pytest.skip("the real recordings are not here")
    dataset = open_layout("open3d", SHARED / "open3d_rgbd")
    assert dataset.scenes() == ["open3d_rgbd"]
    frames = [dataset.load("open3d_rgbd", i) for i in dataset.frame_ids("open3d_rgbd")]
    assert len(frames) == 5
    errors = np.concatenate([np.abs(carried_error(a, b)) for a, b in pairwise(frames)])
    assert 0.003 < np.median(errors) < 0.007


def carried_error(frame, following):
    """z of the frame's depth points in the following frame, less that frame's depth there; metres."""
    points, _ = unproject_depth(frame.depth_m, frame.depth_camera.intrinsics, frame.cam_to_world)
    camera = following.depth_camera
    seen = build_uv_index(
        points, camera.intrinsics, world_to_cam(following.cam_to_world), (camera.width, camera.height)
    )
    found = lookup_depth(following.depth_m, seen.uv)
    both = seen.visible & (found > 0)
    return seen.depth_m[both] - found[both]
