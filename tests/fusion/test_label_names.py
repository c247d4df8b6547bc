import json
from types import SimpleNamespace

import numpy as np
import pytest
import trimesh

from clipfeat.data.label_ids import label_set
from clipfeat.errors import ConfigError, DataError
from clipfeat.fusion.config import TrainConfig
from clipfeat.fusion.labels import classes_of_frames


@pytest.fixture
def frames(tmp_path):
    """What a training sees of a store whose run read ScanNet's own labels of a mesh: NYU40's ids, in their colours."""
    ids = [1, 2, 5]
    mesh = trimesh.Trimesh(np.eye(3), vertex_colors=[label_set("nyu40").colors[i] for i in ids], process=False)
    mesh.vertex_attributes["label"] = np.array(ids, np.uint16)
    (tmp_path / "s0.labels.ply").write_bytes(mesh.export(file_type="ply"))
    sampling = {"labels_file": f"{tmp_path}/{{scene}}.labels.ply"}
    (tmp_path / "config.yaml").write_text(json.dumps({"sampling": sampling}))
    store = SimpleNamespace(folder=tmp_path)
    return SimpleNamespace(store=store, keys=[("s0", 0)], labels=lambda keys: np.array(ids))


def test_without_names_labels_are_told_apart_by_their_numbers(frames):
    assert classes_of_frames(TrainConfig("x"), frames).names == ["1", "2", "5"]


def test_a_set_that_is_said_names_the_labels(frames):
    assert classes_of_frames(TrainConfig("x", labels_ids="nyu40"), frames).names == ["wall", "floor", "chair"]
    with pytest.raises(DataError, match="labels_ids=scannet, but these labels are nyu40's"):
        classes_of_frames(TrainConfig("x", labels_ids="scannet"), frames)
    (frames.store.folder / "s0.labels.ply").unlink()
    frames.labels = lambda keys: np.array([1, 1191])
    with pytest.raises(DataError, match="holds the label 1191, but NYU40's ids end at 40"):
        classes_of_frames(TrainConfig("x", labels_ids="nyu40"), frames)


def test_names_of_another_set_are_refused(frames, tmp_path):
    table = tmp_path / "names.csv"
    table.write_text("id,name\n1,wall\n2,chair\n5,door\n")
    cfg = TrainConfig("x", classes_file=str(table))
    with pytest.raises(DataError, match="calls the label 2 chair, but it is floor in .*s0.labels.ply, which is nyu40"):
        classes_of_frames(cfg, frames)
    table.write_text("id,name\n1,Wand\n2,Boden\n5,Stuhl\n")
    assert classes_of_frames(cfg, frames).names == ["Wand", "Boden", "Stuhl"]


def test_names_come_from_one_place():
    with pytest.raises(ConfigError, match="labels_ids and classes_file are both set"):
        TrainConfig("x", classes_file="a.csv", labels_ids="nyu40")
    with pytest.raises(ConfigError, match="labels_ids=nyu: expected one of scannet"):
        TrainConfig("x", labels_ids="nyu")
