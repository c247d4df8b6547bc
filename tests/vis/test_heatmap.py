import numpy as np
import pytest

from clipfeat.vis.heatmap import shared_limits, similarity_to_mean

pytestmark = pytest.mark.filterwarnings("error")


def test_similarity_equals_a_slow_twin():
    features = np.random.default_rng(0).normal(size=(30, 12)) + 1
    unit = [f / np.sqrt(sum(f**2)) for f in features]
    mean = sum(unit) / len(unit)
    slow = [np.dot(f, mean) / np.sqrt(np.dot(mean, mean)) for f in unit]
    found = similarity_to_mean(features.astype(np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow, atol=1e-5)


def test_each_feature_counts_the_same_however_long():
    features = np.array([[100.0, 0.0], [0.0, 1.0]], np.float32)
    np.testing.assert_allclose(similarity_to_mean(features), 0.5**0.5, atol=1e-6)


def test_no_points_equal_points_and_zeros():
    assert similarity_to_mean(np.zeros((0, 4), np.float32)).shape == (0,)
    np.testing.assert_allclose(similarity_to_mean(np.full((9, 4), 3, np.float16)), 1, atol=1e-6)
    np.testing.assert_array_equal(similarity_to_mean(np.zeros((3, 4), np.float32)), 0)


def test_limits_leave_outliers_out_and_never_coincide():
    values = np.concatenate([np.linspace(0.5, 0.9, 1000), [-1.0]])
    np.testing.assert_allclose(shared_limits(values), (0.5, 0.9), atol=0.02)
    np.testing.assert_allclose(shared_limits(np.ones(5)), (0.995, 1.005))
    assert shared_limits(np.zeros(0)) == (0.0, 1.0)
