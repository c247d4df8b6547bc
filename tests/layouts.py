"""Turns the demo scans into the layouts of other data sets: the same frames, as their own tools would store them."""

import json
import shutil
from pathlib import Path

import numpy as np
from colmap_writer import model_of, write_depth_map, write_model
from PIL import Image
from scipy.spatial.transform import Rotation

from clipfeat.camera.projection import unproject_depth
from clipfeat.data.scannet import ScanNetDataset

COLOR_SIZE = (216, 162)


def _frames(scans):
    dataset = ScanNetDataset(scans)
    for scene in dataset.scenes():
        yield scene, [dataset.load(scene, i) for i in dataset.frame_ids(scene)]


def _save_depth(path, depth_m, scale):
    Image.fromarray(np.rint(depth_m.astype(np.float64) * scale).astype(np.uint16)).save(path)


def four_numbers(frame):
    """fx, fy, cx, cy of the frame's colour camera."""
    k = frame.color_camera.intrinsics
    return [float(x) for x in (k[0, 0], k[1, 1], k[0, 2], k[1, 2])]


def write_sevenscenes(scans, root):
    """<scene>/seq-01, numbers as in the scans; each demo scene is one sequence."""
    for scene, frames in _frames(scans):
        folder = root / scene / "seq-01"
        folder.mkdir(parents=True)
        for frame in frames:
            stem = folder / f"frame-{frame.frame_id:06d}"
            Image.fromarray(frame.image).save(f"{stem}.color.png")
            depth_mm = np.rint(frame.depth_m * 1000).astype(np.uint16)
            depth_mm[depth_mm == 0] = 65535
            Image.fromarray(depth_mm).save(f"{stem}.depth.png")
            rows = ("\t ".join(f"{x:.9e}" for x in row) + "\t " for row in frame.cam_to_world)
            Path(f"{stem}.pose.txt").write_text("\n".join(rows) + "\n")


def write_tum(scans, root):
    """Depth 3 ms after colour; motion capture at 100 Hz, so that most of its poses belong to no picture."""
    for scene, frames in _frames(scans):
        folder = root / scene
        (folder / "rgb").mkdir(parents=True)
        (folder / "depth").mkdir()
        rgb = ["# color images", "# file: 'demo.bag'", "# timestamp filename"]
        depth = ["# depth maps", "# file: 'demo.bag'", "# timestamp filename"]
        truth = ["# ground truth trajectory", "# file: 'demo.bag'", "# timestamp tx ty tz qx qy qz qw"]
        for i, frame in enumerate(frames):
            time_s = 1305031102.175304 + i * 0.1
            for name, lines, dt in (("rgb", rgb, 0), ("depth", depth, 0.003)):
                lines.append(f"{time_s + dt:.6f} {name}/{time_s + dt:.6f}.png")
            Image.fromarray(frame.image).save(folder / "rgb" / f"{time_s:.6f}.png")
            _save_depth(folder / "depth" / f"{time_s + 0.003:.6f}.png", frame.depth_m, 5000)
            pose = frame.cam_to_world
            for dt in (-0.04, 0.001, 0.03):
                q = (
                    Rotation.from_matrix(pose[:3, :3]) * Rotation.from_rotvec([0, 0, 0 if dt == 0.001 else 1])
                ).as_quat()
                numbers = " ".join(f"{x:.7f}" for x in (*pose[:3, 3], *q))
                truth.append(f"{time_s + dt:.4f} {numbers}")
        for name, lines in (("rgb", rgb), ("depth", depth), ("groundtruth", truth)):
            (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


def write_replica(scans, root):
    """Frames numbered 0, 1, 2, ...; one calibration for all scenes."""
    for scene, frames in _frames(scans):
        folder = root / scene
        (folder / "results").mkdir(parents=True)
        for i, frame in enumerate(frames):
            shutil.copy(scans / scene / "color" / f"{frame.frame_id}.jpg", folder / "results" / f"frame{i:06d}.jpg")
            _save_depth(folder / "results" / f"depth{i:06d}.png", frame.depth_m, 6553.5)
        np.savetxt(folder / "traj.txt", [f.cam_to_world.reshape(16) for f in frames])
    camera = dict(zip(("fx", "fy", "cx", "cy"), four_numbers(frame), strict=True))
    camera |= {"w": COLOR_SIZE[0], "h": COLOR_SIZE[1], "scale": 6553.5}
    (root / "cam_params.json").write_text(json.dumps({"camera": camera}))


def write_open3d(scans, root):
    """A folder a scene, each of which can be the root too."""
    for scene, frames in _frames(scans):
        folder = root / scene
        (folder / "color").mkdir(parents=True)
        (folder / "depth").mkdir()
        lines = []
        for i, frame in enumerate(frames):
            shutil.copy(scans / scene / "color" / f"{frame.frame_id}.jpg", folder / "color" / f"{i:05d}.jpg")
            _save_depth(folder / "depth" / f"{i:05d}.png", frame.depth_m, 1000)
            lines += [f"{i} {i} {i + 1}", *(" ".join(map(repr, row)) for row in frame.cam_to_world.tolist())]
        (folder / "trajectory.log").write_text("\n".join(lines) + "\n")
        numbers = "\n".join(map(repr, four_numbers(frame)))
        (folder / "camera.param").write_text(f"# fx, fy, cx, cy\n{numbers}\n")


def write_scannet200_mv(scans, root, k, size=(640, 480), num_points=500, seed=0):
    """Every second frame has points, made as ESAM makes them: the depth unprojected with ``k`` and the stored pose.

    Pictures and labels are those of the demo scans in another size, (width, height).

    Returns:
        (scene, frame) to the (N,) flat pixels v·w + u that the points come from.
    """
    rng = np.random.default_rng(seed)
    width, height = size
    origin = {}
    for scene, frames in _frames(scans):
        two_d = root / "2D" / scene
        shutil.copytree(scans / scene / "pose", two_d / "pose")
        (two_d / "color").mkdir()
        (two_d / "depth").mkdir()
        for i, frame in enumerate(frames):

            def resized(folder, number=frame.frame_id, scene=scene):
                file = next((scans / scene / folder).glob(f"{number}.*"))
                return Image.fromarray(np.asarray(Image.open(file).resize(size, Image.Resampling.NEAREST)))

            resized("color").save(two_d / "color" / f"{frame.frame_id}.jpg")
            resized("depth").save(two_d / "depth" / f"{frame.frame_id}.png", compress_level=1)
            if i % 2:
                continue
            z = np.asarray(resized("depth")).reshape(-1) / 1000
            chosen = rng.choice(np.flatnonzero(z > 0), num_points, replace=False)
            v, u = np.divmod(chosen, width)
            rays = np.linalg.inv(k) @ np.stack((u, v, np.ones_like(u)))
            xyz = (frame.cam_to_world @ np.concatenate((rays * z[chosen], np.ones((1, num_points)))))[:3].T
            rgb = np.asarray(resized("color")).reshape(-1, 3)[chosen]
            labels = {
                "semantic_mask": np.asarray(resized("label-filt")),
                "instance_mask": np.asarray(resized("instance-filt")),
                "super_points": np.arange(width * height) // 100,
            }
            for folder, values in labels.items():
                write_bin(root, folder, scene, frame.frame_id, values.reshape(-1)[chosen].astype(np.int64))
            write_bin(root, "points", scene, frame.frame_id, np.concatenate((xyz, rgb), 1).astype(np.float32))
            origin[scene, frame.frame_id] = chosen
    return origin


def write_bin(root, folder, scene, frame_id, values):
    """One of the tree's .bin files; returns its path."""
    path = root / folder / scene / f"{frame_id}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    values.tofile(path)
    return path


OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
"""From OpenCV's axes of a camera to OpenGL's, and back."""

APPLIED = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]])
"""What nerfstudio turns COLMAP's world by (colmap_utils.py)."""


def write_nerfstudio(scans, root, k_of=None, **top):
    """A transforms.json a scene, whose world is turned by ``APPLIED``.

    Args:
        scans: the demo scans.
        root: folder for a folder a scene.
        k_of: from a frame's place to the factor of its own focal lengths, which it then has; None: one K at the top.
        top: more keys at the top.
    """
    for scene, frames in _frames(scans):
        for name in ("images", "depth"):
            (root / scene / name).mkdir(parents=True)
        listed = []
        for i, frame in enumerate(frames):
            name = f"frame_{i + 1:05d}"
            shutil.copy(scans / scene / "color" / f"{frame.frame_id}.jpg", root / scene / "images" / f"{name}.jpg")
            _save_depth(root / scene / "depth" / f"{name}.png", frame.depth_m, 1000)
            pose = np.vstack([APPLIED, [0, 0, 0, 1]]) @ frame.cam_to_world @ OPENGL
            entry = {"file_path": f"./images/{name}.jpg", "depth_file_path": f"depth/{name}.png"}
            listed.append(entry | {"transform_matrix": pose.tolist()} | (_nerf_k(frame, k_of(i)) if k_of else {}))
        head = {"camera_model": "OPENCV", "k1": 0.0, "p1": 0} | ({} if k_of else _nerf_k(frames[0], 1))
        head |= {"applied_transform": APPLIED.tolist()} | top
        (root / scene / "transforms.json").write_text(json.dumps(head | {"frames": listed[::-1]}))


def _nerf_k(frame, factor):
    fx, fy, cx, cy = four_numbers(frame)
    size = {"w": frame.picture.width, "h": frame.picture.height}
    return {"fl_x": factor * fx, "fl_y": factor * fy, "cx": cx + 0.5, "cy": cy + 0.5} | size


def write_colmap(scans, root):
    """images/, sparse/0 and COLMAP's own depth maps a scene; of each frame fifty points that the next one sees too."""
    for scene, frames in _frames(scans):
        names, points = [f"{i + 1:04d}.jpg" for i in range(len(frames))], []
        (root / scene / "images").mkdir(parents=True)
        for i, (frame, name) in enumerate(zip(frames, names, strict=True)):
            shutil.copy(scans / scene / "color" / f"{frame.frame_id}.jpg", root / scene / "images" / name)
            write_depth_map(root / scene / "stereo/depth_maps" / f"{name}.geometric.bin", frame.depth_m)
            camera, pixels = frame.depth_camera, np.flatnonzero(frame.depth_m)[::200][:50]
            xyz, _ = unproject_depth(frame.depth_m, camera.intrinsics, frame.cam_to_world, pixels)
            points += [(row, (i, 2, 3), (i + 1, (i + 1) % len(frames) + 1)) for row in xyz]
        write_model(root / scene / "sparse/0", model_of(frames, names, points=points), binary=True)


def write_polycam(scans, root):
    """keyframes/ a capture; names are microseconds, each frame's focal lengths its own."""
    for scene, frames in _frames(scans):
        folder = root / scene / "keyframes"
        for name in ("corrected_images", "corrected_cameras", "depth"):
            (folder / name).mkdir(parents=True)
        for i, frame in enumerate(frames):
            name = str(1667344455000000 + 100_003 * i)
            shutil.copy(scans / scene / "color" / f"{frame.frame_id}.jpg", folder / "corrected_images" / f"{name}.jpg")
            _save_depth(folder / "depth" / f"{name}.png", frame.depth_m, 1000)
            pose, (fx, fy, cx, cy) = frame.cam_to_world @ OPENGL, four_numbers(frame)
            camera = {f"t_{row}{column}": pose[row, column] for row in range(3) for column in range(4)}
            camera |= {"fx": fx + i, "fy": fy + i, "cx": cx, "cy": cy, "blur_score": 120.5}
            camera |= {"width": frame.picture.width, "height": frame.picture.height}
            (folder / "corrected_cameras" / f"{name}.json").write_text(json.dumps(camera))


def write_arkitscenes(scans, root):
    """Raw: names are seconds, poses 0.4 ms late, world-to-camera in axis-angle; depth is of colour's camera."""
    for scene, frames in _frames(scans):
        folder, lines = root / scene, []
        for name in ("lowres_wide", "lowres_depth", "confidence", "lowres_wide_intrinsics"):
            (folder / name).mkdir(parents=True)
        for i, frame in enumerate(frames):
            time_s = 3387 + 0.1 * i
            name = f"{scene}_{time_s:.3f}"
            Image.fromarray(frame.image).save(folder / "lowres_wide" / f"{name}.png")
            _save_depth(folder / "lowres_depth" / f"{name}.png", frame.depth_m, 1000)
            Image.fromarray(np.full(frame.depth_m.shape, 2, np.uint8)).save(folder / "confidence" / f"{name}.png")
            words = [*COLOR_SIZE, *four_numbers(frame)]
            (folder / "lowres_wide_intrinsics" / f"{name}.pincam").write_text(" ".join(map(str, words)))
            pose = np.linalg.inv(frame.cam_to_world)
            numbers = [time_s + 0.0004, *Rotation.from_matrix(pose[:3, :3]).as_rotvec(), *pose[:3, 3]]
            lines.append(" ".join(f"{x:.9f}" for x in numbers))
        (folder / "lowres_wide.traj").write_text("\n".join(lines) + "\n")
