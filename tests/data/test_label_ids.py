import numpy as np
import pytest

from clipfeat.data.label_ids import (
    check_ids,
    choose_ids,
    ids_by_place,
    ids_of_picture,
    ids_of_vertices,
    label_set,
)
from clipfeat.data.scannet200 import UNLABELLED, scannet200
from clipfeat.errors import DataError


def painted(name, ids):
    """Vertices of these labels in the colours of a set, two of each."""
    labels = np.repeat(np.array(ids, np.uint16), 2)
    return labels, np.array([label_set(name).colors[i] for i in labels.tolist()], np.uint8)


def test_each_set_calls_a_number_by_its_own_name():
    names = {name: label_set(name).by_id() for name in ("scannet", "nyu40", "scannet20", "mpcat40")}
    assert {name: table[2] for name, table in names.items()} == {
        "scannet": "chair", "nyu40": "floor", "scannet20": "floor", "mpcat40": "floor",
    }  # fmt: skip
    assert {name: len(table) for name, table in names.items()} == {
        "scannet": 200, "nyu40": 40, "scannet20": 20, "mpcat40": 40,
    }  # fmt: skip
    assert (names["mpcat40"][38], names["nyu40"][40]) == ("clothes", "otherprop")
    assert label_set("scannet200") is label_set("scannet") is scannet200()
    assert label_set("scannet20").classes_of(np.array([1, 2, 13, 39])).tolist() == [0, 1, UNLABELLED, 19]


def test_a_class_of_one_name_has_one_color_in_both_of_scannets_sets():
    raw, nyu = label_set("scannet"), label_set("nyu40")
    raw_colors = {name: raw.colors[i] for i, name in raw.by_id().items()}
    both = [i for i, name in nyu.by_id().items() if name in raw_colors and i in nyu.colors]
    assert len(both) == 18
    assert all(nyu.colors[i] == raw_colors[nyu.by_id()[i]] for i in both)


def test_colors_of_vertices_tell_whose_ids_a_mesh_has(tmp_path):
    mesh = tmp_path / "x.ply"
    assert ids_of_vertices(mesh, *painted("nyu40", [1, 2, 5, 7])) == "nyu40"
    assert ids_of_vertices(mesh, *painted("scannet", [1, 2, 3, 1191])) == "scannet"
    # A wall is the first in both sets, and has one colour: it says nothing.
    assert ids_of_vertices(mesh, *painted("nyu40", [1])) is None
    labels, rgb = painted("nyu40", [2, 5])
    assert ids_of_vertices(mesh, labels, None) is None
    assert ids_of_vertices(mesh, labels, rgb // 2) is None
    one, other = painted("nyu40", [2, 5]), painted("scannet", [4, 7])
    mixed = np.concatenate((one[0], other[0])), np.concatenate((one[1], other[1]))
    assert ids_of_vertices(mesh, *mixed) is None


def test_a_rendered_scene_and_scannets_own_folders_tell_whose_ids_they_hold(demo_root, tmp_path):
    scene = demo_root / "demo0000_00"
    assert ids_by_place(scene / "demo0000_00_vh_clean_2.labels.ply") == "scannet"
    assert ids_of_picture(scene / "elsewhere/0.png", 8) == "scannet"
    assert ids_of_picture(tmp_path / "label-filt/0.png", 16) == "scannet"
    assert ids_of_picture(tmp_path / "label-filt/0.png", 8) is None
    assert ids_of_picture(tmp_path / "label/0.png", 16) is None


def test_what_is_said_and_what_is_found_must_agree():
    assert choose_ids("nyu40", None, "x") is label_set("nyu40")
    assert choose_ids(None, "nyu40", "x") is label_set("nyu40")
    assert choose_ids("scannet20", "nyu40", "x") is label_set("scannet20")
    with pytest.raises(
        DataError, match=r"x: labels_ids=scannet200, but these labels are nyu40's; say labels_ids=nyu40"
    ):
        choose_ids("scannet200", "nyu40", "x")
    with pytest.raises(
        DataError, match=r"say labels_ids=scannet\|scannet200\|nyu40\|scannet20\|mpcat40, or a CSV file"
    ):
        choose_ids(None, None, "x")


def test_an_id_that_a_set_cannot_have_is_refused():
    check_ids(np.array([0, 40, 255]), label_set("nyu40"), "x")
    check_ids(np.array([1357]), label_set("scannet"), "x")
    with pytest.raises(DataError, match=r"x: holds the label 57, but NYU40's ids end at 40; ids of another set"):
        check_ids(np.array([1, 57]), label_set("nyu40"), "x")


def test_a_table_of_ones_own_is_a_set_too(tmp_path):
    table = tmp_path / "mine.csv"
    table.write_bytes("\ufeffid,name\n7,lamp\n3,door\n".encode())
    assert label_set(str(table)).by_id() == {3: "door", 7: "lamp"}
    table = tmp_path / "twice.csv"
    table.write_text("id,name\n7,lamp\n7,door\n")
    with pytest.raises(DataError, match=r"twice.csv: an id comes twice, expected lines of id,name"):
        label_set(str(table))
    with pytest.raises(DataError, match=r"none.csv: no such file, expected a CSV file with the columns id,name"):
        label_set(str(tmp_path / "none.csv"))
    table = tmp_path / "other.csv"
    table.write_text("index;name\n1;wall\n")
    with pytest.raises(DataError, match=r"other.csv: no table of labels \('id'\)"):
        label_set(str(table))
