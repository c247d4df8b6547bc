"""The colours of points, from the picture that shows them."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.distortion import carried_pixels
from clipfeat.sampling.locate import Located
from clipfeat.types import FloatArray, Frame, Points

COLORED = ("depth",)
"""Values of ``sampling=…`` whose points have no colour of their own, and take that of the picture."""


def with_picture_colors(located: Located, frame: Frame) -> Located:
    """The same points, with ``rgb`` (N, 3) uint8: the colour of the pixel that each lies on.

    Raises:
        FrameError: If the picture is damaged.
    """
    points, (rgb, _) = located.points, picture_colors(frame, located.uv_idx)
    return replace(located, points=Points(points.xyz, points.idx, {**points.attributes, "rgb": rgb}))


def picture_colors(frame: Frame, uv: FloatArray) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The colours (N, 3) of the pixels nearest to (N, 2) positions, and which of them lie in the picture at all.

    Raises:
        FrameError: If the picture is damaged.
    """
    image = frame.image
    height, width = image.shape[:2]
    u, v = (np.rint(axis) for axis in uv.T)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    rgb = image[np.where(inside, v, 0).astype(np.intp), np.where(inside, u, 0).astype(np.intp)]
    rgb[~inside] = 0
    return rgb, inside


def depth_pixel_colors(frame: Frame, pixels: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """As ``picture_colors``, of depth pixels (N,), v·w + u: both cameras share the pose, so the depth is not needed.

    Raises:
        FrameError: If the picture is damaged.
        ValueError: If the frame has no depth.
    """
    if frame.depth_camera is None:
        raise ValueError(f"{frame.scene_id} frame {frame.frame_id}: no depth camera")
    v, u = np.divmod(pixels, frame.depth_camera.width)
    return picture_colors(frame, carried_pixels(np.stack((u, v), 1), frame.depth_camera, frame.color_camera))
