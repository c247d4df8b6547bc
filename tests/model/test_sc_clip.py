"""SC-CLIP against its formula, a patch at a time in float64, with scikit-learn's local outlier factor."""

import json
import math
import warnings

import numpy as np
import open_clip
import pytest
import torch
from sklearn.neighbors import LocalOutlierFactor

from clipfeat.model.encoder import attending, load_encoder
from clipfeat.model.sc_clip import Levels, anomalies, local_outlier_factors, mending_weights

GRID, WIDTH, HEADS, DEPTH = 7, 32, 4, 12
DEEP = "clipfeat-test-deep"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tower as deep as ViT-B whose norms and biases all matter; some of its patches are alike, and others not."""
    folder = tmp_path_factory.mktemp("arch")
    vision = {"image_size": 112, "layers": DEPTH, "width": WIDTH, "head_width": WIDTH // HEADS, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    (folder / f"{DEEP}.json").write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder)
    made = load_encoder(DEEP, None, input_size=112, attention="sc_clip")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weights in made.visual.named_parameters():
            if "ln_" in name or "bias" in name:
                weights.add_((0.3 if "weight" in name else 0.05) * torch.randn(weights.shape, generator=generator))
            elif "conv1" in name:
                weights.mul_(4)
    return made


def pictures(count, side=112):
    """(count, 3, side, side): a few patches of each colour, with noise of different strength."""
    generator = torch.Generator().manual_seed(5)
    colours = torch.randn(count, 3, 4, 4, generator=generator)
    strength = torch.rand(count, 1, 4, 4, generator=generator)
    coarse, strength = (torch.nn.functional.interpolate(values, (side, side)) for values in (colours, strength))
    return coarse + strength * torch.randn(count, 3, side, side, generator=generator)


def slow_norm(x, layer):
    weight, bias = (values.detach().numpy().astype(np.float64) for values in (layer.weight, layer.bias))
    return (x - x.mean()) / math.sqrt(((x - x.mean()) ** 2).mean() + 1e-5) * weight + bias


def slow_cosines(patches):
    return np.array([[a @ b / math.sqrt(a @ a) / math.sqrt(b @ b) for b in patches] for a in patches])


def slow_mended(patches, anomalous):
    mended = patches.copy()
    for place in anomalous:
        row, column = divmod(place, GRID)
        around = [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        inside = [i * GRID + j for i, j in around if 0 <= i < GRID and 0 <= j < GRID]
        sound = [patches[other] for other in inside if other not in anomalous]
        if sound:
            mended[place] = sum(sound) / len(sound)
    return mended


def slow_mean_of_alike(likeness, patches):
    found = []
    for row in likeness:
        weights = [value if value >= 0.4 else 0 for value in row]
        found.append(sum(w * patch for w, patch in zip(weights, patches, strict=True)) / sum(weights))
    return np.array(found)


def softmax(logits):
    powers = [math.exp(value - max(logits)) for value in logits]
    return np.array([power / sum(powers) for power in powers])


def slow_last_block(block, patches, likeness):
    p = {key: value.detach().numpy().astype(np.float64) for key, value in block.attn.state_dict().items()}
    normed = np.array([slow_norm(patch, block.ln_1) for patch in patches])
    _, k, v = np.split(normed @ p["in_proj_weight"].T + p["in_proj_bias"], 3, axis=1)
    size = WIDTH // HEADS
    mixed = np.zeros_like(v)
    mean = likeness.mean()
    for i in range(len(patches)):
        alike = softmax([3 * (value - mean) if value >= mean else -math.inf for value in likeness[i]])
        for head in range(HEADS):
            own = slice(head * size, (head + 1) * size)
            keys = softmax([k[i, own] @ k[j, own] / math.sqrt(size) for j in range(len(patches))])
            mixed[i, own] = sum((keys[j] + alike[j]) / 2 * v[j, own] for j in range(len(patches)))
    return mixed @ p["out_proj.weight"].T + p["out_proj.bias"]


def slow_sc_clip(encoder, hidden):
    """Tokens (GRID², WIDTH) of one picture; hidden[n] are those after n blocks, class token first."""
    visual, block = encoder.visual, encoder.visual.transformer.resblocks[-1]
    hidden = {number: values.numpy().astype(np.float64) for number, values in hidden.items()}
    before = hidden[11][1:]
    anomalous = np.flatnonzero(LocalOutlierFactor(n_neighbors=30, contamination=0.05).fit_predict(before) == -1)
    likeness = slow_cosines(slow_mended(hidden[9][1:], anomalous))
    nearby = slow_cosines(hidden[4][1:])
    # Else the twin and float32 might decide differently, which would say nothing of either.
    assert min(np.abs(values - edge).min() for values in (likeness, nearby) for edge in (0.4, values.mean())) > 1e-6
    assert all(0.1 < (values >= 0.4).mean() < 0.9 for values in (likeness, nearby))
    patches = slow_mean_of_alike(likeness, slow_mended(before, anomalous))
    found = slow_last_block(block, patches, likeness) + 0.3 * hidden[11][0]
    fused = sum(hidden[number] for number in (4, 5, 6, 7, 8, 9, 10))
    found = found + slow_last_block(block, fused[1:], likeness) + 0.3 * fused[0]
    return np.array([slow_norm(patch, visual.ln_post) for patch in slow_mean_of_alike(nearby, found)])


def test_sc_clip_is_its_formula(encoder):
    inputs, hidden, handles = pictures(2), {}, []
    for number, block in enumerate(encoder.visual.transformer.resblocks, start=1):
        handles.append(block.register_forward_hook(lambda _m, _i, out, n=number: hidden.__setitem__(n, out)))
    tokens = encoder.tokens(inputs)
    for handle in handles:
        handle.remove()
    for picture in range(2):
        expected = slow_sc_clip(encoder, {number: values[picture] for number, values in hidden.items()})
        found = tokens[picture].flatten(1).T.numpy()
        assert np.abs(found - expected).max() < 1e-5
    assert tokens.std() > 0.1


def test_a_picture_does_not_depend_on_its_neighbours_in_the_batch(encoder):
    inputs = pictures(4)
    together = encoder.tokens(inputs)
    for picture in range(4):
        torch.testing.assert_close(encoder.tokens(inputs[picture : picture + 1])[0], together[picture])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_close(encoder, precision):
    half = load_encoder(DEEP, None, input_size=112, attention="sc_clip", precision=precision)
    half.visual.load_state_dict(encoder.visual.state_dict())
    found, expected = half.tokens(pictures(2).to(half.visual.conv1.weight.dtype)), encoder.tokens(pictures(2))
    assert found.dtype == half.visual.conv1.weight.dtype
    assert torch.cosine_similarity(found.float(), expected, dim=1).median() > 0.99


@pytest.mark.gpu
def test_fp16_on_a_gpu_is_close_to_the_cpu(encoder, gpu):
    half = load_encoder(DEEP, None, input_size=112, attention="sc_clip", precision="fp16", device=gpu)
    half.visual.load_state_dict(encoder.visual.state_dict())
    found = half.tokens(pictures(2).to(gpu).half()).float().cpu()
    assert torch.cosine_similarity(found, encoder.tokens(pictures(2)), dim=1).median() > 0.99


@pytest.mark.parametrize(("count", "neighbours"), [(49, 30), (9, 8)])
def test_local_outlier_factors_are_scikit_learn_s(count, neighbours):
    points = torch.randn(3, count, 16, generator=torch.Generator().manual_seed(0))
    points[:, 4] *= 5
    found, chosen = local_outlier_factors(points), anomalies(points)
    for picture in range(3):
        twin = LocalOutlierFactor(n_neighbors=neighbours, contamination=0.05)
        marked = twin.fit_predict(points[picture].double().numpy()) == -1
        np.testing.assert_allclose(found[picture], -twin.negative_outlier_factor_, rtol=1e-9)
        np.testing.assert_array_equal(chosen[picture], marked)
    assert count < 10 or chosen[:, 4].all()


def test_anomalous_patches_become_the_mean_of_the_sound_ones_around():
    anomalous = torch.zeros(2, 16, dtype=torch.bool)
    anomalous[0, [0, 1, 4, 5, 10]] = True  # the corner 0 has no sound neighbour; 5 has 2, 6, 8, 9
    values = torch.arange(16.0)[:, None] ** 2
    found = (mending_weights(anomalous, 4) @ values)[..., 0]
    expected = values[:, 0].clone()
    expected[1], expected[4] = (4 + 36) / 2, (64 + 81) / 2
    expected[5], expected[10] = (4 + 36 + 64 + 81) / 4, (36 + 49 + 81 + 121 + 169 + 196 + 225) / 7
    torch.testing.assert_close(found[0], expected)
    assert torch.equal(found[1], values[:, 0])


def test_levels_are_the_published_ones_and_else_at_the_same_share_of_the_depth():
    assert Levels.of(12) == Levels(11, 9, 4, (4, 5, 6, 7, 8, 9, 10), 0.3)
    assert Levels.of(24) == Levels(23, 17, 7, tuple(range(9, 20)), 0.1)
    assert Levels.of(32) == Levels(31, 23, 9, tuple(range(12, 26)), 0.1)
    assert Levels.of(2) == Levels(1, 1, 1, (1,), 0.3)


@pytest.mark.parametrize("side", [16, 32])
def test_a_picture_of_few_or_equal_patches_is_finite(encoder, side):
    small = attending(load_encoder(DEEP, None, input_size=side), DEEP, "sc_clip")
    assert small.tokens(pictures(2, side)).isfinite().all()
    with torch.no_grad():
        small.visual.positional_embedding.zero_()  # so that one colour is one token, everywhere
    with warnings.catch_warnings(action="error"):
        assert small.tokens(torch.ones(1, 3, side, side)).isfinite().all()
