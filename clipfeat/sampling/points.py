"""Which 3D points of a frame get a feature."""

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.projection import unproject_depth, valid_depth
from clipfeat.errors import FrameError
from clipfeat.types import Frame


def choose(candidates: NDArray[np.int64], count: int | None, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most ``count`` of the candidates, without replacement, in their own order (None: all)."""
    if count is None or count >= len(candidates):
        return candidates
    chosen = rng.choice(len(candidates), count, replace=False, shuffle=False)
    chosen.sort()
    return candidates[chosen]


def depth_points(
    frame: Frame, count: int | None, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """World points of a random choice of a frame's measured depth pixels.

    Returns:
        (N, 3) float64 world metres and (N,) int64 flat depth pixels v·w + u, ascending.

    Raises:
        FrameError: If the frame has no depth, or no pixel of it was measured.
    """
    where = f"{frame.scene_id} frame {frame.frame_id}"
    if frame.depth_m is None or frame.depth_camera is None:
        raise FrameError(f"{where}: no depth file, and sampling=depth takes its points from it")
    measured = np.flatnonzero(valid_depth(frame.depth_m))
    if len(measured) == 0:
        raise FrameError(f"{where}: no depth pixel holds a measurement, so there are no points")
    pixels = choose(measured, count, rng)
    return unproject_depth(frame.depth_m, frame.depth_camera.intrinsics, frame.cam_to_world, pixels)
