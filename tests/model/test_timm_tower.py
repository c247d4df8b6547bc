"""Towers of timm alone: their tokens, preprocessing and weights are timm's own; texts are refused with the reason."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import eva

from clipfeat.errors import ConfigError, WeightsError
from clipfeat.model import timm_weights
from clipfeat.model.cache import MapCache
from clipfeat.model.cached import CachedModel
from clipfeat.model.config import HeadConfig, ModelConfig
from clipfeat.model.encoder import load_encoder
from clipfeat.model.load import load_model
from clipfeat.model.text import load_text_encoder

CPU = torch.device("cpu")
SMALL = "test_vit2.r160_in1k"


def config(arch=SMALL, pretrained=None, **values):
    return ModelConfig(source="timm", arch=arch, pretrained=pretrained, **values)


def inputs(size=160):
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(4)
    return timm.create_model("test_vit2").eval()


@pytest.fixture(scope="module")
def tiny_eva():
    """Any model of ``eva.py`` at a width and depth that are made in milliseconds."""
    real = eva._create_eva

    def tiny(variant, pretrained=False, **kwargs):
        return real(variant, pretrained=pretrained, **kwargs | {"embed_dim": 64, "depth": 2, "num_heads": 2})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eva, "_create_eva", tiny)
        yield


@pytest.mark.parametrize(
    ("name", "prefix", "pooling"),
    [
        ("vit_small_patch16_dinov3.lvd1689m", 5, "avg"), ("vit_pe_spatial_tiny_patch16_512.fb", 1, "avg"),
        ("vit_pe_core_gigantic_patch14_448.fb", 0, "map"),  # timm's forward_intermediates fails without a class token
    ],
)  # fmt: skip
def test_class_and_register_tokens_are_left_out(tiny_eva, name, prefix, pooling):
    if name not in timm.list_pretrained():
        pytest.skip(f"timm {timm.__version__} is too old for it")
    side = 14 if "14" in name else 16
    encoder = load_encoder(f"timm:{name}", None, input_size=4 * side)
    trunk = encoder.visual.trunk
    with torch.no_grad():
        tokens, whole = encoder.encode(inputs(4 * side))
        features = trunk.forward_features(inputs(4 * side))
        assert torch.equal(whole, trunk.forward_head(features, pre_logits=True))
    assert (trunk.num_prefix_tokens, encoder.pooling) == (prefix, pooling)
    assert features.shape == (1, prefix + 16, 64)
    assert torch.equal(tokens.flatten(2).transpose(1, 2), features[:, prefix:])


def test_pictures_enter_as_timm_s_own_transform_brings_them():
    name = "vit_base_mci_224.apple_mclip"  # a mean of 0; nothing of it is made but its configuration
    picture = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    for arch, size in ((SMALL, 160), ("test_vit.r160_in1k", 160)):
        preprocess = load_model(config(arch), CPU, 0).preprocess
        own = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(arch).to_dict())
        transform = create_transform(**own | {"crop_mode": "squash", "crop_pct": 1.0})
        found = preprocess.normalize(torch.from_numpy(preprocess.pixels(picture)))
        assert torch.equal(found, transform(Image.fromarray(picture)))
        assert preprocess.size == size
    found = timm_weights.find_timm(f"timm:{name}")
    assert (found.image_size, found.published["mean"]) == (224, (0.0, 0.0, 0.0))


def wrapped(state):
    return {"state_dict": {f"module.{name}": values for name, values in state.items()}, "epoch": 3}


@pytest.mark.parametrize("form", ["with its classes", "features alone", "trainer's", "folder", "another count"])
def test_weights_of_a_file_are_those_that_timm_has(model, tmp_path, form):
    state = {name: values.clone() for name, values in model.state_dict().items()}
    if form == "features alone":
        state = {name: values for name, values in state.items() if not name.startswith("head.")}
    if form == "another count":
        state |= {"head.weight": torch.zeros(7, 64), "head.bias": torch.zeros(7)}
    path = tmp_path / "model.pt"
    torch.save(wrapped(state) if form == "trainer's" else state, path)
    found = load_model(config(pretrained=str(tmp_path if form == "folder" else path)), CPU, 0)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(inputs()), pre_logits=True)
        assert torch.equal(found.encoder.encode(inputs())[1], expected)
    about = found.describe()
    assert about["weights"] == (f"{tmp_path.name}/model.pt" if form == "folder" else "model.pt")
    assert about["arch"] == f"timm:{SMALL}"
    assert about["weights_sha256"] == load_encoder(f"timm:{SMALL}", str(path), input_size=224).weights_sha256


def test_a_file_that_lacks_a_weight_or_is_another_model_s_is_refused(model, tmp_path):
    state = {name: values for name, values in model.state_dict().items() if name != "blocks.1.attn.qkv.weight"}
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(WeightsError, match=rf"model.arch={SMALL}: part.pt can't be loaded into it .*Missing key"):
        load_model(config(pretrained=str(tmp_path / "part.pt")), CPU, 0)
    torch.save(timm.create_model("test_vit3").state_dict(), tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"other.pt can't be loaded into it"):
        load_model(config(pretrained=str(tmp_path / "other.pt")), CPU, 0)


def test_weights_come_from_the_hub_by_the_name_of_the_model(model, tmp_path, monkeypatch):
    asked = []
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")

    def of_hub(repo, name, *, online):
        asked.append((repo, name, online))
        if name != "pytorch_model.bin":
            raise OSError("404")
        return tmp_path / name

    monkeypatch.setattr(timm_weights, "hub_answers", lambda: True)
    monkeypatch.setattr(timm_weights, "of_hub", of_hub)
    found = load_model(ModelConfig(source="timm", arch=SMALL), CPU, 0)  # model.pretrained is that of another model
    assert found.describe()["weights"] == "r160_in1k"
    assert asked == [(f"timm/{SMALL}", "model.safetensors", True), (f"timm/{SMALL}", "pytorch_model.bin", True)]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"arch": "vit_tiny"}, WeightsError, "model.arch=vit_tiny: timm knows no such model; near it: "),
        ({"arch": "test_vit2.no"}, WeightsError, "model.arch=test_vit2.no: timm knows no such model; near it: test_"),
        ({"arch": "test_convnext"}, WeightsError, "ConvNeXt gives no ViT patch tokens; take a ViT such as vit_base_"),
        ({"pretrained": "no.pt"}, WeightsError, "model.pretrained=no.pt: no such file; give a checkpoint file, or"),
        ({"pretrained": "openai"}, WeightsError, "model.pretrained=openai: the tag of timm's weights is part of timm:"),
        ({"attention": "naclip"}, WeightsError, f"open_clip's own ViTs, which {SMALL} is not"),
        ({"input_size": 170}, ConfigError, f"model.input_size=170: expected a multiple of {SMALL}'s patch size 16"),
        ({"arch": "cait_xxs24_224", "input_size": 160}, WeightsError, "cait_xxs24_224 takes 224 pixels alone; leave"),
    ],
)  # fmt: skip
def test_what_can_t_be_is_told_in_a_line(values, error, message):
    with pytest.raises(error, match=message) as raised:
        load_model(config(**values), CPU, 0)
    assert "\n" not in str(raised.value)


def test_texts_are_refused_with_the_reason():
    with pytest.raises(ConfigError, match="model/head=text: model.source=timm gives features without a text tower, so"):
        config(head=HeadConfig("text"))
    with pytest.raises(WeightsError, match=f"timm:{SMALL}: timm's models have no text tower; take a model of"):
        load_text_encoder(f"timm:{SMALL}", None)
    encoder = load_encoder(f"timm:{SMALL}", None, input_size=160)
    with pytest.raises(WeightsError, match="timm's models have no space of texts"):
        encoder.project(encoder.tokens(inputs()))
    with pytest.raises(ConfigError, match="model.source=torchvision: expected one of open_clip, timm"):
        ModelConfig(source="torchvision")


def test_the_cache_keeps_its_maps(tmp_path):
    fingerprints = set()
    for _ in range(2):  # loaded, and then known by its card
        cached = CachedModel(config(), CPU, 0, MapCache(tmp_path / "maps.lmdb"))
        fingerprints.add(cached.fingerprint)
        loaded = cached._model is not None
        assert json.loads(json.dumps(cached.describe()))["arch"] == f"timm:{SMALL}"
        cached.close()
    assert len(fingerprints) == 1
    assert not loaded
