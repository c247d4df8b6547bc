import numpy as np
import pytest
import torch
from twins import random_pose

from clipfeat.camera.projection import build_uv_index, measured_pixels, unproject_depth, valid_depth, world_to_cam
from clipfeat.types import PointStatus

K = np.array([[520.0, 0.3, 331.0], [0.0, 515.0, 247.0], [0.0, 0.0, 1.0]])
SIZE = (640, 480)


def slow_projection(points, k, extrinsics, size, near, far):
    """One point at a time, in Python's own floats."""
    uv, z, status = [], [], []
    for x, y, w in points.tolist():
        cam = [sum(extrinsics[r][c] * p for c, p in enumerate((x, y, w, 1.0))) for r in range(3)]
        depth = cam[2]
        z.append(depth)
        if depth <= 0:
            uv.append((np.nan, np.nan))
            status.append(PointStatus.BEHIND)
            continue
        a, b = cam[0] / depth, cam[1] / depth
        u, v = k[0][0] * a + k[0][1] * b + k[0][2], k[1][1] * b + k[1][2]
        uv.append((u, v))
        inside = 0 <= u <= size[0] - 1 and 0 <= v <= size[1] - 1 and near <= depth <= far
        status.append(PointStatus.VISIBLE if inside else PointStatus.OUT_OF_VIEW)
    return np.array(uv), np.array(z), np.array(status)


def test_projection_equals_its_slow_twin():
    rng = np.random.default_rng(0)
    points, extrinsics = rng.normal(size=(500, 3)) * 3, random_pose(rng)
    found = build_uv_index(points, K, extrinsics, SIZE, near=0.2, far=3.0)
    uv, z, status = slow_projection(points, K.tolist(), extrinsics.tolist(), SIZE, 0.2, 3.0)
    np.testing.assert_allclose(found.uv, uv, rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(found.depth_m, z, rtol=1e-6)
    np.testing.assert_array_equal(found.status, status)
    assert set(found.status.tolist()) == {PointStatus.VISIBLE, PointStatus.OUT_OF_VIEW, PointStatus.BEHIND}
    assert found.uv.dtype == np.float32
    np.testing.assert_array_equal(found.conf_2d, found.visible.astype(np.float32))


def test_any_leading_dimensions_and_broadcasting_give_single_calls():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(2, 3, 40, 3)) * 2
    extrinsics = np.stack([[random_pose(rng) for _ in range(3)] for _ in range(2)])
    many = build_uv_index(points, K, extrinsics, SIZE)
    views = build_uv_index(points[0, 0], K, extrinsics[0], SIZE)
    assert many.uv.shape == (2, 3, 40, 2)
    assert views.status.shape == (3, 40)
    for i in range(2):
        for j in range(3):
            one = build_uv_index(points[i, j], K, extrinsics[i, j], SIZE)
            np.testing.assert_array_equal(many.uv[i, j], one.uv)
            np.testing.assert_array_equal(many.status[i, j], one.status)
    np.testing.assert_array_equal(views.uv[2], build_uv_index(points[0, 0], K, extrinsics[0, 2], SIZE).uv)


def test_a_k_for_each_view_and_four_by_four_matrices():
    rng = np.random.default_rng(2)
    points, extrinsics = rng.normal(size=(30, 3)), np.stack([random_pose(rng) for _ in range(2)])
    ks = np.stack([np.eye(4), np.eye(4)])
    ks[:, :3, :3] = K
    ks[1, 0, 0] *= 2
    both = build_uv_index(points, ks, extrinsics)
    for i in range(2):
        np.testing.assert_array_equal(both.uv[i], build_uv_index(points, ks[i, :3, :3], extrinsics[i]).uv)


def test_torch_in_torch_out():
    rng = np.random.default_rng(3)
    points, extrinsics = rng.normal(size=(2, 50, 3)), np.stack([random_pose(rng) for _ in range(2)])
    expected = build_uv_index(points, K, extrinsics, SIZE)
    found = build_uv_index(torch.from_numpy(points), torch.from_numpy(K), torch.from_numpy(extrinsics), SIZE)
    assert isinstance(found.uv, torch.Tensor)
    np.testing.assert_allclose(found.uv.numpy(), expected.uv, rtol=1e-6)
    np.testing.assert_array_equal(found.status.numpy(), expected.status)


def test_the_outermost_pixels_are_in_view_and_the_next_are_not():
    pixels = np.array([[0.0, 0.0], [639.0, 479.0], [-0.01, 10.0], [639.01, 10.0], [10.0, 479.01]])
    points = np.concatenate([(pixels - K[:2, 2]) / (K[0, 0], K[1, 1]), np.ones((5, 1))], 1)
    points[:, 0] -= K[0, 1] / K[0, 0] * points[:, 1]
    status = build_uv_index(points, K, np.eye(4), SIZE).status
    assert status.tolist() == [0, 0, 2, 2, 2]


@pytest.mark.parametrize(
    ("points", "k", "extrinsics", "message"),
    [
        (np.zeros((4, 2)), K, np.eye(4), r"points must be \(..., N, 3\), got \(4, 2\)"),
        (np.zeros((4, 3)), np.eye(2), np.eye(4), r"intrins must be \(..., 3, 3\) or \(..., 4, 4\), got \(2, 2\)"),
        (np.zeros((4, 3)), K, np.eye(3), r"extrins must be \(..., 4, 4\) world-to-camera, got \(3, 3\)"),
        (np.zeros((4, 3)), K, np.full((4, 4), -np.inf), "inf or NaN: a lost track"),
    ],
)
def test_wrong_input_is_named(points, k, extrinsics, message):
    with pytest.raises(ValueError, match=message):
        build_uv_index(points, k, extrinsics)


def test_world_to_cam_is_the_full_inverse_of_a_pose_that_is_not_quite_orthonormal():
    rng = np.random.default_rng(4)
    pose = random_pose(rng)
    pose[:3, :3] += rng.normal(size=(3, 3)) * 1e-3
    np.testing.assert_allclose(world_to_cam(pose) @ pose, np.eye(4), atol=1e-12)
    transposed = np.eye(4)
    transposed[:3, :3] = pose[:3, :3].T
    transposed[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    assert np.abs(transposed @ pose - np.eye(4)).max() > 1e-4
    with pytest.raises(ValueError, match="lost track"):
        world_to_cam(np.full((4, 4), -np.inf))


def test_unprojection_equals_its_slow_twin_and_comes_back_to_its_pixels():
    rng = np.random.default_rng(5)
    depth = rng.uniform(0.5, 6.0, size=(48, 64)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.3] = 0
    depth[3, 5], depth[3, 6] = np.nan, -1.0
    k = np.array([[50.0, 0.2, 31.0], [0.0, 52.0, 24.0], [0.0, 0.0, 1.0]])
    pose = random_pose(rng)
    points, index = unproject_depth(depth, k, pose)
    assert len(index) == int((np.nan_to_num(depth) > 0).sum())
    for row in range(0, len(index), 97):
        v, u = divmod(int(index[row]), 64)
        ray = np.linalg.solve(k, (u, v, 1.0))
        world = pose @ np.append(ray * float(depth[v, u]), 1.0)
        np.testing.assert_allclose(points[row], world[:3], atol=1e-9)
    uv = build_uv_index(points, k, world_to_cam(pose), (64, 48)).uv
    back = np.stack((index % 64, index // 64), 1)
    assert np.abs(uv - back).max() < 1e-5


def test_measured_pixels_are_those_with_a_valid_depth():
    depth = np.random.default_rng(3).uniform(-1, 2, size=(30, 40)).astype(np.float32)
    depth[4, 4:9] = 0, np.nan, np.inf, -np.inf, -0.0
    for part in (depth, depth[::2, 5:], depth.T, depth.astype(np.float64), depth[:0]):
        np.testing.assert_array_equal(measured_pixels(part), np.flatnonzero(valid_depth(part)))


def test_only_the_pixels_asked_for_are_lifted():
    depth = np.array([[1.0, 0.0], [2.0, 3.0]])
    _, index = unproject_depth(depth, np.eye(3), np.eye(4), np.array([3, 1, 0]))
    assert index.tolist() == [3, 0]
    with pytest.raises(ValueError, match="expected depth"):
        unproject_depth(depth, np.eye(4), np.eye(4))
