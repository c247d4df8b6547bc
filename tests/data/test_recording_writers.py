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
from conftest import SHARED
from PIL import Image

from clipfeat.camera.projection import build_uv_index, unproject_depth, world_to_cam
from clipfeat.data.layouts import build_dataset, layouts
from clipfeat.data.recognize import readings

WRITERS = SHARED.parent / "recordings"

pytestmark = pytest.mark.skipif(not WRITERS.is_dir(), reason="the writers of recordings are not here")

CASES = {
    "nerfstudio": ("write_nerfstudio", "write", {}),
    "nerfstudio_per_frame_k": ("write_nerfstudio", "write", {"per_frame": True}),
    "polycam": ("write_polycam", "write", {}),
    "habitat": ("write_replica", "write_habitat", {}),
    "hm3d": ("write_replica", "write_habitat", {}),
    "arkitscenes": ("write_arkitscenes", "write", {}),
    "arkitscenes_3dod": ("write_arkitscenes", "write", {}),
    "scannetpp_iphone": ("write_scannetpp_iphone", "write", {"packed": False}),
    "rscan": ("write_3rscan", "write", {"packed": False}),
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
    if name == "arkitscenes_3dod":
        video = next(root.glob("*/lowres_wide")).parent
        video.rename(root / "frames")
        video.mkdir()
        (root / "frames").rename(video / f"{video.name}_frames")
        for path in (video / f"{video.name}_frames" / "confidence").iterdir():
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
    dataset = build_dataset(replace(cfg, root=str(root)))
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
