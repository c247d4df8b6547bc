"""The cameras of a frame that has its own K, and a frame put together of its parts where depth has colour's camera."""

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.distortion import without_blind_pixels
from clipfeat.data.matrices import Calibration, camera_for
from clipfeat.data.told import ToldOnce
from clipfeat.data.turned import check_turn
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Camera, Frame, Picture


def camera_of(calibration: Calibration, picture: Picture, where: str) -> Camera:
    """The camera of a picture; each frame may have a K of its own, so that a bad one is its frame's trouble.

    Args:
        calibration: with pixel centres on integers, perhaps with a lens.
        picture: colour.
        where: source of K, for messages.

    Raises:
        FrameError: If K can't be that of this picture.
    """
    return _camera_of(calibration, (picture.width, picture.height), where)


def depth_camera_of(own: Calibration | None, color_camera: Camera, depth_m: NDArray[np.float32], where: str) -> Camera:
    """The camera of depth, whose K each frame may have as well.

    Args:
        own: of the depth; None for colour's, brought to its size.
        color_camera: of colour.
        depth_m: (h, w) metres.
        where: source of K, for messages.

    Raises:
        FrameError: If K can't be that of this depth.
    """
    height, width = depth_m.shape
    return color_camera.resized(width, height) if own is None else _camera_of(own, (width, height), where)


def _camera_of(calibration: Calibration, size: tuple[int, int], where: str) -> Camera:
    try:
        return camera_for(calibration.intrinsics, calibration.size, size, where, None, calibration.distortion)
    except DataError as error:
        raise FrameError(str(error)) from error


def registered_frame(
    scene_id: str,
    frame_id: int,
    picture: Picture,
    camera: Camera,
    depth_m: NDArray[np.float32] | None,
    cam_to_world: NDArray[np.float64],
    *,
    where: str,
    rotate: int | None,
    tell: ToldOnce,
    by: str | None = None,
    points: NDArray[np.float64] | None = None,
    rgb: NDArray[np.uint8] | None = None,
    depth_weight: NDArray[np.float32] | None = None,
) -> Frame:
    """A frame whose depth has colour's K, resized.

    Args:
        scene_id: of the frame.
        frame_id: of the frame.
        picture: colour, turned already where ``data.rotate`` says so.
        camera: of colour.
        depth_m: (h, w) metres, or None.
        cam_to_world: (4, 4), of OpenCV's axes.
        where: the picture, for messages.
        rotate: ``data.rotate``.
        tell: takes what a user should know of the scene.
        by: see ``check_turn``.
        points: (N, 3) that are stored for the frame, or None.
        rgb: (N, 3) of the points.
        depth_weight: see ``Frame``.

    Raises:
        DataError: If picture, K and depth can't all be upright.
    """
    shape = None if depth_m is None else depth_m.shape
    note = check_turn(where, picture, camera.intrinsics, shape, said=rotate, own_depth_k=False, by=by)
    if note is not None:
        tell(scene_id, "turn", note)
    depth_camera = None if depth_m is None else camera.resized(depth_m.shape[1], depth_m.shape[0])
    return Frame(
        scene_id=scene_id,
        frame_id=frame_id,
        picture=picture,
        depth_m=None if depth_m is None or depth_camera is None else without_blind_pixels(depth_m, depth_camera),
        color_camera=camera,
        depth_camera=depth_camera,
        cam_to_world=cam_to_world,
        points=points,
        point_attributes=None if rgb is None else {"rgb": rgb},
        depth_weight=depth_weight,
    )
