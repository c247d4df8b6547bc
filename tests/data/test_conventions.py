"""What recordings do otherwise, undone; against twins that go a point at a time."""

import numpy as np
import pytest
from twins import random_pose

from clipfeat.data.conventions import cam_to_world_of

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
