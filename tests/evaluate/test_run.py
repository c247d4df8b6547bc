"""``clipfeat-evaluate`` end to end: planted features score as they should, and damaged input is told."""

import csv
import dataclasses
import json

import layouts
import numpy as np
import pytest
import torch
from PIL import Image
from planted import PlantedModel, PlantedPatches, PlantedTexts

from clipfeat.camera.rules import build_rules
from clipfeat.cli.commands import evaluate_main
from clipfeat.data.config import DataConfig, ScanNetConfig
from clipfeat.data.frame_paths import FramePaths
from clipfeat.data.layouts import build_dataset
from clipfeat.data.scannet200 import scannet200
from clipfeat.errors import ConfigError, DataError, FrameError
from clipfeat.evaluate.config import EvaluateConfig
from clipfeat.evaluate.frames import FrameLabeller, LabelPictures, labels_of_points
from clipfeat.evaluate.probes import folds_of
from clipfeat.evaluate.run import evaluate
from clipfeat.fusion.metrics import count, mean_iou
from clipfeat.model.config import HeadConfig, ModelConfig
from clipfeat.model.heads import Head
from clipfeat.sampling.config import SamplingConfig
from clipfeat.sampling.locate import build_locator

LABELS = "{root}/{{scene}}/label-filt/{{frame}}.png"


class PlantedView:
    """A view whose tokens are the label's own vector, and noise; or what does not depend on the label at all."""

    def __init__(self, root, noise=0.05, shuffled=False, step=6, model=None):
        self.model = model or PlantedModel(root, step)
        self.model.head, self.model.head_name = Head(), "none"
        self.width = self.text_width = self.model.channels
        rng = torch.Generator().manual_seed(0)
        give = self.model.feature_maps

        def noisy(inputs, sizes):
            maps = give(inputs, sizes)
            made = [torch.randn(m.values.shape, generator=rng) for m in maps]
            values = [n if shuffled else m.values + noise * n for m, n in zip(maps, made, strict=True)]
            return [dataclasses.replace(m, values=v) for m, v in zip(maps, values, strict=True)]

        self.model.feature_maps = noisy

    def project(self, tokens):
        return tokens

    def texts(self, _cache):
        return PlantedTexts()


def config(root, out, **options):
    options = {
        "labels": LABELS.format(root=root),
        "candidates": ["none", "text"],
        "resamples": 50,
        "points_per_frame": 100,
    } | options
    sampling = SamplingConfig(num_points=1500)
    return EvaluateConfig(ScanNetConfig(root=str(root)), sampling=sampling, output_dir=str(out), **options)


def run(root, out, view=None, **options):
    view = view or PlantedView(root)
    return evaluate(config(root, out, **options), lambda views, _device, _seed: [view] * len(views))


def judged_points(cfg, root, step=6):
    """What a run judges: the scene and class of each point, and the class that the planted map's cell there holds."""
    dataset = build_dataset(cfg.data)
    rule, _ = build_rules(cfg.camera)
    locate, labeller = build_locator(cfg), LabelPictures(FramePaths(cfg.labels)) if cfg.labels else labels_of_points
    read = FrameLabeller(dataset, locate, rule, labeller, scannet200(), cfg.points_per_frame, cfg.seed)
    scenes, classes, cells = [], [], []
    for scene_id in dataset.scenes():
        for frame_id in dataset.frame_ids(scene_id):
            frame = read((scene_id, frame_id))
            picture = np.asarray(Image.open(root / scene_id / "label-filt" / f"{frame_id}.png"))
            u, v = ((frame.located.uv_idx[frame.rows] + 0.5) // step).astype(int).T
            scenes += [scene_id] * len(frame.classes)
            classes.append(frame.classes)
            cells.append(scannet200().classes_of(picture[step // 2 :: step, step // 2 :: step][v, u]))
    return np.array(scenes), np.concatenate(classes), np.concatenate(cells)


def miou_by_cell(classes, cells):
    """Of predicting what the cell holds; one without a label counts as the last class, which the demo has nowhere."""
    return mean_iou(count(classes, cells % 200, np.zeros(len(classes), int), 1, 200))[0]


def test_planted_features_score_as_they_should(demo_root, tmp_path):
    scenes, classes, cells = judged_points(config(demo_root, tmp_path), demo_root)
    # Each scene is held out once and the other one learnt from, whose classes alone can be known.
    # Of 20 neighbours more than half are of the right class, if so many are to be had.
    known, often = np.zeros((2, len(classes)), bool)
    right = cells == classes
    for scene_id in set(scenes):
        here = scenes == scene_id
        known |= here & np.isin(classes, classes[~here])
        often |= here & (np.bincount(classes[~here & right], minlength=200)[classes] > 10)

    report = run(demo_root, tmp_path, candidates=["none", "text", "none+nearest", "bilinear2x"])
    rows = {row["candidate"]: row for row in report["rows"]}
    assert (report["scenes"], report["scenes_held_out"], report["frames"], report["points"]) == (2, 2, 8, 800)
    assert rows["text"]["zero_shot_miou"]["value"] == pytest.approx(miou_by_cell(classes, cells), abs=0.02)
    assert rows["none"]["zero_shot_miou"] is None
    best = rows["none"]["linear_accuracy"]["value"]
    assert (known & right).mean() - 0.03 < best <= known.mean()
    assert (often & right).mean() - 0.03 < rows["none"]["neighbours_accuracy"]["value"] <= known.mean()
    assert rows["none"]["linear_miou_minus_first"] == {"value": 0, "low": 0, "high": 0}
    assert rows["none"]["views"]["same"] > rows["none"]["views"]["random"] + 0.2
    assert rows["none"]["inside_accuracy"]["value"] >= rows["none"]["edge_accuracy"]["value"]
    assert rows["none"]["weights"] == "planted"
    assert rows["bilinear2x"]["map_bytes"] == 4 * rows["none"]["map_bytes"]
    assert rows["none"]["map_bytes"] == 2 * 32 * 36 * 27
    assert (rows["none"]["channels"], rows["none"]["point_bytes"]) == (32, 4 * 32 * 1500)


def test_pca_weights_are_fitted_on_the_way(demo_root, tmp_path):
    view = PlantedView(demo_root, step=18)  # 12×9 tokens, 48×36 cells of pca128
    row = run(demo_root, tmp_path, view, candidates=["pca128"])["rows"][0]
    assert row["head_weights"] == "pca of these features"
    assert (row["channels"], row["map_bytes"]) == (128, 2 * 256 * 48 * 36)
    assert row["linear_accuracy"]["value"] > 0.3


def test_no_head_is_fitted_to_scenes_that_it_is_judged_by(demo_root, tmp_path, monkeypatch):
    begun = []

    class Recorder:
        def __init__(self):
            self.scenes, self.heads = set(), 0
            begun.append(self)

        def add(self, frame, tokens):
            assert tokens.values.shape[0] == 32
            self.scenes.add(frame.scene_id)

        def fit(self, head):
            self.heads += 1

    methods = []
    monkeypatch.setattr("clipfeat.evaluate.run.build_fit", lambda method, _run: methods.append(method) or Recorder())
    view = PlantedView(demo_root, step=18)
    fitted = ["pca128", "cons128", "conv256", "tinysa256"]
    rows = run(demo_root, tmp_path / "a", view, candidates=fitted, points_per_frame=20)["rows"]
    assert methods == ["pca", "pca", "clip_cons", "clip_cons"]
    held_out = folds_of(2, 2, 0)
    for method in range(0, 4, 2):
        for fold in range(2):
            assert begun[method + fold].scenes == {f"demo000{scene}_00" for scene in (0, 1) if held_out[scene] != fold}
    assert [one.heads for one in begun] == [1, 1, 3, 3]
    assert [row["channels"] for row in rows] == [128, 128, 256, 256]
    assert rows[1]["head_weights"] == "ClipCons of these features"

    begun.clear()
    (tmp_path / "train.txt").write_text("demo0001_00\n")
    (tmp_path / "test.txt").write_text("demo0000_00\n")
    files = {"scenes_file": str(tmp_path / "train.txt"), "test_scenes_file": str(tmp_path / "test.txt")}
    run(demo_root, tmp_path / "b", view, candidates=["pca128"], points_per_frame=20, **files)
    assert [one.scenes for one in begun] == [{"demo0001_00"}]


@pytest.mark.parametrize("sub_cells", [pytest.param(False, marks=pytest.mark.slow), True])
def test_pixelshuffle_helps_only_features_that_were_made_for_it(demo_root, tmp_path, sub_cells):
    view = PlantedView(demo_root, noise=0.3, model=PlantedPatches(demo_root, 128, sub_cells=sub_cells))
    rows = run(demo_root, tmp_path, view, candidates=["none", "pixelshuffle", "quarter"], edge_px=4)["rows"]
    none, shuffled, quarter = (
        np.array([row["neighbours_accuracy"]["value"], row["views"]["separation"]]) for row in rows
    )
    if sub_cells:  # a sub-cell's own channels tell of a quarter of the patch, which is nearer
        assert shuffled[0] > none[0]
    else:  # fewer channels cost something, and that they mean another thing in each sub-cell costs more
        assert (shuffled < quarter - 0.03).all()
        assert (quarter <= none + 0.01).all()


def test_features_that_know_nothing_score_chance(demo_root, tmp_path):
    row = run(demo_root, tmp_path, PlantedView(demo_root, shuffled=True), candidates=["text"])["rows"][0]
    assert row["zero_shot_miou"]["value"] < 0.02
    assert row["linear_miou"]["value"] < 0.1
    assert row["views"]["separation"] == pytest.approx(0.5, abs=0.1)


def test_points_that_are_more_like_what_is_no_class_are_predicted_as_none(demo_root, tmp_path):
    """Floors, whose class has another name here: features of floors are like the text "floor" alone."""
    names = {**scannet200().by_id(), 3: "ground"}
    table = tmp_path / "names.csv"
    table.write_text("id,name\n" + "".join(f"{label},{name}\n" for label, name in names.items()))
    _, _, cells = judged_points(config(demo_root, tmp_path), demo_root)
    floors = (cells == scannet200().names.index("floor")).mean()
    found = []
    for against in ([], ["the floor", "nothing of this"]):
        options = {"candidates": ["text"], "labels_ids": str(table), "against": against}
        found.append(run(demo_root, tmp_path / "out", **options)["rows"][0])
    assert [row["zero_shot_none"]["value"] for row in found] == [0, pytest.approx(floors, abs=0.03)]
    assert floors > 0.1
    # What is none is not right, and takes no other class's points.
    assert found[1]["zero_shot_accuracy"]["value"] == pytest.approx(found[0]["zero_shot_accuracy"]["value"], abs=0.01)
    assert found[1]["zero_shot_miou"]["value"] >= found[0]["zero_shot_miou"]["value"]


def test_a_coarser_map_is_worse_at_edges(demo_root, tmp_path):
    fine, coarse = (
        run(demo_root, tmp_path, PlantedView(demo_root, step=step), candidates=["none"], edge_px=5)["rows"][0]
        for step in (1, 12)
    )
    assert fine["edge_accuracy"]["value"] > coarse["edge_accuracy"]["value"] + 0.1


def test_the_same_seed_gives_the_same_numbers_and_the_tables_hold_them(demo_root, tmp_path):
    reports = [run(demo_root, tmp_path / name) for name in ("a", "b")]
    measured = [
        [{k: v for k, v in row.items() if k not in ("seconds", "frames_per_s")} for row in report["rows"]]
        for report in reports
    ]
    assert measured[0] == measured[1]
    assert json.loads((tmp_path / "a/evaluation.json").read_text())["rows"] == reports[0]["rows"]
    with (tmp_path / "a/evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["candidate"] for row in rows] == ["none", "text"]
    assert float(rows[1]["linear_miou.value"]) == reports[0]["rows"][1]["linear_miou"]["value"]
    assert rows[0]["zero_shot_miou.value"] == ""
    text = (tmp_path / "a/evaluation.md").read_text()
    assert "weights=planted" in text
    assert "| text | planted | 32 |" in text
    assert reports[0]["advice"] in text
    with Image.open(tmp_path / "a/evaluation.png") as picture:
        assert min(picture.size) > 300
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        f"evaluation.{kind}" for kind in ("csv", "json", "md", "png")
    ]


def test_scenes_that_are_held_out_by_a_file_are_not_learnt_from(demo_root, tmp_path):
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    train.write_text("demo0000_00\n")
    test.write_text("demo0001_00\n")
    report = run(demo_root, tmp_path / "out", scenes_file=str(train), test_scenes_file=str(test))
    assert (report["scenes"], report["scenes_held_out"], report["frames"]) == (2, 1, 8)
    with pytest.raises(ConfigError, match="test.txt: demo0001_00 is among the scenes that are learnt from"):
        run(demo_root, tmp_path / "out", test_scenes_file=str(test))


def test_labels_of_the_points_themselves(demo_root, tmp_path):
    from clipfeat.sampling.config import MeshSamplingConfig

    mesh = f"{demo_root}/{{scene}}/{{scene}}_vh_clean_2"
    cfg = config(demo_root, tmp_path, labels=None, candidates=["text"])
    cfg.sampling = MeshSamplingConfig(points_file=f"{mesh}.ply", labels_file=f"{mesh}.labels.ply")
    row = evaluate(cfg, lambda views, _device, _seed: [PlantedView(demo_root)])["rows"][0]
    _, classes, cells = judged_points(cfg, demo_root)
    assert row["zero_shot_miou"]["value"] == pytest.approx(miou_by_cell(classes, cells), abs=0.02)
    assert row["edge_accuracy"] is None
    with pytest.raises(DataError, match="its points bear no label or semantic; give labels="):
        run(demo_root, tmp_path, labels=None)


def test_labels_of_the_masks_of_scannet200_mv(demo_root, tmp_path):
    from clipfeat.data.config import ScanNet200MvConfig
    from clipfeat.data.scannet200_mv import ESAM_INTRINSICS

    fx, fy, cx, cy = ESAM_INTRINSICS
    tree = tmp_path / "mv"
    layouts.write_scannet200_mv(demo_root, tree, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]))
    cfg = config(demo_root, tmp_path / "out", labels=None, candidates=["text"])
    cfg.data, cfg.sampling = ScanNet200MvConfig(root=str(tree), intrinsics="esam"), SamplingConfig("frame_points", None)

    def judged():
        return evaluate(cfg, lambda views, _device, _seed: [PlantedView(demo_root, step=1)])

    report = judged()
    assert (report["frames"], report["points"]) == (4, 400)
    assert "stores no points for it" in report["failed"]["demo0000_00 frame 20"]
    assert report["rows"][0]["zero_shot_miou"]["value"] > 0.9  # but for edges, as the pictures have other sizes
    for path in sorted((tree / "semantic_mask").glob("*/*.bin")):
        labels = np.fromfile(path, np.int64)
        np.random.default_rng(0).permutation(labels).tofile(path)
    assert judged()["rows"][0]["zero_shot_miou"]["value"] < 0.3
    (tree / "semantic_mask/demo0000_00/0.bin").write_bytes(labels[:-1].tobytes())
    assert "499 labels for 500 points" in judged()["failed"]["demo0000_00 frame 0"]


def test_a_damaged_frame_is_left_out_and_told(scans, tmp_path):
    few = {"candidates": ["none"], "points_per_frame": 20}
    (scans / "demo0000_00/label-filt/20.png").write_bytes(b"no picture")
    report = run(scans, tmp_path, **few)
    assert report["frames"] == 7
    assert "20.png: not a picture" in report["failed"]["demo0000_00 frame 20"]
    with pytest.raises(FrameError, match="20.png: not a picture"):
        run(scans, tmp_path, on_bad_frame="fail", **few)
    Image.fromarray(np.ones((100, 100), np.uint16)).save(scans / "demo0000_00/label-filt/20.png")
    assert "expected the aspect ratio" in run(scans, tmp_path, **few)["failed"]["demo0000_00 frame 20"]


def test_one_scene_does_not_suffice(demo_root, tmp_path):
    one = tmp_path / "one.txt"
    one.write_text("demo0000_00\n")
    with pytest.raises(DataError, match="1 scenes can be used: expected two at least"):
        run(demo_root, tmp_path, scenes_file=str(one))


@pytest.mark.slow
def test_the_command_compares_real_encoders(run_main, text_arch, demo_root, tmp_path):
    candidates = "[none,pixelshuffle,pixelshuffle+nearest,quarter,proj128,pca128,text,none+naclip,none+letterbox]"
    code, err = run_main(
        evaluate_main, f"data.root={demo_root}", f"model.arch={text_arch}", "model.pretrained=null", "resamples=20",
        "frames_per_scene=2", "points_per_frame=50", "sampling.num_points=300", f"candidates={candidates}",
        f"output_dir={tmp_path}/out",
    )  # fmt: skip
    assert code == 0, err
    report = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert report["weights"] == ["random"]
    assert "weights=random" in report["advice"]
    rows = {row["candidate"]: row for row in report["rows"]}
    assert [rows[name]["channels"] for name in ("none", "pixelshuffle", "quarter", "proj128", "text")] == [
        64,
        16,
        16,
        128,
        32,
    ]
    assert rows["proj128"]["head_weights"] == "random"
    assert rows["pixelshuffle"]["linear_miou"] != rows["pixelshuffle+nearest"]["linear_miou"]
    code, err = run_main(evaluate_main, f"data.root={demo_root}", "candidates=[nonsense]")
    assert (code, err.splitlines()[-1][:52]) == (1, "clipfeat: candidates=nonsense: 'nonsense' is not kno")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 1}, "folds=1: expected a number of at least 2"),
        ({"labels": "x.png"}, "labels=x.png: expected a path with {scene} and {frame} in it, or null"),
        ({"max_points": 0}, "max_points=0: expected a number of at least 1"),
        ({"frame_stride": 0}, "frame_stride=0: expected a number of at least 1"),
        ({"templates": "no"}, r"templates=no: expected one of plain, photo, indoor, a text file \(.txt\) of templates"),
        ({"output_dir": ""}, "output_dir is empty"),
    ],
)
def test_values_out_of_range_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig(DataConfig("scannet", "x"), ModelConfig(head=HeadConfig("none")), **changes)
