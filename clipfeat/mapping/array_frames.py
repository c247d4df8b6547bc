"""A frame of arrays that a program has in its memory."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipfeat.data.matrices import Calibration, check_pose
from clipfeat.data.registered import camera_of, depth_camera_of
from clipfeat.errors import FrameError
from clipfeat.types import Distortion, FloatArray, Frame, Picture


def arrays_frame(
    rgb: NDArray[np.uint8],
    depth: FloatArray | None,
    k: ArrayLike,
    pose: ArrayLike,
    depth_k: ArrayLike | None,
    distortion: Distortion | None,
    scene_id: str,
    frame_id: int,
) -> Frame:
    """A frame of arrays, which are checked as those of files are.

    Args:
        rgb: (H, W, 3) the colour picture.
        depth: (h, w) z-depth in metres, of floats; None for none.
        k: (3, 3) intrinsics of the colour picture.
        pose: (4, 4) cam_to_world.
        depth_k: (3, 3) intrinsics of the depth; None for those of the picture, brought to its size.
        distortion: of the lens of both; None for a pinhole.
        scene_id: of the frame.
        frame_id: of the frame.

    Raises:
        FrameError: If one of them can't be.
    """
    where = f"{scene_id} frame {frame_id}"
    image = np.asarray(rgb)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise FrameError(f"{where}: rgb must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    picture = Picture.of(image)
    name = f"{where}: K"
    color_camera = camera_of(Calibration(_numbers(k, name), distortion=distortion), picture, name)
    depth_m, depth_camera = None, None
    if depth is not None:
        depth_m, name = _metres(depth, where), f"{where}: depth_K"
        own = None if depth_k is None else Calibration(_numbers(depth_k, name), distortion=distortion)
        depth_camera = depth_camera_of(own, color_camera, depth_m, name)
    cam_to_world = check_pose(_numbers(pose, f"{where}: pose"), f"{where}: pose")
    return Frame(scene_id, frame_id, picture, depth_m, color_camera, depth_camera, cam_to_world)


def _metres(depth: FloatArray, where: str) -> NDArray[np.float32]:
    values = np.asarray(depth)
    if values.ndim != 2 or not values.size or not np.issubdtype(values.dtype, np.floating):
        raise FrameError(
            f"{where}: depth must be (h, w) metres as floats, got {values.shape} {values.dtype}; of whole millimetres "
            "give depth / 1000"
        )
    return np.ascontiguousarray(values, np.float32)


def _numbers(told: ArrayLike, where: str) -> NDArray[np.float64]:
    try:
        return np.asarray(told, np.float64)
    except (TypeError, ValueError) as error:
        raise FrameError(f"{where} is {str(told)[:60]}, expected numbers") from error
