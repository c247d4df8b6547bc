import numpy as np
import pytest
import torch
from twins import slow_sample

from clipfeat.sampling.merge import BestViews, ViewMerger
from clipfeat.types import FeatureMap, resize_affine

COUNT, CHANNELS, VIEWS = 300, 12, 40
AFFINE = resize_affine((640, 480), (14, 10))


def views(rng):
    for _ in range(VIEWS):
        values = rng.normal(5, 1, size=(CHANNELS, 10, 14))
        rows = np.sort(rng.choice(COUNT - 1, 120, replace=False))  # the last point is never seen
        uv = rng.uniform((-5, -5), (645, 485), (120, 2)).astype(np.float32)
        weight = rng.uniform(0, 1, 120).astype(np.float32) * (rng.random(120) > 0.1)
        yield values, rows, uv, weight


def slow_mean(seen):
    """Float64 sums over everything that was seen."""
    total, weights = np.zeros((COUNT, CHANNELS)), np.zeros(COUNT)
    for values, rows, uv, weight in seen:
        samples = slow_sample(values, uv.astype(np.float64) @ AFFINE[:, :2].T + AFFINE[:, 2])
        for row, sample, w in zip(rows, samples, weight.astype(np.float64), strict=True):
            total[row] += w * sample
            weights[row] += w
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(total / weights[:, None]), weights


def test_merging_maps_equals_its_slow_float64_twin():
    seen = list(views(np.random.default_rng(0)))
    merger = ViewMerger(COUNT, CHANNELS)
    for values, rows, uv, weight in seen:
        merger.add_map(FeatureMap(torch.from_numpy(values).float(), AFFINE), rows, uv, weight)
    expected, weights = slow_mean(seen)
    np.testing.assert_allclose(merger.mean, expected, atol=1e-5)
    np.testing.assert_allclose(merger.weight, weights, rtol=1e-12)
    np.testing.assert_array_equal(
        merger.views, np.bincount(np.concatenate([r[w > 0] for _, r, _, w in seen]), minlength=COUNT)
    )
    assert (merger.mean[-1] == 0).all()


def test_the_order_of_the_views_does_not_matter():
    seen = list(views(np.random.default_rng(1)))
    merged = []
    for order in (seen, seen[::-1]):
        merger = ViewMerger(COUNT, CHANNELS)
        for values, rows, uv, weight in order:
            merger.add_map(FeatureMap(torch.from_numpy(values).float(), AFFINE), rows, uv, weight)
        merged.append(merger.mean)
    np.testing.assert_allclose(*merged, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_merging_points_takes_a_row_as_often_as_it_comes(dtype):
    rng = np.random.default_rng(2)
    features = rng.normal(size=(500, CHANNELS)).astype(dtype)
    rows, weight = rng.integers(0, 40, 500), rng.uniform(0, 1, 500)
    merger = ViewMerger(41, CHANNELS)
    for part in np.array_split(np.arange(500), 7):
        merger.add_points(features[part], rows[part], weight[part])
    expected = np.stack([np.average(features[rows == n].astype(float), 0, weight[rows == n]) for n in range(40)])
    np.testing.assert_allclose(merger.mean[:40], expected, atol=1e-5)
    assert merger.views.sum() == 500
    assert (merger.mean[40] == 0).all()


def test_the_best_views_are_those_of_a_full_sort():
    rng = np.random.default_rng(3)
    weights = rng.integers(0, 6, (VIEWS, COUNT)) / 5  # many ties: the earlier view wins
    best = BestViews(COUNT, 4)
    for view in range(VIEWS):
        rows = np.flatnonzero(weights[view])
        best.add(view, rows, weights[view, rows])
    everyone = np.arange(COUNT)
    chosen = np.stack([best.chosen(view, everyone) for view in range(VIEWS)])
    for n in range(COUNT):
        order = sorted(range(VIEWS), key=lambda view: (-weights[view, n], view))
        assert set(np.flatnonzero(chosen[:, n])) == {v for v in order[:4] if weights[v, n] > 0}


def test_what_does_not_fit_is_refused():
    merger = ViewMerger(5, 3)
    one = np.zeros(1, np.int64)
    feature_map = FeatureMap(torch.zeros(3, 10, 14), AFFINE)
    with pytest.raises(ValueError, match="uv holds NaN"):
        merger.add_map(feature_map, one, np.array([[np.nan, 1]]), np.ones(1))
    with pytest.raises(ValueError, match="rows must lie in 0 to 4, got 5 to 5"):
        merger.add_map(feature_map, one + 5, np.zeros((1, 2)), np.ones(1))
    with pytest.raises(ValueError, match="features must have 3 channels, got 2"):
        merger.add_points(np.zeros((1, 2)), one, np.ones(1))
    with pytest.raises(ValueError, match="weights must be finite and at least 0"):
        merger.add_points(np.zeros((1, 3)), one, -np.ones(1))
    with pytest.raises(ValueError, match=r"rows and weight must be \(M,\)"):
        merger.add_points(np.zeros((1, 3)), one, np.ones(2))
    with pytest.raises(ValueError, match=r"uv must be \(1, 2\)"):
        merger.add_map(feature_map, one, np.zeros((2, 2)), np.ones(1))
