"""Slow, obvious twins and random data that several tests compare with."""

import numpy as np


def slow_sample(values, position):
    """Bilinear interpolation between clamped cell centres, a point at a time, in float64."""
    channels, height, width = values.shape
    out = np.empty((len(position), channels))
    for i, (u, v) in enumerate(position):
        u, v = min(max(u, 0.0), width - 1.0), min(max(v, 0.0), height - 1.0)
        u0, v0 = int(np.floor(u)), int(np.floor(v))
        u1, v1 = min(u0 + 1, width - 1), min(v0 + 1, height - 1)
        a, b = u - u0, v - v0
        top = values[:, v0, u0] * (1 - a) + values[:, v0, u1] * a
        bottom = values[:, v1, u0] * (1 - a) + values[:, v1, u1] * a
        out[i] = top * (1 - b) + bottom * b
    return out


def random_pose(rng):
    """A random rigid motion (4, 4)."""
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    pose = np.eye(4)
    pose[:3, :3] = q * np.sign(np.linalg.det(q))
    pose[:3, 3] = rng.normal(size=3)
    return pose


def ray_lengths(frame):
    """How far from the camera itself each pixel of a frame's depth is: (h, w) float32."""
    v, u = np.indices(frame.depth_m.shape)
    rays = np.linalg.inv(frame.depth_camera.intrinsics) @ [u.ravel(), v.ravel(), np.ones(u.size)]
    return (frame.depth_m * np.linalg.norm(rays, axis=0).reshape(u.shape)).astype(np.float32)
