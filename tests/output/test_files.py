import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from clipfeat.errors import DataError, OutputError
from clipfeat.output.files import FORMATS, read_features, read_meta, write_features
from clipfeat.types import PointFeatures

FULL = Path("/dev/full")
POINT_FORMATS = [name for name, fmt in FORMATS.items() if fmt.holds == "points"]


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    n = 50
    return PointFeatures(
        pts_feat=rng.normal(size=(n, 12)).astype(np.float32),
        uv_idx=rng.uniform(0, 1000, (n, 2)).astype(np.float32),
        conf_2d=rng.random(n).astype(np.float32),
        xyz=rng.normal(size=(n, 3)).astype(np.float32),
        pts_idx=rng.integers(0, 1 << 40, n),
        clip_global=rng.normal(size=9).astype(np.float32),
    )


@pytest.mark.parametrize("name", POINT_FORMATS)
def test_what_is_written_is_read_back_without_pickle(tmp_path, features, name):
    path = tmp_path / "scene" / f"frame_3{FORMATS[name].suffix}"
    size = write_features(path, name, features, {"scene_id": "s", "model": {"head": "none"}})
    assert size == path.stat().st_size
    back, meta = read_features(path)
    for key in ("pts_feat", "uv_idx", "conf_2d", "xyz", "pts_idx", "clip_global"):
        np.testing.assert_array_equal(getattr(back, key), getattr(features, key))
        assert getattr(back, key).dtype == getattr(features, key).dtype
    assert meta == {"schema_version": 1, "scene_id": "s", "model": {"head": "none"}}
    assert read_meta(path) == meta
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_plain_numpy_and_h5py_read_the_files(tmp_path, features):
    write_features(tmp_path / "a.npz", "npz", features, {"k": 1})
    write_features(tmp_path / "a.h5", "h5", features, {"k": 1})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as data:
        assert set(data.files) == {"pts_feat", "uv_idx", "conf_2d", "xyz", "pts_idx", "clip_global", "meta"}
        assert json.loads(str(data["meta"]))["k"] == 1
    with h5py.File(tmp_path / "a.h5") as data:
        assert data["pts_feat"].shape == (50, 12)
        assert json.loads(data.attrs["meta"])["k"] == 1


def test_files_without_what_stands_for_the_whole_picture_are_read(tmp_path, features):
    write_features(tmp_path / "a.npz", "npz", dataclasses.replace(features, clip_global=None), {})
    assert read_features(tmp_path / "a.npz")[0].clip_global is None


def test_half_precision_on_disk(tmp_path, features):
    write_features(tmp_path / "a.npz", "npz", features, {}, dtype="float16")
    back, _ = read_features(tmp_path / "a.npz")
    assert back.pts_feat.dtype == np.float16
    np.testing.assert_allclose(back.pts_feat, features.pts_feat, atol=2e-3)


@pytest.mark.parametrize("name", POINT_FORMATS)
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.999])
def test_a_cut_off_file_is_named(tmp_path, features, name, keep):
    path = tmp_path / f"cut{FORMATS[name].suffix}"
    write_features(path, name, features, {})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(
        DataError, match=r"cut.*: not a whole feature file .*; delete it and run the same command again"
    ):
        read_features(path)


def test_other_files_are_named(tmp_path, features):
    with pytest.raises(DataError, match="none.npz: no such file"):
        read_features(tmp_path / "none.npz")
    with pytest.raises(DataError, match="a.txt: not a feature file, expected one of .npz, .h5"):
        read_features(tmp_path / "a.txt")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(DataError, match="other.npz: not a whole feature file"):
        read_features(tmp_path / "other.npz")
    np.savez(tmp_path / "objects.npz", meta=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="objects.npz: not a whole feature file"):
        read_features(tmp_path / "objects.npz")
    arrays = {k: getattr(features, k) for k in ("pts_feat", "uv_idx", "conf_2d", "xyz", "pts_idx")}
    np.savez(tmp_path / "new.npz", **arrays, meta=np.array('{"schema_version": 99}'))
    with pytest.raises(DataError, match="new.npz: written with schema 99, this clipfeat reads 1"):
        read_features(tmp_path / "new.npz")


@pytest.mark.parametrize("meta", ["[]", "7", '"x"', "null", "", "{", "[" * 100_000])
def test_a_meta_that_is_none_is_named(tmp_path, features, meta):
    arrays = {key: getattr(features, key) for key in ("pts_feat", "uv_idx", "conf_2d", "xyz", "pts_idx")}
    np.savez(tmp_path / "f.npz", **arrays, meta=np.array(meta))
    with pytest.raises(DataError, match=r"f.npz: not a whole feature file \(.*\); delete it and run the same command"):
        read_features(tmp_path / "f.npz")


@pytest.mark.parametrize(
    ("key", "array", "why"),
    [
        ("uv_idx", np.zeros((50, 3)), r"uv_idx has the shape \(50, 3\)"),
        ("xyz", np.zeros((49, 3)), r"xyz has the shape \(49, 3\)"),
        ("conf_2d", np.zeros(()), r"conf_2d has the shape \(\)"),
        ("pts_feat", np.zeros(50), r"pts_feat has the shape \(50,\)"),
        ("pts_idx", np.full(50, "a"), "pts_idx is of <U1, not of numbers"),
        ("xyz", np.zeros((50, 3), complex), "xyz is of complex128, not of numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, features, key, array, why):
    arrays = {key: getattr(features, key) for key in ("pts_feat", "uv_idx", "conf_2d", "xyz", "pts_idx")}
    np.savez(tmp_path / "f.npz", **arrays | {key: array}, meta=np.array('{"schema_version": 1}'))
    with pytest.raises(DataError, match=rf"f.npz: not a whole feature file \({why}\); delete it and run the same"):
        read_features(tmp_path / "f.npz")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, features, monkeypatch):
    def full(file, arrays, meta):
        with FULL.open("wb", buffering=0) as device:
            device.write(b"0" * 4096)

    monkeypatch.setitem(FORMATS, "npz", dataclasses.replace(FORMATS["npz"], write=full))
    with pytest.raises(OutputError, match=r"f.npz: can't be written \(No space left on device\); what was finished"):
        write_features(tmp_path / "f.npz", "npz", features, {})
    assert list(tmp_path.iterdir()) == []
