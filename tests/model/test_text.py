import itertools
import json
import logging

import numpy as np
import open_clip
import pytest
import torch

from clipfeat.errors import ConfigError, WeightsError
from clipfeat.model.config import HeadConfig, ModelConfig
from clipfeat.model.encoder import load_encoder
from clipfeat.model.load import load_model
from clipfeat.model.pretrained import Logits, _logits_of
from clipfeat.model.text import TEMPLATES, fill_template, load_text_encoder, templates_of

CPU = torch.device("cpu")
PROMPTS = ["a chair", "the big table", "wall", "an armchair|a couch|sofa"]


@pytest.fixture(scope="module", params=["CLIP", "CustomTextCLIP"])
def text_arch(request, tmp_path_factory):
    """A small model with CLIP's own tokenizer, of both kinds that open_clip builds."""
    folder, name = tmp_path_factory.mktemp("arch"), f"clipfeat-test-{request.param}"
    config = {
        "embed_dim": 32,
        "custom_text": request.param == "CustomTextCLIP",
        "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return name


@pytest.fixture(scope="module")
def checkpoint(text_arch, tmp_path_factory):
    """A file of weights, and the model that it holds."""
    torch.manual_seed(7)
    model = open_clip.create_model(text_arch).eval()
    path = tmp_path_factory.mktemp("weights") / "clip.pt"
    torch.save(model.state_dict(), path)
    return path, model


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_is_the_mean_over_its_names_and_templates(text_arch, checkpoint, name, monkeypatch):
    """Against open_clip's own tower, a text at a time in float64."""
    path, model = checkpoint
    monkeypatch.setattr("clipfeat.model.text._TEXTS", 3)  # so that ten templates are several forward passes
    encoder = load_text_encoder(text_arch, str(path))
    found = encoder.encode_text(PROMPTS, TEMPLATES[name])
    assert found.shape == (4, 32)
    assert found.dtype == np.float32
    tokenizer = open_clip.get_tokenizer(text_arch)
    for prompt, vector in zip(PROMPTS, found, strict=True):
        total = np.zeros(32)
        for template, one in itertools.product(TEMPLATES[name], prompt.split("|")):
            with torch.no_grad():
                row = model.encode_text(tokenizer([fill_template(template, one)]))[0].numpy().astype(np.float64)
            total += row / np.linalg.norm(row)
        np.testing.assert_allclose(vector, total / np.linalg.norm(total), atol=1e-5)
    assert np.abs(found @ found.T - np.eye(4)).max() > 0.01
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    # To the bit the same whatever else is asked for.
    np.testing.assert_array_equal(encoder.encode_text(PROMPTS[::-2], TEMPLATES[name]), found[::-2])


def test_texts_are_comparable_to_the_points_of_head_text(text_arch, checkpoint):
    path, model = checkpoint
    cfg = ModelConfig(arch=text_arch, pretrained=str(path), head=HeadConfig("text"))
    features = load_model(cfg, CPU, 0)
    texts = load_text_encoder(text_arch, str(path))
    assert texts.weights_sha256 == features.describe()["weights_sha256"]
    assert texts.weights == features.describe()["weights"] == "clip.pt"
    points = features.point_features(torch.randn(5, 32))
    assert (points @ texts.encode_text(PROMPTS).T).shape == (5, 4)
    # Where the map is the pooled embedding itself, the cosine is open_clip's own similarity.
    with torch.no_grad():
        image = model.encode_image(torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
        text = model.encode_text(open_clip.get_tokenizer(text_arch)(["wall"]))
    expected = torch.cosine_similarity(image, text)
    np.testing.assert_allclose(
        features.point_features(image) @ texts.encode_text(["wall"]).T, expected[None], atol=1e-5
    )


def test_random_weights_are_those_of_the_visual_tower_s_model(text_arch):
    for options in ({"seed": 3}, {"seed": 3, "input_size": 336}, {"seed": 3, "precision": "bf16"}):
        visual = load_encoder(text_arch, None, **options)
        text = load_text_encoder(text_arch, None, **options)
        assert text.weights == visual.weights == "random"
        assert text.weights_sha256 == visual.weights_sha256
        assert text.encode_text(["wall"]).dtype == np.float32
    one, same, other = (load_text_encoder(text_arch, None, seed=s).encode_text(PROMPTS) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.1


def test_only_the_text_tower_is_kept(text_arch):
    encoder = load_text_encoder(text_arch, None)
    assert not hasattr(encoder.model, "visual")
    assert not encoder.model.training
    assert not any(p.requires_grad for p in encoder.model.parameters())


@pytest.mark.parametrize(
    ("template", "prompt", "expected"),
    [
        ("{}", "a chair", "a chair"), ("a photo of a {}", "a chair", "a photo of a chair"),
        ("a photo of a {}", "chair", "a photo of a chair"), ("the {} here", " An oven ", "the oven here"),
        ("a photo of {}", "the sink", "a photo of the sink"), ("pizza {}", "the sink", "pizza the sink"),
        ("a {}", "theatre", "a theatre"), ("a {}", "{x}", "a {x}"),
    ],
)  # fmt: skip
def test_a_template_and_a_prompt_have_one_article(template, prompt, expected):
    assert fill_template(template, prompt) == expected


def test_every_template_can_be_filled():
    assert TEMPLATES["plain"] == ("{}",)
    for templates in TEMPLATES.values():
        filled = [fill_template(template, "a chair") for template in templates]
        assert len(set(filled)) == len(templates)
        assert not any(" a a " in f" {text}" for text in filled)


def test_templates_of_one_s_own_are_lines_of_a_file(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("\ufeffa toy {}\n\n  the {} of a friend \n", encoding="utf-8")
    assert templates_of(str(path)) == ("a toy {}", "the {} of a friend")
    assert templates_of("indoor") == TEMPLATES["indoor"]
    for content, message in ((b"a toy\n", "holds 'a toy'"), (b"\n", "holds nothing"), (b"\xff{}", "can't be read")):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=f"^templates={path}: {message}"):
            templates_of(str(path))


def test_what_weights_learnt_of_logits_is_known_of_files_alone(text_arch, checkpoint, tmp_path):
    path, model = checkpoint
    scale = pytest.approx(1 / 0.07, rel=1e-6)
    assert load_text_encoder(text_arch, str(path)).logits == (scale, None)
    assert load_text_encoder(text_arch, None).logits == Logits()
    assert (Logits().temperature, Logits(50.0).temperature) == (0.01, 0.02)
    without = {k: v for k, v in model.state_dict().items() if k != "logit_scale"}
    torch.save(without, tmp_path / "without.pt")
    assert load_text_encoder(text_arch, str(tmp_path / "without.pt")).logits == Logits()
    for odd in (1e4, -1e4, torch.nan, torch.inf):
        state = {"logit_scale": torch.tensor([odd]), "logit_bias": torch.tensor(-12.5)}
        assert _logits_of(state) == (None, -12.5)


def test_what_can_not_be_encoded_is_named(text_arch):
    encoder = load_text_encoder(text_arch, None)
    with pytest.raises(ConfigError, match="0 prompts and 1 templates: expected one of each at least"):
        encoder.encode_text([])
    with pytest.raises(ConfigError, match="1 prompts and 0 templates"):
        encoder.encode_text(["a chair"], [])
    with pytest.raises(ConfigError, match="a prompt is empty: expected words, such as 'a chair'"):
        encoder.encode_text(["a chair", "couch|  "])
    for template in ("a photo", "{} and {}"):
        with pytest.raises(ConfigError, match=f"template '{template}': expected one {{}} where the prompt goes"):
            encoder.encode_text(["a chair"], [template])


def test_a_text_that_is_too_long_is_told(text_arch, caplog):
    encoder = load_text_encoder(text_arch, None)
    with caplog.at_level(logging.WARNING, "clipfeat.model.text"):
        caplog.clear()
        encoder.encode_text(["a chair"], TEMPLATES["indoor"])
        assert not caplog.records
        encoder.encode_text(["a chair", "one two three four five six seven eight nine ten eleven"])
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "WARNING: 'one two three four five six seven eight nine ten eleven' fills all 12 tokens that "
        f"{text_arch} reads; what lies beyond them is left out"
    ]


def test_weights_and_tokenizers_that_can_not_be_had_are_named(text_arch, monkeypatch):
    with pytest.raises(WeightsError, match="model.pretrained=missing.pt: no such file"):
        load_text_encoder(text_arch, "missing.pt")

    def without_package(_arch):
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    def without_hub(_arch):
        raise OSError("can't reach\nthe hub")

    monkeypatch.setattr(open_clip, "get_tokenizer", without_package)
    with pytest.raises(WeightsError, match="its tokenizer needs the package transformers: pip install transformers"):
        load_text_encoder(text_arch, None)
    monkeypatch.setattr(open_clip, "get_tokenizer", without_hub)
    with pytest.raises(WeightsError, match=r"its tokenizer can't be had \(can't reach the hub\); it is fetched from"):
        load_text_encoder(text_arch, None)
