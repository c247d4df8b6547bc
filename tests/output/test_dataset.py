import dataclasses
import pickle

import numpy as np
import pytest
import torch
from conftest import CHECKOUT
from stores import some_features, some_grid, write_store
from torch.utils.data import DataLoader

import clipfeat
from clipfeat.errors import DataError
from clipfeat.output.dataset import FeatureDataset, collate_points
from clipfeat.output.store import FeatureStore

POINTS = ("pts_feat", "xyz", "uv_idx", "conf_2d", "pts_idx", "rgb", "label")
FRAMES = {("s2", frame_id): some_features(frame_id, 20 + frame_id) for frame_id in (0, 10, 20, 30)}
FRAMES |= {("s10", 7): some_features(7, 5)}


@pytest.fixture
def folder(tmp_path):
    return write_store(tmp_path / "run", FRAMES).path


def expected(key, name):
    features = FRAMES[key]
    return features.attributes[name] if name in features.attributes else getattr(features, name)


def assert_rows_of(item, key, rows=None):
    """The item's points are points of a frame: each row, in every array, is that of its ``pts_idx``."""
    found = item["pts_idx"].numpy() if rows is None else item["pts_idx"][rows].numpy()
    source = np.searchsorted(FRAMES[key].pts_idx, found)
    for name in POINTS:
        values = item[name] if rows is None else item[name][rows]
        np.testing.assert_array_equal(values, expected(key, name)[source])


def test_an_item_is_a_frame(folder):
    dataset = FeatureDataset(folder)
    assert clipfeat.FeatureDataset is FeatureDataset
    assert clipfeat.collate_points is collate_points
    assert len(dataset) == 5
    assert dataset.scenes == ["s2", "s10"]
    for item, key in zip([dataset[i] for i in range(5)], FRAMES, strict=True):
        assert (item["scene_id"], item["frame_id"].tolist()) == (key[0], [key[1]])
        assert len(item["pts_idx"]) == len(FRAMES[key].pts_idx)
        assert_rows_of(item, key)
        np.testing.assert_array_equal(item["clip_global"], FRAMES[key].clip_global[None])
        assert not item["view"].any()
    types = {name: value.dtype for name, value in item.items() if name != "scene_id"}
    assert {types.pop(name) for name in ("pts_feat", "xyz", "uv_idx", "conf_2d", "clip_global")} == {torch.float32}
    assert types.pop("rgb") == torch.uint8
    assert set(types.values()) == {torch.int64}  # label was uint16, which torch can't compute with
    with pytest.raises(IndexError):
        dataset[5]
    assert dataset[-1]["scene_id"] == "s10"


def test_random_points_are_each_taken_once_and_small_frames_give_all(folder):
    dataset = FeatureDataset(folder, num_points=8)
    item = dataset[1]
    assert len(set(item["pts_idx"].tolist())) == len(item["pts_feat"]) == 8
    assert_rows_of(item, ("s2", 10))
    assert sorted(dataset[4]["pts_idx"].tolist()) == FRAMES["s10", 7].pts_idx.tolist()
    drawn = {int(i) for _ in range(60) for i in dataset[1]["pts_idx"]}
    assert drawn == set(FRAMES["s2", 10].pts_idx.tolist())


def test_of_a_map_only_the_chosen_points_are_sampled(tmp_path, monkeypatch):
    import clipfeat.output.store

    store = FeatureStore(write_store(tmp_path, {("s", 3): some_grid(3, 50)}, "grid").path)
    whole = store.load("s", 3)
    sampled = []
    real = clipfeat.output.store.sample_img_feat
    monkeypatch.setattr(clipfeat.output.store, "sample_img_feat", lambda *a: sampled.append(len(a[1])) or real(*a))
    item = FeatureDataset(store, num_points=7)[0]
    assert sampled == [7]
    rows = np.searchsorted(whole.pts_idx, item["pts_idx"].numpy())
    for name in ("pts_feat", "xyz", "uv_idx", "conf_2d", "pts_idx"):
        np.testing.assert_array_equal(item[name], getattr(whole, name)[rows])
    np.testing.assert_array_equal(item["rgb"], whole.attributes["rgb"][rows])
    np.testing.assert_array_equal(item["clip_global"], whole.clip_global[None])


def test_views_are_other_frames_of_the_same_scene(folder):
    dataset = FeatureDataset(folder, num_points=6, views=3)
    seen = set()
    for _ in range(30):
        item = dataset[2]
        frame_ids = item["frame_id"].tolist()
        assert frame_ids[0] == 20
        assert len(set(frame_ids)) == 3
        assert item["clip_global"].shape == (3, 8)
        assert item["view"].tolist() == [0] * 6 + [1] * 6 + [2] * 6
        for view, frame_id in enumerate(frame_ids):
            assert_rows_of(item, ("s2", frame_id), item["view"] == view)
            np.testing.assert_array_equal(item["clip_global"][view], FRAMES["s2", frame_id].clip_global)
        seen |= set(frame_ids)
    assert seen == {0, 10, 20, 30}
    assert sorted(FeatureDataset(folder, views=9)[0]["frame_id"].tolist()) == [0, 10, 20, 30]
    assert dataset[4]["frame_id"].tolist() == [7]  # the scene has no other frame


def drawn(loader):
    return [batch["pts_idx"].tolist() for batch in loader]


def test_a_seed_repeats_a_run_while_workers_and_epochs_differ(folder):
    dataset = FeatureDataset(folder, num_points=5)
    loader = DataLoader(
        dataset, sampler=[3] * 6, batch_size=1, num_workers=2, persistent_workers=True, collate_fn=collate_points
    )
    torch.manual_seed(1)
    first, second = drawn(loader), drawn(loader)
    assert len({tuple(points) for points in first + second}) == 12
    again = DataLoader(dataset, sampler=[3] * 6, batch_size=1, num_workers=2, collate_fn=collate_points)
    torch.manual_seed(1)
    assert drawn(again) == first
    torch.manual_seed(2)
    assert drawn(again) != first


def test_collate_joins_uneven_items(folder):
    dataset = FeatureDataset(folder, views=2)
    items = [dataset[0], dataset[4], dataset[3]]
    batch = collate_points(items)
    counts = [len(item["pts_idx"]) for item in items]
    assert batch["scene_id"] == ["s2", "s10", "s2"]
    assert batch["offset"].tolist() == np.cumsum(counts).tolist()
    assert batch["batch"].tolist() == np.repeat([0, 1, 2], counts).tolist()
    assert batch["frame_id"].shape == (5,)
    assert batch["frame_id"][2] == 7
    for key in {("s2", 0), ("s10", 7), ("s2", 30)}:
        rows = batch["frame_id"][batch["view"]] == key[1]
        assert set(batch["pts_idx"][rows].tolist()) == set(FRAMES[key].pts_idx.tolist())
        assert_rows_of(batch, key, rows)
    for name in (*POINTS, "clip_global"):
        torch.testing.assert_close(batch[name], torch.cat([item[name] for item in items]), rtol=0, atol=0)


@pytest.mark.parametrize("context", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_deliver_what_is_stored_in_one_block_of_memory(folder, warm, context):
    dataset = FeatureDataset(FeatureStore(folder), scenes=["s2"], dtype=torch.float16)
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=2,
        collate_fn=collate_points,
        multiprocessing_context=warm if context == "forkserver" else context,
        persistent_workers=True,
    )
    for _ in range(2):
        batches = list(loader)
        assert [batch["frame_id"].tolist() for batch in batches] == [[0, 10], [20, 30]]
        for batch in batches:
            memory = {value.untyped_storage().data_ptr() for value in batch.values() if torch.is_tensor(value)}
            assert len(memory) == 1
            assert batch["pts_feat"].is_shared()
            assert batch["pts_feat"].dtype == torch.float16
            for i, frame_id in enumerate(batch["frame_id"].tolist()):
                rows = batch["batch"] == i
                half = FRAMES["s2", frame_id].pts_feat.astype(np.float16)
                np.testing.assert_array_equal(batch["pts_feat"][rows], half)
                np.testing.assert_array_equal(batch["label"][rows], FRAMES["s2", frame_id].attributes["label"])


def test_a_damaged_file_is_named_by_the_worker_that_reads_it(folder):
    path = folder / "s2" / "frame_20.npz"
    path.write_bytes(path.read_bytes()[:1000])
    loader = DataLoader(FeatureDataset(folder), batch_size=5, num_workers=1, collate_fn=collate_points)
    with pytest.raises(DataError, match=r"s2/frame_20\.npz: not a whole feature file"):
        list(loader)


def with_attributes(features, **attributes):
    return dataclasses.replace(features, attributes=attributes)


def test_attributes_are_chosen_by_name_and_must_be_what_torch_knows(tmp_path):
    features = some_features(0, 3)
    name = np.array(["a", "b", "c"])
    frames = {
        ("s", 0): with_attributes(features, label=np.arange(3), view=np.arange(3)),
        ("s", 1): with_attributes(features, label=np.arange(3).astype(">i4"), name=name),
    }
    write_store(tmp_path, frames)
    dataset = FeatureDataset(tmp_path, attributes=["label"])
    assert dataset[1]["label"].dtype == torch.int32
    label = collate_points([dataset[1], dataset[0]])["label"]
    assert (label.tolist(), label.dtype) == ([0, 1, 2, 0, 1, 2], torch.int64)
    assert "rgb" not in FeatureDataset(tmp_path, attributes=[])[0]
    with pytest.raises(DataError, match=r"s/frame_0\.npz: its points have no attribute rgb, but label, view$"):
        FeatureDataset(tmp_path, attributes=["rgb"])[0]
    with pytest.raises(DataError, match=r"s/frame_0\.npz: an attribute of its points is called view, as something"):
        FeatureDataset(tmp_path)[0]
    with pytest.raises(DataError, match=r"s/frame_1\.npz: the attribute name of its points is of type <U1, which"):
        FeatureDataset(tmp_path)[1]


def test_frames_of_unlike_attributes_are_not_joined_in_silence(tmp_path):
    features = some_features(0, 3)
    write_store(tmp_path, {("s", 0): features, ("s", 1): with_attributes(features, rgb=features.attributes["rgb"])})
    dataset = FeatureDataset(tmp_path)
    with pytest.raises(DataError, match=r"s frame 1: has no label, which another frame of the batch has; name"):
        collate_points([dataset[0], dataset[1]])
    with pytest.raises(DataError, match="s frame 1: has no label"):
        FeatureDataset(tmp_path, views=2)[0]
    assert len(FeatureDataset(tmp_path, views=2, attributes=["rgb"])[0]["rgb"]) == 6


def test_frames_without_points_are_items_too(tmp_path):
    write_store(tmp_path, {("s", 0): some_features(0, 0), ("s", 1): some_features(1, 4)})
    dataset = FeatureDataset(tmp_path, num_points=3)
    batch = collate_points([dataset[0], dataset[1], dataset[0]])
    assert batch["offset"].tolist() == [0, 3, 3]
    assert batch["batch"].tolist() == [1, 1, 1]
    assert batch["pts_feat"].shape == (3, 6)


def test_some_scenes_alone_and_wrong_arguments(folder):
    dataset = FeatureDataset(str(folder), scenes=["s10"])
    assert len(dataset) == 1
    assert dataset[0]["scene_id"] == "s10"
    with pytest.raises(DataError, match="holds no frame of a scene s3"):
        FeatureDataset(folder, scenes=["s3"])
    with pytest.raises(ValueError, match="num_points=0, views=1: expected at least 1 each"):
        FeatureDataset(folder, num_points=0)
    with pytest.raises(ValueError, match="num_points=None, views=0: expected at least 1 each"):
        FeatureDataset(folder, views=0)


def test_a_dataset_is_small_to_send(tmp_path):
    """A spawned worker gets it whole: its size must not grow by objects a frame."""
    write_store(tmp_path, {("s", i): some_features(0, 0) for i in range(200)})
    dataset = FeatureDataset(tmp_path)
    assert len(pickle.dumps(dataset)) < 200 * 8 + 3000
    assert len(pickle.loads(pickle.dumps(dataset))) == 200  # noqa: S301


def test_the_example_in_the_documentation_runs(tmp_path, monkeypatch):
    blocks = (CHECKOUT / "docs" / "training.md").read_text().split("```python\n")[1:]
    (example,) = (block.split("```")[0] for block in blocks if "FeatureDataset(" in block)
    monkeypatch.chdir(tmp_path)
    write_store(tmp_path / "outputs" / "demo", FRAMES)
    names = {}
    exec(example, names)  # noqa: S102
    batch = names["batch"]
    assert len(batch["scene_id"]) == 5
    assert len(names["features"]) == len(names["xyz"]) == len(names["item"]) == names["ends"][-1]
    s10 = batch["frame_id"].tolist().index(7)
    np.testing.assert_array_equal(names["frame"] == 7, batch["view"] == s10)
