"""The tables that come with clipfeat hold what their sources say, and those of users are read or refused."""

import numpy as np
import pytest
from conftest import SHARED

from clipfeat.errors import ConfigError, DataError
from clipfeat.protocols.config import PROTOCOLS, ProtocolConfig, RulesConfig
from clipfeat.protocols.protocol import TABLES, read_protocol

CLASSES = {
    "scannet20": 20, "scannet200": 200, "scannet200_3d": 200, "matterport21": 21, "replica": 51,
    "replica_conceptgraphs": 51, "replica_hovsg": 101, "replica_rayfronts": 101,
}  # fmt: skip


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_table_loads_and_says_where_it_is_from(name):
    protocol = read_protocol(name)
    assert protocol.name == name
    assert all(source.split()[0].startswith("github.com/") for source in protocol.sources)
    assert protocol.sources
    if name == "openlex3d":
        assert protocol.classes is None
        return
    classes = protocol.classes
    assert len(classes.ids) == len(set(classes.names)) == len(protocol.texts) == CLASSES[name]
    assert (np.diff(classes.ids) > 0).all()
    assert protocol.judged.sum() == CLASSES[name] - len(protocol.rules.ignore)


def test_every_file_of_the_tables_is_of_a_protocol():
    assert {path.stem for path in TABLES.glob("*.yaml")} == set(PROTOCOLS)


@pytest.mark.parametrize(("name", "sizes"), [("scannet200", (66, 68, 66)), ("replica", (17, 17, 17))])
def test_head_common_and_tail_have_as_many_classes_as_published(name, sizes):
    protocol = read_protocol(name)
    assert protocol.groups == ["head", "common", "tail"]
    assert tuple(int(protocol.classes.in_group(group).sum()) for group in protocol.groups) == sizes


def test_replica_s_48_classes_are_its_51_without_wall_floor_and_ceiling():
    protocol = read_protocol("replica", RulesConfig(ignore=["wall", "floor", "ceiling"]))
    assert protocol.judged.sum() == 48


def test_the_scenes_are_those_of_the_splits():
    scannet, replica = read_protocol("scannet200").scenes, read_protocol("replica").scenes
    assert len(scannet) == len(set(scannet)) == 312
    assert len(set(replica)) == 8
    assert set(read_protocol("replica_conceptgraphs").scenes) == set(replica)
    split = SHARED / "labels" / "scannetv2_val.txt"
    if split.is_file():
        assert set(scannet) == set(split.read_text().split())


def test_texts_are_the_names_but_for_what_is_no_word():
    protocol = read_protocol("scannet20")
    assert protocol.texts[:2] == ("wall", "floor")
    assert protocol.texts[-1] == "=other"
    assert protocol.classes.names[-1] == "otherfurniture"


def write(folder, text, classes="id,name,group,text\n2,chair,seats,chair|seat\n1,wall,,\n"):
    (folder / "mine.csv").write_text(classes)
    (folder / "mine.yaml").write_text(text)
    return str(folder / "mine.yaml")


def test_a_user_s_own_file_is_a_protocol(tmp_path):
    (tmp_path / "some.txt").write_text("a\nb\n")
    path = write(
        tmp_path,
        "classes: mine.csv\nscenes: some.txt\ntemplates: ['the {}']\nrules: {neighbours: 3, unseen: nearest}\n",
    )
    protocol = read_protocol(path, RulesConfig(unseen="wrong", ignore=["wall"]))
    assert protocol.classes.names == ("wall", "chair")
    assert protocol.texts == ("wall", "chair|seat")
    assert protocol.scenes == ("a", "b")
    assert (protocol.rules.neighbours, protocol.rules.unseen, protocol.rules.ignore) == (3, "wrong", ["wall"])
    assert protocol.groups == ["seats"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "holds no keys, expected title, classes"),
        ("clases: mine.csv", "clases is none of classes, kind"),
        ("kind: objects", "kind=objects, expected one of classes, openlex3d"),
        ("title: x", "classes=None, expected a CSV file beside it, or one of scannet"),
        ("classes: other.csv", "no such file, expected a CSV file with the columns id,name"),
        ("classes: mine.csv\ntemplates: 3", "templates=3, expected a list of texts"),
        ("classes: mine.csv\nsources: a page", "sources=a page, expected a list of texts"),
        ("classes: mine.csv\nrules: {voxel_size: big}", "rules.voxel_size=big: expected a number"),
        ("classes: mine.csv\ntemplates: ['a']", "expected texts with one {} each"),
        ("classes: mine.csv\nrules: {unseen: gone}", "rules.unseen=gone: expected one of wrong, left_out"),
        ("classes: mine.csv\nrules: {unseeen: wrong}", "rules has unseeen, expected voxel_size"),
        ("classes: mine.csv\nscenes: none.txt", "none.txt: no such file, expected a text file with a scene a line"),
        ("a: [", "can't be read"),
    ],
)
def test_a_file_that_is_no_protocol_is_told_in_a_line(tmp_path, text, message):
    with pytest.raises(DataError) as error:
        read_protocol(write(tmp_path, text))
    assert message in str(error.value)


def test_an_ignored_class_that_is_none_is_told():
    with pytest.raises(ConfigError, match="rules.ignore: scannet20.yaml has no class ceiling, but wall, floor"):
        read_protocol("scannet20", RulesConfig(ignore=["ceiling"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "scannet"}, "protocol=scannet: expected one of scannet20, "),
        ({"labels_ids": "coco"}, "labels_ids=coco: expected one of scannet"),
        ({"labels_file": "/x/a.ply"}, "expected a path with {scene} in it"),
        ({"labels_file": "/x/{scene}.pcd"}, "expected a file that ends in .ply, .npz, .txt"),
        ({"scenes": ["a"], "scenes_file": "b"}, "say one of the two"),
        ({"top": [0]}, "top=[0]: expected numbers of at least 1"),
    ],
)
def test_a_configuration_that_can_t_be_is_told(options, message):
    with pytest.raises(ConfigError) as error:
        ProtocolConfig(**{"protocol": "scannet20", "store": "x"} | options)
    assert message in str(error.value)
