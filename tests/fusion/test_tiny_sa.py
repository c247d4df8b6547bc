import math

import pytest
import torch

from clipfeat.fusion.tiny_sa import TinySA2D, TinySAModule, cell_positions, find_surroundings


def cloud(*counts, seed=0):
    rng = torch.Generator().manual_seed(seed)
    xyz = torch.rand(len(counts), max(counts), 3, generator=rng)
    return xyz, torch.arange(max(counts))[None] < torch.tensor(counts)[:, None]


def slow_attention(module, features, where):
    """The module a centre and a head at a time."""
    known, out = module.norm(features), features.clone()
    query, (key, value) = module.query(known), module.key_value(known).chunk(2, -1)
    batch, _, channels = features.shape
    size = channels // module.heads
    for b in range(batch):
        centers = {}
        for m in range(where.centers.shape[1]):
            if not where.center_mask[b, m]:
                continue
            row = int(where.centers[b, m])
            near = [int(i) for i, real in zip(where.around.index[b, m], where.around.mask[b, m], strict=True) if real]
            mixed = []
            for h in range(module.heads):
                part = slice(h * size, (h + 1) * size)
                offset = where.offset[b, m, : len(near)]
                offset = torch.cat((offset, offset.norm(dim=1, keepdim=True)), 1)
                logit = key[b, near, part] @ query[b, row, part] / math.sqrt(size) + module.offset_logit(offset)[:, h]
                mixed.append(logit.softmax(0) @ (value[b, near, part] + offset @ module.offset_value[h]))
            center = features[b, row] + module.merge(torch.cat(mixed))
            centers[m] = center + module.feed(center)
        for i, m in enumerate(where.nearest[b].tolist()):
            if m in centers:
                out[b, i] = features[b, i] + module.carry(centers[m])
    return out


def test_attention_equals_a_slow_twin():
    torch.manual_seed(0)
    xyz, mask = cloud(60, 13, 1)
    where = find_surroundings(xyz, mask, radius=0.4, count=7, ratio=0.25)
    module, features = TinySAModule(16).double(), torch.randn(3, 60, 16, dtype=torch.float64)
    where.offset.data = where.offset.double()
    found, expected = module(features, where), slow_attention(module, features, where)
    torch.testing.assert_close(found[mask], expected[mask])
    assert (found - features)[mask].abs().min() > 0


def test_surroundings_are_balls_and_next_centres():
    xyz, mask = cloud(200, 50)
    where = find_surroundings(xyz, mask, radius=0.3, count=9, ratio=0.25)
    assert where.center_mask.sum(1).tolist() == [50, 13]
    for b, count in ((0, 200), (1, 50)):
        rows = where.centers[b, where.center_mask[b]]
        distance = torch.cdist(xyz[b, :count], xyz[b, rows])
        assert torch.equal(where.nearest[b, :count], distance.argmin(1))
        for m, row in enumerate(rows.tolist()):
            near = where.around.mask[b, m]
            assert where.around.index[b, m, 0] == row
            assert int(near.sum()) == min(int((distance[:, m] <= 0.3).sum()), 9)
            at = xyz[b, row] + 0.3 * where.offset[b, m, near]
            torch.testing.assert_close(at, xyz[b, where.around.index[b, m, near]])


def test_gradients_of_the_attention_of_points():
    torch.manual_seed(0)
    xyz, mask = cloud(8, 3)
    where = find_surroundings(xyz.double(), mask, radius=0.8, count=3, ratio=0.5)
    module = TinySAModule(4, heads=2).double()
    features = torch.randn(2, 8, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: module(f, where), features)


@pytest.mark.parametrize("size", [(5, 3), (1, 1)])
def test_attention_of_cells_equals_a_slow_twin(size):
    torch.manual_seed(0)
    neck, maps = TinySA2D(8, layers=2, heads=2), torch.randn(2, 8, *size)
    cells = maps.flatten(2).transpose(1, 2)
    place = cell_positions(*size, 8, maps.device)
    for layer in neck.layers:
        parts = layer.attend(layer.norm(cells) + place).chunk(3, -1)
        mixed = torch.empty_like(cells)
        for head in (slice(0, 4), slice(4, 8)):
            query, key, value = (part[..., head] for part in parts)
            mixed[..., head] = (query @ key.transpose(1, 2) / 2).softmax(-1) @ value
        cells = cells + layer.merge(mixed)
        cells = cells + layer.feed(cells)
    expected = cells.transpose(1, 2).reshape(maps.shape)
    torch.testing.assert_close(neck(maps), expected, atol=1e-5, rtol=1e-5)


def test_cells_know_where_they_are():
    place = cell_positions(6, 5, 16, torch.device("cpu"))
    assert place.shape == (30, 16)
    assert len({tuple(row) for row in place.tolist()}) == 30
    torch.manual_seed(0)
    flat = TinySA2D(16, heads=4)(torch.ones(1, 16, 6, 5))
    assert (flat[..., 0, 0] - flat[..., 5, 4]).abs().max() > 1e-3


def test_gradients_of_the_attention_of_cells():
    torch.manual_seed(0)
    neck = TinySA2D(4, layers=1, heads=2).double()
    assert torch.autograd.gradcheck(neck, torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True))
