"""Features of a scene in few bytes: what is read back, and what is told of it."""

import json

import numpy as np
import pytest

from clipfeat.errors import ConfigError, DataError
from clipfeat.output.config import PACKINGS
from clipfeat.output.fused import FusedScene, read_fused, write_fused
from clipfeat.output.packing import Packing, is_packed, unpacked
from clipfeat.types import Points

NAMES = [name for name in PACKINGS if name != "none"]


def features_of(count=600, channels=96, rank=12, unseen=50, seed=0):
    """Features of a few kinds of things, and some noise; lengths from 1 to 30."""
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(rank, channels))
    features = kinds[rng.integers(0, rank, count)] + 0.1 * rng.normal(size=(count, channels))
    features *= rng.uniform(1, 30, count)[:, None] / np.linalg.norm(features, axis=1)[:, None]
    seen = np.ones(count, bool)
    seen[rng.permutation(count)[:unseen]] = False
    features[~seen] = 0
    return features.astype(np.float32), seen


def packing_of(name, dims=48):
    if name == "pq":
        pytest.importorskip("faiss")
    return Packing(name, dims)


def cosines(one, other):
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def read_back_slowly(arrays, seen):
    """The twin: a point after another, in float64."""
    found, rows = np.zeros((len(seen), len(arrays["packed_mean"]))), np.flatnonzero(seen)
    for i, row in enumerate(rows):
        code = arrays["packed_codes"][i]
        if "packed_words" in arrays:
            words = arrays["packed_words"]
            numbers = [number for piece in range(len(words)) for number in words[piece, code[piece]]]
        elif "packed_scale" in arrays:
            numbers = [float(c) * float(s) for c, s in zip(code, arrays["packed_scale"], strict=True)]
        else:
            numbers = [float(c) for c in code]
        direction = arrays["packed_mean"].astype(np.float64)
        for number, axis in zip(numbers, arrays["packed_basis"], strict=False):
            direction = direction + float(number) * axis.astype(np.float64)
        found[row] = direction / np.linalg.norm(direction) * arrays["packed_length"][i]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_back_is_what_the_slow_twin_reads_and_is_told_rightly(name):
    features, seen = features_of()
    arrays, told = packing_of(name).pack(features, seen)
    expected = read_back_slowly(arrays, seen)
    size = sum(values.nbytes for values in arrays.values())
    found = unpacked(arrays | {}, seen)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(features, axis=1), rtol=1e-5)
    assert not found[~seen].any()
    cosine = cosines(features[seen].astype(float), expected[seen])
    assert told["cosine"]["median"] == pytest.approx(np.median(cosine), abs=1e-5)
    assert told["cosine"]["p01"] == pytest.approx(np.quantile(cosine, 0.01), abs=1e-5)
    assert told["cosine"]["least"] == pytest.approx(cosine.min(), abs=1e-5)
    assert (told["name"], told["channels"]) == (name, 96)
    assert told["bytes"] == pytest.approx(size / seen.sum(), abs=0.06)
    json.dumps(told)


@pytest.mark.parametrize("name", NAMES)
def test_more_coordinates_keep_more_and_all_of_them_nearly_everything(name):
    features, seen = features_of(rank=30)
    kept = [packing_of(name, dims).pack(features, seen)[1]["cosine"]["p01"] for dims in (8, 32, 96)]
    assert kept == sorted(kept)
    assert kept[-1] > (0.99 if name == "pq" else 0.9999)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_scenes_of_hardly_any_points(name, count):
    features, _ = features_of(9, 16, 3, 0)
    seen = np.arange(9) < count
    features[~seen] = 0
    arrays, told = packing_of(name).pack(features, seen)
    found = unpacked(arrays, seen)
    assert not arrays
    np.testing.assert_allclose(found, features, atol=0.3)
    assert told["dims"] <= count
    json.dumps(told, allow_nan=False)


def test_a_seen_point_whose_feature_is_zero_stays_zero():
    features, seen = features_of(40, 16, 3, 0)
    features[3] = 0
    arrays, _ = Packing("pca", 16).pack(features, seen)
    np.testing.assert_allclose(unpacked(arrays, seen), features, atol=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_a_packed_scene_comes_back_and_says_what_it_kept(tmp_path, name):
    features, seen = features_of()
    views = seen.astype(np.int32)
    points = Points(np.zeros((600, 3)), np.arange(600), {})
    scene = FusedScene(points, features, views, views.astype(np.float32), None, {"scene_id": "s"})
    size = write_fused(tmp_path / "s.npz", scene, packing_of(name))
    found = read_fused(tmp_path / "s.npz")
    assert size < write_fused(tmp_path / "whole.npz", scene) / 2
    assert found.meta["packed"] == scene.meta["packed"]
    assert found.pts_feat.dtype == np.float32
    assert (
        np.quantile(cosines(found.pts_feat[seen], features[seen]), 0.01) >= scene.meta["packed"]["cosine"]["p01"] - 1e-4
    )
    assert not is_packed(found.points.attributes)
    with np.load(tmp_path / "s.npz") as file:
        arrays = {key: file[key] for key in file.files if key != "packed_basis"}
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(DataError, match=r"s.npz: its packed features are not whole \('packed_basis'\); copy it again"):
        read_fused(tmp_path / "s.npz")


def test_product_quantisation_wants_its_package(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "faiss", None)
    features, seen = features_of()
    with pytest.raises(ConfigError, match=r"packing=pq needs the package faiss: pip install 'clipfeat\[pq\]'"):
        Packing("pq", 16).pack(features, seen)
