"""Devices and dtypes of what a GPU does, told by torch's FakeTensors: a CUDA device that computes nothing.

An operation of tensors on two devices fails there as it does on a GPU, so each body shows that nothing is left behind.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from clipfeat.model import batches, clip_model, heads
from clipfeat.model.config import HEADS, HeadConfig, ModelConfig
from clipfeat.model.load import load_model
from clipfeat.sampling.bilinear import sample_img_feat
from clipfeat.system import pinned
from clipfeat.types import FeatureMap, resize_affine

GPU = torch.device("cuda:0")


@pytest.fixture
def fake(monkeypatch):
    """A mode in which ``cuda:0`` is there. What the mode lacks is played: pinning, a look at values, and NumPy."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(pinned, "pinned_empty", lambda shape, dtype, _: torch.empty(shape, dtype=dtype))
    monkeypatch.setattr(clip_model, "stack_to_device", stacked)
    for room in (batches, heads):  # nothing is on its way
        monkeypatch.setattr(room, "wait", lambda _: None)
    monkeypatch.setattr(FakeTensor, "__bool__", lambda _: True, raising=False)  # uv is finite
    monkeypatch.setattr(FakeTensor, "numpy", lambda self: self, raising=False)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        yield


def stacked(arrays, device):
    """As ``stack_to_device``, where NumPy has no memory to fill."""
    return torch.zeros(len(arrays), *arrays[0].shape, dtype=torch.uint8, device=device)


def moved(module):
    """A copy of a module on the GPU that is not there."""
    module = copy.deepcopy(module)
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for name, values in store.items():
                if values is not None:
                    there = torch.empty_like(values, device=GPU)
                    store[name] = torch.nn.Parameter(there, False) if store is part._parameters else there
    return module


def on_gpu(cfg):
    """A model as ``load_model`` makes it for a GPU. To be called before the mode begins."""
    model = load_model(cfg, torch.device("cpu"), 0)

    def move():
        encoder = replace(model.encoder, visual=moved(model.encoder.visual))
        return replace(model, encoder=encoder, head=moved(model.head), device=GPU)

    return move


CASES = [
    *({"head": HeadConfig(head)} for head in HEADS),
    *({"attention": name} for name in ("maskclip", "sclip", "clearclip", "naclip")),
    {"refine": "self_similarity", "head": HeadConfig("text")},
    {"input_size": 336, "window": 224, "stride": 112},
    {"precision": "bf16"},
    {"offload": "cpu"},
    {"source": "timm", "arch": "test_vit2.r160_in1k"},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_maps_and_features_are_where_they_should_be(tiny_arch, case, request):
    cfg = ModelConfig(**{"arch": tiny_arch, "pretrained": None, "precision": "fp16"} | case)
    move = on_gpu(cfg)
    request.getfixturevalue("fake")
    model = replace(move(), offload=cfg.offload == "cpu")
    side = model.preprocess.size
    pixels = np.zeros((side, side, 3), np.uint8)
    seen = cfg.window or side
    tokens, whole = model._tokens(torch.zeros(1, seen, seen, 3, dtype=torch.uint8, device=GPU))
    assert (tokens.device, whole.device, whole.dtype) == (GPU, GPU, torch.float32)
    assert tokens.dtype == (torch.float32 if model.head.projected and model.refine == "none" else model.dtype)
    maps = model.feature_maps([pixels] * 2, [(640, 480)] * 2)
    place = torch.device("cpu") if model.offload else GPU
    for found in maps:
        assert (found.values.device, found.values.dtype) == (place, torch.float32)
        assert (found.clip_global.device, found.clip_global.dtype) == (place, torch.float32)
    if not model.offload:
        sampled = sample_img_feat(maps[0], np.zeros((5, 2)))
        assert (sampled.device, sampled.dtype, sampled.shape) == (GPU, torch.float32, (5, len(maps[0].values)))
        features = model.point_features(sampled)
        assert (features.device.type, features.dtype) == ("cpu", torch.float32)


@pytest.mark.parametrize(
    "case", [{}, {"resize_mode": "letterbox"}, {"resize_mode": "crop"}, {"window": 112, "stride": 48}]
)
def test_original_pictures_go_there_and_maps_come_back(tiny_arch, case, request):
    move = on_gpu(ModelConfig(arch=tiny_arch, pretrained=None, precision="fp32", resize_on="device", **case))
    request.getfixturevalue("fake")
    model = move()
    assert model.preprocess.pixels_there(torch.zeros(2, 150, 200, 3, dtype=torch.uint8, device=GPU)).device == GPU
    maps = model.feature_maps([np.zeros((150, 200, 3), np.uint8)] * 2, [(200, 150)] * 2)
    for found, _ in batches.fetch(maps, half=True):
        assert (found.values.device.type, found.values.dtype) == ("cpu", torch.float16)
        assert found.clip_global.device.type == "cpu"
    for found, _ in batches.fetch(maps, stay=True):
        assert (found.values.device, found.values.dtype) == (GPU, torch.float32)
        assert found.clip_global.device.type == "cpu"


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_features_go_into_the_memory_that_is_given(tiny_arch, dtype, request):
    move = on_gpu(ModelConfig(arch=tiny_arch, pretrained=None, head=HeadConfig("proj128")))
    request.getfixturevalue("fake")
    given = []

    def memory(rows, columns):
        given.append(np.zeros((rows, columns), dtype))
        return given[0]

    assert move().point_features(torch.zeros(5, 256, device=GPU), memory) is given[0]
    assert given[0].shape == (5, 128)


def test_what_is_sampled_on_the_host_goes_through_a_head_on_the_gpu(tiny_arch, request):
    move = on_gpu(ModelConfig(arch=tiny_arch, pretrained=None, head=HeadConfig("proj128")))
    request.getfixturevalue("fake")
    features = move().point_features(torch.zeros(5, 256))
    assert (features.device.type, features.shape) == ("cpu", (5, 128))


def test_positions_follow_the_map(fake):
    values = torch.zeros(8, 14, 14, device=GPU, dtype=torch.float16)
    uv = torch.zeros(5, 2, device=GPU)
    sampled = sample_img_feat(FeatureMap(values, resize_affine((640, 480), (14, 14))), uv)
    assert (sampled.device, sampled.dtype) == (GPU, torch.float32)
