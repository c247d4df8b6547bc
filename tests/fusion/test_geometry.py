import math

import numpy as np
import torch
from twins import random_pose

from clipfeat.fusion.geometry import build_geo_pe, describe_motion, pose_change_of


def poses(count, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([random_pose(rng) for _ in range(count)]))


def test_each_of_the_64_numbers_is_what_it_is_said_to_be():
    rng = torch.Generator().manual_seed(0)
    xyz = torch.rand(1, 7, 3, generator=rng, dtype=torch.float64) * torch.tensor([4.0, 6.0, 2.0]) - 20
    change = poses(1)
    pe = build_geo_pe(xyz, torch.ones(1, 7, dtype=torch.bool), change)[0]
    assert pe.shape == (7, 64)
    low, high = xyz[0].amin(0), xyz[0].amax(0)
    half = float((high - low).max()) / 2
    for point, numbers in zip(xyz[0], pe, strict=True):
        centred = point - (low + high) / 2
        angles = [float(centred[axis]) / half * math.pi * 2**k for axis in range(3) for k in range(8)]
        expected = [*centred, *map(math.sin, angles), *map(math.cos, angles), *(high - low)]
        expected += [*change[0, :3, 0], *change[0, :3, 1], *change[0, :3, 3], point[2] - low[2]]
        torch.testing.assert_close(numbers, torch.tensor(expected, dtype=torch.float64))


def test_it_follows_from_real_points_alone_and_moves_with_them():
    xyz = torch.randn(1, 5, 3)
    mask = torch.tensor([[True] * 5])
    alone = build_geo_pe(xyz, mask, torch.eye(4)[None])
    padded = torch.cat((xyz, torch.full((1, 3, 3), torch.nan)), 1)
    wide = build_geo_pe(padded, torch.tensor([[True] * 5 + [False] * 3]), torch.eye(4)[None])
    assert torch.equal(wide[:, :5], alone)
    assert not wide[:, 5:].any()
    torch.testing.assert_close(build_geo_pe(xyz + 3, mask, torch.eye(4)[None]), alone, atol=2e-4, rtol=0)
    one = build_geo_pe(xyz[:, :1], mask[:, :1], torch.eye(4)[None])
    assert torch.isfinite(one).all()  # a box of no size


def test_motion_is_seen_from_the_camera_before():
    before, after = poses(3), poses(3, seed=1)
    change = pose_change_of(after, before)
    torch.testing.assert_close(before @ change.double(), after, atol=1e-6, rtol=1e-6)
    assert torch.equal(pose_change_of(after, None), torch.eye(4).expand(3, 4, 4))
    assert describe_motion(torch.eye(4)[None]).tolist() == [[1, 0, 0, 0, 1, 0, 0, 0, 0]]


def test_gradients():
    corners = torch.tensor([[[0.0, 0, 0], [1, 2, 3]]], dtype=torch.float64)

    def moved(inner):
        points = torch.cat((corners, inner), 1)
        return build_geo_pe(points, torch.ones(1, 4, dtype=torch.bool), torch.eye(4, dtype=torch.float64)[None])

    inner = torch.rand(1, 2, 3, dtype=torch.float64) * 0.8 + 0.1
    assert torch.autograd.gradcheck(moved, inner.requires_grad_())
