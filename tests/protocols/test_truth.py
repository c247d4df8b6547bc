"""Labelled points from every kind of file, and what their ids mean."""

import json

import numpy as np
import pytest
from planted_scenes import MODEL

from clipfeat.data.scannet200 import scannet200
from clipfeat.errors import DataError
from clipfeat.output.fused import FusedScene
from clipfeat.protocols.protocol import read_protocol
from clipfeat.protocols.truth import (
    OBJECT_ATTRIBUTES,
    Labelled,
    classes_of,
    labelled_points,
    nyu40_of_scannet,
    other_name,
)
from clipfeat.types import Points

MESH = """ply
format ascii 1.0
element vertex 4
property float x
property float y
property float z
element face 2
property list uchar int vertex_indices
property int object_id
end_header
0 0 0
1 0 0
1 1 0
0 1 0
4 0 1 2 3 7
3 0 1 2 9
"""


def scene(xyz):
    count = len(xyz)
    points = Points(np.asarray(xyz, float), np.arange(count))
    return FusedScene(points, np.zeros((count, 4)), np.ones(count, int), np.ones(count), None, {"model": MODEL})


def test_replica_s_faces_are_points_with_the_classes_of_their_objects(tmp_path):
    (tmp_path / "office_0").mkdir()
    (tmp_path / "office_0" / "mesh_semantic.ply").write_text(MESH)
    pattern = f"{tmp_path}/{{scene}}/mesh_semantic.ply"
    fused = scene([[0, 0, 0]])
    with pytest.raises(DataError, match=r"info_semantic.json: no list of objects with id and class_id"):
        labelled_points(fused, "office0", pattern, None)
    told = {"objects": [{"id": 7, "class_id": 20, "class_name": "chair"}, {"id": 8, "class_id": 3}], "classes": []}
    (tmp_path / "office_0" / "info_semantic.json").write_text(json.dumps(told))
    found = labelled_points(fused, "office0", pattern, None)
    assert found.labels.tolist() == [20] * 4 + [0] * 3
    assert found.xyz[:4].tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert not found.own
    replica = read_protocol("replica")
    classes = classes_of(found, replica, replica.classes, None)
    assert [replica.classes.names[k] for k in classes[:4]] == ["chair"] * 4
    assert classes[4:].tolist() == [-1] * 3
    objects = labelled_points(fused, "office0", pattern, None, OBJECT_ATTRIBUTES)
    assert objects.labels.tolist() == [7] * 4 + [9] * 3


def test_a_text_file_has_a_label_a_point(tmp_path):
    (tmp_path / "a.txt").write_text("3\n-1\n20\n")
    xyz = [[0, 0, 0], [1, 0, 0], [2, 0, 0]]
    found = labelled_points(scene(xyz), "a", f"{tmp_path}/{{scene}}.txt", None)
    assert found.own
    assert found.labels.tolist() == [3, -1, 20]
    np.savez(tmp_path / "a.npz", xyz=np.add(xyz, 0.01))
    moved = labelled_points(scene(xyz), "a", f"{tmp_path}/{{scene}}.txt", f"{tmp_path}/{{scene}}.npz")
    assert not moved.own
    (tmp_path / "a.txt").write_text("3\nchair\n")
    with pytest.raises(DataError, match=r"a.txt: no labels \(.*\), expected a whole number a line"):
        labelled_points(scene(xyz), "a", f"{tmp_path}/{{scene}}.txt", None)


@pytest.mark.parametrize(
    ("name", "other"), [("office0", "office_0"), ("room_2", "room2"), ("scene0011_00", "scene0011_00")]
)
def test_scenes_of_replica_have_two_names(name, other):
    assert other_name(name) == other


def labelled(labels, ids=None):
    return Labelled(np.zeros((len(labels), 3)), np.array(labels), True, "x.ply", ids)


def names(protocol, classes):
    return [None if k < 0 else protocol.classes.names[k] for k in classes]


def test_ids_of_one_set_become_those_of_another():
    twenty, two_hundred, replica = map(read_protocol, ("scannet20", "scannet200", "replica"))
    raw = [6, 23, 56, 40, 0, 1188]  # couch, armchair, trash can, plant, nothing, poster
    for of in (labelled(raw, "scannet"), labelled(raw)):
        found = classes_of(of, twenty, twenty.classes, "scannet")
        assert names(twenty, found) == ["sofa", "chair", "otherfurniture", None, None, "picture"]
    assert names(twenty, classes_of(labelled([6, 39, 40, 255]), twenty, twenty.classes, "nyu40")) == [
        "sofa", "otherfurniture", None, None,
    ]  # fmt: skip
    assert names(two_hundred, classes_of(labelled(raw), two_hundred, two_hundred.classes, "scannet200")) == [
        "couch", "armchair", "trash can", "plant", None, "poster",
    ]  # fmt: skip
    assert names(replica, classes_of(labelled([2, 6, 28]), replica, replica.classes, "scannet")) == [
        "chair",
        None,
        "lamp",
    ]
    assert names(replica, classes_of(labelled([20, 0]), replica, replica.classes, "replica")) == ["chair", None]


def test_ids_that_are_not_said_and_not_told_are_refused():
    protocol = read_protocol("scannet200")
    with pytest.raises(DataError, match="whose ids these labels are can't be told from them"):
        classes_of(labelled([2]), protocol, protocol.classes, None)
    with pytest.raises(DataError, match="x.ply: labels_ids=nyu40, but these labels are scannet's"):
        classes_of(labelled([2], "scannet"), protocol, protocol.classes, "nyu40")
    with pytest.raises(DataError, match="holds the label 1188, but NYU40's ids end at 40"):
        classes_of(labelled([1188]), protocol, protocol.classes, "nyu40")
    with pytest.raises(DataError, match="labels_ids=replica: those are ids of the tables of Replica"):
        classes_of(labelled([2]), protocol, protocol.classes, "replica")


def test_scannet_s_table_knows_all_classes_of_scannet200():
    ids, nyu40 = nyu40_of_scannet()
    assert (np.diff(ids) > 0).all()
    assert set(scannet200().ids) <= set(ids.tolist())
    assert set(nyu40) <= set(range(1, 41))
