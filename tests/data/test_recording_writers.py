"""Layouts of phones and radiance fields, on recordings of a room whose geometry is known exactly.

The recordings are those of the writers in ../shared/recordings, where these are.
"""

import importlib
import json
import sys

import numpy as np
import pytest
from conftest import SHARED
from test_posed_layouts import open_layout

from clipfeat.camera.projection import build_uv_index, unproject_depth, world_to_cam

WRITERS = SHARED.parent / "recordings"

pytestmark = pytest.mark.skipif(not WRITERS.is_dir(), reason="the writers of recordings are not here")

CASES = {
    "nerfstudio": ("write_nerfstudio", {}),
    "nerfstudio_per_frame_k": ("write_nerfstudio", {"per_frame": True}),
    "polycam": ("write_polycam", {}),
    "habitat": ("write_replica", {}),
}
HABITAT = [
    "data.color='{scene}/rgb/{frame}.png'", "data.depth='{scene}/depth/{frame}.npy'", "data.depth_float_scale=1",
    "data.pose='{scene}/pose/{frame}.txt'", "data.pose_format=xyzw_per_frame", "data.pose_direction=camera_to_world",
    "data.pose_axes=opengl", "data.intrinsics=[320,320,320,240]", "data.pixel_center=0.5",
]  # fmt: skip
"""Walks through Habitat, told by patterns: 90° across 640 pixels, and the middle of the picture is its half."""


@pytest.fixture
def writers(monkeypatch):
    """Their modules, which leave nothing behind: neither imported nor on disk."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(WRITERS))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(WRITERS)):
            del sys.modules[name]


@pytest.mark.parametrize("name", CASES)
def test_each_point_lies_on_the_room_and_on_its_pixel(name, writers, tmp_path, monkeypatch):
    """All measured pixels: to 1 mm of where their rays meet the room, to 0.01 px of where that is seen."""
    module, options = CASES[name]
    path = writers("room").path
    monkeypatch.setattr(writers("room"), "path", lambda count=3, *rest: path(3, *rest))
    getattr(writers(module), "write_habitat" if name == "habitat" else "write")(tmp_path, **options)
    room = writers("room")
    truth = json.loads((tmp_path / "truth.json").read_text())
    colour, depth = (room.Pinhole(*truth[kind]) for kind in ("colour", "depth"))
    given = ("posed_rgbd", tmp_path, *HABITAT) if name == "habitat" else (name.split("_per")[0], tmp_path)
    dataset = open_layout(*given)
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
