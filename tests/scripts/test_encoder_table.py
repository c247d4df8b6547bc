"""Encoders against the library's own computation: small towers of each kind; one model of each family when slow."""

import importlib.util
import json
import logging
import sys
import warnings

import open_clip
import pytest
from conftest import CHECKOUT

from clipfeat.model.encoder import Encoder

VISIONS = {
    "class-token": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "CLIPA": {
        "image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16,
        "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True,
    },
    "mean": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "pool_type": "avg"},
    "SigLIP": {"image_size": 160, "timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none"},
    "EVA02": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": None},
    "ViTamin": {"image_size": 160, "timm_model_name": "test_vit2", "timm_pool": "", "timm_proj": "linear"},
}  # fmt: skip
"""Small towers that pool as the families do that they are named after, at random weights."""

POOLING = {"class-token": "token", "CLIPA": "avg", "mean": "avg", "SigLIP": "map", "EVA02": "token", "ViTamin": "avg"}


@pytest.fixture(scope="module")
def script():
    """``scripts/encoder_table.py`` as a module, and what it sets put back."""
    spec = importlib.util.spec_from_file_location("encoder_table", CHECKOUT / "scripts" / "encoder_table.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["encoder_table"] = module
    spec.loader.exec_module(module)
    with warnings.catch_warnings():
        yield module
    logging.disable(logging.NOTSET)
    del sys.modules["encoder_table"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    for name, vision in VISIONS.items():
        embed_dim = 96 if name == "SigLIP" else 32
        config = {"embed_dim": embed_dim, "custom_text": True, "vision_cfg": vision, "text_cfg": text}
        (folder / f"clipfeat-table-{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


@pytest.mark.parametrize("name", VISIONS)
def test_a_small_tower_of_each_kind_is_open_clip_s_own(script, small, name):
    found = script.row(f"clipfeat-table-{name}")
    assert not script.differs(found), found
    assert found["pooling"] == POOLING[name]
    assert found["picture"] == "squash equal, crop equal"
    assert found["attentions"] == ("vanilla" if "timm_model_name" in VISIONS[name] else "all")


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "test_vit2.r160_in1k", "test_vit3.r160_in1k"])
def test_a_small_model_of_timm_is_timm_s_own(script, name):
    found = script.row(f"timm:{name}")
    assert not script.differs(found), found
    assert (found["picture"], found["attentions"]) == ("squash equal", "vanilla")  # timm crops them from 168 pixels


def test_what_is_not_the_library_s_own_is_counted(script, monkeypatch, capsys):
    real = Encoder.encode

    def mean_of_tokens(self, inputs):
        tokens, _ = real(self, inputs)
        return tokens, tokens.mean((2, 3))

    monkeypatch.setattr(Encoder, "encode", mean_of_tokens)
    assert script.main(["timm:test_vit.r160_in1k", "timm:test_convnext.r160_in1k"]) == 1
    out = capsys.readouterr().out
    assert "| timm:test_convnext.r160_in1k | refused: ConvNeXt gives no ViT patch tokens; take a ViT such as" in out
    assert "| timm:test_vit.r160_in1k | 64×10×10 | token | 0e+00 |" in out
    assert out.endswith("2 models, 1 of them not as the library has it\n")


def test_every_model_of_open_clip_is_of_a_family_that_has_one_in_the_table(script, monkeypatch):
    monkeypatch.setattr(script, "parameters_of_timm", len)  # sizes need each of them to be made
    chosen = script.representatives()
    families = [script.family(name) for name in chosen]
    assert len(set(families)) == len(families) < 40
    assert {script.family(name) for name in open_clip.list_models()} == set(families)


@pytest.mark.slow
def test_a_model_of_each_family_is_the_library_s_own(script, capsys):
    assert script.main(["--largest", "0.1"]) == 0, capsys.readouterr().out
