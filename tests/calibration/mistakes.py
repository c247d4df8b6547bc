"""Frames whose conventions are broken, one at a time, and what the check has to say of each.

``python tests/calibration/mistakes.py DEMO OFFICE`` prints the table of docs/check.md, for the first scenes of two
folders of scans.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from clipfeat.calibration.check import SceneMesh, check_scene
from clipfeat.calibration.hypotheses import with_depth_scaled, with_focal_scaled
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.errors import FrameError
from clipfeat.types import Picture

KEYS = {"depth_scale": 1000.0, "depth_intrinsics_size": None, "color_intrinsics_size": None, "rotate": None}
"""Those of ``data=scannet``."""
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
Y_UP = np.diag([1.0, -1.0, 1.0, 1.0])


class InMemory:
    """A data set of one scene, of frames at hand; None is a frame that can't be read."""

    def __init__(self, frames):
        self.frames = frames

    def frame_ids(self, scene_id):
        return list(self.frames)

    def load(self, scene_id, frame_id):
        if self.frames[frame_id] is None:
            raise FrameError(f"{scene_id} frame {frame_id}: lost")
        return self.frames[frame_id]


def checked(frames, keys=KEYS, num_pairs=6):
    return check_scene(InMemory(frames), "scene", list(frames), SceneMesh("/none/{scene}", False), num_pairs, keys)


def frames_of(dataset, scene_id):
    return {frame_id: dataset.load(scene_id, frame_id) for frame_id in dataset.frame_ids(scene_id)}


def each(change):
    return lambda frames: {frame_id: change(frame) for frame_id, frame in frames.items()}


def posed(change):
    return each(lambda frame: dataclasses.replace(frame, cam_to_world=change(frame.cam_to_world)))


def translated(s):
    return posed(lambda pose: pose * np.array([[1, 1, 1, s]] * 3 + [[1, 1, 1, 1]]))


def along_rays(frame):
    """The length of each pixel's ray for its z, by hand."""
    v, u = np.indices(frame.depth_m.shape)
    k = frame.depth_camera.intrinsics
    rays = np.stack(((u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones(u.shape)))
    return dataclasses.replace(frame, depth_m=(frame.depth_m * np.linalg.norm(rays, axis=0)).astype(np.float32))


def colored(frame, pixels):
    return dataclasses.replace(frame, picture=Picture.of(np.ascontiguousarray(pixels)))


def upside_down(frame):
    turned = dataclasses.replace(frame, depth_m=frame.depth_m[::-1, ::-1].copy())
    return colored(turned, frame.image[::-1, ::-1])


def poses_from(offset):
    """Each frame has the pose of the one that is ``offset`` after it; at the end there is none."""

    def change(frames):
        ids = list(frames)
        pose = {i: frames[j].cam_to_world for i, j in zip(ids, ids[offset:], strict=False)} if offset > 0 else {
            i: frames[j].cam_to_world for i, j in zip(ids[-offset:], ids, strict=False)
        }  # fmt: skip
        return {i: dataclasses.replace(f, cam_to_world=pose[i]) if i in pose else None for i, f in frames.items()}

    return change


def colors_of_next(frames):
    ids = list(frames)
    return {i: colored(frames[i], frames[j].image) for i, j in zip(ids, [*ids[1:], ids[0]], strict=True)}


def flipped(axis):
    def change(frame):
        depth = np.ascontiguousarray(np.flip(frame.depth_m, axis))
        return dataclasses.replace(colored(frame, np.flip(frame.image, axis)), depth_m=depth)

    return each(change)


def k_of_half(frame):
    """Of both cameras: a layout may have one K for them."""

    def halved(camera):
        return dataclasses.replace(camera, intrinsics=camera.intrinsics * [[0.5], [0.5], [1]])

    cameras = {"color_camera": halved(frame.color_camera), "depth_camera": halved(frame.depth_camera)}
    return dataclasses.replace(frame, **cameras)


def transposed(pose):
    pose = pose.copy()
    pose[:3, :3] = pose[:3, :3].T
    return pose


def w_first(pose):
    """The pose whose quaternion is stored as w x y z and read as x y z w."""
    x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
    pose = pose.copy()
    pose[:3, :3] = Rotation.from_quat([w, x, y, z]).as_matrix()
    return pose


quarter = np.eye(4)[[1, 0, 2, 3]] * [[-1], [1], [1], [1]]

MISTAKES = {
    "none": (lambda frames: frames, ""),
    "poses world-to-camera": (posed(np.linalg.inv), "pose inverted"),
    "poses of OpenGL axes": (posed(lambda pose: pose @ OPENGL), "OpenGL axes"),
    "both": (posed(lambda pose: np.linalg.inv(pose @ OPENGL)), "OpenGL axes and pose inverted"),
    "negative fy, y up (ICL-NUIM)": (posed(lambda pose: Y_UP @ pose @ Y_UP), "mirrored y"),
    "ray length for z": (each(along_rays), "ray length"),
    "poses in millimetres": (translated(1000.0), "pose units"),
    "depth × 2": (each(with_depth_scaled(2.0)), "depth scale"),
    "depth in millimetres": (each(with_depth_scaled(1000.0)), "depth scale"),
    "poses of the next frame": (poses_from(1), "frame offset: the poses of the frames before"),
    "poses of the frame before": (poses_from(-1), "frame offset: the poses of the frames after"),
    "colour and depth turned by 180°": (each(upside_down), "pictures turned"),
    "poses of pictures on their side": (posed(lambda pose: pose @ quarter), "poses turned"),
    "rotations transposed": (posed(transposed), "rotation transposed"),
    "quaternions with w first": (posed(w_first), "quaternion order: with w first"),
    "colour and depth flipped": (flipped(1), "pictures flipped: flipped left for right"),
    "K of half the size": (each(k_of_half), "K of another resolution"),
    "focal lengths × 1.1": (each(with_focal_scaled(1.1)), "focal length"),
    "colour turned by 180°": (each(lambda f: colored(f, f.image[::-1, ::-1])), "colour turned"),
    "colour flipped": (each(lambda f: colored(f, f.image[:, ::-1])), "colour flipped"),
    "colour of the next frame": (colors_of_next, "colour of another frame: the pictures of the frames before"),
}
"""How frames are broken, and how the first finding begins."""


def row(name, frames):
    """(error as given and the least under a hypothesis, colour's correlation, what the check says) of one mistake."""
    check = checked(MISTAKES[name][0](frames))
    errors = [check.depth.error, *(finding.error for finding in check.depth.findings)]
    given, least = (f"{100 * error:.2g}" if np.isfinite(error) else "never meet" for error in (errors[0], min(errors)))
    seen = f"{given} → {least}" if check.color is None else f"{given}, colour {check.color.correlation:.2f}"
    return seen, "; ".join(check.findings) or "ok"


def table(demo, office):
    """The table of docs/check.md; its last column is what the check says of the office."""
    lines = ["| mistake | demo | office | what the check says |", "|---|---|---|---|"]
    for name in MISTAKES:
        (in_demo, _), (in_office, says) = row(name, demo), row(name, office)
        lines.append(f"| {name} | {in_demo} | {in_office} | {says} |")
    return "\n".join(lines)


if __name__ == "__main__":
    scans = [ScanNetDataset(Path(folder)) for folder in sys.argv[1:3]]
    sys.stdout.write(table(*(frames_of(dataset, dataset.scenes()[0]) for dataset in scans)) + "\n")
