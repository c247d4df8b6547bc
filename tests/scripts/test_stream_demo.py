"""``scripts/stream_demo.py`` on a store whose instances are plain to see."""

import dataclasses
import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import CHECKOUT
from stores import some_features, write_store


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("stream_demo", CHECKOUT / "scripts" / "stream_demo.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["stream_demo"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def frame(seed, instances, direction):
    """A frame that shows some instances, each around a place and with a feature of its own."""
    features = some_features(seed, 10 * len(instances))
    instance, rng = np.repeat(instances, 10), np.random.default_rng(seed)
    return dataclasses.replace(
        features,
        pts_feat=np.stack([direction[i] for i in instance]).astype(np.float32) * 3,
        conf_2d=np.ones(len(instance), np.float32),
        xyz=(np.stack([[5.0 * i, i % 2, 0] for i in instance]) + rng.uniform(-0.2, 0.2, (len(instance), 3))).astype(
            np.float32
        ),
        attributes={"instance": instance.astype(np.int32), "label": (instance % 2 + 1).astype(np.uint16)},
    )


def run(demo, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["stream_demo", *map(str, arguments)])
    code = demo.main()
    return code, capsys.readouterr()


def test_instances_keep_their_numbers_and_answer_texts(demo, tmp_path, monkeypatch, capsys):
    texts = ["a chair", "a lamp", "a wall"]
    vectors = np.random.default_rng(0).normal(size=(3, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    tower = SimpleNamespace(weights_sha256="0123", encode_text=lambda asked: vectors[[texts.index(t) for t in asked]])
    monkeypatch.setattr(demo, "load_text_encoder", lambda *_, **__: tower)
    direction = dict(enumerate(vectors, start=1))
    frames = {("room", i): frame(i, seen, direction) for i, seen in enumerate([[1, 2], [2, 3, 1], [3], [1, 2, 3]])}
    model = {
        "arch": "A", "weights": "random", "weights_sha256": "0123", "head": "text",
        "head_sha256": None, "input_size": 224, "window": None,
    }  # fmt: skip
    write_store(tmp_path, frames, model=model)
    code, said = run(demo, monkeypatch, capsys, tmp_path, "--scene", "room", "--query", *texts)
    assert code == 0
    assert "frame 1: 3 instances, 3 known, 0 switched" in said.out
    assert "3 instances in 9 sightings became 3 numbers: 0 switches, 0 numbers stand for several" in said.out
    best = [line.split("instance ")[1].split()[0] for line in said.out.splitlines() if "weights=random" in line]
    assert sorted(best) == ["0", "1", "2"]
    assert said.out.count("cosine 1.000") == 3
    monkeypatch.setattr(tower, "weights_sha256", "4567")
    code, said = run(demo, monkeypatch, capsys, tmp_path, "--scene", "room", "--query", *texts)
    assert code == 1
    assert "features of weights 0123, texts of 4567" in said.err


def test_what_is_missing_is_told(demo, tmp_path, monkeypatch, capsys):
    write_store(tmp_path, {("room", 0): some_features(0)})
    code, said = run(demo, monkeypatch, capsys, tmp_path)
    assert code == 1
    assert "its points have no instance and label; extract with sampling.labels_file=…" in said.err


def test_switches_are_counted(demo):
    tally = demo.Tally()
    for truth, numbers in (([1, 2], [0, 1]), ([2, 1], [1, 2]), ([1, 3], [2, 0])):
        tally.add(truth, numbers)
    assert str(tally) == ("3 instances in 6 sightings became 3 numbers: 1 switches, 1 numbers stand for several")
