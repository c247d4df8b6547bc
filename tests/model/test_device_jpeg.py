"""nvJPEG is played by the decoder of the cores; ``tests/gpu`` takes the real one."""

import json
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from simplejpeg import decode_jpeg

import clipfeat
from clipfeat.data.images import decode_color, picture_of
from clipfeat.errors import ConfigError, FrameError
from clipfeat.model import device_jpeg
from clipfeat.model.config import ModelConfig
from clipfeat.model.device_jpeg import decode_there
from clipfeat.model.load import load_model
from clipfeat.output.store import FeatureStore
from clipfeat.types import Picture

CPU = torch.device("cpu")


def encoded(size=(40, 30), kind="JPEG", mode="RGB", **keys):
    noise = np.random.default_rng(0).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(noise).resize(size).convert(mode).save(file, kind, **keys)
    return file.getvalue()


@pytest.fixture
def played(monkeypatch):
    """A decoder that refuses a whole batch for one damaged file, and makes each value odd; how many it was given."""
    given = []

    def by_nvjpeg(files, device):
        given.append(len(files))
        assert device == CPU
        try:
            return [torch.from_numpy(decode_jpeg(bytes(file.numpy()), "RGB", strict=True) | 1) for file in files]
        except ValueError as error:
            raise RuntimeError("nvjpegDecode failed") from error

    monkeypatch.setattr(device_jpeg, "_by_nvjpeg", by_nvjpeg)
    return given


def test_only_plain_whole_jpegs_that_are_not_turned_go_there():
    plain = encoded()
    assert picture_of(plain, "x").jpeg == plain
    assert picture_of(encoded(mode="L"), "x").jpeg
    for other in (encoded(progressive=True), encoded(kind="PNG"), encoded(mode="CMYK"), plain[:-2], plain + b"\0"):
        assert picture_of(other, "x").jpeg is None
    assert picture_of(plain, "x", rotate=180).jpeg is None
    assert Picture.of(np.zeros((4, 5, 3), np.uint8)).jpeg is None


def test_what_is_refused_is_decoded_by_the_host_and_the_others_there(played):
    plain, cut = encoded(), encoded((240, 160))[:-200] + b"\xff\xd9"
    refused = Picture((240, 160), cut, lambda data: decode_jpeg(data, "RGB", strict=False), is_jpeg=lambda _: True)
    first, second = decode_there([picture_of(plain, "x"), refused], CPU)
    assert played == [2, 1, 1]
    np.testing.assert_array_equal(first, decode_jpeg(plain, "RGB") | 1)
    np.testing.assert_array_equal(second, decode_jpeg(cut, "RGB", strict=False))
    cut_off = Picture((240, 160), cut[:-2], lambda data: decode_color(data, "x.jpg"), is_jpeg=lambda _: True)
    with pytest.raises(FrameError, match=r"x\.jpg: damaged"):
        decode_there([picture_of(plain, "x"), cut_off], CPU)
    assert decode_there([], CPU) == []


def test_a_lack_of_memory_is_no_damage(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(device_jpeg, "_by_nvjpeg", full)
    with pytest.raises(torch.OutOfMemoryError):
        decode_there([picture_of(encoded(), "x")], CPU)


def test_a_cpu_has_no_nvjpeg(tiny_arch):
    with pytest.raises(ConfigError, match=r"model.jpeg=gpu: nvJPEG decodes on GPUs, but device=cpu; leave model.jpeg"):
        load_model(ModelConfig(arch=tiny_arch, pretrained=None, jpeg="gpu"), CPU, 0)


def test_a_run_tells_of_it_and_of_the_frame_that_is_damaged(scans, tiny_arch, tmp_path, played, monkeypatch):
    """Of a batch with a damaged picture the others' features are those that they would be without it."""
    model = load_model(ModelConfig(arch=tiny_arch, pretrained=None), CPU, 0)
    there = replace(model, preprocess=replace(model.preprocess, there=True, jpeg_there=True))
    assert there.describe() == model.describe() | {"jpeg": "gpu"}
    bad = sorted(scans.glob("*/color/*.jpg"))[1]
    whole = bad.read_bytes()
    overrides = [f"model.arch={tiny_arch}", "model.pretrained=null", "vis=none", "report=false", "num_workers=1"]
    overrides += ["sampling.num_points=100", "frames_per_scene=2"]
    clipfeat.extract(scans, tmp_path / "whole", overrides=overrides, model=there)
    assert sum(played) == 4
    bad.write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr("clipfeat.data.images.is_plain_jpeg", lambda _: True)  # or it would not get so far
    clipfeat.extract(scans, tmp_path / "damaged", overrides=overrides, model=there)
    lines = [json.loads(line) for line in (tmp_path / "damaged/frames.jsonl").read_text().splitlines()]
    [failed] = [line for line in lines if line["status"] == "failed"]
    assert f"{bad}: damaged" in failed["why"]
    found, expected = FeatureStore(tmp_path / "damaged"), FeatureStore(tmp_path / "whole")
    for scene in expected.scenes:
        for frame in found.frames(scene):
            a, b = found.load(scene, frame), expected.load(scene, frame)
            np.testing.assert_allclose(a.pts_feat, b.pts_feat, atol=1e-4)
    assert sum(len(found.frames(scene)) for scene in found.scenes) == len(lines) - 1
