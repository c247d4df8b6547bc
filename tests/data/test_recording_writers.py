"""Layouts of phones and radiance fields, on recordings of a room whose geometry is known exactly.

The recordings are those of the writers in ../shared/recordings, where these are.
"""

import importlib
import json
import sys

import numpy as np
import pytest
from colmap_writer import motion_of, write_depth_map
from conftest import SHARED
from PIL import Image
from test_posed_layouts import open_layout

from clipfeat.camera.projection import build_uv_index, unproject_depth, world_to_cam
from clipfeat.camera.visibility import project_frame
from clipfeat.data.colmap import ColmapDataset
from clipfeat.data.config import ColmapConfig

WRITERS = SHARED.parent / "recordings"

pytestmark = pytest.mark.skipif(not WRITERS.is_dir(), reason="the writers of recordings are not here")

CASES = {
    "nerfstudio": ("write_nerfstudio", {}),
    "nerfstudio_per_frame_k": ("write_nerfstudio", {"per_frame": True}),
    "polycam": ("write_polycam", {}),
    "colmap": ("write_colmap", {"scale": 0.4}),
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
    if name == "colmap":  # a quarter of its pixels say the same
        phone = writers("recording").phone
        monkeypatch.setattr(writers("recording"), "phone", lambda *_: phone((320, 240), (320, 240)))
    getattr(writers(module), "write_habitat" if name == "habitat" else "write")(tmp_path, **options)
    room = writers("room")
    truth = json.loads((tmp_path / "truth.json").read_text())
    colour, depth = (room.Pinhole(*truth[kind]) for kind in ("colour", "depth"))
    given = {
        "habitat": ("posed_rgbd", tmp_path, *HABITAT),
        "colmap": ("colmap", tmp_path / "scene", "data.metres_per_unit=2.5"),
    }
    dataset = open_layout(*given.get(name, (name.split("_per")[0], tmp_path)))
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
