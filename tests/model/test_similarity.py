"""The refinement of a finished map: its formula, of any encoder, and whose map it is."""

import math

import numpy as np
import pytest
import torch

from clipfeat.model.config import HeadConfig, ModelConfig
from clipfeat.model.load import load_model
from clipfeat.model.similarity import refined, weights_above_mean

CPU = torch.device("cpu")


def slow_refined(tokens):
    """RADSeg's global aggregation of one map (D, h, w), a cell at a time."""
    cells = tokens.numpy().astype(np.float64).reshape(len(tokens), -1).T
    likeness = np.array([[a @ b / math.sqrt(a @ a) / math.sqrt(b @ b) for b in cells] for a in cells])
    mean, found = likeness.mean(), []
    for row in likeness:
        powers = [math.exp(10 * (value - mean)) if value >= mean else 0 for value in row]
        found.append(sum(power * cell for power, cell in zip(powers, cells, strict=True)) / sum(powers))
    return np.array(found).T.reshape(tokens.shape)


def picture(size=(96, 128)):
    return np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)


def model(arch, **values):
    values = {"pretrained": None} | values
    return load_model(ModelConfig(arch=arch, **values), CPU, 0)


def map_of(model, pixels):
    return model.feature_maps([model.preprocess.pixels(pixels)], [(pixels.shape[1], pixels.shape[0])])[0]


def test_a_refined_map_is_its_formula():
    tokens = torch.randn(2, 8, 3, 5, generator=torch.Generator().manual_seed(0))
    tokens[:, :, :, 3:] += 2 * tokens[:, :, :1, :1]
    found = refined(tokens)
    assert (found - tokens).abs().mean() > 0.1
    for row in range(2):
        np.testing.assert_allclose(found[row], slow_refined(tokens[row]), atol=1e-5)


def test_where_all_cells_are_alike_each_still_takes_of_itself():
    weights = weights_above_mean(torch.ones(1, 3, 3) + torch.eye(3) * 1e-7, 10.0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 3))
    assert (weights.diagonal(dim1=1, dim2=2) > 0).all()
    tokens = torch.ones(1, 4, 2, 2)
    torch.testing.assert_close(refined(tokens), tokens)
    assert refined(torch.zeros(1, 4, 2, 2)).isfinite().all()


@pytest.mark.parametrize("head", ["none", "pixelshuffle", "text"])
def test_heads_take_the_refined_map_and_clip_global_stays(tiny_arch, head):
    plain, refining = (model(tiny_arch, refine=refine, head=HeadConfig(head)) for refine in ("none", "self_similarity"))
    found, before = map_of(refining, picture()), map_of(plain, picture())
    tokens = refined(
        plain.encoder.tokens(plain.preprocess.normalize(torch.from_numpy(plain.preprocess.pixels(picture()))[None]))
    )
    expected = plain.head.to_map(plain.encoder.project(tokens) if head == "text" else tokens)[0]
    torch.testing.assert_close(found.values, expected)
    assert torch.equal(found.clip_global, before.clip_global)
    assert (refining.describe()["refine"], plain.describe()["refine"]) == ("self_similarity", "none")


@pytest.mark.parametrize("head", ["none", "text"])
def test_windows_are_one_map_before_it_is_refined(tiny_arch, head):
    windows = {"input_size": 112, "window": 64, "stride": 32}
    plain = model(tiny_arch, **windows)
    whole = map_of(plain, picture())
    found = map_of(model(tiny_arch, refine="self_similarity", head=HeadConfig(head), **windows), picture())
    expected = refined(whole.values[None])
    expected = plain.encoder.project(expected) if head == "text" else expected
    torch.testing.assert_close(found.values, expected[0])
    np.testing.assert_array_equal(found.image_to_map, whole.image_to_map)
    assert torch.equal(found.clip_global, whole.clip_global)


def test_it_is_of_any_encoder():
    timm = {"source": "timm", "input_size": 64}
    plain = map_of(model("test_vit2.r160_in1k", **timm), picture())
    found = map_of(model("test_vit2.r160_in1k", refine="self_similarity", **timm), picture())
    torch.testing.assert_close(found.values, refined(plain.values[None])[0])
    assert torch.equal(found.clip_global, plain.clip_global)
