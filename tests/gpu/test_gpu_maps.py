"""Maps and point features on a GPU, held against those of the CPU: every head, attention and way to look at pictures.

``DRY=1 pytest -m gpu tests/gpu`` runs these bodies on a CPU, where all has to be equal: that they can be run.
"""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np
import open_clip
import pytest
import torch

from clipfeat.errors import ConfigError
from clipfeat.mapping.map3d import FeatureMap3D
from clipfeat.model import clip_model as model_module
from clipfeat.model.batches import fetch
from clipfeat.model.clip_model import ClipModel
from clipfeat.model.config import ATTENTIONS, HEADS, HeadConfig, ModelConfig
from clipfeat.model.load import load_model
from clipfeat.model.preprocess import Preprocess
from clipfeat.model.windows import Windows
from clipfeat.sampling.bilinear import sample_img_feat
from clipfeat.system.direct import BLOCK, PageBuffer
from clipfeat.system.pinned import stack_to_device
from clipfeat.types import FeatureMap, Picture

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
DEEP = "clipfeat-test-gpu-deep"
NAFLEX = "naflexvit_base_patch16_siglip.v2_webli"
LIMITS = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 5e-2}
"""Relative differences from the CPU's fp32; TF32 is off."""


@pytest.fixture(scope="module")
def deep_arch(tmp_path_factory):
    """Deep enough for SC-CLIP, which looks at what many blocks say."""
    folder = tmp_path_factory.mktemp("arch")
    vision = {"image_size": 112, "layers": 12, "width": 32, "head_width": 8, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    (folder / f"{DEEP}.json").write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder)
    return DEEP


def pictures(sizes):
    """Smooth ones with some noise: pictures of noise alone are all alike to a network."""
    rng, found = np.random.default_rng(0), []
    for width, height in sizes:
        coarse = rng.integers(0, 200, (8, 8, 3), dtype=np.uint8)
        rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
        found.append(coarse[rows][:, columns] + rng.integers(0, 50, (height, width, 3), dtype=np.uint8))
    return found


def maps_of(model, sizes):
    with model.stream():
        inputs = [model.preprocess.network_input(Picture.of(picture)) for picture in pictures(sizes)]
        found = model.feature_maps(inputs, sizes)
        if model.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
    return found


def off(found, expected):
    found, expected = (torch.as_tensor(values).float().cpu() for values in (found, expected))
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


SIZES = [(320, 240)] * 3


def assert_as_on_the_cpu(cfg, gpu, sizes=SIZES, precisions=("fp32", "fp16")):
    on_cpu = load_model(ModelConfig(**cfg, precision="fp32"), CPU, 0)
    uv = np.random.default_rng(1).uniform((0, 0), np.array(sizes).min(0) - 1, (500, 2))
    for precision in precisions:
        model = load_model(ModelConfig(**cfg, precision=precision), gpu, 0)
        for found, expected in zip(maps_of(model, sizes), maps_of(on_cpu, sizes), strict=True):
            assert (found.values.device.type, found.values.dtype) == (gpu.type, torch.float32)
            assert off(found.values, expected.values) < LIMITS[precision]
            assert off(found.clip_global, expected.clip_global) < LIMITS[precision]
            np.testing.assert_array_equal(found.image_to_map, expected.image_to_map)
            features = model.point_features(sample_img_feat(found, uv))
            assert features.dtype == np.float32
            assert off(features, on_cpu.point_features(sample_img_feat(expected, uv))) < LIMITS[precision]


@pytest.mark.parametrize("head", HEADS)
def test_every_head(tiny_arch, gpu, head):
    cfg = {"arch": tiny_arch, "pretrained": None, "head": HeadConfig(head)}
    assert_as_on_the_cpu(cfg, gpu, precisions=LIMITS)


@pytest.mark.parametrize("attention", [name for name in ATTENTIONS if name != "sc_clip"])
def test_every_attention(tiny_arch, gpu, attention):
    assert_as_on_the_cpu({"arch": tiny_arch, "pretrained": None, "attention": attention}, gpu)


def test_sc_clip(deep_arch, gpu):
    """What is an anomaly is a matter of thresholds: a patch at one may go either way."""
    cfg = {"arch": deep_arch, "pretrained": None, "attention": "sc_clip"}
    expected = maps_of(load_model(ModelConfig(**cfg, precision="fp32"), CPU, 0), SIZES)
    for precision, least in (("fp32", 0.9999), ("fp16", 0.99)):
        found = maps_of(load_model(ModelConfig(**cfg, precision=precision), gpu, 0), SIZES)
        for a, b in zip(found, expected, strict=True):
            assert torch.cosine_similarity(a.values.cpu(), b.values, dim=0).median() > least


@pytest.mark.parametrize("more", [{"refine": "self_similarity"}, {"refine": "self_similarity", "window": 128}])
def test_a_refined_map(tiny_arch, gpu, more):
    head = HeadConfig("text")
    assert_as_on_the_cpu({"arch": tiny_arch, "pretrained": None, "head": head, "attention": "naclip"} | more, gpu)


@pytest.mark.parametrize("mode", ["letterbox", "crop"])
def test_ways_to_place_a_picture(tiny_arch, gpu, mode):
    assert_as_on_the_cpu({"arch": tiny_arch, "pretrained": None, "resize_mode": mode, "resize": "torch"}, gpu)


WAYS = {
    "squash": {"mode": "squash"},
    "letterbox": {"mode": "letterbox"},
    "crop": {"mode": "crop", "interpolation": "bilinear"},
    "windows": {"mode": "shortest", "windows": Windows(224, 112, 16)},
}


@pytest.mark.parametrize("way", WAYS)
def test_pictures_that_are_resized_there_have_pillow_s_bits(gpu, way):
    preprocess = Preprocess(size=224, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28), **WAYS[way])
    rng = np.random.default_rng(0)
    for size in ((1296, 968), (333, 1001), (160, 120), (1920, 1440)):
        noise = rng.integers(0, 256, (2, *size[::-1], 3), dtype=np.uint8)
        noise[1] = np.where(noise[1] > 127, 255, 0)  # where the kernel's negative lobes overshoot
        found = preprocess.pixels_there(stack_to_device(list(noise), gpu))
        assert found.device.type == gpu.type
        for one, picture in zip(found.cpu().numpy(), noise, strict=True):
            np.testing.assert_array_equal(one, preprocess.pixels(picture))


@pytest.mark.parametrize("half", [False, True])
def test_a_batch_s_maps_come_to_the_host_as_they_are(gpu, half):
    rng = np.random.default_rng(0)
    on_cpu = [FeatureMap(torch.from_numpy(rng.normal(size=(9, n, n))).float(), np.eye(2, 3)) for n in (14, 14, 7, 14)]
    on_cpu[1].values[3, 2, 1] = torch.nan
    on_cpu[3].values[0, 0, 0] = 1e6
    there = [FeatureMap(one.values.to(gpu), one.image_to_map, torch.ones(5, device=gpu)) for one in on_cpu]
    found = fetch(there, half=half)
    assert [finite for _, finite in found] == [True, False, True, not half]
    for (one, _), (expected, _) in zip(found, fetch(on_cpu, half=half), strict=True):
        assert torch.equal(one.values.nan_to_num(), expected.values.nan_to_num())
        assert one.clip_global.tolist() == [1] * 5
    assert fetch(there, stay=True)[0][0].values.device.type == gpu.type


def test_features_go_into_pinned_pages(tiny_arch, gpu):
    model = load_model(ModelConfig(arch=tiny_arch, pretrained=None, head=HeadConfig("proj128")), gpu, 0)
    sampled, buffer = torch.randn(3000, 256, generator=torch.Generator().manual_seed(0)).to(gpu), PageBuffer()
    expected = model.point_features(sampled)
    for dtype, rows in ((np.float32, 1000), (np.float16, 2000), (np.float32, 3000)):  # it grows
        memory = partial(buffer.floats, dtype=dtype, pinned=gpu.type == "cuda")
        found = model.point_features(sampled[:rows], memory)
        np.testing.assert_allclose(found, expected[:rows], atol=1e-2 if dtype == np.float16 else 1e-5)
        if gpu.type == "cuda":
            assert found.dtype == dtype
            assert found.ctypes.data % BLOCK == 0
            assert torch.from_numpy(found).is_pinned()


def test_windows_over_pictures_of_several_sizes(tiny_arch, gpu):
    cfg = {"arch": tiny_arch, "pretrained": None, "input_size": 336, "window": 224, "stride": 112}
    assert_as_on_the_cpu(cfg, gpu, [(320, 240), (240, 320), (400, 240)])


def test_towers_of_timm(gpu):
    assert_as_on_the_cpu({"source": "timm", "arch": "test_vit2.r160_in1k", "pretrained": None}, gpu)


def test_naflex_takes_all_aspects_in_one_batch(gpu):
    cfg = {"source": "timm", "arch": NAFLEX, "pretrained": None, "resize_mode": "aspect", "input_size": 96}
    assert_as_on_the_cpu(cfg, gpu, [(320, 240), (240, 320), (400, 200)], ["fp32"] if gpu.type == "cpu" else LIMITS)


def test_many_threads_with_a_stream_each_give_the_same(tiny_arch, gpu):
    model = load_model(ModelConfig(arch=tiny_arch, pretrained=None, precision="fp32"), gpu, 0)

    def work(_):
        with model.stream():
            return [found.values.cpu() for found in model.feature_maps(pictures([(224, 224)] * 3), SIZES)]

    alone = work(0)
    with ThreadPoolExecutor(8) as pool:
        for maps in pool.map(work, range(64)):
            for found, twin in zip(maps, alone, strict=True):
                assert off(found, twin) < 1e-4


@contextmanager
def crowded(monkeypatch, device, leave):
    """A GPU with ``leave`` bytes more than are taken; a CPU plays it: with 0 it takes nothing, else two pictures."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + leave) / total)
        try:
            yield
        finally:
            torch.cuda.synchronize()
            torch.cuda.set_per_process_memory_fraction(1.0)
            torch.cuda.empty_cache()
        return
    forward, features, most = ClipModel._forward, ClipModel.point_features, 2 if leave else 0

    def small(self, inputs, sizes):
        if len(inputs) > most:
            raise torch.OutOfMemoryError("played")
        return forward(self, inputs, sizes)

    def none(self, sampled):
        if not most:
            raise torch.OutOfMemoryError("played")
        return features(self, sampled)

    with monkeypatch.context() as patch:
        patch.setattr(ClipModel, "_forward", small)
        patch.setattr(ClipModel, "point_features", none)
        yield


def test_a_batch_that_is_too_large_is_halved(tiny_arch, gpu, monkeypatch, caplog):
    """At 448 pixels 256 pictures need 617 MB as float32 alone."""
    count = 256 if gpu.type == "cuda" else 5
    model = load_model(ModelConfig(arch=tiny_arch, pretrained=None, precision="fp32", input_size=448), gpu, 0)
    inputs, sizes = pictures([(448, 448)] * 2) * count, [(448, 448)] * count
    expected = [found.values.cpu() for found in model.feature_maps(inputs[:2], sizes[:2])]
    monkeypatch.setattr(model_module, "_said", set())
    with crowded(monkeypatch, gpu, 600 * 2**20), caplog.at_level(logging.WARNING), model.stream():
        found = model.feature_maps(inputs[:count], sizes)
        again = model.feature_maps(inputs[:count], sizes)
    assert 0 < model.room.pictures < count
    assert caplog.text.count("memory does not suffice for") == 1
    for maps in (found, again):
        assert len(maps) == count
        for place, one in enumerate(maps):
            assert off(one.values, expected[place % 2]) < 1e-4


def test_no_memory_at_all_is_an_error_that_says_what_to_do(tiny_arch, gpu, monkeypatch):
    """A picture of 896 pixels, or features of 5 MB, need memory that no rest of a block has."""
    model = load_model(ModelConfig(arch=tiny_arch, pretrained=None, input_size=896, precision="fp32"), gpu, 0)
    inputs, sizes = pictures([(896, 896)]), [(896, 896)]
    values = torch.zeros(64, 14, 14, device=gpu)
    feature_map = FeatureMap(values, model.preprocess.image_to_map(896, 896, (14, 14)))
    uv = np.random.default_rng(0).uniform(0, 800, (20000, 2))
    with crowded(monkeypatch, gpu, 0):
        with pytest.raises(ConfigError, match="take device=cpu or a smaller model.input_size"):
            model.feature_maps(inputs, sizes)
        with pytest.raises(ConfigError, match=r"does not suffice to sample a map; take model\.offload=cpu"):
            model.with_memory(lambda: model.point_features(sample_img_feat(feature_map, uv)))
    assert model.feature_maps(inputs, sizes)[0].values.isfinite().all()


def test_a_map_of_a_scene_on_a_gpu_is_that_of_the_cpu(gpu, demo_frames, tiny_arch):
    """Its features stay there; frames may be looked at in threads, each with a stream of its own."""
    cfg = ModelConfig(arch=tiny_arch, pretrained=None, head=HeadConfig("none"), precision="fp32")
    found = []
    for device in (CPU, gpu):
        model = load_model(cfg, device, 0)
        world = FeatureMap3D(model, voxel_size=0.2, device=device, max_weight=1.5)

        def see(frame, model=model, world=world):
            size = (frame.color_camera.width, frame.color_camera.height)
            with model.stream():
                [feature_map] = model.feature_maps([model.network_input(frame)], [size])
                return world.see(world.look(frame), feature_map)

        with ThreadPoolExecutor(2) as pool:
            for frame, view in zip(demo_frames, pool.map(see, demo_frames), strict=True):
                world.add_view(view, frame)
        found.append(world)
    assert off(*(torch.from_numpy(world.features()) for world in found[::-1])) < LIMITS["fp32"]
    np.testing.assert_array_equal(*(world.views for world in found))
    np.testing.assert_allclose(*(world.query(np.ones(64)) for world in found), atol=1e-3)
    on_host = FeatureMap3D(load_model(cfg, gpu, 0), voxel_size=0.2, max_weight=1.5)
    for frame in demo_frames:
        on_host.add_frame(frame)
    assert off(*(torch.from_numpy(world.features()) for world in (on_host, found[0]))) < LIMITS["fp32"]
