"""What is often wrong with a calibration, as changes of a frame: apply one to both frames of a pair and compare.

Each change undoes a mistake. Those that have no number to look for stand in the table ``FIXED``.

Sources: OpenGL's camera looks along -z with y up, nerfstudio docs/quickstart/data_conventions.md; depth along the ray,
apple/ml-hypersim README.md ("depth_meters"); a negative fy, ICL-NUIM's calibration (481.2, -480, 319.5, 239.5).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.projection import world_to_cam
from clipfeat.data.conventions import z_of_ray_lengths
from clipfeat.types import Camera, Frame, resize_affine

Change = Callable[[Frame], Frame]
"""A hypothesis: the frame as it would be if the calibration were another. Pictures are shared, not copied."""

USUAL_SIZES = (
    (1296, 968), (640, 480), (1280, 960), (320, 240), (1920, 1440), (256, 192), (1280, 720), (1920, 1080), (640, 360),
    (960, 540), (960, 720), (848, 480), (1024, 768), (540, 360), (512, 424), (1024, 1024), (2048, 1536), (160, 120),
)  # fmt: skip
"""(width, height) that recordings are stored in, the likelier first."""


_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
_Y_UP = np.diag([1.0, -1.0, 1.0, 1.0])


def depth_of(frame: Frame) -> NDArray[np.float32]:
    """The (h, w) depth of a frame that is known to have some.

    Raises:
        ValueError: If it has none.
    """
    if frame.depth_m is None:
        raise ValueError(f"{frame.scene_id} frame {frame.frame_id}: no depth")
    return frame.depth_m


def depth_camera(frame: Frame) -> Camera:
    """The depth camera of a frame that is known to have one.

    Raises:
        ValueError: If it has none.
    """
    if frame.depth_camera is None:
        raise ValueError(f"{frame.scene_id} frame {frame.frame_id}: no depth camera")
    return frame.depth_camera


def invert(frame: Frame) -> Frame:
    """The pose taken the other way round."""
    return dataclasses.replace(frame, cam_to_world=world_to_cam(frame.cam_to_world))


def with_opengl_axes(frame: Frame) -> Frame:
    """The pose's camera axes taken for OpenGL's: x right, y up, z backward."""
    return dataclasses.replace(frame, cam_to_world=frame.cam_to_world @ _OPENGL)


def with_opengl_axes_inverted(frame: Frame) -> Frame:
    """The pose taken for world-to-camera, of a camera with OpenGL's axes."""
    return with_opengl_axes(invert(frame))


def with_y_up(frame: Frame) -> Frame:
    """The pose taken for one whose camera's y runs up, as a negative fy says.

    The world is mirrored too: a pose that mirrors is no pose, and two frames can't tell what their world looks like.
    """
    return dataclasses.replace(frame, cam_to_world=_Y_UP @ frame.cam_to_world @ _Y_UP)


def with_z_of_rays(frame: Frame) -> Frame:
    """Depths taken for the length of the ray: z is that times the ray's own z, 1 / |K⁻¹·(u, v, 1)|."""
    camera = depth_camera(frame)
    if camera.distortion is not None:
        return dataclasses.replace(frame, depth_m=z_of_ray_lengths(depth_of(frame), camera))
    (fx, _, cx), (_, fy, cy), _ = camera.intrinsics
    x = ((np.arange(camera.width) - cx) / fx).astype(np.float32)
    y = ((np.arange(camera.height) - cy) / fy).astype(np.float32)
    return dataclasses.replace(frame, depth_m=depth_of(frame) / np.sqrt(1 + x**2 + y[:, None] ** 2))


def turned_upside_down(frame: Frame) -> Frame:
    """Depth taken for turned by 180°: instead of it, the camera is turned about z, and its principal point with it."""
    camera = depth_camera(frame)
    k = camera.intrinsics.copy()
    k[:2, 2] = np.array([camera.width, camera.height]) - 1 - k[:2, 2]
    return with_pose_turned(180)(_with_k(frame, k))


def with_pose_turned(degrees: int) -> Change:
    """Poses taken for those of a camera that was turned by ``degrees`` about z, from x to y."""
    c, s = {90: (0.0, 1.0), 180: (-1.0, 0.0), 270: (0.0, -1.0)}[degrees]
    turn = np.eye(4)
    turn[:2, :2] = [[c, -s], [s, c]]
    return lambda frame: dataclasses.replace(frame, cam_to_world=frame.cam_to_world @ turn)


def with_translation_scaled(s: float) -> Change:
    """Translations of the poses times ``s``."""

    def change(frame: Frame) -> Frame:
        pose = frame.cam_to_world.copy()
        pose[:3, 3] *= s
        return dataclasses.replace(frame, cam_to_world=pose)

    return change


def with_poses(poses: Mapping[int, NDArray[np.float64]]) -> Change:
    """Poses looked up by the frame's number: those of its neighbours."""
    return lambda frame: dataclasses.replace(frame, cam_to_world=poses[frame.frame_id])


def with_focal_scaled(s: float) -> Change:
    """Focal lengths of the depth camera times ``s``."""

    def change(frame: Frame) -> Frame:
        k = depth_camera(frame).intrinsics.copy()
        k[:2, :2] *= s
        return _with_k(frame, k)

    return change


def with_principal_point_moved(du: float, dv: float) -> Change:
    """Principal point of the depth camera moved by (``du``, ``dv``) pixels."""

    def change(frame: Frame) -> Frame:
        k = depth_camera(frame).intrinsics.copy()
        k[:2, 2] += (du, dv)
        return _with_k(frame, k)

    return change


def with_depth_scaled(s: float) -> Change:
    """Depths times ``s``."""
    return lambda frame: dataclasses.replace(frame, depth_m=depth_of(frame) * np.float32(s))


def of_size(size: tuple[float, float]) -> Change:
    """K of the depth taken for that of (width, height) pictures, and brought to the size that they have."""

    def change(frame: Frame) -> Frame:
        camera = depth_camera(frame)
        k = camera.intrinsics.copy()
        k[:2] = resize_affine(size, (camera.width, camera.height)) @ k
        return _with_k(frame, k)

    return change


def candidate_sizes(camera: Camera, other: Camera) -> list[tuple[int, int]]:
    """The (width, height) that K might belong to instead of its own, the likelier first.

    Args:
        camera: the camera in question.
        other: the frame's other camera, colour or depth: the K of one is easily taken for that of the other.
    """
    width, height = camera.width, camera.height
    near = [(other.width, other.height), (width // 2, height // 2), (width * 2, height * 2)]
    return [size for size in dict.fromkeys([*near, *USUAL_SIZES]) if _plausible(camera, size)]


def _plausible(camera: Camera, size: tuple[int, int]) -> bool:
    """Whether it is another size, of about the same shape, and K's principal point would lie near its middle."""
    width, height = size
    if min(size) < 2:
        return False
    sx, sy = width / camera.width, height / camera.height
    another = max(abs(np.log(sx)), abs(np.log(sy))) > 0.02
    squashed = abs(np.log(sx / sy)) > 0.4
    k = camera.intrinsics
    off_middle = max(abs(k[0, 2] / (width - 1) - 0.5), abs(k[1, 2] / (height - 1) - 0.5))
    return bool(another and not squashed and off_middle < 0.1)


def _with_k(frame: Frame, k: NDArray[np.float64]) -> Frame:
    return dataclasses.replace(frame, depth_camera=dataclasses.replace(depth_camera(frame), intrinsics=k))


class Hypothesis(NamedTuple):
    """What may be wrong, and the change that undoes it.

    Attributes:
        family: the mistake: one of ``FAMILIES``.
        value: what agrees instead, in words.
        change: of a frame.
        numbers: what ``advice`` needs to know of it beside the family: factors, a size, or pixels.
    """

    family: str
    value: str
    change: Change
    numbers: tuple[float, ...] = ()


FIXED = (
    Hypothesis("pose inverted", "world-to-camera poses agree", invert),
    Hypothesis("OpenGL axes", "poses of cameras with y up and z backward agree", with_opengl_axes),
    Hypothesis(
        "OpenGL axes and pose inverted",
        "world-to-camera poses with y up and z backward agree",
        with_opengl_axes_inverted,
    ),
    Hypothesis("ray length", "depths taken for lengths along the ray agree", with_z_of_rays),
    Hypothesis("mirrored y", "poses and fy of cameras whose y runs up agree", with_y_up),
    Hypothesis("pictures turned", "turned by 180° they agree", turned_upside_down, (180,)),
    Hypothesis("poses turned", "turned by 90° about z they agree", with_pose_turned(90), (90,)),
    Hypothesis("poses turned", "turned by 270° about z they agree", with_pose_turned(270), (270,)),
)
"""Those that have no number to look for."""

FAMILIES = (
    "pose inverted", "OpenGL axes", "OpenGL axes and pose inverted", "ray length", "mirrored y", "pictures turned",
    "poses turned", "K of another resolution", "depth scale", "pose units", "frame offset", "focal length",
    "principal point",
)  # fmt: skip
"""The more usual mistake first: where several explain the frames alike, that is the order in which they are said."""
