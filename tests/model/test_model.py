import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from clipfeat.errors import ConfigError
from clipfeat.model import clip_model as model_module
from clipfeat.model.build import build_model
from clipfeat.model.cache import MapCache
from clipfeat.model.clip_model import ClipModel, most_lanes, own_stream
from clipfeat.model.config import HeadConfig, ModelConfig
from clipfeat.model.load import build_preprocess, load_model, resolve_device, resolve_offload, resolve_precision
from clipfeat.types import FeatureMap

CPU = torch.device("cpu")


@pytest.fixture
def model(tiny_arch):
    return load_model(ModelConfig(arch=tiny_arch, pretrained=None), CPU, 0)


def pictures(count):
    return list(np.random.default_rng(0).integers(0, 255, (count, 224, 224, 3), dtype=np.uint8))


SIZES = [(640, 480)] * 9


def test_a_batch_gives_what_single_pictures_give(model):
    together = model.feature_maps(pictures(5), SIZES[:5])
    for picture, found in zip(pictures(5), together, strict=True):
        alone = model.feature_maps([picture], SIZES[:1])[0]
        torch.testing.assert_close(found.values, alone.values, atol=1e-5, rtol=1e-5)
        np.testing.assert_array_equal(found.image_to_map, alone.image_to_map)
        assert found.clip_global.shape == (64,)
        torch.testing.assert_close(found.clip_global, alone.clip_global, atol=1e-5, rtol=1e-5)
    assert model.feature_maps([], []) == []


def test_original_pictures_of_several_sizes_give_what_their_inputs_give(model):
    """Bit for bit: those of a size are resized at once, and then all go on together, in order."""
    sizes = [(640, 480), (224, 224), (300, 500), (640, 480)]
    originals = [np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8) for size in sizes]
    inputs = [model.preprocess.pixels(picture) for picture in originals]
    expected = model.feature_maps(inputs, sizes)
    for found, wanted in zip(model.feature_maps(originals, sizes), expected, strict=True):
        assert torch.equal(found.values, wanted.values)
        np.testing.assert_array_equal(found.image_to_map, wanted.image_to_map)
    mixed = model.feature_maps([originals[0], inputs[1], inputs[2], originals[3]], sizes)
    assert all(torch.equal(found.values, wanted.values) for found, wanted in zip(mixed, expected, strict=True))


@pytest.mark.parametrize(
    ("more", "size", "expected"),
    [({}, (640, 480), (14, 14)), ({"head": HeadConfig("pixelshuffle")}, (480, 640), (28, 28)),
     ({"window": 112, "stride": 48, "head": HeadConfig("proj128")}, (640, 480), (56, 76))],
)  # fmt: skip
def test_the_size_of_a_map_is_known_before_it_is_made(tiny_arch, more, size, expected):
    model = load_model(ModelConfig(arch=tiny_arch, pretrained=None, **more), CPU, 0)
    assert model.map_size(size) == expected
    [found] = model.feature_maps([np.zeros((*size[::-1], 3), np.uint8)], [size])
    assert found.values.shape[1:] == expected


@pytest.mark.parametrize(
    ("keys", "device", "there"),
    [({}, "cpu", False), ({}, "cuda", True), ({"resize_on": "cpu"}, "cuda", False),
     ({"resize": "torch"}, "cuda", False), ({"resize_on": "device"}, "cpu", True)],
)  # fmt: skip
def test_pictures_are_resized_where_the_model_runs_if_that_is_a_gpu(model, keys, device, there):
    cfg = ModelConfig(input_size=224, **keys)
    assert build_preprocess(cfg, model.encoder.card, torch.device(device)).there is there


def test_a_gpu_that_is_too_small_gets_halves_and_says_so_once(model, monkeypatch, caplog):
    """Played on a CPU: more than two pictures at a time are refused as a full GPU refuses them."""
    expected = model.feature_maps(pictures(7), SIZES[:7])
    real, batches = ClipModel._forward, []

    def small(self, inputs, sizes):
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        batches.append(len(inputs))
        return real(self, inputs, sizes)

    monkeypatch.setattr(ClipModel, "_forward", small)
    monkeypatch.setattr(model_module, "_said", set())
    with caplog.at_level(logging.WARNING):
        found = model.feature_maps(pictures(7), SIZES[:7])
        model.feature_maps(pictures(7), SIZES[:7])
    assert batches == [2, 2, 2, 1] * 2  # what there was room for is remembered
    assert model.room.pictures == 2
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.values, b.values, atol=1e-5, rtol=1e-5)
    said = [r.getMessage() for r in caplog.records if "does not suffice" in r.getMessage()]
    assert said == ["WARNING: the GPU's memory does not suffice for 7 pictures, going on with 4 at a time"]


def test_threads_that_fill_a_gpu_together_go_on_one_after_another(model, monkeypatch):
    """Played on a CPU: there is room for four pictures, and eight threads come with three each."""
    expected = model.feature_maps(pictures(3), SIZES[:3])
    real, lock, held, refused = ClipModel._forward, threading.Lock(), [], []

    def crowded(self, inputs, sizes):
        with lock:
            if sum(held) + len(inputs) > 4:
                refused.append(len(inputs))
                raise torch.OutOfMemoryError("CUDA out of memory")
            held.append(len(inputs))
        try:
            time.sleep(0.02)
            return real(self, inputs, sizes)
        finally:
            with lock:
                held.remove(len(inputs))

    monkeypatch.setattr(ClipModel, "_forward", crowded)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: model.feature_maps(pictures(3), SIZES[:3]), range(8)))
    assert refused
    for maps in found:
        for a, b in zip(maps, expected, strict=True):
            torch.testing.assert_close(a.values, b.values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("room", [1, 5, 40, 200])
def test_of_many_lanes_on_a_crowded_gpu_none_ends_the_run(model, monkeypatch, room):
    """Played on a CPU, with cuBLAS's words for it: at most ``room`` pictures at once, of all threads together."""
    lock, held = threading.Lock(), [0]

    def crowded(self, inputs, sizes):
        with lock:
            if held[0] + len(inputs) > room:
                raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
            held[0] += len(inputs)
        time.sleep(0.001)
        with lock:
            held[0] -= len(inputs)
        return [FeatureMap(torch.zeros(1, 1, 1), np.eye(2, 3))] * len(inputs)

    monkeypatch.setattr(ClipModel, "_forward", crowded)
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda _: model.feature_maps(pictures(1) * 32, SIZES[:1] * 32), range(32)))
    assert [len(maps) for maps in found] == [32] * 32
    assert (model.room.pictures or 32) <= max(room, 1) * 2


def test_what_is_sampled_on_a_full_gpu_is_sampled_alone_and_other_errors_are_raised(model):
    refused = [torch.OutOfMemoryError("CUDA out of memory")]

    def once():
        if refused:
            raise refused.pop()
        return 7

    assert model.with_memory(once) == 7
    refused += [torch.OutOfMemoryError("CUDA out of memory")] * 2
    with pytest.raises(ConfigError, match="does not suffice to sample a map; take model.offload=cpu"):
        model.with_memory(once)
    refused[:] = [RuntimeError("uv holds NaN")]
    with pytest.raises(RuntimeError, match="uv holds NaN"):
        model.with_memory(once)


def test_a_thread_keeps_its_stream_and_its_gpu(monkeypatch):
    """Played on a CPU."""
    made, chosen, cuda = [], [], torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made.append(device) or len(made))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        streams = [first.submit(own_stream, cuda).result(), first.submit(own_stream, cuda).result()]
        assert streams == [1, 1]
        assert second.submit(own_stream, cuda).result() == 2
    assert made == chosen == [cuda, cuda]
    assert (most_lanes(cuda), most_lanes(CPU)) == (3, None)


def test_a_gpu_too_small_for_one_picture_is_an_error_that_says_what_to_do(model, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ClipModel, "_forward", full)
    with pytest.raises(
        ConfigError, match="does not suffice for one picture; take device=cpu or a smaller model.input_size"
    ):
        model.feature_maps(pictures(3), SIZES[:3])


def test_precision_and_offload_follow_the_device(monkeypatch):
    cuda = torch.device("cuda")
    assert (resolve_precision(ModelConfig(), CPU), resolve_precision(ModelConfig(), cuda)) == ("fp32", "fp16")
    assert resolve_precision(ModelConfig(precision="bf16"), CPU) == "bf16"
    small = type("Properties", (), {"total_memory": 6 * 2**30})
    large = type("Properties", (), {"total_memory": 24 * 2**30})
    for properties, auto in ((small, True), (large, False)):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, p=properties: p)
        assert resolve_offload("auto", cuda) is auto
        assert resolve_offload("cpu", cuda)
        assert not resolve_offload("none", cuda)
    assert not resolve_offload("cpu", CPU)


def test_devices_that_are_not_there_are_named():
    assert resolve_device("cpu") == CPU
    with pytest.raises(ConfigError, match="device=tpu: expected auto, cpu, cuda or cuda:<n>"):
        resolve_device("tpu")
    with pytest.raises(ConfigError, match=r"device=cuda:99: this machine shows \d+ CUDA devices; take device=cpu"):
        resolve_device("cuda:99")


def test_each_process_takes_the_gpu_of_its_local_rank(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("auto", "cuda"):
        devices = [resolve_device(name, local_rank) for local_rank in (None, 0, 1, 2, 3)]
        assert devices == [torch.device(each) for each in ("cuda", "cuda:0", "cuda:1", "cuda:0", "cuda:1")]
    assert resolve_device("cuda:0", 1) == torch.device("cuda:0")
    assert resolve_device("cpu", 1) == CPU


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"input_size": 230}, "model.input_size=230"),
        ({"window": 200}, "model.window=200"),
        ({"window": 160, "stride": 40}, "model.stride=40"),
        ({"window": 112}, "model.stride=56"),  # half a window
    ],
)
def test_an_input_of_broken_patches_is_named(tiny_arch, tmp_path, cache, sizes, message):
    cfg = ModelConfig(arch=tiny_arch, pretrained=None, **sizes)
    expected = f"{message}: expected a multiple of {tiny_arch}'s patch size 16"
    with pytest.raises(ConfigError, match=expected), MapCache(tmp_path / "maps.lmdb") as maps:
        build_model(cfg, CPU, 0, maps if cache else None)


def test_what_describes_a_model_tells_heads_apart(tiny_arch):
    def described(**head):
        return load_model(ModelConfig(arch=tiny_arch, pretrained=None, head=HeadConfig(**head)), CPU, 0).describe()

    plain, projected = described(name="pixelshuffle"), described(name="proj128")
    assert plain["weights_sha256"] == projected["weights_sha256"]
    assert plain["head_sha256"] is None
    assert len(projected["head_sha256"]) == 16


def test_text_features_are_sampled_projected_tokens_of_length_one(tiny_arch):
    cfg = ModelConfig(arch=tiny_arch, pretrained=None, head=HeadConfig("text"), attention="naclip")
    model = load_model(cfg, CPU, 0)
    found = model.feature_maps(pictures(2), SIZES[:2])[1]
    pixels = torch.from_numpy(np.stack(pictures(2)))
    tokens = model.encoder.tokens(model.preprocess.normalize(pixels))[1]
    expected = torch.einsum("dhw,de->ehw", tokens, model.encoder.visual.proj)
    assert found.values.shape == (32, 14, 14)
    torch.testing.assert_close(found.values, expected)
    # Half way between two cells, of which one is twice as long: the projection of the mean token, then length 1.
    sampled = ((expected[:, 2, 3] + expected[:, 2, 4]) / 2)[None]
    features = model.point_features(sampled)
    np.testing.assert_allclose(features, sampled / sampled.norm(), atol=1e-6)
    described = model.describe()
    assert (described["head"], described["head_sha256"], described["attention"]) == ("text", None, "naclip")


@pytest.mark.gpu
def test_maps_on_a_gpu_are_those_of_the_cpu_to_a_hundredth(model, tiny_arch, gpu):
    expected = model.feature_maps(pictures(3), SIZES[:3])
    for offload in ("none", "cpu"):
        cfg = ModelConfig(arch=tiny_arch, pretrained=None, offload=offload)
        on_gpu = load_model(cfg, gpu, 0)
        with on_gpu.stream():
            found = on_gpu.feature_maps(pictures(3), SIZES[:3])
            for a, b in zip(found, expected, strict=True):
                assert a.values.device.type == ("cpu" if offload == "cpu" else gpu.type)
                assert (a.values.cpu() - b.values).norm() / b.values.norm() < 1e-2
