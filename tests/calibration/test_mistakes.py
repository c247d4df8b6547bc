"""Each convention is broken in turn: the check names it, in rendered and real frames, and its advice is followed."""

import dataclasses
import re

import conftest
import mistakes
import numpy as np
import pytest
import yaml
from PIL import Image

from clipfeat.calibration.advice import advise
from clipfeat.calibration.check import SceneMesh, check_scene
from clipfeat.calibration.hypotheses import (
    flipped,
    stored_inverted,
    with_depth_scaled,
    with_focal_scaled,
    with_principal_point_moved,
    with_quaternion_rolled,
)
from clipfeat.data.config import PosedRgbdConfig
from clipfeat.data.demo import SceneOptions, render_scenes
from clipfeat.data.layouts import build_dataset
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.errors import ClipfeatError

UNSEEN = {"poses of the next frame", "poses of the frame before", "colour of the next frame"}
"""In Open3D's five frames, which lie 1 cm apart: another frame's poses and colours are nearly their own."""


FLIPPED_TOO = (
    ", or pictures flipped: flipped top for bottom they agree",
    ", or flip the depth pictures top for bottom, and the colour pictures if they are flipped, too",
)
"""What is said beside a mirrored y where cy is the middle, as it is in the demo."""


@pytest.fixture(scope="module")
def demo(demo_root):
    return mistakes.frames_of(ScanNetDataset(demo_root), "demo0000_00")


@pytest.fixture(scope="module")
def office_frames(office):
    return mistakes.frames_of(ScanNetDataset(office), "scene9000_00")


@pytest.fixture(scope="module")
def open3d():
    root = conftest.SHARED / "open3d_rgbd"
    if not root.is_dir():
        pytest.skip("the real recordings are not here")
    files = {name: f"{{scene}}/{name}/{{frame}}.{kind}" for name, kind in (("color", "jpg"), ("depth", "png"))}
    cfg = config(root, pose="{scene}/trajectory.log", pose_format="trajectory_log", root_is_scene=True, **files)
    cfg = dataclasses.replace(cfg, intrinsics=[525.0, 525.0, 319.5, 239.5], intrinsics_size=[640, 480])
    return mistakes.frames_of(build_dataset(cfg), root.name)


def config(root, **keys):
    """A layout by patterns, of OpenCV axes; before there was a word for these, there was nothing else."""
    if "pose_axes" in {field.name for field in dataclasses.fields(PosedRgbdConfig)}:
        keys.setdefault("pose_axes", "opencv")
    defaults = {
        "color": "{scene}/color/{frame}.png",
        "depth": "{scene}/depth/{frame}.png",
        "pose": "{scene}/trajectory.txt",
        "pose_format": "trajectory_matrices",
        "pose_direction": "camera_to_world",
        "intrinsics": [200.0, 200.0, 100.0, 80.0],
    }
    return PosedRgbdConfig(root=str(root), **(defaults | keys))


def named(check, name):
    said = mistakes.MISTAKES[name][1]
    if not said:
        assert (check.verdict, [line for line in check.findings if "can't tell" not in line]) == ("ok", [])
    else:
        assert check.verdict == "warning"
        assert re.match(f"{re.escape(said)}[: ]", check.findings[0]), check.findings


@pytest.mark.parametrize("name", mistakes.MISTAKES)
def test_a_broken_convention_is_named_in_a_demo_room(demo, name):
    named(mistakes.checked(mistakes.MISTAKES[name][0](demo)), name)


def some(names):
    """Every fifth by default, all of them with -m slow: each takes a second or more."""
    return [pytest.param(name, marks=pytest.mark.slow if number % 5 else ()) for number, name in enumerate(names)]


@pytest.mark.parametrize("name", some(mistakes.MISTAKES))
def test_a_broken_convention_is_named_in_the_office(office_frames, name):
    named(mistakes.checked(mistakes.MISTAKES[name][0](office_frames), num_pairs=4), name)


@pytest.mark.parametrize("name", some(name for name in mistakes.MISTAKES if "focal" not in name))
def test_a_broken_convention_is_named_where_a_camera_hardly_moves(open3d, name):
    check = mistakes.checked(mistakes.MISTAKES[name][0](open3d), num_pairs=3)
    named(check, "none" if name in UNSEEN else name)


@pytest.mark.slow
def test_the_page_has_what_the_check_says(demo):
    page = (conftest.CHECKOUT / "docs" / "check.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.count(" | ") == 3][1:]
    assert [row[0] for row in rows] == list(mistakes.MISTAKES)
    number = re.compile(r"-?\d+(\.\d+)?")
    for name, _, _, says in rows:
        said = mistakes.row(name, demo)[1]
        for words in FLIPPED_TOO:
            said = said.replace(words, "")
        assert number.sub("#", says) == number.sub("#", said)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rooms_in_few_frames_raise_no_alarm(tmp_path, seed):
    options = SceneOptions(
        num_frames=3, color_size=(216, 162), depth_size=(128, 96), depth_noise=0.002, depth_holes=0.1, lost_poses=0,
        mesh_spacing=0.2, seed=seed,
    )  # fmt: skip
    render_scenes(tmp_path, 1, options)
    dataset = ScanNetDataset(tmp_path)
    for scene_id in dataset.scenes():
        assert mistakes.checked(mistakes.frames_of(dataset, scene_id)).verdict != "warning"


def test_no_cause_is_named_that_does_not_fit_either(demo):
    """OpenGL's axes were "depth × 1290" once: the best of bad explanations."""
    rng = np.random.default_rng(0)
    wild = {}
    for frame_id, frame in demo.items():
        pose = frame.cam_to_world.copy()
        pose[:3, 3] += rng.normal(0, 0.3, 3)
        wild[frame_id] = dataclasses.replace(frame, cam_to_world=pose)
    check = mistakes.checked(wild)
    assert check.findings[0].startswith("depths do not agree, and no single mistake explains it; look at the poses")
    assert check.depth.findings[0].error < check.depth.error / 1.5


def test_bare_walls_are_not_colour_of_another_moment(demo):
    def bare(frame):
        noise = np.random.default_rng(frame.frame_id).normal(200, 3, frame.image.shape)
        return mistakes.colored(frame, noise.clip(0, 255).astype(np.uint8))

    assert mistakes.checked(mistakes.each(bare)(demo)).verdict == "ok"


def write(root, frames):
    """Frames as files that ``config`` reads, numbered from 0, depth in millimetres; and their K."""
    for folder in ("color", "depth"):
        (root / "s" / folder).mkdir(parents=True)
    usable = [frame for frame in frames.values() if frame is not None]
    for number, frame in enumerate(usable):
        Image.fromarray(frame.image).save(root / "s" / "color" / f"{number}.png")
        millimetres = (frame.depth_m * 1000).round().astype(np.uint16)
        Image.fromarray(millimetres).save(root / "s" / "depth" / f"{number}.png")
    save_poses(root, [frame.cam_to_world for frame in usable])
    return four(usable[0].color_camera.intrinsics)


def four(k):
    return [float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2])]


def save_poses(root, poses):
    np.savetxt(root / "s" / "trajectory.txt", np.reshape(poses, (-1, 16)), fmt="%.12g")


def follow(advice, cfg, root):
    """Does what an advice says, to the configuration or to the files; of two that are said to be alike, the first."""
    first = advice.split(", or ")[0]
    poses = np.loadtxt(root / "s" / "trajectory.txt").reshape(-1, 4, 4)
    if re.search(r"invert (each pose|the pose files)", first):
        poses = np.linalg.inv(poses)
    if side := re.search(r"from the (right|left) by diag\(([-\d,]+)\)", first):
        flip = np.diag(np.array(side[2].split(","), float))
        poses = poses @ flip if side[1] == "right" else flip @ poses
    if flip := re.search(r"F·P·F with F = diag\(([-\d,]+)\)", first):
        f = np.diag(np.array(flip[1].split(","), float))
        poses = f @ poses @ f
    if turn := re.search(r"from the (right|left) by a turn about z, (\[\[.*\]\])", first):
        about_z = np.eye(4)
        about_z[:2, :2] = yaml.safe_load(turn[2])
        poses = poses @ about_z if turn[1] == "right" else about_z @ poses
    if factor := re.search(r"translations of the stored poses by (\S+)", first):
        poses[:, :3, 3] *= float(factor[1])
    if "transpose the rotations of the stored poses, and leave their translations" in first:
        poses[:, :3, :3] = poses[:, :3, :3].transpose(0, 2, 1)
    save_poses(root, poses)
    for path in (root / "s" / "depth").iterdir():
        depth = np.asarray(Image.open(path))
        if "divide it by sqrt(1 + ((u-cx)/fx)² + ((v-cy)/fy)²)" in first:
            v, u = np.indices(depth.shape)
            s = depth.shape[1] / 216  # K is that of colour
            corner = np.array([0, 0, 0.5, 0.5])
            fx, fy, cx, cy = (corner + cfg.intrinsics) * s - corner
            depth = depth / np.sqrt(1 + ((u - cx) / fx) ** 2 + ((v - cy) / fy) ** 2)
        axes = {
            "turn the depth pictures by 180°, and the colour": (0, 1),
            "flip the depth pictures left for right, and the colour": 1,
        }
        for way in (axes[words] for words in axes if words in first):
            depth = np.flip(depth, way)
            color = np.asarray(Image.open(root / "s" / "color" / path.name))
            Image.fromarray(np.flip(color, way).copy()).save(root / "s" / "color" / path.name)
        Image.fromarray(np.ascontiguousarray(depth.round()).astype(np.uint16)).save(path)
    said = {key: yaml.safe_load(value) for key, value in re.findall(r"data\.(\w+)=(\S*[^\s,])", first)}
    return dataclasses.replace(cfg, **said)


def as_given(frames):
    return frames


TO_FOLLOW = {
    "poses world-to-camera": (mistakes.posed(np.linalg.inv), {}, "data.pose_direction=world_to_camera"),
    "poses camera-to-world": (as_given, {"pose_direction": "world_to_camera"}, "data.pose_direction=camera_to_world"),
    "axes": (mistakes.posed(lambda pose: pose @ mistakes.OPENGL), {}, r"pose_axes=opengl|from the right by diag\("),
    "axes, inverted": (
        mistakes.posed(lambda pose: np.linalg.inv(pose @ mistakes.OPENGL)),
        {"pose_direction": "world_to_camera"},
        r"pose_axes=opengl|from the left by diag\(",
    ),
    "axes and direction": (
        mistakes.posed(lambda pose: np.linalg.inv(pose @ mistakes.OPENGL)),
        {},
        r"data.pose_direction=world_to_camera( data.pose_axes=opengl|, and multiply each stored pose from the left)",
    ),
    "mirrored y": (mistakes.MISTAKES["negative fy, y up (ICL-NUIM)"][0], {}, "replace each stored pose P"),
    "ray length": (mistakes.each(mistakes.along_rays), {}, "convert depth to z"),
    "depth scale": (as_given, {"depth_scale": 5000.0}, "data.depth_scale=1000,"),
    "depth in metres": (as_given, {"depth_scale": 1.0}, "data.depth_scale=1000$"),
    "pose units": (mistakes.translated(1000.0), {}, "translations of the stored poses by 0.001"),
    "pictures turned": (mistakes.each(mistakes.upside_down), {}, "turn the depth pictures by 180°"),
    "poses turned": (mistakes.MISTAKES["poses of pictures on their side"][0], {}, "from the right by a turn"),
    "rotations transposed": (mistakes.posed(mistakes.transposed), {}, "transpose the rotations"),
    "pictures flipped": (mistakes.flipped(1), {}, "flip the depth pictures left for right"),
    "colour turned": (mistakes.MISTAKES["colour turned by 180°"][0], {}, "data.rotate=180"),
    "focal length": (as_given, {"focal": 1.2}, r"data.intrinsics=\["),
}


@pytest.mark.parametrize("name", some(TO_FOLLOW))
def test_an_advice_that_is_followed_makes_it_right(demo, tmp_path, name):
    change, keys, expected = TO_FOLLOW[name]
    keys = dict(keys)
    k = write(tmp_path, change(demo))
    focal = keys.pop("focal", 1.0)
    cfg = config(tmp_path, intrinsics=[k[0] * focal, k[1] * focal, *k[2:]], **keys)
    advice = depth_or_color(of_files(cfg))
    assert re.search(expected, advice), advice
    assert of_files(follow(advice, cfg, tmp_path)).verdict == "ok"


def test_k_of_half_the_size_is_refused_and_the_size_that_it_names_makes_it_right(demo, tmp_path):
    write(tmp_path, demo)
    k = four(next(iter(demo.values())).color_camera.resized(108, 81).intrinsics)
    cfg = config(tmp_path, intrinsics=k)
    with pytest.raises(ClipfeatError, match="K belonged to some 107×81; data.intrinsics_size must be"):
        build_dataset(cfg).load("s", 0)
    assert of_files(dataclasses.replace(cfg, intrinsics_size=[108, 81])).verdict == "ok"


def test_a_trajectory_without_its_first_pose_is_told_where_it_begins(demo, tmp_path):
    k = write(tmp_path, demo)
    save_poses(tmp_path, [frame.cam_to_world for frame in demo.values()][1:])
    cfg = config(tmp_path, intrinsics=k)
    advice = depth_or_color(of_files(cfg))
    assert advice == "set data.pose_first=1"
    assert of_files(follow(advice, cfg, tmp_path)).verdict == "ok"


def depth_or_color(check):
    return check.depth.advice or check.color.advice


def of_files(cfg):
    dataset = build_dataset(cfg)
    return check_scene(dataset, "s", dataset.frame_ids("s"), SceneMesh("/none/{scene}", False), 6, vars(cfg))


@pytest.mark.parametrize(
    ("family", "numbers", "keys", "advice"),
    [
        ("quaternion order", (0,), {"pose_format": "trajectory_xyzw"}, "set data.pose_format=trajectory_wxyz"),
        ("quaternion order", (1,), {"pose_format": "wxyz_per_frame"}, "set data.pose_format=xyzw_per_frame"),
        ("quaternion order", (1,), {"pose_format": "tum"}, "take the stored quaternions for x y z w, not for w x y z"),
        (
            "rotation transposed",
            (1,),
            {"pose_direction": "world_to_camera"},
            "transpose the rotations of the stored poses, and leave their translations",
        ),
        ("rotation transposed", (1,), {}, "invert each stored pose, transpose its rotation, and invert it again"),
    ],
)
def test_how_poses_are_stored_has_its_own_advice(family, numbers, keys, advice):
    assert advise(family, numbers, keys) == advice


def test_a_principal_point_is_found_in_both_directions(demo):
    depth = mistakes.checked(mistakes.each(with_principal_point_moved(-9.0, 7.0))(demo)).depth
    du, dv = map(float, re.match(r"principal point: cx (\S+), cy (\S+) px agrees", depth.cause).groups())
    np.testing.assert_allclose((du, dv), (9, -7), atol=0.5)


@pytest.mark.parametrize("change", [stored_inverted(with_quaternion_rolled(1)), flipped(1)])
def test_a_change_that_is_undone_leaves_the_frame(demo, change):
    frame = next(iter(demo.values()))
    there = change(frame)
    undo = stored_inverted(with_quaternion_rolled(-1)) if there.depth_camera is frame.depth_camera else change
    np.testing.assert_allclose(undo(there).cam_to_world, frame.cam_to_world, atol=1e-12)
    np.testing.assert_allclose(undo(there).depth_camera.intrinsics, frame.depth_camera.intrinsics)


def test_a_size_that_is_said_already_is_put_right():
    """K was brought from there to the pictures, and so belongs to another share of it."""
    keys = {"intrinsics_size": [432, 324], "intrinsics_file": "k.txt"}
    assert advise("K of another resolution", (108, 81, 216, 162), keys) == "set data.intrinsics_size=[216,162]"


@pytest.mark.parametrize(
    ("keys", "change", "advice"),
    [
        (
            {},
            with_depth_scaled(2.0),
            "multiply the depths by 0.5, or multiply the translations of the stored poses by 2",
        ),
        ({}, with_focal_scaled(1.2), "look at the focal lengths of the depth camera's K: fx and fy × 0.83"),
        (
            {"depth_scale": None, "depth_float_scale": None},
            with_depth_scaled(2.0),
            "set data.depth_scale to 2 times the units in a metre that the file says, or multiply the translations",
        ),
        ({"intrinsics": None, "intrinsics_file": None, "hfov": 90.0}, with_focal_scaled(1.2), "set data.hfov=100."),
        (
            {"depth_scale": 5000.0, "depth_float_scale": 2.0},
            with_depth_scaled(0.2),
            "set data.depth_scale=1000, or of depth in floats data.depth_float_scale=0.4",
        ),
    ],
)
def test_no_key_is_named_that_a_layout_lacks(demo, keys, change, advice):
    assert mistakes.checked(mistakes.each(change)(demo), keys).depth.advice.startswith(advice)
