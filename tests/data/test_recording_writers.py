"""Layouts of phones, benchmarks and radiance fields, on recordings of a room whose geometry is known exactly.

The recordings are those of the writers in ../shared/recordings, where these are.
"""

import importlib
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from colmap_writer import motion_of, write_depth_map
from conftest import SHARED
from PIL import Image

from clipfeat.camera.projection import build_uv_index, unproject_depth, world_to_cam
from clipfeat.camera.visibility import project_frame
from clipfeat.data.colmap import ColmapDataset
from clipfeat.data.config import ColmapConfig
from clipfeat.data.layouts import build_dataset, layouts
from clipfeat.data.recognize import readings

WRITERS = SHARED.parent / "recordings"

pytestmark = pytest.mark.skipif(not WRITERS.is_dir(), reason="the writers of recordings are not here")

CASES = {
    "nerfstudio": ("write_nerfstudio", "write", {}),
    "nerfstudio_per_frame_k": ("write_nerfstudio", "write", {"per_frame": True}),
    "polycam": ("write_polycam", "write", {}),
    "colmap": ("write_colmap", "write", {"scale": 0.4}),
    "habitat": ("write_replica", "write_habitat", {}),
    "hm3d": ("write_replica", "write_habitat", {}),
    "arkitscenes": ("write_arkitscenes", "write", {}),
    "arkitscenes_3dod": ("write_arkitscenes", "write", {}),
    "scannetpp_iphone": ("write_scannetpp_iphone", "write", {"packed": False}),
    "rscan": ("write_3rscan", "write", {"packed": False}),
    "twelvescenes": ("write_3rscan", "write", {"packed": False}),
    "matterport3d": ("write_matterport", "write", {}),
}
"""A layout, perhaps with more of its name, and its writer."""


@pytest.fixture
def writers(monkeypatch):
    """Their modules, which leave nothing behind: neither imported nor on disk."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(WRITERS))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    # ScanNet++'s depth.bin is packed by it; its extracted depth is what is read here.
    lz4 = SimpleNamespace(block=SimpleNamespace(compress=lambda data, **_: data))
    monkeypatch.setitem(sys.modules, "lz4", lz4)
    monkeypatch.setitem(sys.modules, "lz4.block", lz4.block)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(WRITERS)):
            del sys.modules[name]


@pytest.fixture(scope="session")
def known():
    return layouts()


@pytest.fixture
def few(writers, monkeypatch):
    """Two frames, those of 640 pixels across a quarter as large; pictures of one colour, whose size is looked at."""
    room = writers("room")
    path, pinhole = room.path, room.Pinhole

    def small(fx, fy, cx, cy, width, height):
        camera = pinhole(fx, fy, cx, cy, width, height)
        return camera.resized(width // 4, height // 4) if width == 640 else camera

    monkeypatch.setattr(room, "Pinhole", small)
    monkeypatch.setattr(room, "path", lambda count=2, *rest: path(2, *rest))
    monkeypatch.setattr(room, "colour_of", lambda points, which: np.zeros((*which.shape, 3), np.uint8))

    def plain(recording, _):
        return np.zeros((recording.colour.height, recording.colour.width, 3), np.uint8)

    monkeypatch.setattr(writers("recording").Recording, "picture", plain)


def write(name, writers, root):
    module, function, options = CASES[name]
    getattr(writers(module), function)(root, **options)
    if name == "hm3d":
        as_hov_sg(next(root.glob("*/rgb")).parent)
    if name == "twelvescenes":
        as_twelve_scenes(root)
    if name == "arkitscenes_3dod":
        video = next(root.glob("*/lowres_wide")).parent
        video.rename(root / "frames")
        video.mkdir()
        (root / "frames").rename(video / f"{video.name}_frames")
        for path in (video / f"{video.name}_frames" / "confidence").iterdir():
            path.unlink()


def as_twelve_scenes(root):
    """The same files in other places, with depth as PNG."""
    scan = next(root.glob("*/sequence")).parent
    room = root / "apt1" / scan.name
    room.parent.mkdir()
    scan.rename(room)
    (room / "sequence/_info.txt").rename(room / "info.txt")
    (room / "sequence").rename(room / "data")
    for path in room.glob("data/*.depth.pgm"):
        Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16)).save(path.with_suffix(".png"))
        path.unlink()


def as_hov_sg(scene):
    """What Habitat gives, as HOV-SG stores it: millimetres, and 16 numbers on one line."""
    from scipy.spatial.transform import Rotation

    for path in scene.glob("depth/*.npy"):
        Image.fromarray(np.round(np.load(path) * 1000).astype(np.uint16)).save(path.with_suffix(".png"))
        path.unlink()
    for path in scene.glob("pose/*.txt"):
        numbers, pose = np.loadtxt(path), np.eye(4)
        pose[:3, 3], pose[:3, :3] = numbers[:3], Rotation.from_quat(numbers[3:]).as_matrix()
        path.write_text(" ".join(map(repr, pose.ravel().tolist())))


def points_lie_on_the_room(cfg, writers, root):
    """All measured pixels: to 1 mm of where their rays meet the room, to 0.01 px of where that is seen."""
    room = writers("room")
    truth = json.loads((root / "truth.json").read_text())
    colour, depth = (room.Pinhole(*truth[kind]) for kind in ("colour", "depth"))
    own = {"root": str(root / "scene"), "metres_per_unit": 2.5} if cfg.name == "colmap" else {"root": str(root)}
    dataset = build_dataset(replace(cfg, **own))
    (scene,) = dataset.scenes()
    assert [str(number) for number in dataset.frame_ids(scene)] == sorted(truth["cam_to_room"], key=int)
    for number in dataset.frame_ids(scene):
        frame = dataset.load(scene, number)
        xyz, pixels = unproject_depth(frame.depth_m, frame.depth_camera.intrinsics, frame.cam_to_world)
        assert len(pixels) == depth.width * depth.height
        pose = np.array(truth["cam_to_room"][str(number)])
        v, u = np.divmod(pixels, depth.width)
        rays = np.stack([(u - depth.cx) / depth.fx, (v - depth.cy) / depth.fy, np.ones(len(u))], axis=1)
        z, _ = room.hit(pose[:3, 3], rays @ pose[:3, :3].T)
        camera = rays * z[:, None]
        world = (np.array(truth["room_to_world"]) @ pose @ np.c_[camera, np.ones(len(u))].T).T[:, :3]
        assert np.linalg.norm(world - xyz, axis=1).max() < 1e-3
        size = (frame.picture.width, frame.picture.height)
        seen = build_uv_index(world, frame.color_camera.intrinsics, world_to_cam(frame.cam_to_world), image_size=size)
        true_uv = camera[:, :2] / camera[:, 2:] * (colour.fx, colour.fy) + (colour.cx, colour.cy)
        assert np.abs(seen.uv - true_uv).max() < 0.01
        assert size == (colour.width, colour.height)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("few")
def test_each_point_lies_on_the_room_and_on_its_pixel(name, writers, known, tmp_path, caplog):
    write(name, writers, tmp_path)
    layout = name.split("_per")[0]
    points_lie_on_the_room(known[layout], writers, tmp_path)
    assert [reading.layout for reading in readings(tmp_path, known)] == [layout]
    assert caplog.messages == []  # what the other layouts miss is nothing to tell


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_so_does_each_of_all_frames(name, writers, known, tmp_path):
    write(name, writers, tmp_path)
    points_lie_on_the_room(known[name.split("_per")[0]], writers, tmp_path)


LENSES = {
    "OPENCV": [-0.26, 0.06, 0.002, -0.003],
    "OPENCV_FISHEYE": [-0.04, 0.006, -0.002, 0.0004],
}


def bent_pixels(model, numbers, k, x, y):
    """Pixels of the rays (x, y, 1), by the formulas of OpenCV's documentation."""
    r = np.hypot(x, y)
    if model == "OPENCV_FISHEYE":
        theta = np.arctan(r)
        share = theta * (1 + sum(number * theta ** (2 * i + 2) for i, number in enumerate(numbers))) / r
        x, y = x * share, y * share
    else:
        k1, k2, p1, p2 = numbers
        share = 1 + k1 * r**2 + k2 * r**4
        x, y = (
            x * share + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2),
            y * share + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y,
        )
    return np.stack((k[0] * x + k[2], k[1] * y + k[3]), -1)


@pytest.mark.parametrize("model", LENSES)
def test_each_point_lies_on_the_room_and_on_its_pixel_through_a_lens(model, writers, tmp_path):
    """A COLMAP model whose depth was measured along the rays that the lens shows, found by plain fixed points."""
    room, numbers, (width, height) = writers("room"), LENSES[model], (160, 120)
    k, pose = (101.0, 102.0, 81.2, 58.9), room.path(3)[1]
    v, u = (axis.ravel().astype(float) for axis in np.indices((height, width)))
    x, y = (u - k[2]) / k[0], (v - k[3]) / k[1]
    for _ in range(300):
        off = bent_pixels(model, numbers, k, x, y) - np.stack((u, v), -1)
        x, y = x - 0.5 * off[:, 0] / k[0], y - 0.5 * off[:, 1] / k[1]
    assert np.abs(bent_pixels(model, numbers, k, x, y) - np.stack((u, v), -1)).max() < 1e-9
    rays = np.stack((x, y, np.ones(len(x))), -1)
    z, _ = room.hit(pose[:3, 3], rays @ pose[:3, :3].T)
    true_xyz = (rays * z[:, None]) @ pose[:3, :3].T + pose[:3, 3]
    for folder in ("sparse", "images"):
        (tmp_path / "scene" / folder).mkdir(parents=True)
    numbers_of_k = f"{k[0]} {k[1]} {k[2] + 0.5} {k[3] + 0.5} {' '.join(map(str, numbers))}"
    (tmp_path / "scene/sparse/cameras.txt").write_text(f"1 {model} {width} {height} {numbers_of_k}\n")
    motion = " ".join(map(repr, map(float, motion_of(np.linalg.inv(pose)))))
    (tmp_path / "scene/sparse/images.txt").write_text(f"1 {motion} 1 0004.png\n\n")
    Image.new("RGB", (width, height)).save(tmp_path / "scene/images/0004.png")
    write_depth_map(tmp_path / "scene/stereo/depth_maps/0004.png.geometric.bin", z.reshape(height, width))
    frame = ColmapDataset(ColmapConfig(root=str(tmp_path))).load("scene", 4)
    lens = frame.color_camera.distortion
    xyz, pixels = unproject_depth(frame.depth_m, frame.depth_camera.intrinsics, pose, distortion=lens)
    assert len(pixels) == width * height
    assert np.linalg.norm(xyz - true_xyz, axis=1).max() < 1e-3
    seen = project_frame(true_xyz, frame)
    assert np.abs(seen.uv - np.stack((u, v), -1)).max() < 0.05
    assert seen.visible.all()
