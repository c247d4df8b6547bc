"""A cache and a model in one: what is found again is what would have been made, and nothing else."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipfeat.errors import WeightsError
from clipfeat.model import pretrained, weights
from clipfeat.model.build import build_model
from clipfeat.model.cache import MapCache
from clipfeat.model.cached import CachedModel
from clipfeat.model.config import HeadConfig, ModelConfig
from clipfeat.model.load import load_model
from clipfeat.model.weights import Found
from clipfeat.output.files import read_features

CPU = torch.device("cpu")
ARRAYS = ("pts_feat", "uv_idx", "conf_2d", "xyz", "pts_idx")


@pytest.fixture
def cache_path(tmp_path):
    return tmp_path / "maps.lmdb"


@pytest.fixture
def config(tiny_arch):
    return ModelConfig(arch=tiny_arch, pretrained=None)


@pytest.fixture
def forbid_loading(monkeypatch):
    def forbid():
        def stop(*args, **kwargs):
            raise AssertionError("the model is loaded")

        monkeypatch.setattr("clipfeat.model.load.load_encoder", stop)
        monkeypatch.setattr(open_clip, "create_model", stop)

    return forbid


def cached(config, path, seed=0):
    return CachedModel(config, CPU, seed, MapCache(path))


def maps_of(model, frames):
    sizes = [(f.color_camera.width, f.color_camera.height) for f in frames]
    return model.feature_maps([model.network_input(f) for f in frames], sizes)


@pytest.mark.parametrize("head", ["none", "pixelshuffle", "proj128", "text"])
def test_a_map_found_again_is_the_one_that_was_made(config, cache_path, demo_frames, forbid_loading, head):
    config.head = HeadConfig(head)
    plain = load_model(config, CPU, 0)
    first = cached(config, cache_path)
    made = maps_of(first, demo_frames)
    first.close()
    forbid_loading()
    second = cached(config, cache_path)
    found = maps_of(second, demo_frames)
    for expected, one, two in zip(maps_of(plain, demo_frames), made, found, strict=True):
        assert torch.equal(one.values, expected.values.half())
        assert torch.equal(one.values, two.values)
        np.testing.assert_array_equal(two.image_to_map, expected.image_to_map)
        assert torch.equal(two.clip_global, expected.clip_global)
        assert two.clip_global.dtype == torch.float32
    rows = torch.randn(7, len(found[0].values))
    np.testing.assert_array_equal(second.point_features(rows), plain.point_features(rows))
    assert second.describe() == first.describe() == plain.describe() | {"map_dtype": "float16"}
    assert second.preprocess == plain.preprocess
    second.close()


def test_a_map_is_found_wherever_its_picture_is_resized(config, cache_path, demo_frames, forbid_loading):
    first = cached(dataclasses.replace(config, resize_on="device"), cache_path)
    assert first.network_input(demo_frames[0]).pixels.shape == (162, 216, 3)
    made = maps_of(first, demo_frames[:2])
    first.close()
    forbid_loading()
    second = cached(config, cache_path)
    assert second.fingerprint == first.fingerprint
    for found, expected in zip(maps_of(second, demo_frames[:2]), made, strict=True):
        assert torch.equal(found.values, expected.values)
    second.close()


def test_maps_that_a_cache_for_reading_lacks_are_made_and_not_kept(config, cache_path, demo_frames):
    first = cached(config, cache_path)
    made = maps_of(first, demo_frames[:1])
    first.close()
    second = CachedModel(config, CPU, 0, MapCache(cache_path, readonly=True))
    found = maps_of(second, demo_frames[:2])
    assert torch.equal(found[0].values, made[0].values)
    assert len(found) == 2
    second.close()
    with MapCache.open(cache_path, readonly=True) as cache:
        assert len(cache.maps()) == 1


def test_maps_of_windows_are_kept_though_they_are_not_square(config, cache_path, demo_frames, forbid_loading):
    head = HeadConfig("pixelshuffle")
    windowed = ModelConfig(arch=config.arch, pretrained=None, window=160, stride=64, head=head)
    expected = maps_of(load_model(windowed, CPU, 0), demo_frames)
    first = cached(windowed, cache_path)
    maps_of(first, demo_frames)
    first.close()
    forbid_loading()
    second = cached(windowed, cache_path)
    for found, fresh in zip(maps_of(second, demo_frames), expected, strict=True):
        assert found.values.shape == (16, 28, 38)
        assert torch.equal(found.values, fresh.values.half())
        np.testing.assert_array_equal(found.image_to_map, fresh.image_to_map)
    second.close()


def test_whatever_shapes_a_map_is_in_its_fingerprint(config, cache_path, tmp_path):
    checkpoint = tmp_path / "other.pt"
    import open_clip

    torch.save(open_clip.create_model(config.arch).state_dict(), checkpoint)
    changes = [
        {}, {"seed": 1}, {"pretrained": str(checkpoint)}, {"input_size": 64}, {"resize_mode": "crop"},
        {"precision": "bf16"}, {"head": HeadConfig("pixelshuffle")}, {"head": HeadConfig("proj128")},
        {"attention": "sclip"}, {"attention": "sc_clip"}, {"refine": "self_similarity"}, {"head": HeadConfig("text")},
        {"window": 224}, {"window": 224, "stride": 16}, {"window": 112, "stride": 112},
        {"head": HeadConfig("proj128"), "seed": 2},
    ]  # fmt: skip
    found = set()
    for change in changes:
        values = {**vars(config), **change}
        seed = values.pop("seed", 0)
        for _ in range(2):  # with and without loading
            with MapCache(cache_path) as cache:
                model = CachedModel(ModelConfig(**values), CPU, seed, cache)
                found.add(model.fingerprint)
                loaded = load_model(ModelConfig(**values), CPU, seed).describe()
                assert model.describe() == loaded | {"map_dtype": "float16"}
    assert len(found) == len(changes)


def test_another_picture_of_the_same_name_gets_its_own_map(config, cache_path, scans):
    from clipfeat.data.scannet import ScanNetDataset

    scene = "demo0000_00"
    model = cached(config, cache_path)
    before = maps_of(model, [ScanNetDataset(scans).load(scene, 0)])[0]
    path = scans / scene / "color" / "0.jpg"
    Image.open(path).rotate(180).save(path)
    frame = ScanNetDataset(scans).load(scene, 0)
    after = maps_of(model, [frame])[0]
    assert not torch.equal(before.values, after.values)
    assert torch.equal(after.values, maps_of(load_model(config, CPU, 0), [frame])[0].values.half())
    model.close()


def test_a_picture_whose_map_is_there_is_not_decoded(config, cache_path, demo_frames, demo_root, monkeypatch):
    from clipfeat.data.scannet import ScanNetDataset
    from clipfeat.types import Picture

    model = cached(config, cache_path)
    maps_of(model, demo_frames[:1])
    monkeypatch.setattr(Picture, "pixels", property(lambda self: pytest.fail("decoded")))
    frame = ScanNetDataset(demo_root).load(demo_frames[0].scene_id, demo_frames[0].frame_id)
    assert model.network_input(frame).stored is not None
    model.close()


def test_some_of_a_batch_may_be_there(config, cache_path, demo_frames):
    model = cached(config, cache_path)
    maps_of(model, [demo_frames[1], demo_frames[3]])
    inputs = [model.network_input(f) for f in demo_frames]
    assert [i.stored is not None for i in inputs] == [False, True, False, True]
    plain = maps_of(load_model(config, CPU, 0), demo_frames)
    for found, expected in zip(maps_of(model, demo_frames), plain, strict=True):
        torch.testing.assert_close(found.values.float(), expected.values, atol=5e-3, rtol=1e-3)
    model.close()


def test_a_map_that_float16_can_not_hold_is_used_as_it_is_and_not_kept(config, cache_path, demo_frames):
    model = cached(config, cache_path)
    plain = load_model(config, CPU, 0)
    torch.nn.init.constant_(plain.encoder.visual.ln_post.bias, 1e6)
    model._model = plain
    assert maps_of(model, demo_frames[:1])[0].values.dtype == torch.float32
    assert model.network_input(demo_frames[0]).stored is None
    model.close()


def test_a_checkpoint_is_known_by_its_file_and_an_exchanged_one_is_not_mixed_in(
    config, cache_path, tmp_path, demo_frames, forbid_loading
):
    import os

    import open_clip

    def save(seed):
        torch.manual_seed(seed)
        torch.save(open_clip.create_model(config.arch).state_dict(), checkpoint)

    checkpoint = tmp_path / "mine.pt"
    save(1)
    stat = checkpoint.stat()
    config.pretrained = str(checkpoint)
    first = cached(config, cache_path)
    maps_of(first, demo_frames[:1])
    first.close()
    # Another file of another time: loaded, and known to be another.
    save(2)
    os.utime(checkpoint, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    second = cached(config, cache_path)
    assert second.fingerprint != first.fingerprint
    second.close()
    # Exchanged behind our back, same size and time: found out as soon as it is loaded.
    save(3)
    os.utime(checkpoint, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    third = cached(config, cache_path)
    assert third.fingerprint == first.fingerprint
    with pytest.raises(
        WeightsError, match=r"mine.pt: gives weights=mine.pt \(\w{16}\) now, but mine.pt \(\w{16}\) when"
    ):
        maps_of(third, demo_frames[1:2])
    third.close()
    again = cached(config, cache_path)
    assert again.fingerprint not in (first.fingerprint, second.fingerprint)
    assert len(maps_of(again, demo_frames[1:2])) == 1
    again.close()


def test_random_weights_in_place_of_others_are_never_taken_for_them(
    config, cache_path, demo_frames, monkeypatch, caplog, tiny_arch
):
    """The demo's fallback: the second run does as the first, as loudly, unless the weights can be had by then."""
    config.pretrained, config.allow_random = "no_such_tag", True
    first = cached(config, cache_path)
    maps_of(first, demo_frames[:1])
    first.close()
    caplog.clear()
    with monkeypatch.context() as patch:
        patch.setattr("clipfeat.model.load.load_encoder", lambda *a, **k: pytest.fail("loaded"))
        second = cached(config, cache_path)
        assert second.describe()["weights"] == "random"
        assert "no tag of" in caplog.text
        assert "weights=random" in caplog.text
        second.close()
    torch.save(open_clip.create_model(tiny_arch).state_dict(), cache_path.parent / "w.pt")  # they can be had now
    found = Found(tiny_arch, open_clip.get_model_config(tiny_arch), "no_such_tag", cache_path.parent / "w.pt")
    for module in (pretrained, weights):
        monkeypatch.setattr(module, "find_weights", lambda *a: found)
    third = cached(config, cache_path)
    assert third.describe()["weights"] == "no_such_tag"
    third.close()
    monkeypatch.undo()
    config.allow_random = False
    fourth = cached(config, cache_path)  # known from the third, and nothing needs loading
    assert fourth.describe()["weights"] == "no_such_tag"
    fourth.close()


def test_without_a_cache_the_model_is_the_plain_one(config):
    assert build_model(config, CPU, 0).describe()["map_dtype"] == "float32"


@pytest.fixture
def run(run_cli, demo_root, tmp_path):
    def extract(name, *overrides, code=0):
        got, err = run_cli(f"data.root={demo_root}", f"output_dir={name}", *overrides)
        assert got == code, err
        return tmp_path / name, err

    return extract


def arrays_of(folder):
    return {p.relative_to(folder).with_suffix("").as_posix(): read_features(p) for p in folder.glob("*/frame_*")}


@pytest.mark.parametrize("head", ["pixelshuffle", "proj128"])
def test_another_run_with_other_points_tolerance_or_format_never_loads_the_model(run, forbid_loading, head):
    common = ["cache=lmdb", "cache.path=maps.lmdb", f"model/head={head}"]
    first, err = run("first", *common)
    assert "cache: 0 maps found, 8 made, 8 kept" in err
    plain, _ = run("plain", f"model/head={head}")
    forbid_loading()
    second, err = run("second", *common, "output=h5", "camera.depth_tolerance=0.04")
    assert "cache: 8 maps found, 0 made, 0 kept" in err
    assert "weights=random" in err
    more, _ = run("more", *common, "sampling.num_points=null")
    found = {name: arrays_of(folder) for name, folder in
             (("first", first), ("plain", plain), ("second", second), ("more", more))}  # fmt: skip
    assert len(found["first"]) == 8
    for name, (features, meta) in found["first"].items():
        again, same_meta = found["second"][name]
        for key in ("pts_feat", "uv_idx", "xyz", "pts_idx"):
            np.testing.assert_array_equal(getattr(again, key), getattr(features, key))
        assert meta["model"] == same_meta["model"]
        assert meta["model"]["map_dtype"] == "float16"
        uncached, _ = found["plain"][name]
        np.testing.assert_array_equal(uncached.pts_idx, features.pts_idx)
        np.testing.assert_allclose(uncached.pts_feat, features.pts_feat, atol=2e-3)
        everything, _ = found["more"][name]
        rows = np.searchsorted(everything.pts_idx, features.pts_idx)
        np.testing.assert_allclose(everything.pts_feat[rows], features.pts_feat, atol=1e-6)
    assert json.loads((second / "summary.json").read_text())["model"]["weights"] == "random"


def test_a_run_interrupted_goes_on_from_the_cache_and_other_frames_load_the_model(run, cache_path):
    run("a", "cache=lmdb", f"cache.path={cache_path}", "frames_per_scene=2")
    _, err = run("b", "cache=lmdb", f"cache.path={cache_path}")
    assert "cache: 4 maps found, 4 made, 4 kept" in err
    _, err = run("b", "cache=none", "frames_per_scene=1")
    assert "all 2 frames are done already" in err  # the cache is no part of what a folder holds


def test_bad_pictures_are_told_with_a_cache_as_without(run_cli, scans, cache_path):
    path = scans / "demo0000_00" / "color" / "20.jpg"
    path.write_bytes(path.read_bytes()[:2000])
    code, err = run_cli(f"data.root={scans}", "output_dir=out", "cache=lmdb", f"cache.path={cache_path}")
    assert code == 0
    assert "color/20.jpg: damaged file" in err
    assert "7 kept" in err


def test_a_cache_that_can_not_be_used_stops_the_run_with_one_line(run, tmp_path):
    Path(tmp_path / "file").touch()
    _, err = run("out", "cache=lmdb", "cache.path=file", code=1)
    assert "clipfeat: cache.path=file: a file, expected a folder; choose another cache.path" in err
    assert "Traceback" not in err
