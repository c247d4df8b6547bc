"""Commands on a GPU, end to end, held against the same on the CPU; see ``test_gpu_maps.py``."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import CHECKOUT
from PIL import Image
from safetensors.numpy import load_file

from clipfeat.cli.commands import evaluate_main, fit_head_main, train_main
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.fusion.training import Training
from clipfeat.model import cached
from clipfeat.output.files import FORMATS
from clipfeat.output.store import FeatureStore

pytestmark = pytest.mark.gpu

PROGRAM = """
import open_clip, clipfeat.cli.commands
open_clip.add_model_config({arch!r})  # also in the processes that are started
if __name__ == "__main__":
    clipfeat.cli.commands.extract_main()
"""

MASKS = "data.masks='${data.root}/{scene}/quarters/{frame}.png'"


@pytest.fixture(scope="module")
def scans(demo_root, made_once):
    """The demo's scenes, with four masks a picture."""

    def make(root):
        dataset = ScanNetDataset(demo_root)
        for scene in dataset.scenes():
            (root / scene).mkdir()
            for path in (demo_root / scene).iterdir():
                (root / scene / path.name).symlink_to(path)
            (root / scene / "quarters").mkdir()
            for frame in dataset.frame_ids(scene):
                camera = dataset.load(scene, frame).color_camera
                v, u = np.mgrid[: camera.height, : camera.width]
                quarters = 1 + 2 * (v > camera.height // 2) + (u > camera.width // 2)
                Image.fromarray(quarters.astype(np.uint8)).save(root / scene / f"quarters/{frame}.png")

    return made_once("gpu_scans", make)


@pytest.fixture
def run(run_cli, scans, tmp_path):
    """Extracts into a folder of its own and opens it."""

    def extract(name, device, *overrides):
        arguments = [f"data.root={scans}", MASKS, "report=false", f"output_dir={name}", f"device={device}"]
        code, err = run_cli(*arguments, *overrides)
        assert code == 0, err
        return FeatureStore(tmp_path / name)

    return extract


def assert_same(store, expected, limit):
    """The same points at the same pixels, and features with a relative difference below the limit."""
    assert store.scenes == expected.scenes
    for scene in expected.scenes:
        assert store.frames(scene) == expected.frames(scene)
        for frame in expected.frames(scene):
            found, wanted = store.load(scene, frame), expected.load(scene, frame)
            for key in ("uv_idx", "pts_idx"):
                np.testing.assert_array_equal(getattr(found, key), getattr(wanted, key))
            for key in ("pts_feat", "clip_global"):
                a, b = getattr(found, key), getattr(wanted, key)
                assert a.shape == b.shape
                assert np.linalg.norm(a - b) < limit * np.linalg.norm(b)


@pytest.mark.parametrize("output", FORMATS)
def test_every_format_in_several_lanes(run, gpu, output):
    expected = run("cpu", "cpu", f"output={output}")
    exact = run("exact", gpu, f"output={output}", "model.precision=fp32", "batch_size=2", "num_workers=4")
    assert_same(exact, expected, 2e-3 if FORMATS[output].holds == "map" else 1e-3)
    assert_same(run("fast", gpu, f"output={output}", "batch_size=1", "num_workers=8"), expected, 1e-2)


def test_a_run_is_the_same_wherever_pictures_are_resized(run, gpu):
    some = ["output.dtype=float16", "frames_per_scene=2"]
    by_the_host = run("host", gpu, "model.resize_on=cpu", *some)
    assert_same(run("there", gpu, "model.resize_on=device", *some), by_the_host, 1e-3)


def test_jpegs_are_decoded_there(run, gpu):
    """A frame's features are others by that; how far with a real model, ``scripts/gpu_check.sh`` tells."""
    expected = run("host", gpu, "frames_per_scene=2")
    who = "gpu" if gpu.type == "cuda" else "cpu"
    assert_same(run("there", gpu, f"model.jpeg={who}", "frames_per_scene=2"), expected, 0.2)


def test_maps_on_the_host_give_the_same(run, gpu):
    expected = run("cpu", "cpu", "model/head=proj128")
    assert_same(run("offload", gpu, "model/head=proj128", "model.offload=cpu"), expected, 1e-2)


def test_a_cache_is_filled_and_read(run, gpu, monkeypatch):
    cache = ["cache=lmdb", "cache.path=maps.lmdb", "model.precision=fp32"]
    first = run("first", gpu, *cache)
    assert_same(first, run("cpu", "cpu"), 2e-3)
    monkeypatch.setattr(cached, "load_model", lambda *_: pytest.fail("the model is loaded again"))
    assert_same(run("second", gpu, *cache, "output=h5"), first, 1e-6)


def test_processes_share_one_gpu(run, scans, gpu, tiny_arch, tmp_path):
    from open_clip.factory import _MODEL_CONFIG_PATHS

    arch = next(path for path in _MODEL_CONFIG_PATHS if (path / f"{tiny_arch}.json").is_file())
    (tmp_path / "program.py").write_text(PROGRAM.format(arch=str(arch)))
    arguments = [f"data.root={scans}", MASKS, "report=false", "output_dir=two", f"device={gpu}", "devices=2"]
    arguments += [f"model.arch={tiny_arch}", "model.pretrained=null", "vis=none", "sampling.num_points=200"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, "program.py", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "two/summary.json").read_text())["run"]["shards"] == 2
    assert_same(FeatureStore(tmp_path / "two"), run("cpu", "cpu"), 1e-2)


LABELS = "sampling.labels_file='${data.root}/{scene}/{scene}_vh_clean_2.labels.ply'"


@pytest.mark.parametrize("use_amp", [False, True])
def test_a_training_is_that_of_the_cpu_and_goes_on(run, run_main, gpu, tmp_path, monkeypatch, use_amp):
    run("store", "cpu", "sampling=mesh", "sampling.num_points=3000", "output=grid", LABELS)
    small = ["num_points=60", "batch_size=2", "steps=4", "eval_every=2", "use_tiny_sa_2d=true"]

    def trained(name, device, expected=0):
        arguments = ["store=store", f"output_dir={name}", f"device={device}", f"use_amp={use_amp}", *small]
        code, err = run_main(train_main, *arguments)
        assert code == expected, err
        return tmp_path / name

    def weights(folder):
        [path] = folder.glob("*.safetensors")
        found = load_file(path)
        return np.concatenate([found[name].ravel() for name in sorted(found) if found[name].dtype == np.float32])

    whole, do_step = weights(trained("whole", gpu)), Training.do_step
    if not use_amp:
        on_cpu = weights(trained("cpu", "cpu"))
        assert np.linalg.norm(whole - on_cpu) < 2e-2 * np.linalg.norm(on_cpu)

    def stop_in_the_third(self):
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return do_step(self)

    monkeypatch.setattr(Training, "do_step", stop_in_the_third)
    trained("parts", gpu, 130)
    monkeypatch.setattr(Training, "do_step", do_step)
    parts = weights(trained("parts", gpu))
    assert np.isfinite(parts).all()
    # Sums of atomic additions on a GPU come in any order.
    assert np.linalg.norm(parts - whole) < 2e-2 * np.linalg.norm(whole)


def test_an_evaluation_is_that_of_the_cpu(run_main, demo_root, text_arch, gpu, tmp_path):
    scores = []
    for name, device in (("cpu", "cpu"), ("gpu", gpu)):
        code, err = run_main(
            evaluate_main, f"data.root={demo_root}", f"model.arch={text_arch}", "model.pretrained=null", "resamples=20",
            "model.precision=fp32", "frames_per_scene=2", "points_per_frame=50", "sampling.num_points=300",
            "candidates=[none,pixelshuffle,proj128,text]", f"output_dir={name}", f"device={device}",
        )  # fmt: skip
        assert code == 0, err
        rows = json.loads((tmp_path / name / "evaluation.json").read_text())["rows"]
        scores.append([row[key]["value"] for row in rows for key in ("linear_accuracy", "neighbours_accuracy")])
        scores[-1] += [row["views"]["same"] for row in rows]
    np.testing.assert_allclose(*scores, atol=0.05)


@pytest.mark.parametrize("method", ["pca", "clip_cons"])
def test_a_head_is_fitted(run_main, demo_root, tiny_arch, gpu, tmp_path, method):
    fitted = []
    for name, device in (("cpu", "cpu"), ("gpu", gpu)):
        code, err = run_main(
            fit_head_main, f"data.root={demo_root}", f"model.arch={tiny_arch}", "model.pretrained=null",
            "model.precision=fp32", f"device={device}", f"output_file={name}.safetensors", f"method={method}",
            "steps=20",
        )  # fmt: skip
        assert code == 0, err
        fitted.append(load_file(tmp_path / f"{name}.safetensors"))
    assert fitted[0].keys() == fitted[1].keys()
    for name, expected in fitted[0].items():
        assert np.isfinite(fitted[1][name]).all()
        if method == "clip_cons":  # principal axes of alike strength may turn, and change their sign
            assert np.linalg.norm(fitted[1][name] - expected) < 5e-2 * np.linalg.norm(expected) + 1e-3
