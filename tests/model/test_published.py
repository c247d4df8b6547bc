"""Pictures enter a model as it was published, or as CLIP's by name; what differs is told, and in the fingerprint."""

import json

import numpy as np
import open_clip
import pytest
import torch
import yaml
from conftest import CHECKOUT
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from clipfeat.errors import ConfigError, WeightsError
from clipfeat.model.cache import MapCache
from clipfeat.model.cached import CachedModel
from clipfeat.model.config import ModelConfig
from clipfeat.model.load import load_model
from clipfeat.model.published import published_size, with_input_size
from clipfeat.model.weights import find_architecture, usual_published

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, tiny_arch):
    """A small model that was published for 64 pixels, bilinear, with a mean of its own."""
    path = tmp_path / "own"
    path.mkdir()
    config = open_clip.get_model_config(tiny_arch)
    config["vision_cfg"]["image_size"] = 64
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "interpolation": "bilinear"}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    torch.manual_seed(2)
    torch.save(open_clip.create_model(tiny_arch, force_image_size=64).state_dict(), path / "w.pt")
    return path


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)


def config_of(folder, **values):
    return ModelConfig(arch=str(folder), **values)


def test_a_picture_enters_a_model_to_the_bit_as_it_was_published(folder, picture):
    model = load_model(config_of(folder), CPU, 0)
    told = {"size": 64, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "interpolation": "bilinear"}
    transform = image_transform_v2(PreprocessCfg(**told, resize_mode="squash"), is_train=False)
    pixels = model.preprocess.pixels(picture)
    expected = transform(Image.fromarray(picture))
    torch.testing.assert_close(model.preprocess.normalize(torch.from_numpy(pixels)), expected, atol=1e-6, rtol=0)
    assert model.feature_maps([pixels], [(131, 97)])[0].values.shape == (64, 4, 4)
    assert [model.describe()[key] for key in told if key != "size"] == [[0.4, 0.5, 0.6], [0.2, 0.25, 0.3], "bilinear"]
    assert (model.describe()["input_size"], model.describe()["arch"]) == (64, "local-dir:own")


def test_clip_s_own_way_is_there_by_name_and_what_differs_is_told(folder, tmp_path, caplog):
    caplog.set_level("INFO", "clipfeat")
    line = "local-dir:own: input_size 64 published, 224 here; interpolation bilinear published, bicubic here"
    described = load_model(config_of(folder, preprocess="clip"), CPU, 0).describe()
    assert (described["input_size"], described["interpolation"]) == (224, "bicubic")
    assert described["mean"] == [0.4, 0.5, 0.6]
    assert caplog.messages == [line]
    caplog.clear()
    load_model(config_of(folder), CPU, 0)
    assert not caplog.messages
    for _ in range(2):  # loaded, and then known from the cache
        CachedModel(config_of(folder, preprocess="clip"), CPU, 0, MapCache(tmp_path / "maps.lmdb")).close()
        assert caplog.messages.count(line) == 1
        caplog.clear()


def test_a_fingerprint_has_whatever_changes_values(folder, tmp_path):
    def fingerprint(**values):
        model = CachedModel(config_of(folder, **values), CPU, 0, MapCache(tmp_path / "maps.lmdb"))
        model.close()
        return model.fingerprint

    about = json.loads((folder / "open_clip_config.json").read_text())
    found = [fingerprint(), fingerprint(preprocess="clip"), fingerprint(preprocess="clip", input_size=64)]
    for part, key, value in (
        ("preprocess_cfg", "mean", 0.5), ("preprocess_cfg", "std", [0.3, 0.25, 0.3]),
        ("preprocess_cfg", "interpolation", "bicubic"), ("model_cfg", "quick_gelu", True),
    ):  # fmt: skip
        changed = about | {part: about[part] | {key: value}}
        (folder / "open_clip_config.json").write_text(json.dumps(changed))
        found.append(fingerprint())
    assert len(set(found)) == len(found) - 1
    assert found[2] == found[5]  # bicubic at 64 pixels, however it came to that


@pytest.mark.parametrize("arch", ["ViT-B-16", "ViT-B-32", "ViT-L-14"])
def test_the_models_of_the_presets_are_what_they_were(arch):
    tag = {"ViT-B-16": "laion2b_s34b_b88k", "ViT-B-32": "laion2b_s34b_b79k", "ViT-L-14": "laion2b_s32b_b82k"}[arch]
    assert with_input_size(ModelConfig(arch=arch)).input_size == 224
    assert open_clip.get_pretrained_cfg(arch, tag)["interpolation"] == "bicubic"
    assert usual_published(arch)["interpolation"] == "bicubic"


@pytest.mark.parametrize(
    ("arch", "size", "interpolation"),
    [
        ("ViT-L-14-336", 336, "bicubic"), ("ViT-B-16-SigLIP-384", 384, "bicubic"), ("ViT-L-14-CLIPA", 224, "bilinear"),
        ("PE-Core-T-16-384", 384, "bilinear"), ("ViT-SO400M-14-SigLIP-384", 378, "bicubic"),
    ],
)  # fmt: skip
def test_sizes_and_interpolations_are_those_that_were_published(arch, size, interpolation):
    assert published_size(find_architecture(arch)) == size
    assert usual_published(arch)["interpolation"] == interpolation
    assert with_input_size(ModelConfig(arch=arch, preprocess="clip")).input_size == 224
    assert with_input_size(ModelConfig(arch=arch, input_size=112)).input_size == 112


@pytest.mark.parametrize("path", sorted((CHECKOUT / "conf/model").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_model_by_name_is_as_open_clip_has_it(path):
    said = yaml.safe_load(path.read_text())
    told = open_clip.get_pretrained_cfg(said["arch"], said["pretrained"])
    assert told["hf_hub"], "no such tag"
    found = find_architecture(said["arch"])
    assert with_input_size(ModelConfig(arch=said["arch"])).input_size == found.model_cfg["vision_cfg"]["image_size"]
    assert found.published["interpolation"] == told["interpolation"]
    if path.stem != "vit_l14":  # whose tags differ in mean and std, so that each has its own
        assert (found.published["mean"], found.published["std"]) == (told["mean"], told["std"])
    quick = found.model_cfg.get("quick_gelu", False)
    assert quick == bool(told.get("quick_gelu")) == (path.stem == "openai_b16")


def test_a_model_without_patches_has_a_size_so_that_it_can_be_refused():
    assert with_input_size(ModelConfig(arch="RN50")).input_size == 224


def test_what_does_not_fit_is_told(tiny_arch):
    with pytest.raises(ConfigError, match="model.window=336: larger than .* shorter side, model.input_size=224"):
        with_input_size(ModelConfig(arch=tiny_arch, window=336))
    with pytest.raises(WeightsError, match="model.arch=ViT-B-17: open_clip knows no such model"):
        with_input_size(ModelConfig(arch="ViT-B-17"))
    with pytest.raises(ConfigError, match="model.preprocess=mine: expected one of published, clip"):
        ModelConfig(preprocess="mine")
