"""Each variant of the last block against its formula, a head and a token at a time in float64."""

import math

import numpy as np
import pytest
import torch
from open_clip.transformer import CustomResidualAttentionBlock, QuickGELU, ResidualAttentionBlock

from clipfeat.errors import WeightsError
from clipfeat.model.attention import VARIANTS, can_vary, run_last_block
from clipfeat.model.config import ATTENTIONS
from clipfeat.model.encoder import load_encoder

GRID, WIDTH, HEADS = 7, 32, 4


def softmax(logits):
    powers = [math.exp(value - max(logits)) for value in logits]
    return [power / sum(powers) for power in powers]


def weights_of(name, q, k, i):
    """What token i takes of each token's value; q and k are (L, d) of one head."""
    scale = 1 / math.sqrt(q.shape[1])
    count = len(q)
    if name == "vanilla":
        return softmax([q[i] @ k[j] * scale for j in range(count)])
    if name == "maskclip":
        return [float(j == i) for j in range(count)]
    like_q = [q[i] @ q[j] * scale for j in range(count)]
    like_k = [k[i] @ k[j] * scale for j in range(count)]
    if name == "sclip":
        return [a + b for a, b in zip(softmax(like_q), softmax(like_k), strict=True)]
    if name == "clearclip":
        return softmax(like_q)
    for j in range(1, count):  # the class token, 0, lies nowhere
        if i > 0:
            (row_i, column_i), (row_j, column_j) = divmod(i - 1, GRID), divmod(j - 1, GRID)
            like_k[j] += math.exp(-((row_i - row_j) ** 2 + (column_i - column_j) ** 2) / (2 * 5**2))
    return softmax(like_k)


def slow_block(block, tokens, name):
    """The block of one picture, tokens (1 + GRID², D)."""
    p = {key: value.detach().numpy().astype(np.float64) for key, value in block.state_dict().items()}

    def norm(x, layer):
        centred = x - x.mean(1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * p[f"{layer}.weight"] + p[f"{layer}.bias"]

    def gelu(x):
        if isinstance(block.mlp.gelu, QuickGELU):
            return x / (1 + np.exp(-1.702 * x))
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    x = tokens.numpy().astype(np.float64)
    q, k, v = np.split(norm(x, "ln_1") @ p["attn.in_proj_weight"].T + p["attn.in_proj_bias"], 3, axis=1)
    size = WIDTH // HEADS
    mixed = np.zeros_like(v)
    for head in range(HEADS):
        channels = slice(head * size, (head + 1) * size)
        for i in range(len(x)):
            weights = weights_of(name, q[:, channels], k[:, channels], i)
            for j in range(len(x)):
                mixed[i, channels] += weights[j] * v[j, channels]
    out = (mixed @ p["attn.out_proj.weight"].T + p["attn.out_proj.bias"]) * p.get("ls_1.gamma", 1)
    if name in ("maskclip", "clearclip", "naclip"):
        return out
    x = x + out
    hidden = gelu(norm(x, "ln_2") @ p["mlp.c_fc.weight"].T + p["mlp.c_fc.bias"])
    return x + (hidden @ p["mlp.c_proj.weight"].T + p["mlp.c_proj.bias"]) * p.get("ls_2.gamma", 1)


@pytest.fixture(params=["plain", "layer scale", "QuickGELU"])
def block(request):
    """A block whose weights and biases all matter, and whose attention is far from even."""
    torch.manual_seed(0)
    options = {"layer scale": {"ls_init_value": 0.5}, "QuickGELU": {"act_layer": QuickGELU}}.get(request.param, {})
    made = ResidualAttentionBlock(WIDTH, HEADS, **options)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.15 if "weight" in name or "gamma" in name else 0.1))
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["vanilla", *VARIANTS])
def test_each_variant_is_its_formula(block, name):
    tokens = torch.randn(2, 1 + GRID**2, WIDTH, generator=torch.Generator().manual_seed(1))
    # Vanilla is open_clip's own code: that it equals the twin says that the twin is right.
    found = block(tokens) if name == "vanilla" else run_last_block(block, tokens, GRID, VARIANTS[name])
    for picture in range(2):
        assert np.abs(found[picture].numpy() - slow_block(block, tokens[picture], name)).max() < 1e-5
    assert found.std() > 0.1


@pytest.fixture
def inputs():
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [*VARIANTS, "sc_clip"])
def test_the_blocks_before_the_last_are_open_clip_s_own_to_the_bit(tiny_arch, inputs, name):
    def watched(attention):
        encoder = load_encoder(tiny_arch, None, attention=attention)
        blocks, taken = encoder.visual.transformer.resblocks, []
        for block in blocks:
            block.register_forward_hook(lambda _m, _i, out: taken.append(out))
        return *encoder.encode(inputs), taken

    vanilla, whole, expected = watched("vanilla")
    varied, varied_whole, found = watched(name)
    assert (len(expected), len(found)) == (2, 2)  # the last block as it is, for the class token alone
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(varied_whole, whole)
    assert varied.shape == vanilla.shape == (2, 64, 14, 14)
    assert (varied - vanilla).abs().mean() > 0.05


@pytest.mark.parametrize("name", VARIANTS)
def test_tokens_are_those_of_the_varied_block_after_ln_post(tiny_arch, inputs, name):
    encoder = load_encoder(tiny_arch, None, attention=name)
    visual, taken = encoder.visual, []
    visual.transformer.resblocks[0].register_forward_hook(lambda _m, _i, out: taken.append(out))
    tokens = encoder.tokens(inputs)
    expected = visual.ln_post(run_last_block(visual.transformer.resblocks[1], taken[0], 14, VARIANTS[name]))
    for row, column in ((0, 0), (3, 9), (13, 13)):
        torch.testing.assert_close(tokens[:, :, row, column], expected[:, 1 + 14 * row + column])


def test_the_configuration_names_them_all():
    assert ("vanilla", *VARIANTS, "sc_clip") == ATTENTIONS


def test_weights_do_not_depend_on_the_variant(tiny_arch):
    assert len({load_encoder(tiny_arch, None, attention=name).weights_sha256 for name in ATTENTIONS}) == 1


def test_a_block_with_another_attention_is_not_varied(tiny_arch):
    visual = load_encoder(tiny_arch, None).visual
    assert can_vary(visual)
    visual.transformer.resblocks[-1] = CustomResidualAttentionBlock(64, 2)
    assert not can_vary(visual)


def test_models_whose_last_block_is_another_are_refused():
    with pytest.raises(
        WeightsError,
        match="model.attention=naclip: changes the last block of open_clip's own ViTs, which PE-Core-T-16-384 is not; "
        "take model.attention=vanilla, or a ViT such as ViT-B-16",
    ):
        load_encoder("PE-Core-T-16-384", None, attention="naclip")
    with pytest.raises(WeightsError, match="model.arch=RN50: ModifiedResNet gives no ViT patch tokens; take a ViT"):
        load_encoder("RN50", None, attention="naclip")
