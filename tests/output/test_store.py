import json
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import clipfeat
from clipfeat.errors import DataError, SchemaError
from clipfeat.output import FeatureStore, RunFolder
from clipfeat.types import PointFeatures

KEYS = ("pts_feat", "uv_idx", "conf_2d", "xyz", "pts_idx", "clip_global")
MODEL = {"arch": "A", "weights": "w", "weights_sha256": "0123", "head": "none", "head_sha256": None}


def features_of(seed, count=30):
    rng = np.random.default_rng(seed)
    return PointFeatures(
        pts_feat=rng.normal(size=(count, 6)).astype(np.float32),
        uv_idx=rng.uniform(0, 100, (count, 2)).astype(np.float32),
        conf_2d=rng.random(count).astype(np.float32),
        xyz=rng.normal(size=(count, 3)).astype(np.float32),
        pts_idx=np.sort(rng.choice(10_000, count, replace=False)),
        attributes={"rgb": rng.integers(0, 256, (count, 3), dtype=np.uint8)},
        clip_global=rng.normal(size=8).astype(np.float32),
    )


def assert_same(found, expected):
    for key in KEYS:
        np.testing.assert_array_equal(getattr(found, key), getattr(expected, key))
        assert getattr(found, key).dtype == getattr(expected, key).dtype
    assert found.attributes.keys() == expected.attributes.keys()
    for key, values in expected.attributes.items():
        np.testing.assert_array_equal(found.attributes[key], values)


FRAMES = [("s2", 0), ("s2", 40), ("s10", 7)]


def write_run(path, name="npz", frames=FRAMES, model=MODEL):
    run = RunFolder(path, name, "float32")
    for seed, (scene_id, frame_id) in enumerate(frames):
        meta = {"scene_id": scene_id, "frame_id": frame_id, "model": model}
        run.write(scene_id, frame_id, features_of(seed), meta)
    return run


@pytest.fixture(params=["npz", "h5"])
def run(request, tmp_path):
    return write_run(tmp_path, request.param)


def test_a_store_gives_back_what_was_written(run):
    store = FeatureStore(run.path)
    assert store.format == run.format_name
    assert store.scenes == ["s2", "s10"]
    assert [(scene, frame) for scene in store.scenes for frame in store.frames(scene)] == FRAMES
    assert store.model == MODEL
    for seed, key in enumerate(FRAMES):
        assert_same(store.load(*key), features_of(seed))
        assert store.meta(*key)["frame_id"] == key[1]
        assert store.path(*key).is_file()
    assert clipfeat.FeatureStore is FeatureStore
    assert FeatureStore(str(run.path)).scenes == store.scenes


def test_some_of_the_points(run):
    store = FeatureStore(run.path)
    rows = np.array([5, 2, 29])
    counts = []

    def choose(count):
        counts.append(count)
        return rows

    assert_same(store.load("s2", 40, choose), features_of(1).take(rows))
    assert counts == [30]


def test_frames_that_come_later_are_there_and_those_that_go_are_not(run):
    store = FeatureStore(run.path)
    run.write("s2", 5, features_of(9), {"model": MODEL})
    run.feature_path("s2", 0).unlink()
    assert store.frames("s2") == [5, 40]
    assert_same(store.load("s2", 5), features_of(9))
    with pytest.raises(DataError, match=r"frame_0\.(npz|h5): no such file"):
        store.load("s2", 0)
    with pytest.raises(DataError, match="holds no frame of a scene s3"):
        store.frames("s3")


OTHER = MODEL | {"head": "proj128", "head_sha256": "99"}


def test_a_scene_of_another_model_is_refused_at_opening(run):
    run.write("s10", 7, features_of(2), {"model": OTHER})
    with pytest.raises(DataError, match=r"s10/frame_7.\w+: features of another model .* head: none there, proj128"):
        FeatureStore(run.path)


def test_a_frame_of_another_model_is_refused_when_it_is_loaded(run):
    run.write("s10", 9, features_of(0), {"model": OTHER})

    def load():
        for frame_id in (7, 9):
            FeatureStore(run.path).load("s10", frame_id)

    with pytest.raises(DataError, match=r"s10/frame_9.\w+: .*head_sha256: None there, 99 now; give each model a"):
        load()


def test_another_schema_is_refused_at_once(run, monkeypatch):
    monkeypatch.setattr("clipfeat.output.files.SCHEMA_VERSION", 99)
    run.feature_path("s10", 7).unlink()
    run.write("s10", 7, features_of(0), {"model": MODEL})
    monkeypatch.undo()
    with pytest.raises(SchemaError, match=r"s10/frame_7\.\w+: written with schema 99, this clipfeat reads 1; update"):
        FeatureStore(run.path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_frame_is_named_when_it_is_loaded_and_the_others_are_read(run, damage):
    path = run.feature_path("s2", 40)
    data = bytearray(path.read_bytes())
    at = data.index(features_of(1).uv_idx.tobytes()) + 17
    data[at] ^= 4
    path.write_bytes({"cut": data[: len(data) // 2], "flipped": data, "empty": b""}[damage])
    store = FeatureStore(run.path)
    with pytest.raises(DataError, match=r"s2/frame_40\.\w+: not a whole feature file .*; delete it and run the same"):
        store.load("s2", 40)
    assert_same(store.load("s2", 0), features_of(0))


def test_a_store_of_damaged_frames_alone_is_not_opened(run):
    for key in FRAMES:
        run.feature_path(*key).write_bytes(b"")
    with pytest.raises(DataError, match=r"s2/frame_0\.\w+: not a whole feature file"):
        FeatureStore(run.path)


def load_in_a_process(store, queue):
    queue.put([store.load(*key).pts_feat.sum() for key in FRAMES])


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_store_goes_into_processes_and_threads(run, start):
    store = FeatureStore(run.path)
    expected = [store.load(*key).pts_feat.sum() for key in FRAMES]
    context = multiprocessing.get_context(start)
    queue = context.Queue()
    process = context.Process(target=load_in_a_process, args=(store, queue))
    process.start()
    assert queue.get(timeout=120) == expected
    process.join()
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda key: copy.load(*key).pts_feat.sum(), FRAMES * 20))
    assert found == expected * 20


def test_old_files_without_a_checksum_are_read(tmp_path):
    import h5py

    run = write_run(tmp_path, "h5")
    with h5py.File(run.feature_path("s2", 0), "a") as h5:
        del h5.attrs["crc32"]
        assert json.loads(h5.attrs["meta"])["frame_id"] == 0
    assert_same(FeatureStore(tmp_path).load("s2", 0), features_of(0))
