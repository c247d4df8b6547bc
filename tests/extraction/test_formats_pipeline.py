"""One run in every format, read through one class: the same points, pixels and features."""

import json

import numpy as np
import pytest
from PIL import Image

from clipfeat import FeatureStore
from clipfeat.extraction import lane
from clipfeat.model import preprocess
from clipfeat.model.batches import fetch_together
from clipfeat.output.files import FORMATS

OTHERS = [name for name, fmt in FORMATS.items() if name != "npz" and fmt.holds != "segments"]


@pytest.fixture
def run(run_cli, tmp_path):
    """Extracts into a folder of its own and opens it."""

    def extract(name, *overrides, **kwargs):
        code, err = run_cli(f"output_dir={name}", *overrides, **kwargs)
        assert code == 0, err
        return FeatureStore(tmp_path / name)

    return extract


def relative_error(found, expected):
    """Of each point's feature, as a vector."""
    return np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)


def assert_agree(store, plain, feature_error=0.0):
    assert store.scenes == plain.scenes
    assert store.model == plain.model
    for scene in plain.scenes:
        assert store.frames(scene) == plain.frames(scene)
        for frame in plain.frames(scene):
            found, expected = store.load(scene, frame), plain.load(scene, frame)
            for key in ("uv_idx", "pts_idx", "clip_global"):
                np.testing.assert_array_equal(getattr(found, key), getattr(expected, key))
            np.testing.assert_allclose(found.xyz, expected.xyz, atol=1e-5 if feature_error else 0)
            np.testing.assert_allclose(found.conf_2d, expected.conf_2d, atol=5e-4 if feature_error else 0)
            assert relative_error(found.pts_feat, expected.pts_feat).max() <= feature_error
            assert found.attributes.keys() == expected.attributes.keys()
            for key, values in expected.attributes.items():
                np.testing.assert_array_equal(found.attributes[key], values)
            assert store.meta(scene, frame) == plain.meta(scene, frame)


@pytest.mark.parametrize(
    "head", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("none", "pixelshuffle")), "proj128"]
)
def test_all_formats_hold_the_same(run, demo_root, head):
    base = [f"data.root={demo_root}", f"model/head={head}"]
    plain = run("npz", *base)
    for name in OTHERS:
        store = run(name, *base, f"output={name}")
        assert store.format == name
        assert_agree(store, plain, 2e-3 if FORMATS[name].holds == "map" else 0.0)


@pytest.mark.parametrize("output", ["npz", "grid"])
def test_the_way_of_a_gpu_gives_the_same_files_byte_for_byte(run, demo_root, tmp_path, monkeypatch, output):
    """On a CPU: original pictures to the model, maps fetched a batch at once."""
    base = [f"data.root={demo_root}", f"output={output}", "model.resize_mode=letterbox", "frames_per_scene=3"]
    run("out", *base)
    files = {path: path.read_bytes() for path in sorted((tmp_path / "out").glob("*/frame_*"))}
    assert len(files) == 6
    fetched = []

    def fetch(maps, **keys):
        fetched.append(len(maps))
        return fetch_together(maps, **keys)

    monkeypatch.setattr(lane, "fetch", fetch)
    monkeypatch.setitem(preprocess.RESIZERS, "pillow", lambda *_: pytest.fail("resized by the host"))
    run("out", *base, "model.resize_on=device", "resume=overwrite")
    assert sum(fetched) == 6
    assert {path: path.read_bytes() for path in files} == files


def test_points_of_a_mesh_and_a_crop_in_all_formats(run, demo_root):
    base = [f"data.root={demo_root}", "sampling=mesh", "model.resize_mode=crop", "vis=none"]
    plain = run("npz", *base, small=False)
    for name in OTHERS:
        store = run(name, *base, f"output={name}", small=False)
        assert_agree(store, plain, 2e-3 if FORMATS[name].holds == "map" else 0.0)
        assert "rgb" in store.load(store.scenes[0], 0).attributes


def test_a_grid_never_samples_the_features_of_all_points(run, demo_root, monkeypatch):
    sampled = []
    real = lane.sample_img_feat
    monkeypatch.setattr(lane, "sample_img_feat", lambda *a: sampled.append(len(a[1])) or real(*a))
    base = [f"data.root={demo_root}", "output=grid", "frames_per_scene=2"]
    store = run("bare", *base)
    assert not sampled
    records = [json.loads(line) for line in (store.folder / "frames.jsonl").read_text().splitlines()]
    assert all("sample" not in record["seconds"] for record in records)
    picture = ["vis=heatmap", "vis.overlay_points=50", "vis.points_per_frame=50"]
    run("pictures", *base, *picture, "sampling.num_points=200", small=False)
    assert sampled == [50] * 4


def test_pictures_are_those_of_the_other_formats(run, demo_root):
    base = [f"data.root={demo_root}", "sampling.num_points=200", "frames_per_scene=1", "vis=pca", "cache=lmdb"]
    plain, store = (run(name, *base, f"output={name}", "cache.path=maps.lmdb", small=False) for name in ("npz", "grid"))
    for scene in plain.scenes:
        first, second = (np.asarray(Image.open(s.folder / scene / "vis_0.png")) for s in (plain, store))
        np.testing.assert_array_equal(first, second)


def test_a_store_samples_the_same_at_the_points_of_the_run(run, demo_root):
    from clipfeat.data.scannet import ScanNetDataset

    store = run("grid", f"data.root={demo_root}", "output=grid")
    scene = store.scenes[0]
    loaded = store.load(scene, 20)
    for frame in (None, ScanNetDataset(demo_root).load(scene, 20)):
        found = store.sample(scene, 20, loaded.xyz, frame)
        assert len(found.pts_idx) == len(loaded.pts_idx)
        np.testing.assert_allclose(found.uv_idx, loaded.uv_idx, atol=1e-2)
        assert relative_error(found.pts_feat, loaded.pts_feat).max() < 2e-3


def test_each_scene_becomes_one_file_when_its_frames_are_done(run, run_cli, demo_root, monkeypatch):
    from clipfeat.output.frame_files import SceneFiles

    base = [f"data.root={demo_root}", "output=h5_scene"]
    store = run("out", *base, "frames_per_scene=2")

    def files():
        return sorted(p.relative_to(store.folder).as_posix() for p in store.folder.rglob("*.h5"))

    assert files() == ["demo0000_00.h5", "demo0001_00.h5"]
    run("out", *base)  # two frames more in each
    assert files() == ["demo0000_00.h5", "demo0001_00.h5"]
    assert [store.frames(scene) for scene in store.scenes] == [[0, 20, 40, 60]] * 2
    code, err = run_cli("output_dir=out", *base)
    assert "all 8 frames are done already" in err
    # Stopped when all frames of the first scene were done, and nothing else:
    (store.folder / "demo0001_00.h5").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(SceneFiles, "finish_scene", lambda *_: None)
        run("out", *base)
    assert files() == ["demo0000_00.h5", *(f"demo0001_00/frame_{i}.h5" for i in (0, 20, 40, 60))]
    code, err = run_cli("output_dir=out", *base)
    assert (code, "all 8 frames are done already" in err) == (0, True)
    assert files() == ["demo0000_00.h5", "demo0001_00.h5"]
    assert len(store.load("demo0001_00", 60).pts_idx) == 200


def test_a_frame_that_fails_does_not_keep_its_scene_from_being_finished(run, scans):
    (scans / "demo0000_00" / "color" / "20.jpg").write_bytes(b"no picture")
    store = run("out", f"data.root={scans}", "output=h5_scene")
    assert store.frames("demo0000_00") == [0, 40, 60]
    assert not list(store.folder.glob("*/*.h5"))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["pixelshuffle", "proj128"])
def test_a_grid_of_real_frames_is_a_25th_and_as_accurate(run, office, head):
    base = [f"data.root={office}", "model.arch=ViT-B-16", "model.pretrained=null", "vis=none", f"model/head={head}",
            "frames_per_scene=1"]  # fmt: skip
    plain, store = (run(name, *base, f"output={name}", tiny=False, small=False) for name in ("npz", "grid"))
    assert_agree(store, plain, 2e-3)
    if head == "pixelshuffle":
        for scene in store.scenes:
            frame = store.frames(scene)[0]
            large, small = (s.path(scene, frame).stat().st_size for s in (plain, store))
            assert len(store.load(scene, frame).pts_idx) == 20_000
            colours = 3 * 20_000  # which both carry along
            assert small - colours <= (large - colours) / 25
