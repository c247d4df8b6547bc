"""``clipfeat-query`` end to end: a planted text space, examples, damaged and foreign input, and a real text tower."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planted import NAMES, PlantedModel, PlantedTexts

import clipfeat
from clipfeat.camera.visibility import VisibilityRule, project_frame
from clipfeat.cli.commands import query_main
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.errors import ConfigError, DataError, WeightsError
from clipfeat.model import kept_texts
from clipfeat.model.pretrained import Logits
from clipfeat.output.files import read_arrays
from clipfeat.output.fused import read_fused
from clipfeat.output.ply import UNSEEN
from clipfeat.queries.answers import SCORES
from clipfeat.queries.ask import query
from clipfeat.queries.config import ExampleConfig, QueryConfig
from clipfeat.results.config import FuseConfig
from clipfeat.results.fuse import fuse
from clipfeat.results.inspect import inspect_folder
from clipfeat.sampling.point_files import read_points
from clipfeat.vis.scores import ScorePainter, score_rgb

SCENES = ["demo0000_00", "demo0001_00"]
LABELS = "sampling.labels_file='${data.root}/{scene}/{scene}_vh_clean_2.labels.ply'"
STORES = {
    "grid": ["output=grid"],
    "masked": ["output=grid", "data.masks='${data.root}/{scene}/instance-filt/{frame}.png'"],
    "depth": ["output=npz", "sampling.num_points=2000"],
    "mesh": ["output=h5", "sampling=mesh", LABELS],
}


@pytest.fixture(scope="module")
def planted(demo_root, tmp_path_factory):
    """The folder of a run of that name with planted features, and its fused scenes; made when first asked for."""
    root = tmp_path_factory.mktemp("planted")

    def make(name, *, fused=False):
        folder = root / name
        if not folder.exists():
            overrides = ["vis=none", "report=false", *STORES[name]]
            clipfeat.extract(demo_root, folder, overrides=overrides, model=PlantedModel(demo_root))
        if fused and not (folder / "fused").exists():
            labels = f"{demo_root}/{{scene}}/{{scene}}_vh_clean_2.labels.ply"
            fuse(FuseConfig(str(folder), labels_file=labels, formats=[]))
        return folder / "fused" if fused else folder

    return make


@pytest.fixture
def run_query(run_main):
    return lambda *overrides: run_main(query_main, *overrides)


def ask(store, out, texts=None, **options):
    cfg = QueryConfig(str(store), output_dir=str(out), **options)
    return query(cfg, (texts or PlantedTexts()) if cfg.text else None)


def label_picture(root, scene_id, frame_id):
    return np.asarray(Image.open(root / scene_id / "label-filt" / f"{frame_id}.png"))


def shown_as_their_own(root, scene_id, fused, xyz_label):
    """(N,) whether most of the frames that see a vertex show it on a pixel of its own label.

    The others lie on an edge of something, or less than the tolerance behind it: there the frames say another class.
    """
    dataset, own = ScanNetDataset(root), np.zeros((2, len(xyz_label)))
    for frame_id in fused.meta["frames"]:
        seen = project_frame(fused.points.xyz, dataset.load(scene_id, frame_id), VisibilityRule())
        rows = np.flatnonzero(seen.visible)
        u, v = np.rint(seen.uv[rows]).astype(int).T
        same = label_picture(root, scene_id, frame_id)[v, u] == xyz_label[rows]
        own[:, rows] += seen.conf_2d[rows] * np.stack([same, ~same])
    return own[0] > own[1]


@pytest.mark.parametrize("name", STORES)
def test_of_a_planted_text_space_the_right_class_is_found_at_the_vertices(planted, demo_root, tmp_path, name):
    classes = sorted(NAMES.values())
    report = ask(planted(name, fused=True), tmp_path, text=classes, against=[])
    assert report["scores"] == [f"{SCORES}/{scene_id}.npz" for scene_id in SCENES]
    right, shown = [], []
    for scene_id, path in zip(SCENES, report["scores"], strict=True):
        arrays, meta = read_arrays(tmp_path / path)
        fused = read_fused(planted(name, fused=True) / f"{scene_id}.npz")
        assert (meta["prompts"], meta["score"], meta["model"]["weights"]) == (classes, "cosine", "planted")
        np.testing.assert_array_equal(arrays["views"] > 0, fused.seen)
        labels = fused.points.attributes["label"]
        found = np.array(classes)[arrays["scores"].argmax(1)] == [NAMES[label] for label in labels]
        right.append(found[fused.seen])
        shown.append(shown_as_their_own(demo_root, scene_id, fused, labels)[fused.seen])
    right, shown = np.concatenate(right), np.concatenate(shown)
    assert len(right) > 500
    if name == "masked":  # vertices at the edges of things do not count as visible
        assert right.mean() >= 0.95
    assert right[shown].mean() >= 0.95


def test_of_a_planted_text_space_the_right_class_is_found_in_frames(planted, demo_root, tmp_path, monkeypatch):
    """At the points of the heat maps: high scores, where the label is, and low ones elsewhere."""
    painted = []
    paint = ScorePainter.paint

    def spy(self, thumbnail, uv, scores):
        painted.append((self.prompt, uv, scores))
        return paint(self, thumbnail, uv, scores)

    monkeypatch.setattr(ScorePainter, "paint", spy)
    report = ask(planted("grid"), tmp_path, text=["a floor", "couch"], against=[], heatmaps="all",
                 num_workers=1, dpi=40)  # fmt: skip
    assert [prompt["prompt"] for prompt in report["prompts"]] == ["a floor", "couch"]
    ids = {name: label for label, name in NAMES.items()}
    for prompt, own in zip(report["prompts"], (ids["floor"], ids["couch"]), strict=True):
        of_prompt = [(uv, scores) for name, uv, scores in painted if name == prompt["prompt"]]
        right = []
        for answer, (uv, scores) in zip(prompt["ranked"], of_prompt, strict=True):
            labels = label_picture(demo_root, answer["scene_id"], answer["frame_id"])
            u, v = np.rint(uv).astype(int).T
            right.append((scores > 0.7) == (labels[v, u] == own))
            assert answer["max"] == pytest.approx(scores.max(), abs=1e-5)
            assert answer["mean"] == pytest.approx(scores.mean(), abs=1e-5)
        assert np.concatenate(right).mean() > 0.95
        # The frames that show most of it come before those that show none.
        shares = [
            (label_picture(demo_root, a["scene_id"], a["frame_id"]) == own).mean() > 0.01 for a in prompt["ranked"]
        ]
        assert shares == sorted(shares, reverse=True)
        assert prompt["files"][0] == f"{prompt['files'][0].split('/')[0]}/best.png"
        assert len(prompt["files"]) == 9
        assert all((tmp_path / file).is_file() for file in prompt["files"])
    found = inspect_folder(tmp_path, verify=True)
    assert (found.facts["read"], found.broken) == ("1 .json, 18 .png", [])


def test_a_fused_scene_is_colored_by_its_scores(planted, tmp_path):
    report = ask(planted("grid", fused=True), tmp_path, text="couch")
    assert report["prompts"][0]["files"] == [f"couch/{scene_id}.ply" for scene_id in SCENES]
    for scene_id in SCENES:
        fused, path = read_fused(planted("grid", fused=True) / f"{scene_id}.npz"), tmp_path / f"couch/{scene_id}.ply"
        found, scores = read_points(path), read_arrays(tmp_path / f"{SCORES}/{scene_id}.npz")[0]["scores"]
        np.testing.assert_allclose(found.xyz, fused.points.xyz, atol=1e-6)
        rgb = score_rgb(scores[:, 0], report["prompts"][0]["limits"])
        np.testing.assert_array_equal(found.attributes["rgb"][fused.seen], rgb[fused.seen])
        assert (found.attributes["rgb"][~fused.seen] == UNSEEN).all()
        assert b"comment planted, text, weights=planted" in path.read_bytes().replace(b" \xb7 ", b", ")
        assert b"softmax against object, things, stuff, texture, temperature 0.01" in path.read_bytes()


def a_pixel_of(root, name, margin=8):
    """Scene, frame and pixel in the middle of the largest piece of a class."""
    from scipy.ndimage import distance_transform_edt

    label = {name: label for label, name in NAMES.items()}[name]
    best = (0, None)
    for scene_id in SCENES:
        for frame_id in ScanNetDataset(root).frame_ids(scene_id):
            inside = distance_transform_edt(np.pad(label_picture(root, scene_id, frame_id) == label, 1))[1:-1, 1:-1]
            v, u = np.unravel_index(inside.argmax(), inside.shape)
            best = max(best, (inside.max(), (scene_id, frame_id, int(u), int(v))))
    assert best[0] > margin
    return best[1]


@pytest.mark.parametrize("name", ["grid", "depth"])
@pytest.mark.parametrize("kind", ["uv", "box"])
def test_an_example_finds_more_of_its_kind(planted, demo_root, tmp_path, name, kind):
    scene_id, frame_id, u, v = a_pixel_of(demo_root, "couch")
    place = {"uv": [u, v]} if kind == "uv" else {"box": [u - 5, v - 5, u + 5, v + 5]}
    example = ExampleConfig(scene=scene_id, frame=frame_id, **place)
    report = ask(planted(name), tmp_path, example=example, top=1, dpi=40)
    assert report["score"] == "cosine"
    assert report["templates"] is None
    prompt = report["prompts"][0]
    assert prompt["prompt"].startswith(f"like {scene_id} frame {frame_id} {'at' if kind == 'uv' else 'in'} (")
    own = [a for a in prompt["ranked"] if (a["scene_id"], a["frame_id"]) == (scene_id, frame_id)]
    assert own[0]["max"] == pytest.approx(1, abs=1e-3)
    assert len(prompt["files"]) == 2
    if name == "grid":  # of a fused scene, the example is in a frame of its run
        report = ask(planted("grid", fused=True), tmp_path / "fused", example=example)
        scores = read_arrays(tmp_path / "fused" / SCORES / f"{scene_id}.npz")[0]["scores"][:, 0]
        fused = read_fused(planted("grid", fused=True) / f"{scene_id}.npz")
        is_couch = np.array([NAMES[label] == "couch" for label in fused.points.attributes["label"]])
        assert ((scores > 0.7) == is_couch)[fused.seen].mean() > 0.95


def test_what_an_earlier_query_wrote_of_a_prompt_is_replaced_and_other_prompts_stay(planted, tmp_path):
    ask(planted("grid"), tmp_path, text=["couch", "floor"], top=3, dpi=30)
    before = sorted(p.name for p in (tmp_path / "couch").iterdir())
    assert len(before) == 4
    (tmp_path / "couch" / "mine.txt").write_text("stays")
    report = ask(planted("grid"), tmp_path, text="couch", top=1, dpi=30)
    names = {Path(name).name for name in report["prompts"][0]["files"]}
    assert {p.name for p in (tmp_path / "couch").iterdir()} == names | {"mine.txt"}
    assert len(list((tmp_path / "floor").iterdir())) == 4
    fused = planted("grid", fused=True)
    ask(fused, tmp_path, text="couch")
    assert len(list((tmp_path / SCORES).iterdir())) == 2
    ask(fused, tmp_path, text="couch", scenes=SCENES[1])
    assert [p.name for p in (tmp_path / SCORES).iterdir()] == [f"{SCENES[1]}.npz"]
    # What is still there of other prompts is still told of, with how it was asked.
    told = json.loads((tmp_path / "query.json").read_text())
    assert [prompt["prompt"] for prompt in told["prompts"]] == ["couch"]
    assert [prompt["prompt"] for prompt in told["earlier"]] == ["floor"]
    floor = told["earlier"][0]
    assert all((tmp_path / name).is_file() for name in floor["files"])
    assert (floor["store"], floor["temperature"]) == (str(planted("grid")), 0.01)
    ask(fused, tmp_path, text="floor", scenes=SCENES[1])
    told = json.loads((tmp_path / "query.json").read_text())
    assert [prompt["prompt"] for prompt in told["earlier"]] == ["couch"]
    assert not any((tmp_path / name).is_file() for name in floor["files"] if name.endswith(".png"))
    (tmp_path / "query.json").write_text('{"scores": ["../x/y.npz", 3], "prompts": 1}')  # of nobody
    ask(fused, tmp_path, text="couch")


def test_one_file_of_a_fused_scene_and_some_scenes_can_be_asked(planted, tmp_path):
    fused = planted("grid", fused=True)
    one = ask(fused / f"{SCENES[1]}.npz", tmp_path / "a", text="couch")
    some = ask(fused, tmp_path / "b", text="couch", scenes=SCENES[1])
    assert one["scenes"] == some["scenes"] == 1
    assert one["prompts"][0]["ranked"] == some["prompts"][0]["ranked"]
    frames = ask(planted("depth"), tmp_path / "c", text="couch", scenes=SCENES[1], heatmaps="none")
    assert (frames["frames"], frames["prompts"][0]["files"]) == (4, [])
    for store, message in (
        (fused, r"fused: holds no fused scene nowhere, but demo0000_00, demo0001_00"),
        (planted("grid"), "holds no frame of a scene nowhere"),
    ):
        with pytest.raises(DataError, match=message):
            ask(store, tmp_path / "d", text="couch", scenes="nowhere")


def test_bad_frames_are_skipped_and_listed_or_end_it(planted, demo_root, tmp_path):
    store = Path(shutil.copytree(planted("depth"), tmp_path / "store"))
    path = store / SCENES[0] / "frame_20.npz"
    path.write_bytes(path.read_bytes()[:-9])
    report = ask(store, tmp_path / "out", text="couch", dpi=30)
    assert report["frames"] == 7
    assert [(f["scene_id"], f["frame_id"]) for f in report["failed"]] == [(SCENES[0], 20)]
    assert "frame_20.npz: not a whole feature file" in report["failed"][0]["why"]
    with pytest.raises(DataError, match=r"frame_20.npz: not a whole feature file"):
        ask(store, tmp_path / "out", text="couch", on_bad_frame="fail")
    scans = Path(shutil.copytree(demo_root, tmp_path / "scans"))
    best = (report["prompts"][0]["ranked"][0]["scene_id"], report["prompts"][0]["ranked"][0]["frame_id"])
    (scans / best[0] / "color" / f"{best[1]}.jpg").unlink()  # compared, but not to be painted
    report = ask(store, tmp_path / "out", text="couch", dpi=30, data_root=str(scans), top=2)
    assert len(report["failed"]) == 2
    assert len(report["prompts"][0]["files"]) == 2


def test_each_kind_of_score_is_told_wherever_it_shows(planted, tmp_path):
    fused, texts = planted("grid", fused=True), PlantedTexts(logits=Logits(50.0, -20.0))
    best, against = {}, ["object", "things", "stuff", "texture"]
    for score, numbers, told in (
        ("auto", (0.02, None), "softmax against object, things, stuff, texture, temperature 0.02"),
        ("relevancy", (0.02, None), "relevancy against object, things, stuff, texture, temperature 0.02"),
        ("sigmoid", (0.02, -20), "sigmoid, temperature 0.02, bias -20"),
        ("cosine", (None, None), "cosine"),
    ):
        report = ask(fused, tmp_path, texts, text="couch", score=score, scenes=SCENES[0])
        assert report["score"] == ("softmax" if score == "auto" else score)
        assert (report["temperature"], report["bias"]) == numbers
        assert report["against"] == (against if score in ("auto", "relevancy") else [])
        assert f"comment score: {told}\n".encode() in (tmp_path / f"couch/{SCENES[0]}.ply").read_bytes()
        meta = read_arrays(tmp_path / SCORES / f"{SCENES[0]}.npz")[1]
        assert (meta["score"], meta["temperature"], meta["bias"]) == (report["score"], *numbers)
        best[score] = report["prompts"][0]["ranked"][0]["best"]
    assert best["cosine"] > 0.9
    assert 0.5 < best["auto"] <= best["relevancy"] <= 1
    assert best["sigmoid"] == pytest.approx(1 / (1 + np.exp(20 - best["cosine"] / 0.02)), abs=1e-3)
    report = ask(fused, tmp_path, texts, text="couch", temperature=0.1)
    assert report["temperature"] == 0.1


def test_what_can_not_be_asked_is_told(planted, tmp_path, demo_root):
    store = planted("depth")
    couch = {"scene": SCENES[0], "frame": 0}
    for options, error, message in (
        ({}, ConfigError, r"^neither text nor example is set: say what to look for by text='a chair', or by example"),
        ({"text": "x", "example": ExampleConfig(**couch, uv=[1, 1])}, ConfigError, "^text and example are both set"),
        ({"example": ExampleConfig(**couch, uv=[216, 1])}, ConfigError,
         r"^example.uv=\[216.0, 1.0\]: not in the picture of 216×162 pixels of demo0000_00 frame 0"),
        ({"example": ExampleConfig(**couch, box=[3, 3, 9, 170])}, ConfigError, r"^example.box=.*not in the picture"),
        ({"example": ExampleConfig(SCENES[0], 7, uv=[1, 1])}, DataError,
         r"holds no frame 7 of demo0000_00; take one of \[0, 20, 40, 60\]"),
        ({"text": "couch", "score": "sigmoid"}, ConfigError,
         r"^score=sigmoid: the weights planted of .* have no bias: only those have one that were trained with the sig"),
        ({"text": "couch", "score": "relevancy", "against": []}, ConfigError, r"^score=relevancy against=\[\]: there"),
        ({"example": ExampleConfig(**couch, uv=[1, 1]), "score": "softmax"}, ConfigError,
         r"^score=softmax: an example is scored by its cosine; leave it out"),
        ({"text": "couch", "templates": "many"}, ConfigError, r"^templates=many: expected one of plain, photo, indoor"),
        ({"text": "couch", "data_root": str(tmp_path / "gone")}, DataError,
         r"^data_root=.*gone: no such folder, the scans of .* were expected there; give the folder that they are in"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            ask(store, tmp_path / "out", **options)
    with pytest.raises(WeightsError, match=r"features of weights planted \(0123456789abcdef\), but the text tower is"):
        ask(store, tmp_path / "out", PlantedTexts("f" * 16), text="couch")
    with pytest.raises(DataError, match="nowhere: no such folder"):
        ask(tmp_path / "nowhere", tmp_path / "out", text="couch")


def test_a_run_that_moved_can_be_named(planted, tmp_path):
    fused = Path(shutil.copytree(planted("grid", fused=True), tmp_path / "fused"))
    config = (fused / "config.yaml").read_text()
    (fused / "config.yaml").write_text(config.replace(str(planted("grid")), str(tmp_path / "gone")))
    example = ExampleConfig(SCENES[0], 0, uv=[90, 90])
    with pytest.raises(DataError, match=r"gone: .* \(the run that was fused; if it is elsewhere now, say so by run=…"):
        ask(fused, tmp_path / "out", example=example)
    assert ask(fused, tmp_path / "out", example=example, run=str(planted("grid")))["scenes"] == 2
    (fused / "config.yaml").unlink()
    with pytest.raises(DataError, match=r"config.yaml: does not say which run was fused; give its folder, as run=…"):
        ask(fused, tmp_path / "out", example=example)


def test_the_command_says_random_weights_wherever_it_shows_something(
    run_query, text_arch, demo_root, tmp_path, monkeypatch
):
    printed = []
    real = print
    monkeypatch.setattr(
        "builtins.print", lambda *said, **about: real(*said, **about) if about else printed.extend(said)
    )
    base = [f"model.arch={text_arch}", "model.pretrained=null", "vis=none", "report=false", "output=grid"]
    for head in ("text", "none"):
        clipfeat.extract(demo_root, tmp_path / head, overrides=[*base, f"model/head={head}"])
    code, err = run_query("store=text", "text=[a chair,a big table]", "templates=photo", "top=1", "dpi=30")
    assert code == 0, err
    assert "WARNING weights=random: the arithmetic is right, the scores mean nothing" in err
    assert "  weights          random (" in err
    assert "8 compared" in err
    assert "best 1 %" not in err  # the ranking is what was asked for: it is on standard output
    assert "best 1 %      max     mean" in printed[0]
    assert "  a big table" in printed[0]
    report = json.loads((tmp_path / "text/query/query.json").read_text())
    assert (report["weights"], report["templates"], report["temperature"]) == ("random", "photo", 0.01)
    for prompt in report["prompts"]:
        assert len(prompt["files"]) == 2
        assert all(Image.open(tmp_path / "text/query" / name).size[0] > 100 for name in prompt["files"])
    clipfeat.fuse(tmp_path / "text", overrides=["formats=[]"])
    loader = kept_texts.load_text_encoder
    for load in (loader, None, loader):  # the second time the vectors are there, and no tower is loaded
        monkeypatch.setattr(kept_texts, "load_text_encoder", load)
        code, err = run_query("store=text/fused", "text=a chair", "scenes=demo0000_00", "against=[]")
        assert code == 0, err
        assert "  score            cosine" in err
    assert b"weights=random" in (tmp_path / "text/fused/query/a-chair/demo0000_00.ply").read_bytes()
    # Another head is no text space, but any head can be asked by example.
    code, err = run_query("store=none", "text=a chair")
    assert code == 1
    assert "the features of none are of model/head=none, which texts can't be compared to; extract with" in err
    code, err = run_query(
        "store=none", "example.scene=demo0000_00", "example.frame=20", "example.uv=[100,80]", "dpi=30"
    )
    assert code == 0, err
    # Other weights than those of the run: another seed makes others.
    config = tmp_path / "text/config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    code, err = run_query("store=text", "text=a chair")
    assert code == 1
    assert "but the text tower is of" in err


def test_the_command_line_explains_itself(run_query):
    code, err = run_query("store=x", "text=a chair, a table")
    assert code == 1
    assert "clipfeat: text=a chair, a table: a list is written 'text=[a chair, a table]', and one text with a" in err
    code, err = run_query("store=x", "example.uv=[1,2]")
    assert code == 1
    assert "clipfeat: example.scene is not set: an example is a place in one frame of one scene" in err
    code, err = run_query("text=a chair")
    assert "clipfeat: store is not set: give the output_dir of clipfeat-extract" in err
    code, err = run_query("store=x", "txt=a chair")
    assert "clipfeat: txt: no such key; did you mean text?" in err
