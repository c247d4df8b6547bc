"""What recordings do otherwise than clipfeat, undone: here, and nowhere else.

Inside, camera axes are OpenCV's, poses camera-to-world, pixel centres on integers, and depth is z: see
``clipfeat/types.py``.
"""

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.distortion import rays_of
from clipfeat.types import Camera

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


def centred_on_integers(k: NDArray[np.float64], pixel_center: float) -> NDArray[np.float64]:
    """The (3, 3) K whose pixel centres lie on integers.

    Args:
        k: (3, 3) as stored.
        pixel_center: where the centre of the first pixel lies by the stored K: 0, or 0.5 as in COLMAP's sparse models
            and in nerfstudio, whose principal points are half a pixel larger.
    """
    centred = np.array(k, dtype=np.float64)
    centred[:2, 2] -= pixel_center
    return centred


def z_of_ray_lengths(length_m: NDArray[np.float32], camera: Camera) -> NDArray[np.float32]:
    """Depth along z of depth that is the distance from the camera's centre: z = length / |K⁻¹ (u, v, 1)|.

    Through a lens that distorts, of the ray that leads to the pixel; where none does, there is a hole.

    Args:
        length_m: (h, w) float32 metres along each pixel's ray, 0 where nothing was measured.
        camera: of these pixels.

    Returns:
        (h, w) float32 metres, 0 where nothing was measured.
    """
    k = camera.intrinsics
    if camera.distortion is not None:
        x, y = np.moveaxis(rays_of(np.moveaxis(np.indices(length_m.shape)[::-1], 0, -1), k, camera.distortion), -1, 0)
        return np.nan_to_num(length_m / np.sqrt(x * x + y * y + 1)).astype(np.float32)
    v, u = np.ogrid[: length_m.shape[0], : length_m.shape[1]]
    y = (v - k[1, 2]) / k[1, 1]
    x = (u - k[0, 2] - k[0, 1] * y) / k[0, 0]
    return (length_m / np.sqrt(x * x + y * y + 1)).astype(np.float32)
