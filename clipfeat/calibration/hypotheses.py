"""What is often wrong with a calibration, as changes of a frame: apply one to both frames of a pair and compare."""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.projection import world_to_cam
from clipfeat.types import Camera, Frame

Change = Callable[[Frame], Frame]
"""A hypothesis: the frame as it would be if the calibration were another. Pictures are shared, not copied."""

USUAL_SIZES = (
    (1296, 968), (640, 480), (1280, 960), (320, 240), (1920, 1440), (256, 192), (1280, 720), (1920, 1080), (640, 360),
    (960, 540), (960, 720), (848, 480), (1024, 768), (540, 360), (512, 424), (1024, 1024), (2048, 1536), (160, 120),
)  # fmt: skip
"""(width, height) that recordings are stored in, the likelier first."""


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


def of_size(size: tuple[int, int]) -> Change:
    """K of the depth taken for that of (width, height) pictures, and brought to the size that they have."""

    def change(frame: Frame) -> Frame:
        camera = depth_camera(frame)
        belongs = Camera(camera.intrinsics, *size)
        return dataclasses.replace(frame, depth_camera=belongs.resized(camera.width, camera.height))

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
