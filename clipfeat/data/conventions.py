"""What recordings do otherwise than clipfeat, undone: here, and nowhere else.

Inside, camera axes are OpenCV's, poses camera-to-world, pixel centres on integers, and depth is z: see
``clipfeat/types.py``.
"""

import numpy as np
from numpy.typing import NDArray

_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
"""Takes a point from OpenCV's axes of a camera to OpenGL's, and back: it is its own inverse."""


def cam_to_world_of(pose: NDArray[np.float64], direction: str, axes: str) -> NDArray[np.float64]:
    """The camera-to-world pose, of OpenCV's camera axes, that a stored pose means.

    A camera-to-world pose of OpenGL's axes takes OpenGL's coordinates of a point: what stands to its right turns
    OpenCV's into them. The inverse of a world-to-camera one is such a pose, so the direction comes first.

    Args:
        pose: (4, 4) as stored.
        direction: camera_to_world or world_to_camera.
        axes: camera axes of the stored pose: opencv (x right, y down, z forward) or opengl (x right, y up, z back). The
            world's own are left as they are.
    """
    if direction == "world_to_camera":
        # The full inverse: the rotations of real recordings are orthonormal to 1e-3 only.
        pose = np.asarray(np.linalg.inv(pose), dtype=np.float64)
    return pose if axes == "opencv" else pose @ _OPENGL_FROM_OPENCV
