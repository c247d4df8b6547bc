import json
import math

import numpy as np
import open_clip
import pytest
import torch

from clipfeat.model.text import load_text_encoder
from clipfeat.queries import prompts as module
from clipfeat.queries.prompts import Prompts, best_mean


def directions(count, channels=8, seed=0):
    values = np.random.default_rng(seed).normal(size=(count, channels))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def prompts_of(count, others, score=None, temperature=0.01, bias=0.0):
    names, score = tuple(map(str, range(count))), score or ("softmax" if others else "cosine")
    return Prompts(
        names, directions(count), directions(others, seed=1), tuple("abcd"[:others]), score, temperature, bias
    )


def score_slowly(prompts, features):
    found = np.zeros((len(features), len(prompts.names)))
    t = prompts.temperature
    for i, feature in enumerate(features.astype(np.float64)):
        length = math.sqrt((feature**2).sum())
        others = [math.exp(feature @ o / length / t) for o in prompts.others.astype(np.float64)]
        for j, vector in enumerate(prompts.vectors.astype(np.float64)):
            cosine = feature @ vector / length
            own = math.exp(cosine / t)
            if prompts.score == "cosine":
                found[i, j] = cosine
            elif prompts.score == "softmax":
                found[i, j] = own / (own + sum(others))
            elif prompts.score == "relevancy":
                found[i, j] = min(own / (own + other) for other in others)
            else:
                found[i, j] = 1 / (1 + math.exp(-(cosine / t + prompts.bias)))
    return found


@pytest.mark.parametrize(
    ("score", "others"),
    [("cosine", 0), ("softmax", 1), ("softmax", 4), ("relevancy", 1), ("relevancy", 4), ("sigmoid", 0)],
)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_scores_equal_a_slow_twin(count, score, others, dtype, temperature, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 7)  # so that 50 features are several slices
    features = (100 * np.random.default_rng(2).normal(size=(50, 8))).astype(dtype)
    prompts = prompts_of(count, others, score, temperature, -3.0)
    found = prompts.scores(features)
    assert found.shape == (50, count)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, score_slowly(prompts, features), atol=2e-5)
    told = prompts.describe()
    assert (told["score"], len(told["against"])) == (score, others)
    assert told["temperature"] == (None if score == "cosine" else temperature)
    assert told["bias"] == (-3 if score == "sigmoid" else None)


def test_relevancy_is_the_softmax_against_one_text_and_the_least_of_several():
    features = directions(50, seed=2)
    one, several = prompts_of(2, 1, "relevancy", 0.1), prompts_of(2, 4, "relevancy", 0.1)
    np.testing.assert_array_equal(one.scores(features), prompts_of(2, 1, "softmax", 0.1).scores(features))
    assert (several.scores(features) >= prompts_of(2, 4, "softmax", 0.1).scores(features)).all()
    # One half is where the prompt and the likest of the others are as alike.
    cosines = [features @ v.T for v in (several.vectors, several.others)]
    np.testing.assert_array_equal(several.scores(features) > 0.5, cosines[0] > cosines[1].max(1, keepdims=True))


def test_sigmoid_is_siglip_s_own_probability(tmp_path):
    """Against open_clip's forward pass of a small model with SigLIP's text settings; its weights are random."""
    text = {
        "context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2, "no_causal_mask": True,
        "proj_bias": True, "pool_type": "last",
    }  # fmt: skip
    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16}
    config = {"embed_dim": 32, "init_logit_bias": -10, "custom_text": True, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "clipfeat-test-sigmoid.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(3)
    model = open_clip.create_model("clipfeat-test-sigmoid").eval()
    with torch.no_grad():
        model.logit_scale.fill_(math.log(117.3))
        model.logit_bias.fill_(-12.9)
    torch.save(model.state_dict(), tmp_path / "siglip.pt")
    names = ["a chair", "a table", "the wall"]
    pictures = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        features = model.encode_image(pictures).numpy()
        logits = model.get_logits(pictures, open_clip.get_tokenizer("clipfeat-test-sigmoid")(names))[0].numpy()
    texts = load_text_encoder("clipfeat-test-sigmoid", str(tmp_path / "siglip.pt"), input_size=32)
    assert texts.logits == pytest.approx((117.3, -12.9), rel=1e-6)
    vectors = texts.encode_text(names)
    own = vectors @ (features / np.linalg.norm(features, axis=1, keepdims=True)).T
    np.testing.assert_allclose(own.T / texts.logits.temperature + texts.logits.bias, logits, rtol=1e-6, atol=2e-5)
    nothing = np.empty((0, 32), np.float32)
    for bias in (texts.logits.bias, 0.0):  # at SigLIP's own bias all of these are near 0
        prompts = Prompts(tuple(names), vectors, nothing, (), "sigmoid", texts.logits.temperature, bias)
        expected = 1 / (1 + np.exp(-(logits.astype(np.float64) + 12.9 + bias)))
        np.testing.assert_allclose(prompts.scores(features), expected, atol=1e-6)


def test_a_prompt_does_not_depend_on_the_other_prompts():
    features = np.random.default_rng(2).normal(size=(50, 8)).astype(np.float32)
    together = prompts_of(3, 4)
    for i in range(3):
        alone = Prompts(("x",), together.vectors[[i]], together.others, together.other_names, "softmax")
        np.testing.assert_allclose(alone.scores(features)[:, 0], together.scores(features)[:, i], atol=1e-5)


@pytest.mark.filterwarnings("error")
def test_a_tiny_temperature_and_features_of_zeros_are_no_trouble():
    features = np.concatenate([directions(3), -directions(3), np.zeros((1, 8), np.float32)])
    for score, others, at_zero in (("softmax", 2, 1 / 3), ("relevancy", 2, 1 / 2), ("sigmoid", 0, 1 / 2)):
        found = prompts_of(3, others, score, 1e-6).scores(features)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found[:6].round(), found[:6], atol=1e-3)
        np.testing.assert_allclose(found[6], at_zero, atol=1e-6)
    assert prompts_of(3, 0).scores(features[6:]).tolist() == [[0, 0, 0]]
    assert prompts_of(3, 2).scores(features[:0]).shape == (0, 3)


def test_the_best_one_in_a_hundred_counts():
    scores = np.random.default_rng(0).permuted(np.tile(np.arange(400.0)[:, None], (1, 2)), axis=0).astype(np.float32)
    scores[:, 1] *= -1
    np.testing.assert_allclose(best_mean(scores), [397.5, -1.5])
    np.testing.assert_allclose(best_mean(np.array([[3.0, 1], [2, 5]], np.float32)), [3, 5])
