import numpy as np
import pytest
import torch
from twins import random_pose, slow_sample

from clipfeat.fusion.inputs import Maps, pad, pixels_of, sample_maps
from clipfeat.types import FeatureMap, resize_affine


def some_maps(sizes, shape=(3, 4, 5), seed=0):
    rng = torch.Generator().manual_seed(seed)
    maps = [
        FeatureMap(torch.randn(shape, generator=rng), resize_affine(size, (shape[2], shape[1])), torch.ones(2))
        for size in sizes
    ]
    return maps, Maps.of(maps, sizes, torch.device("cpu"))


def test_maps_are_sampled_each_at_its_own_points():
    sizes = [(40, 30), (20, 60)]
    maps, batch = some_maps(sizes)
    uv = torch.rand(2, 9, 2) * torch.tensor(sizes)[:, None] - 0.5
    uv[0, 3], uv[1, 4] = torch.nan, 1e6
    wanted = torch.arange(9)[None].expand(2, 9) != 7
    sampled, seen = sample_maps(batch, uv, wanted)
    assert seen.tolist() == [[i not in (7, 3) for i in range(9)], [i not in (7, 4) for i in range(9)]]
    for b, one in enumerate(maps):
        cell = uv[b, seen[b]].double().numpy() @ one.image_to_map[:, :2].T + one.image_to_map[:, 2]
        expected = slow_sample(one.values.double().numpy(), cell)
        np.testing.assert_allclose(sampled[b, seen[b]], expected, atol=1e-5)
    assert not sampled[~seen].any()


def test_the_gradient_of_sampling_is_that_of_grid_sample():
    _, batch = some_maps([(10, 8), (10, 8)])
    values = batch.values.requires_grad_()
    uv = torch.rand(2, 6, 2) * torch.tensor([9.0, 7.0])
    every = torch.ones(2, 6, dtype=torch.bool)
    push = torch.randn(2, 6, 3)
    (found,) = torch.autograd.grad((sample_maps(batch, uv, every)[0] * push).sum(), values)
    grid = ((uv + 0.5) / torch.tensor([10, 8]) * 2 - 1)[:, None]
    other = torch.nn.functional.grid_sample(values, grid, padding_mode="border", align_corners=False)
    (expected,) = torch.autograd.grad((other[:, :, 0].transpose(1, 2) * push).sum(), values)
    torch.testing.assert_close(found, expected)


def test_points_find_their_pixel_in_the_picture_of_their_sample():
    rng = np.random.default_rng(0)
    poses = torch.from_numpy(np.stack([random_pose(rng) for _ in range(2)]))
    k = torch.tensor([[[30.0, 0, 20], [0, 30, 15], [0, 0, 1]], [[50.0, 0, 9], [0, 50, 30], [0, 0, 1]]])
    sizes = torch.tensor([[40, 30], [20, 60]])
    uv = torch.rand(2, 8, 2) * sizes[:, None]
    z = torch.rand(2, 8, 1) + 1
    z[:, 5], uv[0, 6, 0] = -1, 39.5  # behind the camera; beyond the last pixel's centre
    cam = torch.cat(((uv - k[:, None, :2, 2]) / k[:, None, [0, 1], [0, 1]] * z, z), -1).double()
    world = cam @ poses[:, :3, :3].transpose(1, 2) + poses[:, None, :3, 3]
    mask = torch.arange(8)[None].expand(2, 8) != 2
    world[:, 2] = torch.nan
    found, seen = pixels_of(world, mask, k, poses, sizes)
    inside = (uv >= 0).all(-1) & (uv <= sizes[:, None] - 1).all(-1) & mask
    inside[:, 5] = False
    assert torch.equal(seen, inside)
    assert not seen[0, 6]
    torch.testing.assert_close(found[seen], uv[seen], atol=1e-3, rtol=0)


def test_lists_are_padded_and_tensors_are_not():
    padded, mask = pad([torch.ones(3, 2), torch.ones(1, 2)])
    assert padded[..., 0].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert mask.tolist() == [[True] * 3, [True, False, False]]
    assert pad(padded)[1].all()
    with pytest.raises(ValueError, match="a batch of no samples"):
        pad([])


def test_maps_of_several_shapes_are_no_batch():
    first, _ = some_maps([(40, 30)])
    second, _ = some_maps([(40, 30)], (3, 4, 6))
    with pytest.raises(ValueError, match="expected as many, of one shape"):
        Maps.of(first + second, [(40, 30)] * 2, torch.device("cpu"))
