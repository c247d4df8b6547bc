import pytest
import torch
from scipy.spatial import cKDTree

from clipfeat.fusion import neighbours
from clipfeat.fusion.neighbours import ball_query, bounding_box, morton_code, take_rows, thin_out

SEARCHES = [neighbours._by_tree, neighbours._by_distance]


def clouds(*counts, seed=0, total=None):
    """Padded random points of some samples; padding lies right among the real points."""
    rng = torch.Generator().manual_seed(seed)
    total = total or max(counts)
    xyz = torch.rand(len(counts), total, 3, generator=rng) * torch.tensor([4.0, 3.0, 2.0]) + 10
    return xyz, torch.arange(total)[None] < torch.tensor(counts)[:, None]


def slow_ball(queries, points, count, radius):
    """A tree without a bound, asked for all that is within the radius; nearest first."""
    tree = cKDTree(points.double().numpy())
    found = []
    for query in queries.double().numpy():
        near = tree.query_ball_point(query, radius) if radius < 1e9 else list(range(len(points)))
        found.append(sorted(near, key=lambda i: ((points[i].double().numpy() - query) ** 2).sum())[:count])
    return found


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(("count", "radius"), [(5, 0.6), (32, 0.5), (1, float("inf")), (400, 1.0)])
def test_neighbours_are_those_of_a_tree(search, count, radius, monkeypatch):
    monkeypatch.setattr(neighbours, "_CHUNK_BYTES", 50_000)  # several chunks
    points, point_mask = clouds(300, 170, 1, 0)
    queries, query_mask = clouds(40, 90, 3, 5, seed=1)
    found = search(queries, points, query_mask, point_mask, count, radius)
    assert found.index.shape == found.mask.shape == (4, 90, count)
    assert (found.index[~found.mask] == 0).all()
    for sample in range(4):
        real = points[sample, point_mask[sample]]
        expected = slow_ball(queries[sample, query_mask[sample]], real, count, radius) if len(real) else [[]] * 5
        rows = [i[m].tolist() for i, m in zip(found.index[sample], found.mask[sample], strict=True)]
        assert rows[: len(expected)] == expected
        assert not any(rows[len(expected) :])


@pytest.mark.parametrize("search", SEARCHES)
def test_a_point_at_the_very_radius_is_within(search):
    points = torch.tensor([[[0.0, 0, 0], [0.25, 0, 0], [0.25 + 1e-6, 0, 0], [9, 9, 9]]])
    every = torch.ones(1, 4, dtype=torch.bool)
    found = search(points, points, every, every, 4, 0.25)
    assert found.index[0, 0, found.mask[0, 0]].tolist() == [0, 1]
    assert found.mask.sum(2).tolist() == [[2, 3, 2, 1]]


def test_all_of_a_large_search_is_bounded_by_chunks(monkeypatch):
    seen = []
    cdist = torch.cdist
    monkeypatch.setattr(torch, "cdist", lambda a, b, **how: seen.append(a.shape[1]) or cdist(a, b, **how))
    monkeypatch.setattr(neighbours, "_CHUNK_BYTES", 8 * 2 * 500 * 7)
    xyz, mask = clouds(500, 400)
    neighbours._by_distance(xyz, xyz, mask, mask, 8, 0.3)
    assert max(seen) == 7
    assert sum(seen) == 500


def test_shapes_that_do_not_fit_are_told():
    xyz, mask = clouds(5)
    with pytest.raises(ValueError, match=r"queries must be \(B, N, 3\) and their mask .*, got \[1, 5, 2\], \[1, 5\]"):
        ball_query(xyz[..., :2], xyz, mask, mask, 3)
    with pytest.raises(ValueError, match="queries are of 1 samples, points of 2"):
        ball_query(xyz, xyz.repeat(2, 1, 1), mask, mask.repeat(2, 1), 3)


def test_a_thinned_sample_depends_on_nothing_but_its_points():
    xyz, mask = clouds(200, 33, 1, 0)
    index, chosen = thin_out(xyz, mask, 0.25)
    assert index.shape == (4, 50)
    assert chosen.sum(1).tolist() == [50, 9, 1, 0]
    for sample, count in enumerate((200, 33, 1)):
        rows = index[sample, chosen[sample]]
        assert len(rows.unique()) == len(rows)
        assert rows.max() < count
        alone, _ = thin_out(xyz[sample : sample + 1, :count], mask[sample : sample + 1, :count], 0.25)
        assert alone[0].tolist() == rows.tolist()
        turned = torch.randperm(count)
        other, _ = thin_out(xyz[sample : sample + 1, turned], mask[sample : sample + 1, :count], 0.25)
        assert {*turned[other[0]].tolist()} == {*rows.tolist()}
    assert thin_out(xyz[3:, :2], mask[3:, :2], 0.25)[1].tolist() == [[False]]


def test_a_thinned_sample_has_no_holes():
    """The farthest that a point is from the next chosen one: less than where the same number is drawn at random."""
    xyz, mask = clouds(4000)
    index, _ = thin_out(xyz, mask, 0.25)

    def hole(rows):
        return cKDTree(xyz[0, rows].numpy()).query(xyz[0].numpy())[0].max()

    drawn = [hole(torch.randperm(4000)[:1000]) for _ in range(5)]
    assert hole(index[0]) < min(drawn)


def test_the_curve_goes_through_a_cell_s_eight_parts_before_the_next():
    xyz = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]]])
    code = morton_code(xyz, torch.ones(1, 8, dtype=torch.bool))
    assert code[0].tolist() == sorted(code[0].tolist())
    assert len(code.unique()) == 8
    xyz, mask = clouds(50)
    cells = ((xyz - xyz.amin(1)) / (xyz.amax(1) - xyz.amin(1)).max() * 1024).long().clamp(max=1023)[0].tolist()
    digits = [[f"{axis:010b}" for axis in reversed(cell)] for cell in cells]
    expected = [int("".join("".join(bits) for bits in zip(*cell, strict=True)), 2) for cell in digits]
    assert morton_code(xyz, mask)[0].tolist() == expected


def test_padding_is_outside_the_box():
    xyz, mask = clouds(3, 0, total=6)
    low, size = bounding_box(xyz, mask)
    assert torch.equal(low[0], xyz[0, :3].amin(0))
    assert torch.equal(size[0], xyz[0, :3].amax(0) - low[0])
    assert not low[1].any()
    assert not size[1].any()


def test_rows_are_taken_sample_by_sample():
    values = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([[[0, 4], [4, 4]], [[1, 1], [2, 0]]])
    taken = take_rows(values, index)
    for sample in range(2):
        assert torch.equal(taken[sample], values[sample][index[sample]])
    assert torch.autograd.gradcheck(lambda v: take_rows(v, index), values)
