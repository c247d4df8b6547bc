"""What recordings do otherwise, undone; against twins that go a point at a time."""

import numpy as np
import pytest
from twins import random_pose

from clipfeat.data.conventions import cam_to_world_of, centred_on_integers, z_of_ray_lengths
from clipfeat.types import Camera, Distortion

DIRECTIONS = ("camera_to_world", "world_to_camera")
AXES = ("opencv", "opengl")


def slow_world_point(stored, direction, axes, point):
    """Where a point of OpenCV's camera axes lies in the world: its coordinates are written in the stored pose's axes,
    and the pose is used as what it says it is."""
    x, y, z = point
    there = [x, -y, -z, 1.0] if axes == "opengl" else [x, y, z, 1.0]
    if direction == "camera_to_world":
        return [sum(stored[i][k] * there[k] for k in range(4)) for i in range(3)]
    return np.linalg.solve(stored, there)[:3]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("axes", AXES)
def test_a_point_goes_where_the_stored_pose_puts_it(direction, axes):
    rng = np.random.default_rng(0)
    for _ in range(20):
        stored, point = random_pose(rng), rng.normal((0, 0, 3))
        ours = (cam_to_world_of(stored, direction, axes) @ [*point, 1])[:3]
        np.testing.assert_allclose(ours, slow_world_point(stored, direction, axes, point), atol=1e-12)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("axes", AXES)
def test_there_and_back(direction, axes):
    """A tool that stores a pose turns the axes of the camera, then inverts."""
    pose = random_pose(np.random.default_rng(1))
    stored = pose @ np.diag([1, -1, -1, 1]) if axes == "opengl" else pose
    stored = np.linalg.inv(stored) if direction == "world_to_camera" else stored
    np.testing.assert_allclose(cam_to_world_of(stored, direction, axes), pose, atol=1e-12)


def test_opengl_looks_along_minus_z_and_up_is_y():
    pose = cam_to_world_of(np.eye(4), "camera_to_world", "opengl")
    np.testing.assert_array_equal(pose[:3, 2], [0, 0, -1])  # forward
    np.testing.assert_array_equal(-pose[:3, 1], [0, 1, 0])  # up
    assert np.linalg.det(pose) == 1


def test_half_a_pixel_is_taken_from_the_principal_point_alone():
    stored = np.array([[500.0, 0.3, 320], [0, 510, 240], [0, 0, 1]])
    np.testing.assert_array_equal(centred_on_integers(stored, 0.5), [[500, 0.3, 319.5], [0, 510, 239.5], [0, 0, 1]])
    np.testing.assert_array_equal(centred_on_integers(stored, 0), stored)
    assert stored[0, 2] == 320  # a copy


def test_resizing_k_of_edges_is_scaling_it():
    """By centres on .5 resizing is a plain factor: both ways to the K of a picture a third as large agree."""
    stored = np.array([[500.0, 0, 321], [0, 510, 243], [0, 0, 1]])
    scaled = np.diag([1 / 3, 1 / 3, 1]) @ stored
    ours = Camera(centred_on_integers(stored, 0.5), 648, 486).resized(216, 162)
    np.testing.assert_allclose(ours.intrinsics, centred_on_integers(scaled, 0.5), atol=1e-12)


def test_ray_lengths_become_z():
    rng = np.random.default_rng(2)
    camera = Camera(np.array([[7.0, 0.2, 4.1], [0, 7.5, 2.7], [0, 0, 1]]), 9, 6)
    z = rng.uniform(0.5, 4, (6, 9))
    z[2, 3] = 0
    lengths = np.zeros_like(z)
    for v in range(6):
        for u in range(9):
            lengths[v, u] = np.linalg.norm(np.linalg.solve(camera.intrinsics, [u, v, 1]) * z[v, u])
    ours = z_of_ray_lengths(lengths.astype(np.float32), camera)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, z, rtol=1e-6)
    assert ours[2, 3] == 0


def test_ray_lengths_through_a_lens_become_z_of_the_pixels_own_rays():
    """A fisheye of f = 60 pixels an angle of 1: z is the cosine of that angle times the length, and 0 beyond 90°."""
    camera = Camera(np.array([[60.0, 0, 99.5], [0, 60, 79.5], [0, 0, 1]]), 200, 160, Distortion(fisheye=True))
    v, u = np.indices((160, 200))
    angle = np.hypot(u - 99.5, v - 79.5) / 60
    z = z_of_ray_lengths(np.full((160, 200), 3, np.float32), camera)
    np.testing.assert_allclose(z, np.where(angle < np.pi / 2, 3 * np.cos(angle), 0), atol=1e-6)
    assert (z == 0).any()
