import json

import open_clip
import pytest
import torch

from clipfeat.errors import WeightsError
from clipfeat.model.encoder import load_encoder


def inputs(size=224, batch=2):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def vit_b16():
    return load_encoder("ViT-B-16", None)


def test_vit_b16_tokens_are_open_clip_s_output_tokens(vit_b16):
    tokens = vit_b16.tokens(inputs())
    assert tokens.shape == (2, 768, 14, 14)
    vit_b16.visual.output_tokens = True
    try:
        with torch.no_grad():
            _, expected = vit_b16.visual(inputs())
    finally:
        vit_b16.visual.output_tokens = False
    assert (tokens.permute(0, 2, 3, 1).reshape(2, 196, 768) - expected).abs().max() < 1e-5
    assert expected.std() > 0.1


def test_what_stands_for_the_whole_picture_is_what_open_clip_projects(vit_b16, tiny_arch):
    tiny = load_encoder(tiny_arch, None)
    for encoder in (vit_b16, tiny):
        tokens, whole = encoder.encode(inputs())
        assert whole.shape == (2, encoder.width)
        assert torch.equal(tokens, encoder.tokens(inputs()))
        with torch.no_grad():
            assert (whole @ encoder.visual.proj - encoder.visual(inputs())).abs().max() < 1e-5
    tiny.visual.pool_type = "avg"
    for tiny.visual.final_ln_after_pool in (False, True):  # True as CLIPA's towers do it
        with torch.no_grad():
            assert (tiny.encode(inputs())[1] @ tiny.visual.proj - tiny.visual(inputs())).abs().max() < 1e-5
        assert tiny.pooling == "avg"


def test_tokens_lie_where_their_patch_lies(tiny_arch):
    """Row y and column x of the map is the y-th row and x-th column of patches."""
    visual = load_encoder(tiny_arch, None)
    with torch.no_grad():
        base = visual.tokens(torch.zeros(1, 3, 224, 224))
        marked = torch.zeros(1, 3, 224, 224)
        marked[:, :, 3 * 16 : 4 * 16, 9 * 16 : 10 * 16] = 5.0
        change = (visual.tokens(marked) - base).abs().sum(1)[0]
    assert divmod(int(change.argmax()), 14) == (3, 9)


def test_projected_tokens_are_in_text_space(vit_b16):
    tokens = vit_b16.tokens(inputs())
    projected = vit_b16.project(tokens)
    assert projected.shape == (2, 512, 14, 14)
    proj = vit_b16.visual.proj.double()
    for picture, row, column in ((0, 0, 0), (1, 3, 9), (1, 13, 13)):
        expected = tokens[picture, :, row, column].double() @ proj
        torch.testing.assert_close(projected[picture, :, row, column].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def siglip_arch(tmp_path_factory):
    """A small tower of timm that pools by attention, as SigLIP's does."""
    folder = tmp_path_factory.mktemp("siglip")
    config = {
        "embed_dim": 64, "custom_text": True,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 2, "layers": 1},
    }  # fmt: skip
    (folder / "clipfeat-test-SigLIP.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return "clipfeat-test-SigLIP"


def test_a_tower_of_timm_gives_its_tokens_after_the_last_norm(siglip_arch):
    encoder = load_encoder(siglip_arch, None)
    tokens = encoder.tokens(inputs())
    assert (encoder.width, encoder.patch_size, encoder.grid) == (64, 16, 14)
    trunk = encoder.visual.trunk
    expected = trunk.forward_features(inputs())[:, trunk.num_prefix_tokens :]
    torch.testing.assert_close(tokens.permute(0, 2, 3, 1).reshape(2, 196, 64), expected)
    with torch.no_grad():
        marked = inputs(batch=1)
        marked[:, :, 3 * 16 : 4 * 16, 9 * 16 : 10 * 16] += 9.0
        change = (encoder.tokens(marked) - tokens[:1]).abs().sum(1)[0]
    assert divmod(int(change.argmax()), 14) == (3, 9)


@pytest.mark.parametrize("pool", ["siglip", "PE-Core-T-16-384"])
def test_a_token_of_timm_in_text_space_is_a_picture_of_it_alone(siglip_arch, pool):
    """A picture whose tokens are all one is embedded as each of them is projected."""
    encoder = load_encoder(siglip_arch if pool == "siglip" else pool, None)
    visual = encoder.visual
    token = 100 * torch.randn(3, 1, encoder.width, generator=torch.Generator().manual_seed(0))
    everywhere = token.expand(-1, 196 + visual.trunk.num_prefix_tokens, -1)
    with torch.no_grad():
        expected = visual.head(visual.trunk.forward_head(everywhere))
        found = encoder.project(token.transpose(1, 2)[..., None])
    assert expected.std() > 1e-3
    torch.testing.assert_close(found[..., 0, 0], expected, atol=1e-5 * float(expected.std()), rtol=1e-4)


def test_only_a_frozen_visual_tower_in_eval_mode_is_kept(tiny_arch):
    encoder = load_encoder(tiny_arch, None)
    assert not encoder.visual.training
    assert not any(p.requires_grad for p in encoder.visual.parameters())
    assert encoder.weights == "random"
    assert (encoder.width, encoder.patch_size, encoder.grid) == (64, 16, 14)


def test_another_input_size_interpolates_the_position_embedding(tiny_arch, tmp_path):
    path = tmp_path / "clip.pt"
    torch.save(open_clip.create_model(tiny_arch).state_dict(), path)
    encoder = load_encoder(tiny_arch, str(path), input_size=336)
    assert encoder.tokens(inputs(336, 1)).shape == (1, 64, 21, 21)


SLOW = [pytest.param(arch, marks=pytest.mark.slow) for arch in ("coca_ViT-B-32", "MobileCLIP-S1")]


@pytest.mark.parametrize("arch", ["RN50", *SLOW])
def test_models_without_patch_tokens_are_refused(arch):
    with pytest.raises(WeightsError, match="take a ViT such as ViT-B-16"):
        load_encoder(arch, None)


@pytest.mark.gpu
def test_fp16_on_a_gpu_is_close_to_fp32(tiny_arch, gpu):
    full = load_encoder(tiny_arch, None, device=gpu).tokens(inputs().to(gpu))
    half = load_encoder(tiny_arch, None, device=gpu, precision="fp16").tokens(inputs().to(gpu).half())
    assert (full - half.float()).norm() / full.norm() < 1e-2
