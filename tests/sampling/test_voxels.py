import numpy as np
import pytest

from clipfeat.sampling.voxels import VoxelCloud


def slow_voxels(xyz, size):
    """Voxel to the mean and the number of its points, a point at a time; in the order of their first points."""
    found = {}
    for point in xyz:
        found.setdefault(tuple(np.floor(point / size).astype(int)), []).append(point)
    return np.array([np.mean(points, 0) for points in found.values()]), [len(points) for points in found.values()]


@pytest.mark.parametrize("parts", [1, 7])
def test_voxels_are_those_of_a_slow_twin_however_the_points_come(parts):
    rng = np.random.default_rng(0)
    xyz = rng.normal(0, 0.6, (6000, 3))  # both signs, and more voxels than there is room for at first
    cloud = VoxelCloud(0.1)
    for part in np.array_split(xyz, parts):
        cloud.add(part)
    points = cloud.points()
    expected, counts = slow_voxels(xyz, 0.1)
    assert len(expected) > 2 * 1024
    np.testing.assert_allclose(points.xyz, expected, atol=1e-12)
    np.testing.assert_array_equal(points.attributes["points"], counts)
    np.testing.assert_array_equal(points.idx, np.arange(len(expected)))


def test_no_points_and_points_on_the_edge_of_a_voxel():
    cloud = VoxelCloud(0.5)
    assert cloud.points().xyz.shape == (0, 3)
    cloud.add(np.zeros((0, 3)))
    cloud.add(np.array([[0, 0, 0], [0.5, 0, 0], [0.49, 0, 0], [-1e-9, 0, 0]], np.float32))
    np.testing.assert_array_equal(cloud.points().attributes["points"], [2, 1, 1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1e12])
def test_points_that_are_nowhere_are_refused(bad):
    with pytest.raises(ValueError, match=r"points must lie within 1073741824 voxels of 0.05 m around the origin"):
        VoxelCloud(0.05).add(np.array([[0, bad, 0]]))
    with pytest.raises(ValueError, match=r"points must be \(N, 3\), got \(3,\)"):
        VoxelCloud(0.05).add(np.zeros(3))


def test_a_voxel_has_the_mean_color_of_its_points():
    rng = np.random.default_rng(0)
    xyz, rgb = rng.uniform(-1, 1, (5000, 3)), rng.integers(0, 256, (5000, 3), np.uint8)
    cloud = VoxelCloud(0.1)
    for rows in np.array_split(np.arange(5000), 3):
        cloud.add(xyz[rows], rgb[rows])
    points = cloud.points()
    assert len(points.xyz) > 1024
    cells = {}
    for cell, color in zip(map(tuple, np.floor(xyz / 0.1).astype(int)), rgb.astype(float), strict=True):
        cells.setdefault(cell, []).append(color)
    expected = np.array([np.mean(colors, 0) for colors in cells.values()])
    assert points.attributes["rgb"].dtype == np.uint8
    np.testing.assert_allclose(points.attributes["rgb"], expected, atol=0.5 + 1e-9)


def test_a_voxel_without_a_known_color_is_grey():
    cloud = VoxelCloud(1.0)
    cloud.add(np.array([[0.5, 0, 0]]), np.array([[9, 8, 7]], np.uint8))
    cloud.add(np.array([[0.7, 0, 0]]))
    assert cloud.points().attributes["rgb"].tolist() == [[9, 8, 7]]
    cloud.add(np.array([[1.5, 0, 0]]))
    more = np.array([[0.2, 0, 0], [1.2, 0, 0], [2.2, 0, 0]])
    cloud.add(more, np.array([[200, 200, 200], [9, 9, 9], [5, 5, 5]], np.uint8), np.array([False, False, True]))
    assert cloud.points().attributes["rgb"].tolist() == [[9, 8, 7], [128, 128, 128], [5, 5, 5]]
    none = VoxelCloud(1.0)
    none.add(more)
    assert set(none.points().attributes) == {"points"}
