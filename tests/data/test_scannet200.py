import csv

import numpy as np
import pytest
from conftest import SHARED

from clipfeat.data.demo.furniture import SCANNET200_IDS
from clipfeat.data.scannet200 import GROUPS, UNLABELLED, scannet200


def test_the_table_holds_the_classes_and_groups_of_the_benchmark():
    table = scannet200()
    assert (len(table.ids), len(set(table.names)), len(table.groups)) == (200, 200, 200)
    assert [int(table.in_group(group).sum()) for group in GROUPS] == [66, 68, 66]
    assert (np.diff(table.ids) > 0).all()
    assert {name: table.ids[table.names.index(name)] for name in SCANNET200_IDS} == SCANNET200_IDS


def test_the_table_is_that_of_the_labels_it_was_made_of():
    path = SHARED / "labels" / "scannet200_classes.csv"
    if not path.is_file():
        pytest.skip("the label tables are not here")
    with path.open(newline="") as file:
        rows = [
            (int(r["id"]), r["name"], r["group"], (int(r["r"]), int(r["g"]), int(r["b"]))) for r in csv.DictReader(file)
        ]
    table = scannet200()
    assert sorted(rows) == [
        (int(i), name, group, table.colors[int(i)])
        for i, name, group in zip(table.ids, table.names, table.groups, strict=True)
    ]


def test_ids_become_classes_and_what_is_none_is_unlabelled():
    table = scannet200()
    assert (table.classes_of(table.ids) == np.arange(200)).all()
    labels = np.array([[0, 1, 12], [1191, 1192, 65535]], np.uint16)  # 12 is no class of the 200
    assert table.classes_of(labels).tolist() == [[UNLABELLED, 0, UNLABELLED], [199, UNLABELLED, UNLABELLED]]
    assert table.classes_of(np.array([-1, -100])).tolist() == [UNLABELLED, UNLABELLED]
