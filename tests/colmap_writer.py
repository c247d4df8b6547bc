"""Small models of COLMAP, as text and as binary files."""

import struct
from types import SimpleNamespace

import numpy as np
from scipy.spatial.transform import Rotation

MODEL_IDS = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "OPENCV": 4, "FOV": 7}


def motion_of(world_to_cam):
    """qw qx qy qz tx ty tz of a (4, 4) world-to-camera pose."""
    return [*np.roll(Rotation.from_matrix(world_to_cam[:3, :3]).as_quat(), 1), *world_to_cam[:3, 3]]


def model_of(frames, names, camera=None, points=()):
    """A model that one may change before it is written.

    Args:
        frames: whose poses and colour K it has.
        names: of their pictures.
        camera: (model, parameters) instead of K as a PINHOLE.
        points: (xyz, rgb, ids of the pictures that see it) each.
    """
    first = frames[0].color_camera
    (fx, _, cx), (_, fy, cy), _ = first.intrinsics
    model, params = camera or ("PINHOLE", [fx, fy, cx + 0.5, cy + 0.5])
    images = [
        [i + 1, motion_of(np.linalg.inv(frame.cam_to_world)), 7, name]
        for i, (frame, name) in enumerate(zip(frames, names, strict=True))
    ]
    return SimpleNamespace(cameras={7: [model, first.width, first.height, params]}, images=images, points=list(points))


def write_model(folder, model, *, binary):
    """cameras, images and points3D; each picture has two points of its own that are of no track."""
    folder.mkdir(parents=True, exist_ok=True)
    (_write_binary if binary else _write_text)(folder, model)


def _write_text(folder, model):
    cameras = [f"{i} {m} {w} {h} {' '.join(map(repr, map(float, p)))}" for i, (m, w, h, p) in model.cameras.items()]
    images = [
        f"{i} {' '.join(map(repr, map(float, motion)))} {camera} {name}\n{'1.5 2.5 -1 3 4 -1' if i % 2 else ''}"
        for i, motion, camera, name in model.images
    ]
    points = [
        " ".join(map(str, [i + 1, *map(float, xyz), *rgb, 0.5, *(word for image in seen for word in (image, 0))]))
        for i, (xyz, rgb, seen) in enumerate(model.points)
    ]
    for name, lines in (("cameras", cameras), ("images", images), ("points3D", points)):
        (folder / f"{name}.txt").write_text("\n".join([f"# {name}", *lines, ""]))


def _write_binary(folder, model):
    cameras = struct.pack("<Q", len(model.cameras))
    for i, (name, w, h, params) in model.cameras.items():
        cameras += struct.pack(f"<IiQQ{len(params)}d", i, MODEL_IDS[name], w, h, *params)
    images = struct.pack("<Q", len(model.images))
    for i, motion, camera, name in model.images:
        images += struct.pack("<I7dI", i, *motion, camera) + name.encode() + b"\0"
        images += struct.pack("<Q", 2) + 2 * struct.pack("<ddQ", 1.5, 2.5, (1 << 64) - 1)
    points = struct.pack("<Q", len(model.points))
    for i, (xyz, rgb, seen) in enumerate(model.points):
        points += struct.pack("<Q3d3BdQ", i + 1, *xyz, *rgb, 0.5, len(seen))
        points += b"".join(struct.pack("<II", image, 0) for image in seen)
    for name, data in (("cameras", cameras), ("images", images), ("points3D", points)):
        (folder / f"{name}.bin").write_bytes(data)


def write_rigs(folder, rig_from_world, sensor_from_rig, *, binary):
    """One rig of the cameras 7 and 8; its one frame is the pictures 1 and 2. Both poses as ``motion_of``."""
    folder.mkdir(parents=True, exist_ok=True)
    if binary:
        rigs = struct.pack("<QIIiIiIB7d", 1, 1, 2, 0, 7, 0, 8, 1, *sensor_from_rig)
        frames = struct.pack("<QII7dI", 1, 1, 1, *rig_from_world, 2) + struct.pack("<iIQiIQ", 0, 7, 1, 0, 8, 2)
        (folder / "rigs.bin").write_bytes(rigs)
        (folder / "frames.bin").write_bytes(frames)
        return
    (folder / "rigs.txt").write_text(
        f"# rigs\n1 2 CAMERA 7 CAMERA 8 1 {' '.join(map(repr, map(float, sensor_from_rig)))}\n"
    )
    numbers = " ".join(map(repr, map(float, rig_from_world)))
    (folder / "frames.txt").write_text(f"# frames\n1 1 {numbers} 2 CAMERA 7 1 CAMERA 8 2\n")


def write_depth_map(path, depth_m):
    """A depth map of the dense stage."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(f"{depth_m.shape[1]}&{depth_m.shape[0]}&1&".encode() + depth_m.astype("<f4").tobytes())
