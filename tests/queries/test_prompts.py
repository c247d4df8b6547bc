import math

import numpy as np
import pytest

from clipfeat.queries import prompts as module
from clipfeat.queries.prompts import Prompts, best_mean


def directions(count, channels=8, seed=0):
    values = np.random.default_rng(seed).normal(size=(count, channels))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def prompts_of(count, others, temperature=0.01):
    names = tuple(map(str, range(count)))
    return Prompts(names, directions(count), directions(others, seed=1), tuple("abcd"[:others]), temperature)


def score_slowly(prompts, features):
    found = np.zeros((len(features), len(prompts.names)))
    for i, feature in enumerate(features.astype(np.float64)):
        length = math.sqrt((feature**2).sum())
        for j, vector in enumerate(prompts.vectors.astype(np.float64)):
            cosine = feature @ vector / length
            if len(prompts.others) == 0:
                found[i, j] = cosine
                continue
            others = [math.exp(feature @ o / length / prompts.temperature) for o in prompts.others.astype(np.float64)]
            own = math.exp(cosine / prompts.temperature)
            found[i, j] = own / (own + sum(others))
    return found


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("others", [0, 1, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_scores_equal_a_slow_twin(count, others, dtype, temperature, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 7)  # so that 50 features are several slices
    features = (100 * np.random.default_rng(2).normal(size=(50, 8))).astype(dtype)
    prompts = prompts_of(count, others, temperature)
    found = prompts.scores(features)
    assert found.shape == (50, count)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, score_slowly(prompts, features), atol=2e-5)
    assert prompts.kind == ("softmax" if others else "cosine")


def test_a_prompt_does_not_depend_on_the_other_prompts():
    features = np.random.default_rng(2).normal(size=(50, 8)).astype(np.float32)
    together = prompts_of(3, 4)
    for i in range(3):
        alone = Prompts(("x",), together.vectors[[i]], together.others, together.other_names, together.temperature)
        np.testing.assert_allclose(alone.scores(features)[:, 0], together.scores(features)[:, i], atol=1e-5)


@pytest.mark.filterwarnings("error")
def test_a_tiny_temperature_and_features_of_zeros_are_no_trouble():
    features = np.concatenate([directions(3), -directions(3), np.zeros((1, 8), np.float32)])
    found = prompts_of(3, 2, 1e-6).scores(features)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:6].round(), found[:6], atol=1e-3)
    np.testing.assert_allclose(found[6], 1 / 3, atol=1e-6)
    assert prompts_of(3, 0).scores(features[6:]).tolist() == [[0, 0, 0]]
    assert prompts_of(3, 2).scores(features[:0]).shape == (0, 3)


def test_the_best_one_in_a_hundred_counts():
    scores = np.random.default_rng(0).permuted(np.tile(np.arange(400.0)[:, None], (1, 2)), axis=0).astype(np.float32)
    scores[:, 1] *= -1
    np.testing.assert_allclose(best_mean(scores), [397.5, -1.5])
    np.testing.assert_allclose(best_mean(np.array([[3.0, 1], [2, 5]], np.float32)), [3, 5])
