import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from clipfeat.evaluate.metrics import bootstrap, cosines, edge_distances, group_means, likeness
from clipfeat.fusion.metrics import Counts, accuracy, count, mean_iou


def test_a_case_counted_by_hand():
    truth = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 3, 0])
    counts = count(truth, predicted, np.array([0, 0, 0, 1, 1, 1]), scenes=2, classes=5)
    assert counts.hits.tolist() == [[2, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
    assert counts.total.predicted.tolist() == [[3, 2, 0, 1, 0]]
    # Class 0: 2 of (3 + 3 - 2), class 1: 1 of (2 + 2 - 1), class 2: 0; 3 has no point, and 4 is nowhere.
    assert mean_iou(counts.total) == pytest.approx((2 / 4 + 1 / 3 + 0) / 3)
    assert accuracy(counts.total) == pytest.approx(3 / 6)
    groups = {"head": np.array([1, 1, 0, 0, 0], bool), "common": np.arange(5) == 2, "tail": np.arange(5) > 2}
    found = group_means(counts, groups)
    assert (found["head"], found["common"]) == (pytest.approx((2 / 4 + 1 / 3) / 2), 0)
    assert np.isnan(found["tail"])


def test_without_a_point_there_is_no_number():
    nothing = np.zeros(0, np.int64)
    counts = count(nothing, nothing, nothing, 2, 3)
    assert np.isnan(mean_iou(counts.total)).all()
    assert np.isnan(accuracy(counts)).all()
    assert np.isnan(bootstrap(counts, mean_iou, 10, 0).low)


def test_the_interval_of_the_bootstrap_is_that_of_the_mean_over_scenes():
    rng = np.random.default_rng(1)
    hits = rng.integers(20, 80, (40, 1))
    full = np.full((40, 1), 100)
    found = bootstrap(Counts(hits, hits, full), accuracy, 4000, seed=0)
    assert found.value == pytest.approx(hits.mean() / 100)
    error = hits.std() / 100 / np.sqrt(40)
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.2 * error)
    assert bootstrap(Counts(hits, hits, full), accuracy, 4000, seed=0) == found


def test_a_difference_on_the_same_scenes_is_surer_than_its_two_parts():
    rng = np.random.default_rng(2)
    hits = rng.integers(20, 80, (20, 1))
    full = np.full((20, 1), 100)
    one, other = Counts(hits, hits, full), Counts(hits + 3, hits + 3, full)
    found = bootstrap(other, accuracy, 500, seed=0, less=one)
    assert (found.value, found.low, found.high) == pytest.approx((0.03, 0.03, 0.03))
    assert bootstrap(one, accuracy, 500, seed=0).high > bootstrap(other, accuracy, 500, seed=0).low


def test_the_distance_to_the_nearest_edge():
    labels = np.zeros((5, 9), int)
    labels[:, 4:] = 7
    assert edge_distances(labels).tolist() == [[3, 2, 1, 0, 0, 1, 2, 3, 4]] * 5
    assert edge_distances(labels.T).T.tolist() == edge_distances(labels).tolist()
    assert np.isinf(edge_distances(np.ones((3, 4), np.uint16))).all()
    one = np.zeros((7, 7), int)
    one[3, 3] = 1
    assert edge_distances(one)[0, 3] == 2  # the pixel above the one is beside it
    assert edge_distances(one)[0, 0] == pytest.approx(np.hypot(3, 2))


def test_likeness_of_views():
    found = likeness(np.array([0.9, 0.5, 0.5]), np.array([0.1, 0.5, 0.6]))
    # Of nine comparisons 3 + (1 + half) + (1 + half) are right.
    assert (found.same, found.random, found.pairs) == (pytest.approx(1.9 / 3), pytest.approx(0.4), 3)
    assert found.separation == pytest.approx(6 / 9)
    rng = np.random.default_rng(3)
    same, random = rng.normal(0.4, 0.3, 500).round(2), rng.normal(0.2, 0.3, 500).round(2)
    expected = mannwhitneyu(same, random).statistic / 500**2
    assert likeness(same, random).separation == pytest.approx(expected)
    assert likeness(np.empty(0), np.empty(0)) is None


def test_cosines_of_rows():
    first, second = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]), np.array([[6.0, 8.0], [0.0, 2.0], [1.0, 0.0]])
    assert cosines(first, second) == pytest.approx([1, 0, 0])
