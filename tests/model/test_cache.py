import json
import sys

import lmdb
import numpy as np
import pytest
import torch
from cache_entries import PICTURE, entry, is_entry

from clipfeat.errors import ConfigError, OutputError
from clipfeat.model import lmdb_file
from clipfeat.model.cache import MapCache, build_cache
from clipfeat.model.cache_entry import CacheEntry, as_float16
from clipfeat.model.config import CacheConfig
from clipfeat.types import FeatureMap

OTHER = "f" * 32


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "maps.lmdb"


def test_a_map_comes_back_in_half_precision_and_as_the_sampler_reads_it(path):
    kept = entry()
    with MapCache.open(path) as cache:
        assert cache.get("scene0000_00", 0, "fp", PICTURE) is None
        cache.put("fp", [kept, entry(1)])
        found = cache.get("scene0000_00", 0, "fp", PICTURE)
        assert found.values.dtype == torch.float16
        assert found.image_to_map.dtype == np.float64
        assert is_entry(found, kept)
        assert found.values.permute(1, 2, 0).is_contiguous()
        assert (cache.counts.found, cache.counts.missing, cache.counts.stored) == (1, 1, 2)
    with MapCache.open(path, readonly=True) as cache:
        assert is_entry(cache.get("scene0000_00", 1, "fp", PICTURE), entry(1))


def test_a_map_may_come_without_what_stands_for_the_whole_picture(path):
    bare = CacheEntry("s", 0, PICTURE, FeatureMap(torch.zeros(2, 3, 4), np.eye(2, 3)))
    with MapCache.open(path) as cache:
        cache.put("fp", [bare])
        assert cache.get("s", 0, "fp", PICTURE).clip_global is None


def test_another_fingerprint_scene_frame_or_picture_is_another_map(path):
    with MapCache.open(path) as cache:
        cache.put("fp", [entry()])
        asked = [("fq", "scene0000_00", 0, PICTURE), ("fp", "scene0000_01", 0, PICTURE)]
        asked += [("fp", "scene0000_00", 1, PICTURE), ("fp", "scene0000_00", 0, OTHER)]
        for fingerprint, scene_id, frame_id, picture in asked:
            assert cache.get(scene_id, frame_id, fingerprint, picture) is None
        cache.put("fp", [entry(seed=1, picture=OTHER)])
        assert cache.get("scene0000_00", 0, "fp", PICTURE) is None
        assert is_entry(cache.get("scene0000_00", 0, "fp", OTHER), entry(seed=1))
        assert cache.counts.damaged == 0


def test_names_longer_than_a_key_of_lmdb_are_kept_apart(path):
    names = ["s" * 600 + "1", "s" * 600 + "2"]
    with MapCache.open(path) as cache:
        for seed, name in enumerate(names):
            cache.put("f" * 32, [entry(scene_id=name, seed=seed)])
        for seed, name in enumerate(names):
            assert is_entry(cache.get(name, 0, "f" * 32, PICTURE), entry(seed=seed))


def test_what_float16_can_not_hold_is_refused(path):
    assert as_float16(torch.tensor([1.0, 65504.0])) is not None
    assert as_float16(torch.tensor([1.0, 70000.0])) is None
    assert as_float16(torch.tensor([1.0, float("nan")])) is None
    large = CacheEntry("s", 3, PICTURE, FeatureMap(torch.full((2, 2, 2), 1e6), np.zeros((2, 3))))
    with MapCache.open(path) as cache:
        with pytest.raises(ValueError, match="s frame 3: float16 can't hold"):
            cache.put("fp", [entry(), large])
        assert cache.get("scene0000_00", 0, "fp", PICTURE) is None  # all of a transaction, or none


def test_cards_are_kept_beside_the_maps(path):
    with MapCache.open(path) as cache:
        assert cache.get_card("k") is None
        cache.put_card("k", {"width": 64, "mean": [0.1, 0.2, 0.3]})
        assert cache.get_card("k") == {"width": 64, "mean": [0.1, 0.2, 0.3]}


def test_a_cache_for_reading_is_not_written_to(path):
    with pytest.raises(OutputError, match=r"maps.lmdb: can't be opened \(.*No such file"):
        MapCache.open(path, readonly=True)
    MapCache.open(path).close()
    with MapCache.open(path, readonly=True) as cache:
        with pytest.raises(OutputError, match=r"maps.lmdb: opened for reading only, nothing can be added"):
            cache.put("fp", [entry()])
        with pytest.raises(OutputError, match=r"maps.lmdb: open for reading only in this process already"):
            MapCache.open(path)


def test_a_cache_that_can_not_be_written_to_is_read(path, monkeypatch, caplog):
    """Such as one that is mounted for reading: the file in which readers take note of themselves can't be made."""
    with MapCache.open(path) as cache:
        cache.put("fp", [entry()])
    (path / "lock.mdb").unlink()
    (path / "lock.mdb").mkdir()
    monkeypatch.setattr(lmdb_file.os, "access", lambda *_: False)
    with build_cache(CacheConfig("lmdb", str(path))) as cache:
        assert cache.readonly
        assert is_entry(cache.get("scene0000_00", 0, "fp", PICTURE), entry())
        with pytest.raises(OutputError, match="opened for reading only"):
            cache.put("fp", [entry(1)])
    assert f"cache.path={path}: can't be written to; its maps are used, and no others are added" in caplog.text


def overwrite(path, before, after):
    """Changes stored bytes behind LMDB's back."""
    data = bytearray((path / "data.mdb").read_bytes())
    at = data.index(before)
    data[at : at + len(after)] = after
    (path / "data.mdb").write_bytes(data)


@pytest.mark.parametrize("part", ["values", "header"])
def test_a_damaged_entry_is_as_good_as_none_and_is_counted(path, part, caplog):
    kept = entry(shape=(64, 10, 10))
    with MapCache.open(path) as cache:
        cache.put("fp", [kept, entry(1)])
    stored = kept.feature_map.values.half().permute(1, 2, 0).contiguous().numpy().tobytes()
    if part == "values":
        overwrite(path, stored[2000:2040], bytes([stored[2000] ^ 1]))
    else:
        overwrite(path, b'"image_to_map"', b"{{{{")
        overwrite(path, b'"image_to_map"', b"{{{{")  # whichever came first in the file: both
    with MapCache.open(path) as cache:
        assert cache.get("scene0000_00", 0, "fp", PICTURE) is None
        assert "scene0000_00 frame 0 is damaged and passed over" in caplog.text
        assert (cache.get("scene0000_00", 1, "fp", PICTURE) is None) == (part == "header")
        assert cache.counts.damaged == (2 if part == "header" else 1)
        cache.put("fp", [kept])
        assert is_entry(cache.get("scene0000_00", 0, "fp", PICTURE), kept)


def test_a_damaged_card_is_as_good_as_none(path):
    with MapCache.open(path) as cache:
        cache.put_card("k", {"width": 64})
    overwrite(path, b'{"width"', b"[[[")
    with MapCache.open(path) as cache:
        assert cache.get_card("k") is None
        assert cache.counts.damaged == 1


def test_without_lmdb_it_says_what_to_install(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(
        ConfigError, match=r"cache=lmdb needs the package lmdb, 3.0 or newer: pip install 'clipfeat\[cache\]'"
    ):
        build_cache(CacheConfig("lmdb", str(path)))
    assert build_cache(CacheConfig()) is None


def test_the_entries_are_plain_safetensors_under_plain_keys(path):
    from safetensors.torch import load

    with MapCache.open(path) as cache:
        cache.put("fp", [entry(20)])
        cache.put_card("k", {"a": 1})
    with lmdb.open(str(path)) as environment, environment.begin() as transaction:
        items = dict(transaction.cursor())
    assert sorted(items) == [b"card/k", b"fp/scene0000_00/20"]
    assert json.loads(items[b"card/k"]) == {"a": 1}
    assert load(items[b"fp/scene0000_00/20"])["values"].shape == (4, 5, 6)
