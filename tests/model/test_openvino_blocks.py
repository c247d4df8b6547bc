"""OpenVINO in the place of torch; what needs no package is tested without it."""

import logging
import os
import re
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from clipfeat.errors import ConfigError
from clipfeat.model import load
from clipfeat.model.cached import fingerprint
from clipfeat.model.config import ATTENTIONS, HEADS, HeadConfig, ModelConfig
from clipfeat.model.encoder import load_encoder
from clipfeat.model.load import load_model, resolve_precision

CPU = torch.device("cpu")


def pictures(count, side=224):
    return list(np.random.default_rng(0).integers(0, 255, (count, side, side, 3), dtype=np.uint8))


def maps(cfg, count=3, side=224):
    model = load_model(cfg, CPU, 0)
    return model.feature_maps(pictures(count, side), [(640, 480)] * count)


def assert_same(cfg, **picture):
    for found, expected in zip(maps(replace(cfg, backend="openvino"), **picture), maps(cfg, **picture), strict=True):
        difference = torch.linalg.norm(found.values - expected.values) / torch.linalg.norm(expected.values)
        assert difference < 1e-5
        torch.testing.assert_close(found.clip_global, expected.clip_global, atol=1e-5, rtol=1e-5)


@pytest.fixture
def ov():
    return pytest.importorskip("openvino")


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_all_attentions_give_the_tokens_of_torch(ov, tiny_arch, attention):
    assert_same(ModelConfig(arch=tiny_arch, pretrained=None, attention=attention))


@pytest.mark.parametrize("head", HEADS)
def test_all_heads_windows_and_other_sizes(ov, tiny_arch, head):
    assert_same(ModelConfig(arch=tiny_arch, pretrained=None, head=HeadConfig(head), input_size=96), side=96)
    windows = ModelConfig(arch=tiny_arch, pretrained=None, head=HeadConfig(head), input_size=96, window=64, stride=32)
    assert_same(windows, side=96, count=2)


def test_a_tower_of_timm(ov):
    assert_same(ModelConfig(source="timm", arch="test_vit", pretrained=None), side=160)


def test_threads_and_batches_of_any_size_give_what_single_pictures_give(ov, tiny_arch):
    encoder = load_model(ModelConfig(arch=tiny_arch, pretrained=None, backend="openvino"), CPU, 0).encoder
    inputs = torch.from_numpy(np.random.default_rng(0).normal(size=(7, 3, 224, 224)).astype(np.float32))
    expected = [encoder.tokens(inputs[i : i + 1])[0] for i in range(7)]
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            for found, wanted in zip(encoder.tokens(inputs), expected, strict=True):
                torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    finally:
        torch.set_num_threads(before)
    with ThreadPoolExecutor(3) as pool:
        of_threads = list(pool.map(lambda i: encoder.tokens(inputs[i : i + 1])[0], range(7)))
    for found, wanted in zip(of_threads, expected, strict=True):
        assert torch.equal(found, wanted)


def test_another_attention_of_the_same_tower_is_compiled_anew(ov, tiny_arch):
    cfg = ModelConfig(arch=tiny_arch, pretrained=None, backend="openvino")
    first = load_model(cfg, CPU, 0)
    other = load_model(replace(cfg, attention="naclip"), CPU, 0, first.encoder)
    inputs = torch.zeros(1, 3, 224, 224)
    expected = load_encoder(tiny_arch, None, input_size=224, attention="naclip").tokens(inputs)
    torch.testing.assert_close(other.encoder.tokens(inputs), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        first.encoder.tokens(inputs), load_encoder(tiny_arch, None, input_size=224).tokens(inputs), atol=1e-5, rtol=1e-5
    )


def test_bf16_computes_from_the_same_weights(ov, tiny_arch):
    cfg = ModelConfig(arch=tiny_arch, pretrained=None, backend="openvino", precision="bf16")
    model = load_model(cfg, CPU, 0)
    assert model.describe()["precision"] == "bf16"
    assert model.dtype == torch.float32
    found, expected = maps(cfg)[0].values, maps(replace(cfg, precision="fp32"))[0].values
    assert torch.linalg.norm(found - expected) / torch.linalg.norm(expected) < 0.02


def test_the_backend_is_part_of_what_tells_features_apart_and_torch_is_as_before(tiny_arch):
    about = load_model(ModelConfig(arch=tiny_arch, pretrained=None), CPU, 0).describe()
    before = {key: value for key, value in about.items() if key != "backend"}
    assert fingerprint(about) == fingerprint(before) != fingerprint(about | {"backend": "openvino"})


def test_what_is_missing_or_can_not_be_is_named(tiny_arch, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    cfg = ModelConfig(arch=tiny_arch, pretrained=None, backend="openvino")
    with pytest.raises(ConfigError, match=r"needs the package openvino: pip install 'clipfeat\[openvino\]'"):
        load_model(cfg, CPU, 0)
    with pytest.raises(ConfigError, match="computes on the CPU, but device=cuda:1; say device=cpu"):
        resolve_precision(cfg, torch.device("cuda:1"))
    with pytest.raises(ConfigError, match="model.backend=openvino model.precision=fp16: expected fp32, bf16"):
        resolve_precision(replace(cfg, precision="fp16"), CPU)
    with pytest.raises(ConfigError, match="model.backend=onnx: expected one of torch, openvino"):
        ModelConfig(backend="onnx")


@pytest.mark.parametrize(
    ("native", "installed", "told"),
    [
        (True, True, "model.precision=bf16 .*, or model.backend=openvino"),
        (False, True, "processor: model.backend=openvino"),
        (True, False, r"relative 0.01\)$"),
        (False, False, None),
    ],
)
def test_a_slow_default_is_told_what_would_be_faster_here(monkeypatch, caplog, native, installed, told):
    monkeypatch.setattr(load, "computes_bf16", lambda: native)
    monkeypatch.setattr(load, "find_spec", lambda _: object() if installed else None)
    with caplog.at_level(logging.INFO):
        assert resolve_precision(ModelConfig(), CPU) == "fp32"
        assert resolve_precision(ModelConfig(precision="fp32"), CPU) == "fp32"  # who says so knows
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (told is not None)
    if told is not None:
        assert re.search(f"faster on this processor: .*{told.split(': ')[-1]}", lines[0])


@pytest.mark.parametrize(("precision", "native", "warns"), [("bf16", False, 1), ("bf16", True, 0), ("fp16", True, 1)])
def test_a_precision_that_the_processor_lacks_is_warned_of(monkeypatch, caplog, precision, native, warns):
    monkeypatch.setattr(load, "computes_bf16", lambda: native)
    with caplog.at_level(logging.WARNING):
        assert resolve_precision(ModelConfig(precision=precision), CPU) == precision
    assert [
        f"model.precision={precision}: " in text and "takes many times as long" in text for text in caplog.messages
    ] == [True] * warns


def test_nothing_is_told_over_the_network_nor_kept_at_home(ov, tmp_path):
    program = """
        import sys
        from clipfeat.model.openvino_blocks import import_openvino
        import_openvino()
        assert not any(name.startswith("openvino_telemetry") for name in sys.modules)
    """
    environment = {
        name: value for name, value in os.environ.items() if name != "CI"
    }  # where it would not be told either
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], check=True, env=environment | {"HOME": str(tmp_path)}
    )
    assert not list(tmp_path.iterdir())
