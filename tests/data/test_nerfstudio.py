"""nerfstudio's transforms.json, and Polycam's keyframes: scans of the demo in their words."""

import json
import logging

import layouts
import numpy as np
import pytest
import trimesh
from PIL import Image
from test_posed_layouts import open_layout
from twins import ray_lengths

from clipfeat.camera.projection import unproject_depth
from clipfeat.data.config import NerfstudioConfig
from clipfeat.data.nerfstudio import NerfstudioDataset
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.errors import ConfigError, DataError, FrameError
from clipfeat.output.store import FeatureStore
from clipfeat.types import Distortion

SCENE = "demo0000_00"
UNDONE = {"undo_applied_transform": True}


def open_root(root, **changes):
    return NerfstudioDataset(NerfstudioConfig(root=str(root), **changes))


@pytest.fixture
def root(demo_root, tmp_path):
    layouts.write_nerfstudio(demo_root, tmp_path / "nerf")
    return tmp_path / "nerf"


def edit(root, change):
    """Changes what the file of a scene holds; a function that returns something replaces it all."""
    path = root / SCENE / "transforms.json"
    content = json.loads(path.read_text())
    changed = change(content)
    path.write_text(json.dumps(content if changed is None else changed))


def frame_1(content):
    return next(frame for frame in content["frames"] if frame["file_path"].endswith("00001.jpg"))


@pytest.mark.parametrize("factor", [None, lambda i: 1 + 0.01 * i])
def test_it_gives_the_frames_of_the_scans_it_was_made_from(demo_root, tmp_path, factor):
    layouts.write_nerfstudio(demo_root, tmp_path, factor)
    ours, theirs = open_root(tmp_path, **UNDONE), ScanNetDataset(demo_root)
    assert ours.scenes() == theirs.scenes()
    for scene in ours.scenes():
        assert ours.frame_ids(scene) == [1, 2, 3, 4]  # the file lists them the other way round
        for i, original in enumerate(theirs.frame_ids(scene)):
            frame, expected = ours.load(scene, i + 1), theirs.load(scene, original)
            np.testing.assert_array_equal(frame.image, expected.image)
            np.testing.assert_array_equal(frame.depth_m, expected.depth_m)
            np.testing.assert_allclose(frame.cam_to_world, expected.cam_to_world, atol=1e-12)
            k = expected.color_camera.intrinsics * [[factor(i) if factor else 1], [1], [1]]
            k[0, 2] = expected.color_camera.intrinsics[0, 2]
            k[1, 1] *= factor(i) if factor else 1
            np.testing.assert_allclose(frame.color_camera.intrinsics, k, atol=1e-9)
            height, width = frame.depth_m.shape
            resized = frame.color_camera.resized(width, height).intrinsics
            np.testing.assert_array_equal(frame.depth_camera.intrinsics, resized)
    assert ours.names_of(SCENE, 3) == {"scene": SCENE, "frame": "00003"}


def test_the_world_is_the_files_own_unless_it_is_said(demo_root, root):
    expected = ScanNetDataset(demo_root).load(SCENE, 0).cam_to_world
    turned = np.vstack([layouts.APPLIED, [0, 0, 0, 1]]) @ expected
    np.testing.assert_allclose(open_root(root).load(SCENE, 1).cam_to_world, turned, atol=1e-12)
    edit(root, lambda content: content.pop("applied_transform") and None)
    np.testing.assert_allclose(open_root(root, **UNDONE).load(SCENE, 1).cam_to_world, turned, atol=1e-12)


def test_the_root_itself_as_a_scene_and_other_names(root, monkeypatch):
    with pytest.raises(DataError, match=r"holds no {scene}/transforms.json; it is there for data.root_is_scene=true$"):
        open_root(root / SCENE).scenes()
    with pytest.raises(DataError, match="no such scene demo0009_00, expected {scene}/transforms.json$"):
        open_root(root).frame_ids("demo0009_00")
    with pytest.raises(DataError, match="nowhere: no such folder, expected one that holds {scene}/transforms.json"):
        open_root(root / "nowhere")
    monkeypatch.chdir(root / SCENE)
    for given in (root / SCENE, "."):
        dataset = open_root(given, root_is_scene=True)
        assert dataset.scenes() == [SCENE]
        assert dataset.load(SCENE, 2).depth_m is not None
    (root / SCENE / "transforms.json").rename(root / SCENE / "other.json")
    assert open_root(root).scenes() == ["demo0001_00"]
    assert open_root(root, transforms="{scene}/other.json").scenes() == [SCENE]


@pytest.mark.parametrize("names", [["a.jpg", "b.jpg", "c.jpg", "d.jpg"], ["l/1.jpg", "l/2.jpg", "r/1.jpg", "r/2.jpg"]])
def test_names_that_number_nothing_are_counted_in_their_order_and_it_is_said(root, names, caplog):
    def rename(content):
        for frame, name in zip(content["frames"], names[::-1], strict=True):
            path = root / SCENE / "images" / name
            path.parent.mkdir(exist_ok=True)
            (root / SCENE / frame["file_path"]).rename(path)
            frame["file_path"] = f"images/{name}"

    expected = [open_root(root).load(SCENE, i).cam_to_world for i in (1, 2, 3, 4)]
    edit(root, rename)
    with caplog.at_level(logging.INFO):
        dataset = open_root(root)
        assert dataset.frame_ids(SCENE) == [0, 1, 2, 3]
    assert "names don't number the pictures, so frames are counted in the order of names" in caplog.text
    order = np.argsort(
        [frame["file_path"] for frame in json.loads((root / SCENE / "transforms.json").read_text())["frames"]]
    )
    assert list(order) == [3, 2, 1, 0]
    for number in range(4):
        np.testing.assert_array_equal(dataset.load(SCENE, number).cam_to_world, expected[number])


# Depth


def test_depth_of_other_units(root):
    plain = open_root(root).load(SCENE, 1).depth_m
    np.testing.assert_allclose(open_root(root, depth_scale=500).load(SCENE, 1).depth_m, 2 * plain, rtol=1e-6)
    edit(root, lambda content: content.update(depth_unit_scale_factor=0.002))
    np.testing.assert_allclose(open_root(root).load(SCENE, 1).depth_m, 2 * plain, rtol=1e-6)
    with pytest.raises(
        DataError, match=r"depth_unit_scale_factor=0.002, 500 units a metre, but data.depth_scale=1000; leave"
    ):
        open_root(root, depth_scale=1000).load(SCENE, 1)


def test_depth_in_floats_and_along_the_ray(root):
    frame = open_root(root).load(SCENE, 1)
    np.save(root / SCENE / "depth" / "1.npy", ray_lengths(frame))
    edit(root, lambda content: frame_1(content).update(depth_file_path="depth/1.npy"))
    with pytest.raises(FrameError, match="1.npy: depth in floats, whose unit is not said: data.depth_float_scale=1"):
        open_root(root).load(SCENE, 1)
    ray = {"depth_float_scale": 1, "depth_along": "ray"}
    np.testing.assert_allclose(open_root(root, **ray).load(SCENE, 1).depth_m, frame.depth_m, rtol=1e-5)
    edit(root, lambda content: content.update(depth_unit_scale_factor=1))
    told = open_root(root, depth_along="ray").load(SCENE, 1)
    np.testing.assert_allclose(told.depth_m, frame.depth_m, rtol=1e-5)


def test_without_depth(root):
    edit(root, lambda content: frame_1(content).pop("depth_file_path") and None)
    frame = open_root(root).load(SCENE, 1)
    assert (frame.depth_m, frame.depth_camera) == (None, None)
    assert open_root(root).load(SCENE, 2).depth_m is not None


# K


def test_k_of_pictures_of_another_size_and_none_said(root):
    plain = open_root(root).load(SCENE, 1).color_camera
    (width, height), names = (plain.width, plain.height), ("fl_x", "fl_y", "cx", "cy", "w", "h")
    edit(root, lambda content: content.update({name: 3 * content[name] for name in names}))
    np.testing.assert_allclose(open_root(root).load(SCENE, 1).color_camera.intrinsics, plain.intrinsics, atol=1e-9)
    assert (width, height) == layouts.COLOR_SIZE
    edit(root, lambda content: content.update({name: content[name] / 3 for name in names} | {"w": None, "h": None}))
    np.testing.assert_allclose(open_root(root).load(SCENE, 1).color_camera.intrinsics, plain.intrinsics, atol=1e-9)


def test_the_same_k_twice_is_one_and_another_is_refused(root):
    edit(root, lambda content: frame_1(content).update(fl_x=content["fl_x"], camera_model="PINHOLE"))
    assert open_root(root).load(SCENE, 1)
    edit(root, lambda content: frame_1(content).update(fl_x=190.5))
    with pytest.raises(
        FrameError, match=r"images/frame_00001.jpg: fl_x is 190.5, but .* at the top of the file; remove"
    ):
        open_root(root).load(SCENE, 1)
    assert open_root(root).load(SCENE, 2)


@pytest.mark.parametrize(
    ("said", "lens"),
    [
        ({"k1": -0.02, "p1": 1e-4, "k4": 0.003}, Distortion(radial=(-0.02, 0, 0, 0.003), tangential=(1e-4, 0))),
        ({"camera_model": "OPENCV_FISHEYE", "k2": 0.01}, Distortion(True, radial=(0, 0.01, 0, 0))),
        ({"camera_model": "OPENCV_FISHEYE", "is_fisheye": True}, Distortion(True)),
        ({"camera_model": "SIMPLE_RADIAL", "k1": 0.0}, None),
    ],
)
def test_the_lens_is_that_of_both_pictures(root, said, lens):
    edit(root, lambda content: content.update(said))
    frame = open_root(root).load(SCENE, 1)
    assert frame.color_camera.distortion == frame.depth_camera.distortion == lens


def picture_on_its_side(root):
    path = root / SCENE / "images" / "frame_00001.jpg"
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: frame_1(c).pop("transform_matrix") and None, "images/frame_00001.jpg: has no transform_matrix, a 4"),
        (lambda c: frame_1(c).update(transform_matrix=[[1, 2]]), r"transform_matrix is of shape \(1, 2\), expected 4×"),
        (lambda c: frame_1(c).update(transform_matrix="x"), "transform_matrix is not a matrix of numbers, a 4×4 camer"),
        (lambda c: frame_1(c).update(transform_matrix=np.diag([2.0, 2, 2, 1]).tolist()), "3×3 is no rotation"),
        (lambda c: frame_1(c).update(transform_matrix=np.full((4, 4), np.nan).tolist()), "the pose holds inf or NaN"),
        (lambda c: frame_1(c).update(file_path="images/9999.jpg"), "images/9999.jpg: no such file"),
        (lambda c: frame_1(c).update(depth_file_path="depth/9999.png"), "depth/9999.png: no such file"),
        (lambda c: frame_1(c).update(k5=0.01), "jpg: k5=0.01 is no number that nerfstudio knows of camera_model OP"),
        (lambda c: frame_1(c).update(p1=0.01), "jpg: p1 is 0.01, but 0 at the top of the file; remove the one that is"),
        (lambda c: frame_1(c).update(k1="much"), "k1 is 'much', a number was expected"),
        (lambda c: frame_1(c).update(camera_model="EQUIRECTANGULAR"), "jpg: camera_model EQUIRECTANGULAR is not read,"),
    ],
)  # fmt: skip
def test_a_bad_frame_is_bad_alone(root, damage, message):
    edit(root, damage)
    dataset = open_root(root)
    bad = next(number for number in dataset.frame_ids(SCENE) if number in (1, 9999))
    with pytest.raises(FrameError, match=message):
        dataset.load(SCENE, bad)
    assert dataset.load(SCENE, 2).frame_id == 2
    assert len(dataset.frame_ids(SCENE)) == 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.pop("fl_x") and None, "frame_00001.jpg: has no fl_x, expected fl_x, fl_y, cx, cy at the top of t"),
        (lambda c: c.update(cx=5000), "principal point .* lies outside the 216×162 picture"),
        (lambda c: c.update(h=None), "w=216.0 h=None, expected both in whole pixels, or neither"),
        (lambda c: c.update(w=0.5), "w=0.5 h=162.0, expected both in whole pixels, or neither"),
        (lambda c: c.update(w=162, h=216), "K belongs to 162×216 pixels, but the picture has 216×162: one of them lie"),
        (lambda c: c.update(fl_y=True), "fl_y is 'True', a number was expected"),
    ],
)  # fmt: skip
def test_a_bad_k_is_named(root, damage, message):
    edit(root, damage)
    with pytest.raises(FrameError, match=message):
        open_root(root).load(SCENE, 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: {"poses": [], "fps": 60}, "transforms.json: has no list 'frames', but poses, fps; expected nerfstu"),
        (lambda c: c.update(frames=[]), "transforms.json: has an empty list 'frames'"),
        (lambda c: [1], "transforms.json: is a list and not an object; expected nerfstudio's transforms.json"),
        (lambda c: c["frames"].append(7), r"transforms.json, frames\[4\]: of type int, expected an object with"),
        (lambda c: c["frames"].append({"path": 1}), r"frames\[4\]: has no file_path, but path; expected nerfstudio's"),
        (lambda c: frame_1(c).update(file_path=3), r"frames\[3\]: file_path is '3', expected a path"),
        (lambda c: frame_1(c).update(file_path="../x.jpg"), r"file_path '../x.jpg' leaves the folder of the file"),
        (lambda c: frame_1(c).update(depth_file_path="/x.png"), r"depth_file_path '/x.png' leaves the folder"),
        (lambda c: c["frames"].append(c["frames"][0]), r"frames\[0\] and frames\[4\] are both images/frame_00004.jpg"),
        (lambda c: c.update(k6=-0.02), "k6=-0.02 is no number that nerfstudio knows of .*; undistort the pictures"),
        (lambda c: c.update(camera_model="OPENCV_FISHEYE", p1=1e-3), "p1=0.001 is no number .* camera_model OPENCV_"),
        (lambda c: c.update(camera_model="FISHEYE624"), "camera_model FISHEYE624 is not read, expected camera_mo"),
        (lambda c: c.update(camera_model=["x"]), r"camera_model \['x'\] is not read"),
        (lambda c: c.update(is_fisheye=True), "is_fisheye is not read, expected camera_model to be one of SIMPLE_PINH"),
        (lambda c: c.update(applied_scale=0.25), "applied_scale=0.25, so the poses are not in metres and don't fit de"),
        (lambda c: c.update(depth_unit_scale_factor=0), "depth_unit_scale_factor=0, expected metres of a unit"),
        (lambda c: c.update(depth_unit_scale_factor="mm"), "depth_unit_scale_factor is 'mm', a number was expected; e"),
        (lambda c: c.update(applied_transform=[[1]]), "applied_transform is of shape"),
        (lambda c: c.update(applied_transform=np.diag([2.0, 2, 2, 1]).tolist()), "applied_transform is no rotation an"),
        (lambda c: c.update(applied_transform=np.diag([1.0, 1, -1, 1]).tolist()), "applied_transform mirrors the worl"),
    ],
)  # fmt: skip
def test_a_bad_file_is_the_scenes_trouble(root, damage, message):
    edit(root, damage)
    dataset = open_root(root, **UNDONE)
    with pytest.raises(DataError, match=message):
        dataset.frame_ids(SCENE)
    assert dataset.frame_ids("demo0001_00") == [1, 2, 3, 4]


def test_a_file_that_is_cut_off(root):
    path = root / SCENE / "transforms.json"
    path.write_text(path.read_text()[:500])
    with pytest.raises(
        DataError, match=r"transforms.json: not JSON, or cut off \(.*; expected nerfstudio's transforms"
    ):
        open_root(root).frame_ids(SCENE)
    path.write_text('{"frames":' + "[" * 100_000)
    with pytest.raises(DataError, match="transforms.json: nested too deeply; expected"):
        open_root(root).frame_ids(SCENE)


def test_a_picture_on_its_side(root):
    picture_on_its_side(root)
    with pytest.raises(FrameError, match="K belongs to 216×162 pixels, but the picture has 162×216: one of them lies"):
        open_root(root).load(SCENE, 1)
    assert open_root(root, rotate=90).load(SCENE, 1).picture.width == 216


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transforms": "transforms.json"}, r"data.transforms=.*has no \{scene\}"),
        ({"transforms": "{scene}/{frame}.json"}, r"data.transforms=.*\{frame\} has no meaning here"),
        ({"depth_scale": 0}, "data.depth_scale=0: expected a number above 0"),
        ({"depth_float_scale": -1}, "data.depth_float_scale=-1: expected a number above 0"),
        ({"depth_along": "y"}, "data.depth_along=y: expected one of z, ray"),
        ({"rotate": 45}, "data.rotate=45"),
    ],
)
def test_a_bad_configuration_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        NerfstudioConfig(root="x", **changes)


def test_from_the_command_line(root, run_cli, tmp_path):
    """Missing pictures are bad frames, listed; the rest is done."""
    (root / SCENE / "images" / "frame_00002.jpg").unlink()
    code, err = run_cli("data=nerfstudio", f"data.root={root}", "output_dir=out")
    assert code == 0, err
    assert len(list((tmp_path / "out" / SCENE).glob("*.npz"))) == 3
    lines = [json.loads(line) for line in (tmp_path / "out" / "frames.jsonl").read_text().splitlines()]
    (failed,) = [line for line in lines if line["status"] == "failed"]
    assert (failed["frame_id"], "frame_00002.jpg: no such file" in failed["why"]) == (2, True)


@pytest.mark.parametrize("undone", [False, True])
def test_the_points_of_ply_file_path_lie_in_the_world_of_the_poses(root, demo_root, run_cli, tmp_path, undone):
    """Or in the original one, where that is asked for: each is stored at the pixel that it was lifted from."""
    original = ScanNetDataset(demo_root).load(SCENE, 0)
    xyz, pixels = unproject_depth(original.depth_m, original.depth_camera.intrinsics, original.cam_to_world)
    some = np.arange(0, len(xyz), 50)
    lifted = xyz[some] if undone else xyz[some] @ layouts.APPLIED[:, :3].T
    for scene in ("demo0000_00", "demo0001_00"):  # as nerfstudio's ply_file_path does, points without faces
        trimesh.PointCloud(lifted).export(root / scene / "sparse_pc.ply")
    code, err = run_cli(
        "data=nerfstudio", f"data.root={root}", f"data.undo_applied_transform={undone}", "output_dir=out",
        "sampling=mesh", f"sampling.points_file={root}/{{scene}}/sparse_pc.ply", "frames_per_scene=1",
        "vis=none", small=False,
    )  # fmt: skip
    assert code == 0, err
    found = FeatureStore(tmp_path / "out").load(SCENE, 1)
    assert len(found.pts_idx) > 0.9 * len(some)
    depth, colour = original.depth_camera, original.color_camera
    v, u = np.divmod(pixels[some][found.pts_idx], depth.width)
    scale = np.array([colour.width / depth.width, colour.height / depth.height])
    np.testing.assert_allclose(found.uv_idx, (np.stack([u, v], axis=1) + 0.5) * scale - 0.5, atol=0.02)


# Polycam


def test_polycams_keyframes_are_the_frames_they_were_made_from(demo_root, tmp_path):
    layouts.write_polycam(demo_root, tmp_path)
    ours, theirs = open_layout("polycam", tmp_path), ScanNetDataset(demo_root)
    assert ours.scenes() == theirs.scenes()
    assert ours.frame_ids(SCENE)[1] == 1667344455100003
    for i, (number, original) in enumerate(zip(ours.frame_ids(SCENE), theirs.frame_ids(SCENE), strict=True)):
        frame, expected = ours.load(SCENE, number), theirs.load(SCENE, original)
        np.testing.assert_array_equal(frame.depth_m, expected.depth_m)
        np.testing.assert_allclose(frame.cam_to_world, expected.cam_to_world, atol=1e-12)
        k = expected.color_camera.intrinsics + np.diag([i, i, 0])
        np.testing.assert_allclose(frame.color_camera.intrinsics, k, atol=1e-9)
