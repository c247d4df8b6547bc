import numpy as np
import pytest

from clipfeat.vis.tsne import embed

pytestmark = pytest.mark.filterwarnings("error")


def two_blobs(each=40, channels=64):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2, channels))
    return np.repeat(centres, each, axis=0) + 0.1 * rng.normal(size=(2 * each, channels))


def test_two_blobs_part():
    placed = embed(two_blobs(), perplexity=10, seed=0)
    first, second = placed[:40], placed[40:]
    between = np.linalg.norm(first[:, None] - second[None], axis=2).min()
    within = max(np.linalg.norm(blob - blob.mean(axis=0), axis=1).max() for blob in (first, second))
    assert between > within


def test_the_length_of_a_feature_does_not_count():
    features = two_blobs(10)
    scaled = features * np.repeat([2.0, 8.0], 10)[:, None]
    np.testing.assert_array_equal(embed(features, 5, 0), embed(scaled, 5, 0))


def test_the_same_seed_gives_the_same_picture():
    features = two_blobs(20)
    placed = embed(features, perplexity=10, seed=3)
    np.testing.assert_array_equal(placed, embed(features, perplexity=10, seed=3))
    assert not np.array_equal(placed, embed(features, perplexity=10, seed=4))
    assert placed.dtype == np.float32


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 20])
@pytest.mark.parametrize("channels", [1, 2, 60])
def test_fewer_points_than_the_perplexity(count, channels):
    features = np.random.default_rng(0).normal(size=(count, channels)).astype(np.float16)
    placed = embed(features, perplexity=30, seed=0)
    assert placed.shape == (count, 2)
    assert np.isfinite(placed).all()


def test_equal_features_are_placed_together():
    np.testing.assert_array_equal(embed(np.full((30, 8), 0.5, np.float32), 30, 0), np.zeros((30, 2)))


def test_two_sets_of_equal_features_part():
    placed = embed(np.repeat(np.eye(2, 8), 25, axis=0), perplexity=30, seed=0)
    assert np.isfinite(placed).all()
    assert np.linalg.norm(placed[:25].mean(axis=0) - placed[25:].mean(axis=0)) > 1
