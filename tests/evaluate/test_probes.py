import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from clipfeat.evaluate.probes import folds_of, linear_probe, nearest_neighbours, zero_shot

PROBES = [linear_probe, nearest_neighbours]


def blobs(noise, count=800, classes=6, channels=24, seed=0):
    """Features that are the label's own direction and noise, their classes (odd numbers), and as many to be asked."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, channels))
    truth = rng.integers(0, classes, 2 * count)
    features = (centres[truth] + noise * rng.normal(size=(2 * count, channels))).astype(np.float32)
    truth = 2 * truth + 1
    return features[:count], truth[:count], features[count:], truth[count:]


@pytest.mark.parametrize("probe", PROBES)
def test_planted_labels_are_found_and_shuffled_ones_score_chance(probe):
    features, classes, asked, truth = blobs(noise=0.5)
    assert (probe(features, classes, asked) == truth).mean() > 0.98
    shuffled = np.random.default_rng(1).permutation(classes)
    assert (probe(features, shuffled, asked) == truth).mean() == pytest.approx(1 / 6, abs=0.1)
    assert (probe(features, classes, asked) == probe(features, classes, asked)).all()


def test_more_noise_scores_less():
    right = []
    for noise in (0.5, 2.0, 5.0):
        features, classes, asked, truth = blobs(noise)
        right.append([(probe(features, classes, asked) == truth).mean() for probe in PROBES])
    assert (np.diff(right, axis=0) < -0.05).all()


def test_the_linear_probe_is_scikit_learn_s():
    features, classes, asked, truth = blobs(noise=2.0)
    scaler = StandardScaler().fit(features)
    for penalty in (1.0, 100.0):
        model = LogisticRegression(C=1 / penalty, max_iter=1000, tol=1e-8).fit(scaler.transform(features), classes)
        expected = model.predict(scaler.transform(asked))
        assert (linear_probe(features, classes, asked, penalty=penalty) == expected).mean() > 0.995
    assert 0.5 < (expected == truth).mean() < 0.95  # so that there is something to disagree about


def test_neighbours_are_scikit_learn_s():
    features, classes, asked, _ = blobs(noise=2.0)
    model = KNeighborsClassifier(20, metric="cosine", algorithm="brute").fit(features, classes)
    assert (nearest_neighbours(features, classes, asked) == model.predict(asked)).mean() > 0.995


def test_of_as_many_votes_the_smallest_class_wins():
    features = np.eye(2, dtype=np.float32)
    assert nearest_neighbours(features, np.array([8, 5]), features).tolist() == [5, 5]
    assert nearest_neighbours(features, np.array([8, 5]), features, count=1).tolist() == [8, 5]


@pytest.mark.parametrize("probe", PROBES)
def test_a_constant_channel_and_other_odd_input(probe):
    features, classes, asked, truth = blobs(noise=0.5)
    features[:, 3], asked[:, 3] = 7.0, 7.0
    assert (probe(features, classes, asked) == truth).mean() > 0.98
    assert len(probe(features, classes, asked[:0])) == 0
    assert (probe(features, np.full_like(classes, 4), asked) == 4).all()
    with pytest.raises(ValueError, match="labelled point"):
        probe(features[:0], classes[:0], asked)


def test_zero_shot_takes_the_most_alike_name():
    names = np.eye(3, dtype=np.float32)
    features = np.array([[0.1, 5.0, 0.2], [2.0, 0.0, 1.0], [0.0, 0.0, 0.001]])
    assert zero_shot(features, names, 3).tolist() == [1, 0, 2]
    assert zero_shot(features, names, 2).tolist() == [1, 0, -1]  # the last one is a text of what is no class
    assert len(zero_shot(features[:0], names, 3)) == 0


def test_zero_shot_of_planted_names_is_right_and_of_shuffled_ones_chance():
    rng = np.random.default_rng(0)
    names = rng.normal(size=(200, 32)).astype(np.float32)
    names /= np.linalg.norm(names, axis=1, keepdims=True)
    truth = rng.integers(0, 200, 4000)
    features = (5 * names[truth] + 0.3 * rng.normal(size=(4000, 32))).astype(np.float32)
    assert (zero_shot(features, names, 200) == truth).mean() > 0.99
    assert (zero_shot(features, rng.permutation(names), 200) == truth).mean() < 0.03


def test_each_scene_is_held_out_once_and_folds_are_alike():
    held_out = folds_of(11, 3, seed=0)
    assert sorted(np.bincount(held_out)) == [3, 4, 4]
    assert (held_out == folds_of(11, 3, seed=0)).all()
    assert (held_out != folds_of(11, 3, seed=1)).any()
