"""Planted fused scenes of the demo: each protocol's numbers are those of a slow count by hand."""

import csv
import json

import numpy as np
import pytest
from planted import PlantedModel, PlantedTexts, vector_of
from planted_scenes import EVERY, SCENES, by_hand, labels_path, plant, redirect

import clipfeat
from clipfeat.cli.commands import evaluate_main
from clipfeat.data.scannet200 import scannet200
from clipfeat.errors import ConfigError, DataError
from clipfeat.output.fused import read_fused, write_fused
from clipfeat.output.ply import write_ply
from clipfeat.protocols.config import ProtocolConfig, RulesConfig
from clipfeat.protocols.protocol import TABLES, read_protocol
from clipfeat.protocols.run import evaluate_protocol
from clipfeat.protocols.tell import numbers_table
from clipfeat.results.config import FuseConfig
from clipfeat.results.fuse import fuse
from clipfeat.results.inspect import inspect_folder
from clipfeat.sampling.point_files import read_points

NYU40 = {int(row["id"]): int(row["nyu40"]) for row in csv.DictReader((TABLES / "scannet_nyu40.csv").open())}


def truth_of(protocol):
    """From the demo's raw labels to classes of a protocol, one by one."""
    classes = protocol.classes
    place = {label: k for k, label in enumerate(classes.ids.tolist())}
    named = {name: k for k, name in enumerate(classes.names)}
    names = scannet200().by_id()

    def class_of(label):
        if protocol.labels_ids == "nyu40":
            return place.get(NYU40.get(label), -1)
        if protocol.labels_ids == "scannet":
            return place.get(label, -1)
        return named.get(names.get(label), -1)

    return lambda labels: [class_of(label) for label in labels]


def run(store, out, name="scannet20", **options):
    rules = options.pop("rules", {})
    cfg = ProtocolConfig(
        name, str(store), rules=RulesConfig(**rules), output_dir=str(out), **({"scenes": "all"} | options)
    )
    return evaluate_protocol(cfg, PlantedTexts())


@pytest.fixture(autouse=True)
def no_picture(request, monkeypatch):
    """It takes most of the time."""
    if request.node.name != "test_everything_is_written_and_said":
        monkeypatch.setattr("clipfeat.protocols.tell.plot", lambda _report: b"")


def planted_run(demo_root, tmp_path, name, rules=None, **options):
    """The report, the protocol and (truth, predicted) of all scenes."""
    protocol = read_protocol(name, RulesConfig(**(rules or {})))
    found = plant(demo_root, tmp_path / "fused", protocol, truth_of(protocol), **options)
    report = run(tmp_path / "fused", tmp_path / "out", name, rules=rules or {})
    return (
        report,
        protocol,
        [pair for truth, predicted in found.values() for pair in zip(truth, predicted, strict=True)],
    )


def assert_numbers(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_numbers(found[key], value)
        else:
            assert found[key] == (None if value is None else pytest.approx(value, abs=1e-5)), key


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("scannet20", {}),
        ("scannet20", {"unseen": "left_out", "mean_over": "present"}),
        ("scannet200", {}),
        ("scannet200_3d", {}),
        ("matterport21", {"ignore": ["wall"], "ignored_compete": True, "ignored_as_false": True, "unseen": "wrong"}),
    ],
)
def test_numbers_are_those_of_a_count_by_hand(demo_root, tmp_path, name, rules):
    report, protocol, pairs = planted_run(demo_root, tmp_path, name, rules)
    if not protocol.rules.ignored_compete:
        pairs = redirect(pairs, protocol, np.flatnonzero(protocol.judged))
    assert_numbers(report["numbers"], by_hand(pairs, protocol))
    assert report["points"]["judged"] == sum(t >= 0 and protocol.judged[t] for t, _ in pairs)
    assert report["points"]["unseen"] == sum(t >= 0 and protocol.judged[t] and p is None for t, p in pairs)
    assert 0.2 < report["numbers"]["accuracy"] < 0.8


def test_numbers_of_scenes_are_averaged_where_the_rule_says_so(demo_root, tmp_path):
    report, _, _ = planted_run(demo_root, tmp_path, "scannet200", {"average": "scenes"})
    own = [report["of_scenes"][scene_id]["miou"] for scene_id in SCENES]
    assert own[0] != own[1]
    assert report["numbers"]["miou"] == pytest.approx(np.mean(own), abs=1e-5)
    assert report["changed"] == ["average"]


def test_only_classes_of_the_scene_compete_where_the_rule_says_so(demo_root, tmp_path):
    protocol = read_protocol("scannet200", RulesConfig(candidates="scene"))
    found = plant(demo_root, tmp_path / "fused", protocol, truth_of(protocol))
    report = run(tmp_path / "fused", tmp_path / "out", "scannet200", rules={"candidates": "scene"})
    pairs = []
    for truth, predicted in found.values():
        there = sorted({k for k in truth if k >= 0})
        pairs += redirect(zip(truth, predicted, strict=True), protocol, there)
    assert_numbers(report["numbers"], by_hand(pairs, protocol))


def test_shuffled_labels_score_chance(demo_root, tmp_path):
    protocol = read_protocol("scannet20")
    found = plant(demo_root, tmp_path / "fused", protocol, truth_of(protocol), right=1.0, unseen=0.0)
    best = run(tmp_path / "fused", tmp_path / "best", rules={"mean_over": "present"})["numbers"]
    assert (best["miou"], best["fmiou"], best["macc"], best["accuracy"]) == (1, 1, 1, 1)
    chance = []
    for scene_id in SCENES:
        path = tmp_path / "fused" / f"{scene_id}.npz"
        fused = read_fused(path)
        order = np.random.default_rng(1).permutation(len(fused.seen))
        fused.points.attributes["label"] = fused.points.attributes["label"][order]
        write_fused(path, fused)
        truth, predicted = (np.bincount(np.maximum(of, -1) + 1, minlength=21)[1:] for of in found[scene_id])
        chance.append((truth / truth.sum() * predicted / len(order)).sum())
    numbers = run(tmp_path / "fused", tmp_path / "out")["numbers"]
    # A point of class k is predicted as k as often as k is there.
    assert numbers["accuracy"] == pytest.approx(np.mean(chance), abs=0.03)
    assert numbers["macc"] < 0.08
    assert numbers["miou"] < 0.05


def test_points_that_are_more_like_what_is_no_class_are_predicted_as_none(demo_root, tmp_path):
    protocol = read_protocol("scannet20")
    plant(demo_root, tmp_path / "fused", protocol, truth_of(protocol), right=1.0, unseen=0.0)
    report = run(tmp_path / "fused", tmp_path / "out", against=["wall", "nothing"])
    walls = next(row for row in report["classes"] if row["name"] == "wall")
    assert walls["iou"] == 1  # of two texts that are the same, the class's own comes first
    protocol_file = tmp_path / "mine.yaml"
    (tmp_path / "mine.csv").write_text("id,name,text\n1,wall,a hole\n5,chair,\n")
    protocol_file.write_text("classes: mine.csv\nlabels_ids: nyu40\n")
    report = run(tmp_path / "fused", tmp_path / "out", str(protocol_file), against=["wall"])
    wall, chair = report["classes"]
    assert (wall["iou"], wall["predicted"], chair["iou"]) == (0, 0, 1)
    assert report["points"]["no_class"] == wall["points"]


def test_labels_of_other_points_take_the_prediction_that_is_nearest(demo_root, tmp_path):
    """Of a mesh moved by less and by more than the reach, and by five that vote."""
    protocol = read_protocol("scannet20")
    plant(demo_root, tmp_path / "fused", protocol, truth_of(protocol), right=1.0, unseen=0.0, labels=False)
    for name, shift in (("near", 0.004), ("far", 50.0)):
        for scene_id in SCENES:
            points = read_points(labels_path(demo_root, scene_id))
            path = tmp_path / name / f"{scene_id}.npz"
            path.parent.mkdir(exist_ok=True)
            points.xyz[:, 2] += shift
            np.savez(path, xyz=points.xyz[EVERY::EVERY], label=points.attributes["label"][EVERY::EVERY])
    options = {"labels_ids": "scannet", "rules": {"mean_over": "present"}}
    near = run(tmp_path / "fused", tmp_path / "a", labels_file=f"{tmp_path}/near/{{scene}}.npz", **options)
    assert near["numbers"]["miou"] > 0.9
    assert near["points"]["unseen"] == 0
    far = run(tmp_path / "fused", tmp_path / "b", labels_file=f"{tmp_path}/far/{{scene}}.npz", **options)
    assert far["points"]["unseen"] == far["points"]["judged"] > 0
    assert far["numbers"] == {"miou": 0, "fmiou": None, "macc": 0, "accuracy": 0, "groups": {}}
    options["rules"] |= {"unseen": "nearest", "neighbours": 5}
    voted = run(tmp_path / "fused", tmp_path / "c", labels_file=f"{tmp_path}/near/{{scene}}.npz", **options)
    assert 0.3 < voted["numbers"]["miou"] < near["numbers"]["miou"]  # at edges the neighbours are of another class


def test_replica_is_counted_by_its_own_files_and_both_of_its_names(demo_root, tmp_path):
    """Labels as OVO has them, a line a vertex; and Replica's own faces with objects."""
    protocol = read_protocol("replica")
    plant(demo_root, tmp_path / "demo", protocol, truth_of(protocol), right=1.0, unseen=0.0, labels=False)
    (tmp_path / "fused").mkdir()
    for scene_id, name in zip(SCENES, ("office0", "room1"), strict=True):
        (tmp_path / "demo" / f"{scene_id}.npz").rename(tmp_path / "fused" / f"{name}.npz")
        labels = read_points(labels_path(demo_root, scene_id)).attributes["label"][::EVERY].tolist()
        truth = truth_of(protocol)(labels)
        ids = [int(protocol.classes.ids[k]) if k >= 0 else -1 for k in truth]
        gt = tmp_path / "gt" / f"{name[:-1]}_{name[-1]}.txt"
        gt.parent.mkdir(exist_ok=True)
        gt.write_text("\n".join(map(str, ids)))
    report = run(
        tmp_path / "fused", tmp_path / "out", "replica", scenes=None, labels_file=f"{tmp_path}/gt/{{scene}}.txt",
        rules={"neighbours": 1, "unseen": "wrong"},
    )  # fmt: skip
    assert report["numbers"]["miou"] == 1
    assert report["scenes"]["found"] == ["office0", "room1"]
    assert len(report["scenes"]["missing"]) == 6
    assert (
        "numbers are over 2 of 8 scenes; missing: office1, office2, office3, …"
        in (tmp_path / "out" / "protocol.md").read_text()
    )
    (tmp_path / "gt" / "office_0.txt").write_text("1\n2\n")
    with pytest.raises(DataError, match="office_0.txt: holds 2 labels, but there are"):
        run(tmp_path / "fused", tmp_path / "out", "replica", scenes=None, labels_file=f"{tmp_path}/gt/{{scene}}.txt")


def test_everything_is_written_and_said(demo_root, tmp_path, caplog):
    report, _, _ = planted_run(demo_root, tmp_path, "scannet200", model={"weights": "random"})
    out = tmp_path / "out"
    confusion = report.pop("confusion")
    assert json.loads((out / "protocol.json").read_text()) == json.loads(json.dumps(report))
    table = list(csv.reader((out / "protocol_confusion.csv").open()))
    assert [len(table), len(table[0])] == [202, 202]
    assert (table[0][1], table[0][-1], table[-1][0]) == ("wall", "no class", "unlabelled")
    assert [[int(one) for one in row[1:]] for row in table[1:]] == confusion
    rows = list(csv.DictReader((out / "protocol.csv").open()))
    assert len(rows) == 200
    assert float(rows[0]["iou"]) == report["classes"][0]["iou"]
    assert (out / "protocol.png").read_bytes().startswith(b"\x89PNG")
    found = inspect_folder(out, verify=True)
    assert (found.facts["read"], found.broken) == ("2 .csv, 1 .json, 1 .md, 1 .png", [])
    said = numbers_table(report)
    assert "weights=random: the arithmetic is right, the numbers mean nothing" in said
    assert "head mIoU" in said
    assert "2 scenes, all of the store" in said
    assert "not over those of published tables" in caplog.text
    assert "github.com/ScanNet/ScanNet" in (out / "protocol.md").read_text()


@pytest.fixture
def store(demo_root, tmp_path):
    protocol = read_protocol("scannet20")
    plant(demo_root, tmp_path / "fused", protocol, truth_of(protocol))
    return tmp_path / "fused"


def test_scenes_of_the_split_that_are_not_there_are_counted(store, tmp_path):
    with pytest.raises(
        DataError, match=r"holds none of the 312 scenes of protocol=scannet20 \(scene0011_00, …\), but demo0000"
    ):
        run(store, tmp_path / "out", scenes=None)
    with pytest.raises(ConfigError, match="protocol=matterport21: has no list of scenes of its own"):
        run(store, tmp_path / "out", "matterport21", scenes=None)
    listed = tmp_path / "list.txt"
    listed.write_text("demo0001_00\ndemo0007_00\n")
    report = run(store, tmp_path / "out", scenes=None, scenes_file=str(listed))
    assert report["scenes"] == {
        "of": "scenes_file", "wanted": 2, "found": ["demo0001_00"], "missing": ["demo0007_00"],
        "left_out": ["demo0000_00"],
    }  # fmt: skip


def test_features_that_are_not_in_the_space_of_texts_are_refused(demo_root, tmp_path):
    protocol = read_protocol("scannet20")
    for model, why in (
        ({"head": "none"}, "are of model/head=none"),
        ({"arch": "timm:x"}, "timm's models have no text"),
    ):
        plant(demo_root, tmp_path / "fused", protocol, truth_of(protocol), model=model)
        with pytest.raises(ConfigError, match=f"protocol=scannet20: the features of .* {why}"):
            run(tmp_path / "fused", tmp_path / "out")


def test_labels_that_are_missing_or_of_unknown_ids_are_told(demo_root, tmp_path):
    protocol = read_protocol("scannet20")
    plant(demo_root, tmp_path / "fused", protocol, truth_of(protocol), labels=False)
    with pytest.raises(DataError, match="demo0000_00: its fused points bear no label or semantic; give labels_file="):
        run(tmp_path / "fused", tmp_path / "out")
    with pytest.raises(DataError, match="no such file, the labelled points of demo0000_00 were expected"):
        run(tmp_path / "fused", tmp_path / "out", labels_file=f"{tmp_path}/{{scene}}.ply")
    xyz = np.zeros((3, 3))
    for scene_id in SCENES:
        write_ply(tmp_path / f"{scene_id}.ply", xyz, np.zeros((3, 3), np.uint8))
        np.savez(tmp_path / f"{scene_id}.npz", xyz=xyz, label=[1, 2, 3])
    with pytest.raises(DataError, match="its points bear no label or semantic, but rgb"):
        run(tmp_path / "fused", tmp_path / "out", labels_file=f"{tmp_path}/{{scene}}.ply")
    with pytest.raises(DataError, match="whose ids these labels are can't be told"):
        run(tmp_path / "fused", tmp_path / "out", labels_file=f"{tmp_path}/{{scene}}.npz")


def test_labels_of_a_set_without_any_of_the_names_are_refused(tmp_path, store):
    table = tmp_path / "other.csv"
    table.write_text("id,name\n1,quark\n")
    with pytest.raises(DataError, match="none of its names is one of replica's"):
        run(store, tmp_path / "out", "replica", labels_ids=str(table), labels_file=f"{store}/{{scene}}.npz")


def test_a_sweep_over_protocols_has_a_folder_for_each(run_main, store):
    """Its text tower is none that can be loaded, so that the first job ends the sweep."""
    code, err = run_main(evaluate_main, "-m", "protocol=scannet20,scannet200", f"store={store}", "scenes=all")
    assert (code, err.count("Traceback")) == (1, 0)
    [folder] = (store / "scannet20").iterdir()
    assert folder.name.startswith("protocol=scannet20-")


def test_planted_maps_fused_onto_labelled_meshes_are_counted_by_hand(demo_root, tmp_path):
    """All the way: extracted, fused with labels, predicted by text; whose ids they are the labels' file tells."""
    overrides = ["output=grid", "vis=none", "report=false"]
    clipfeat.extract(demo_root, tmp_path / "run", overrides=overrides, model=PlantedModel(demo_root))
    fuse(FuseConfig(str(tmp_path / "run"), labels_file=str(labels_path(demo_root, "{scene}")), formats=[]))
    protocol = read_protocol("scannet200")
    names = [vector_of(text) for text in protocol.texts]
    pairs = []
    for scene_id in SCENES:
        fused = read_fused(tmp_path / "run" / "fused" / f"{scene_id}.npz")
        cosines = fused.pts_feat @ np.stack(names).T
        predicted = [int(row.argmax()) if seen else None for row, seen in zip(cosines, fused.seen, strict=True)]
        pairs += zip(truth_of(protocol)(fused.points.attributes["label"].tolist()), predicted, strict=True)
    report = run(tmp_path / "run" / "fused", tmp_path / "out", "scannet200")
    assert_numbers(report["numbers"], by_hand(pairs, protocol))
    seen = [(t, p) for t, p in pairs if p is not None and t >= 0]
    assert np.mean([t == p for t, p in seen]) > 0.8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["protocol=scannet20"], "store is not set: give the output_dir of clipfeat-fuse, as store=…"),
        (["protocol=scannet2", "store=x"], "protocol=scannet2: expected one of scannet20, "),
        (["protocol=replica", "store=x", "rules.unsean=wrong"], "rules.unsean: no such key; did you mean rules.unseen"),
        (["protocol=replica", "store=nowhere"], "nowhere: "),
        (["store=x"], "store: no such key"),
    ],
)
def test_the_command_says_in_a_line_what_is_wrong(run_main, words, message):
    code, err = run_main(evaluate_main, *words)
    assert code == 1
    assert err.startswith(f"clipfeat: {message}")
    assert err.count("\n") == 1
