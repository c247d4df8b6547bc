import dataclasses
import json
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from stores import some_features, some_segments, write_store

import clipfeat
from clipfeat.camera.visibility import VisibilityRule, project_frame
from clipfeat.errors import DataError
from clipfeat.model.heads import build_head
from clipfeat.model.pretrained import state_hash
from clipfeat.output.dataset import FeatureDataset
from clipfeat.output.files import FORMATS
from clipfeat.output.grid import GridFrame
from clipfeat.output.run_folder import RunFolder
from clipfeat.output.store import FeatureStore
from clipfeat.sampling.bilinear import sample_img_feat
from clipfeat.types import Camera, FeatureMap, Frame, Picture, PointFeatures, resize_affine

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


CAMERA = Camera(np.array([[90.0, 0, 50], [0, 95, 40], [0, 0, 1]]), 100, 80)
POSE = np.array([[0, 0, 1, 2.0], [-1, 0, 0, 1], [0, -1, 0, 0.5], [0, 0, 0, 1]])


def grid_of(seed, count=30):
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.normal(size=(4, 5, 6)).astype(np.float16)).permute(2, 0, 1)
    return GridFrame(
        feature_map=FeatureMap(values, resize_affine((100, 80), (5, 4)), torch.from_numpy(rng.random(8, np.float32))),
        camera=CAMERA,
        cam_to_world=POSE,
        uv_idx=rng.uniform(0, (99, 79), (count, 2)).astype(np.float32),
        depth_m=rng.uniform(1, 5, count).astype(np.float32),
        conf_2d=rng.integers(0, 9, count).astype(np.float32) / 8,
        pts_idx=np.sort(rng.choice(10_000, count, replace=False)),
        attributes={"rgb": rng.integers(0, 256, (count, 3), dtype=np.uint8)},
    )


def content_of(name, seed):
    """What is written in each format, and what a store gives of it."""
    if FORMATS[name].holds == "segments":
        kept = some_segments(seed)
        of_frame = {
            "camera": CAMERA,
            "cam_to_world": POSE,
            "conf_2d": np.round(kept.conf_2d * 8) / 8,
        }  # as float16 holds
        kept = dataclasses.replace(kept, **of_frame)
        return kept, kept.features()
    if FORMATS[name].holds == "points":
        return features_of(seed), features_of(seed)
    grid = grid_of(seed)
    features = sample_img_feat(grid.feature_map, grid.uv_idx).numpy()
    return grid, PointFeatures(features, grid.uv_idx, grid.conf_2d, grid.xyz, grid.pts_idx, grid.attributes,
                               grid.feature_map.clip_global.numpy())  # fmt: skip


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
        put(run, scene_id, frame_id, seed, model)
    return run


def put(run, scene_id, frame_id, seed, model=MODEL):
    meta = {
        "scene_id": scene_id,
        "frame_id": frame_id,
        "model": model,
        "camera": {"intrinsics": CAMERA.intrinsics.tolist(), "width": 100, "height": 80},
        "cam_to_world": POSE.tolist(),
        "image_to_map": resize_affine((100, 80), (5, 4)).tolist(),
    }
    run.write(scene_id, frame_id, content_of(run.format_name, seed)[0], meta)


@pytest.fixture(params=[name for name, fmt in FORMATS.items() if not fmt.by_scene])
def run(request, tmp_path):
    return write_run(tmp_path, request.param)


@pytest.fixture
def expected(run):
    return lambda seed: content_of(run.format_name, seed)[1]


def test_a_store_gives_back_what_was_written(run, expected):
    store = FeatureStore(run.path)
    assert store.format == run.format_name
    assert store.scenes == ["s2", "s10"]
    assert [(scene, frame) for scene in store.scenes for frame in store.frames(scene)] == FRAMES
    assert store.model == MODEL
    for seed, key in enumerate(FRAMES):
        assert_same(store.load(*key), expected(seed))
        assert store.meta(*key)["frame_id"] == key[1]
        assert store.path(*key).is_file()
    assert clipfeat.FeatureStore is FeatureStore
    assert FeatureStore(str(run.path)).scenes == store.scenes


def test_some_of_the_points(run, expected):
    store = FeatureStore(run.path)
    rows = np.array([5, 2, 29])
    counts = []

    def choose(count):
        counts.append(count)
        return rows

    assert_same(store.load("s2", 40, choose), expected(1).take(rows))
    assert counts == [30]


def test_frames_that_come_later_are_there_and_those_that_go_are_not(run, expected):
    store = FeatureStore(run.path)
    put(run, "s2", 5, 9)
    run.feature_path("s2", 0).unlink()
    assert store.frames("s2") == [5, 40]
    assert_same(store.load("s2", 5), expected(9))
    with pytest.raises(DataError, match=r"frame_0\.\w+: no such file"):
        store.load("s2", 0)
    with pytest.raises(DataError, match="holds no frame of a scene s3"):
        store.frames("s3")


OTHER = MODEL | {"head": "proj128", "head_sha256": "99"}


def test_a_scene_of_another_model_is_refused_at_opening(run):
    put(run, "s10", 7, 2, OTHER)
    with pytest.raises(DataError, match=r"s10/frame_7.\w+: features of another model .* head: none there, proj128"):
        FeatureStore(run.path)


def test_a_frame_of_another_model_is_refused_when_it_is_loaded(run):
    put(run, "s10", 9, 0, OTHER)

    def load():
        for frame_id in (7, 9):
            FeatureStore(run.path).load("s10", frame_id)

    with pytest.raises(DataError, match=r"s10/frame_9.\w+: .*head_sha256: None there, 99 now; give each model a"):
        load()


def test_another_schema_is_refused_at_once(run, monkeypatch):
    monkeypatch.setattr("clipfeat.output.files.SCHEMA_VERSION", 99)
    run.feature_path("s10", 7).unlink()
    put(run, "s10", 7, 0)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"s10/frame_7\.\w+: written with schema 99, this clipfeat reads 1; update"):
        FeatureStore(run.path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_frame_is_named_when_it_is_loaded_and_the_others_are_read(run, expected, damage):
    path = run.feature_path("s2", 40)
    data = bytearray(path.read_bytes())
    at = data.index(expected(1).uv_idx.tobytes()) + 17
    data[at] ^= 4
    path.write_bytes({"cut": data[: len(data) // 2], "flipped": data, "empty": b""}[damage])
    store = FeatureStore(run.path)
    with pytest.raises(DataError, match=r"s2/frame_40\.\w+: not a whole feature file .*; delete it and run the same"):
        store.load("s2", 40)
    assert_same(store.load("s2", 0), expected(0))


def test_a_store_of_damaged_frames_alone_is_not_opened(run):
    for key in FRAMES:
        run.feature_path(*key).write_bytes(b"")
    with pytest.raises(DataError, match=r"s2/frame_0\.\w+: not a whole feature file"):
        FeatureStore(run.path)


@pytest.fixture
def packed(tmp_path):
    run = write_run(tmp_path, "h5_scene")
    for scene_id in ("s2", "s10"):
        run.files.finish_scene(scene_id)
    return run


def test_files_of_scenes_are_read_like_the_others(packed):
    store = FeatureStore(packed.path)
    assert store.format == "h5_scene"
    assert store.scenes == ["s2", "s10"]
    assert [(scene, frame) for scene in store.scenes for frame in store.frames(scene)] == FRAMES
    for seed, key in enumerate(FRAMES):
        assert_same(store.load(*key), features_of(seed))
        assert store.meta(*key)["frame_id"] == key[1]
        assert store.path(*key) == packed.path / f"{key[0]}.h5"
    with pytest.raises(DataError, match=r"s2.h5: holds no frame_9"):
        store.load("s2", 9)
    put(packed, "s10", 7, 2, OTHER)
    packed.files.finish_scene("s10")
    with pytest.raises(DataError, match=r"s10.h5: features of another model .* head: none there, proj128"):
        FeatureStore(packed.path)


def test_a_store_is_good_before_and_after_its_scenes_are_finished(tmp_path):
    run = write_run(tmp_path, "h5_scene")
    store = FeatureStore(tmp_path)
    assert store.format == "h5"
    for finish in (lambda: None, lambda: run.files.finish_scene("s2"), lambda: run.files.finish_scene("s10")):
        finish()
        assert [(scene, frame) for scene in store.scenes for frame in store.frames(scene)] == FRAMES
        for seed, key in enumerate(FRAMES):
            assert_same(store.load(*key), features_of(seed))
    assert FeatureStore(tmp_path).format == "h5_scene"


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_file_of_a_scene_is_named(packed, damage):
    path = packed.path / "s2.h5"
    data = bytearray(path.read_bytes())
    data[data.index(features_of(1).uv_idx.tobytes()) + 17] ^= 4
    path.write_bytes({"cut": data[: len(data) // 2], "flipped": data, "empty": b""}[damage])
    store = FeatureStore(packed.path)
    with pytest.raises(
        DataError, match=r"s2.h5: not a whole feature file .*; delete it and run the same command again"
    ):
        store.load("s2", 40)
    assert_same(store.load("s10", 7), features_of(2))
    if damage == "flipped":
        assert_same(store.load("s2", 0), features_of(0))
    else:
        with pytest.raises(DataError, match="s2.h5: not a whole feature file"):
            store.frames("s2")


def load_in_a_process(store, queue):
    torch.set_num_threads(1)  # as DataLoader does it: OpenMP's threads are lost in a fork
    queue.put([store.load(*key).pts_feat.sum() for key in FRAMES])


@pytest.mark.parametrize("start", ["fork", "warm"])
def test_a_store_goes_into_processes_and_threads(run, start, request):
    store = FeatureStore(run.path)
    expected = [store.load(*key).pts_feat.sum() for key in FRAMES]
    context = request.getfixturevalue("warm") if start == "warm" else multiprocessing.get_context(start)
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


def test_only_maps_can_be_sampled_anew(tmp_path):
    write_run(tmp_path, "npz")
    store = FeatureStore(tmp_path)
    message = "output=npz keeps features at points and no maps; extract with output=grid"
    for ask in (lambda: store.map("s2", 0), lambda: store.sample("s2", 0, np.zeros((1, 3)))):
        with pytest.raises(DataError, match=message):
            ask()


def frame_with_depth(depth_m, scene_id="s2", frame_id=0):
    picture = Picture.of(np.zeros((80, 100, 3), np.uint8))
    return Frame(scene_id, frame_id, picture, np.full((80, 100), depth_m, np.float32), CAMERA, CAMERA, POSE)


def test_any_points_are_sampled(tmp_path):
    write_run(tmp_path, "grid")
    store = FeatureStore(tmp_path)
    grid = store.map("s2", 0)
    rng = np.random.default_rng(0)
    points = grid.xyz + rng.normal(size=(30, 3)).astype(np.float32)
    points = np.concatenate([points, [POSE[:3, 3] - 3 * POSE[:3, 2], POSE[:3, 3] + 30 * POSE[:3, 2]]])  # behind, far
    found = store.sample("s2", 0, points)
    seen = project_frame(points, frame_with_depth(0), VisibilityRule(keep_holes=True))
    rows = np.flatnonzero(seen.visible)
    assert 10 < len(rows) < 30
    np.testing.assert_array_equal(found.pts_idx, rows)
    np.testing.assert_allclose(found.uv_idx, seen.uv[rows], atol=1e-4)
    np.testing.assert_array_equal(found.xyz, points[rows].astype(np.float32))
    np.testing.assert_array_equal(found.conf_2d, 1)
    np.testing.assert_array_equal(found.pts_feat, sample_img_feat(grid.feature_map, found.uv_idx).numpy())
    assert store.sample("s2", 0, points, rule=VisibilityRule(far=100)).pts_idx[-1] == 31
    with pytest.raises(ValueError, match=r"points must be \(..., N, 3\), got \(3,\)"):
        store.sample("s2", 0, np.zeros(3))


def test_with_the_frame_its_depth_decides(tmp_path):
    write_run(tmp_path, "grid")
    store = FeatureStore(tmp_path)
    ahead = POSE[:3, 3] + np.outer([2.0, 2.02, 3.0], POSE[:3, 2])  # on the surface at 2 m, near it, behind it
    assert store.sample("s2", 0, ahead).pts_idx.tolist() == [0, 1, 2]
    found = store.sample("s2", 0, ahead, frame_with_depth(2.0))
    assert found.pts_idx.tolist() == [0, 1]
    assert found.conf_2d[0] > 0.99 > found.conf_2d[1] > 0
    with pytest.raises(ValueError, match=r"frame is \('s2', 40, \(100, 80\)\), expected \('s2', 0, \(100, 80\)\)"):
        store.sample("s2", 0, ahead, frame_with_depth(2.0, frame_id=40))


def test_what_a_crop_cut_off_is_not_sampled(tmp_path):
    run = write_run(tmp_path, "grid")
    # The middle 80 pixels of 100 became the map's five cells: 16 pixels each, 10 pixels cut off on either side.
    to_map = np.array([[1 / 16, 0, (0.5 - 10) / 16 - 0.5], [0, 1 / 20, 0.5 / 20 - 0.5]])
    meta = FeatureStore(tmp_path).meta("s2", 0) | {"image_to_map": to_map.tolist()}
    run.write("s2", 0, grid_of(0), meta)
    x, z = (np.array([9.0, 10, 50, 89, 90]) - 50) / 90 * 2, 2.0
    points = np.stack((x, np.zeros(5), np.full(5, z), np.ones(5)), 1) @ POSE.T
    found = FeatureStore(tmp_path).sample("s2", 0, points[:, :3])
    assert found.pts_idx.tolist() == [1, 2, 3]


def write_projected(path, seed=3):
    """A run of proj128 on maps of 256 channels; the encoder's width is 8."""
    head = build_head("proj128", 8, None, seed)
    model = MODEL | {"head": "proj128", "head_sha256": state_hash(head)}
    run = RunFolder(path, "grid", "float32")
    grid = grid_of(0)
    values = torch.randn(256, 4, 5, generator=torch.Generator().manual_seed(0)).half()
    affine, clip_global = grid.feature_map.image_to_map, grid.feature_map.clip_global
    grid = dataclasses.replace(grid, feature_map=FeatureMap(values, affine, clip_global))
    camera = {"intrinsics": CAMERA.intrinsics.tolist(), "width": 100, "height": 80}
    meta = {"model": model, "camera": camera, "cam_to_world": POSE.tolist(), "image_to_map": affine.tolist()}
    run.write("s2", 0, grid, meta)
    run.write_head(head.state_dict(), model)
    return head, grid


def test_a_head_goes_on_at_the_points_with_the_weights_of_the_run(tmp_path):
    head, grid = write_projected(tmp_path)
    store = FeatureStore(tmp_path)
    expected = head.to_points(sample_img_feat(grid.feature_map, grid.uv_idx)).detach().numpy()
    assert expected.shape == (30, 128)
    np.testing.assert_allclose(store.load("s2", 0).pts_feat, expected, atol=1e-5)
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert copy.sample("s2", 0, grid.xyz[:1]).pts_feat.shape == (1, 128)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("gone", r"head_proj128.safetensors: the maps are of no use without the head's weights .*no such file"),
        ("cut", r"head_proj128.safetensors: the maps are of no use without .*not a safetensors file of this head"),
        (
            "other",
            r"head_proj128.safetensors: weights \w{16}, but the maps were made with \w{16}; copy that run's file",
        ),
    ],
)
def test_a_head_whose_weights_are_missing_or_others_is_named(tmp_path, damage, message):
    write_projected(tmp_path)
    path = tmp_path / "head_proj128.safetensors"
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:500])
    else:
        other = build_head("proj128", 8, None, 4)
        RunFolder(tmp_path, "grid", "float32").write_head(other.state_dict(), MODEL | {"head": "proj128"})
    store = FeatureStore(tmp_path)
    assert store.map("s2", 0).feature_map.values.shape == (256, 4, 5)
    with pytest.raises(DataError, match=message):
        store.load("s2", 0)


def test_numbers_that_no_array_can_hold_are_told_in_a_line(tmp_path):
    stamps = [20240501102231012345, 20240501102231045345]
    store = FeatureStore(write_store(tmp_path / "stamps", {("s", stamp): some_features(0) for stamp in stamps}).path)
    assert store.frames("s") == stamps
    line = rf"frame_{stamps[1]}.npz: a number above 64 bits, which no array of frames holds; extract again, from files"
    with pytest.raises(DataError, match=line):
        FeatureDataset(store)
    with pytest.raises(DataError, match=line):
        store.frame_numbers("s")
