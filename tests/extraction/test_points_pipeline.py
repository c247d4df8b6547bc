"""The other ways to points, end to end: meshes, stored points, masks, the uv index."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKOUT
from PIL import Image

from clipfeat.output.files import read_features
from clipfeat.output.store import FeatureStore
from clipfeat.sampling.point_files import read_points

LABELS = "sampling.labels_file='${data.root}/{scene}/{scene}_vh_clean_2.labels.ply'"


def files(folder):
    return sorted(folder.glob("*/frame_*.npz"))


def test_vertices_of_the_mesh_with_colours_and_labels(run_cli, demo_root, tmp_path):
    code, err = run_cli(f"data.root={demo_root}", "output_dir=out", "vis=none", "sampling=mesh", LABELS, small=False)
    assert code == 0, err
    assert len(files(tmp_path / "out")) == 8
    for path in files(tmp_path / "out"):
        features, meta = read_features(path)
        scene = path.parent.name
        mesh = read_points(demo_root / scene / f"{scene}_vh_clean_2.labels.ply")
        assert 0 < len(features.pts_idx) == meta["points"]["visible"] < len(mesh.idx)
        assert sum(meta["points"].values()) == len(mesh.idx)
        np.testing.assert_allclose(features.xyz, mesh.xyz[features.pts_idx], atol=1e-6)
        np.testing.assert_array_equal(features.attributes["rgb"], mesh.attributes["rgb"][features.pts_idx])
        np.testing.assert_array_equal(features.attributes["label"], mesh.attributes["label"][features.pts_idx])
        picture = np.asarray(Image.open(demo_root / scene / "label-filt" / f"{meta['frame_id']}.png"))
        u, v = np.round(features.uv_idx).astype(int).T
        assert (
            picture[v, u] == features.attributes["label"]
        ).mean() > 0.8  # a pixel of these small pictures is 5 cm wide
        assert "of its points are visible" not in err  # of a whole mesh, no frame sees much


@pytest.mark.parametrize("output", ["npz", "grid"])
def test_depth_pixels_have_the_picture_s_colours_and_nothing_else_changes(
    run_cli, demo_root, tmp_path, monkeypatch, output
):
    base = [f"data.root={demo_root}", f"output={output}", "vis=none", "frames_per_scene=1"]
    assert run_cli(*base, "output_dir=out")[0] == 0
    monkeypatch.setattr("clipfeat.extraction.worker.COLORED", ())
    assert run_cli(*base, "output_dir=plain")[0] == 0
    store, plain = FeatureStore(tmp_path / "out"), FeatureStore(tmp_path / "plain")
    for scene in store.scenes:
        found, before = store.load(scene, 0), plain.load(scene, 0)
        image = np.asarray(Image.open(demo_root / scene / "color" / "0.jpg"))
        u, v = np.rint(found.uv_idx).astype(int).T
        np.testing.assert_array_equal(found.attributes["rgb"], image[v, u])
        assert before.attributes == {}
        for name in ("pts_feat", "uv_idx", "conf_2d", "xyz", "pts_idx"):
            assert getattr(found, name).tobytes() == getattr(before, name).tobytes()
        more = store.path(scene, 0).stat().st_size - plain.path(scene, 0).stat().st_size
        assert 3 * len(u) <= more < 3 * len(u) + 500


def test_a_choice_of_vertices_is_the_same_in_every_frame(run_cli, demo_root, tmp_path):
    options = ["sampling=mesh", "vis=none", "output=h5"]
    seen = {}
    for name, count in (("some", 300), ("all", "null")):
        more = [f"output_dir={name}", f"sampling.num_points={count}"]
        code, err = run_cli(f"data.root={demo_root}", *options, *more, small=False)
        assert code == 0, err
        paths = sorted((tmp_path / name / "demo0000_00").glob("*.h5"))
        seen[name] = [set(read_features(path)[0].pts_idx.tolist()) for path in paths]
    chosen = set.union(*seen["some"])
    assert 20 < len(chosen) <= 300
    # A frame has all vertices of the one choice that it sees, and no other.
    assert seen["some"] == [chosen & visible for visible in seen["all"]]


def test_a_mesh_that_is_missing_or_does_not_fit_its_labels_is_named(run_cli, scans):
    mesh = scans / "demo0000_00" / "demo0000_00_vh_clean_2.ply"
    mesh.rename(scans / "away.ply")
    code, err = run_cli(f"data.root={scans}", "output_dir=out", "sampling=mesh", "vis=none", small=False)
    assert code == 0
    assert "demo0000_00_vh_clean_2.ply: no such file, a mesh or point cloud was expected" in err
    assert "4 done (4 now), 4 failed" in err
    (scans / "away.ply").rename(mesh)
    np.savez(scans / "other.npz", xyz=np.zeros((7, 3)))
    other = f"sampling.labels_file={scans}/other.npz"
    code, err = run_cli(f"data.root={scans}", "output_dir=o2", "sampling=mesh", "vis=none", other, small=False)
    assert code == 1
    assert "none of the 2 scenes can be read; the first: " in err
    assert "other.npz: 7 vertices, but" in err
    assert not (Path.cwd() / "o2/frames.jsonl").exists()  # it ended before a model was loaded


def test_a_data_set_without_stored_points_says_so(run_cli, demo_root):
    code, err = run_cli(f"data.root={demo_root}", "output_dir=out", "sampling=frame_points", "vis=none", small=False)
    assert code == 1
    assert "frame 0: the data set stores no points for it, and sampling=frame_points takes them" in err


MASKS = "data.masks='${data.root}/{scene}/instance-filt/{frame}.png'"


def test_instance_masks_take_points_out_and_are_counted(run_cli, demo_root, tmp_path):
    base = [f"data.root={demo_root}", "vis=none", "sampling=mesh", LABELS]
    for name, options in {"plain": [], "edge": [MASKS], "same": [MASKS, "camera.mask_instances=same"]}.items():
        code, err = run_cli(*base, f"output_dir={name}", *options, small=False)
        assert code == 0, err
    counts = [json.loads((tmp_path / n / "summary.json").read_text())["points"] for n in ("plain", "edge", "same")]
    assert "masked" not in counts[0]
    assert 0 < counts[1]["masked"] < counts[2]["masked"]
    assert counts[1]["visible"] + counts[1]["masked"] == counts[0]["visible"]
    right = []
    for name in ("plain", "same"):
        agree = []
        for path in files(tmp_path / name):
            features, meta = read_features(path)
            picture = np.asarray(Image.open(demo_root / path.parent.name / "label-filt" / f"{meta['frame_id']}.png"))
            u, v = np.round(features.uv_idx).astype(int).T
            agree.append(picture[v, u] == features.attributes["label"])
        right.append(np.concatenate(agree).mean())
    assert right[1] > right[0]
    assert right[1] > 0.999


@pytest.mark.parametrize("damage", ["size", "missing", "channels"])
def test_a_bad_mask_is_a_bad_frame(run_cli, scans, damage):
    path = scans / "demo0000_00" / "instance-filt" / "20.png"
    if damage == "missing":
        path.unlink()
    else:
        mask = np.asarray(Image.open(path))
        Image.fromarray(mask[:-2] if damage == "size" else np.dstack([mask.astype(np.uint8)] * 3)).save(path)
    code, err = run_cli(f"data.root={scans}", "output_dir=out", MASKS)
    assert code == 0
    message = {
        "size": "20.png: mask of 216×160 pixels, but the colour picture has 216×162",
        "missing": "20.png: no such file, an 8- or 16-bit mask picture (PNG, PGM, TIFF or NPY) was expected",
        "channels": "20.png: PNG of mode RGB, expected an 8- or 16-bit mask picture",
    }[damage]
    assert message in err
    assert "7 done (7 now), 1 failed" in err


SCRIPT = CHECKOUT / "scripts" / "build_uv_index.py"


@pytest.fixture
def run_script(run_main):
    """Runs ``scripts/build_uv_index.py`` in this process; returns (exit code, standard error)."""
    return lambda *overrides: run_main(lambda: runpy.run_path(str(SCRIPT), run_name="__main__"), *overrides)


@pytest.mark.slow
def test_the_script_is_a_program(demo_root, tmp_path):
    command = [sys.executable, str(SCRIPT), f"data.root={demo_root}", "uv_index=idx", "num_workers=1"]
    environment = {"PYTHONPATH": str(CHECKOUT), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "8 frames indexed, 0 failed" in done.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_the_uv_index_gives_what_an_extraction_without_it_gives(run_cli, run_script, demo_root, tmp_path, workers):
    base = [f"data.root={demo_root}", "sampling=mesh"]
    code, err = run_script(*base, "uv_index=idx", f"num_workers={workers}")
    assert code == 0, err
    assert "8 frames indexed, 0 failed" in err
    assert len(list((tmp_path / "idx").glob("*/uv_*.npz"))) == 8
    assert "0 frames to index, 8 there already" in run_script(*base, "uv_index=idx")[1]
    for name, options in {"with": ["uv_index=idx"], "without": []}.items():
        code, err = run_cli(*base, f"output_dir={name}", "vis=none", *options, small=False)
        assert code == 0, err
    for a, b in zip(files(tmp_path / "with"), files(tmp_path / "without"), strict=True):
        (first, meta), (second, other) = read_features(a), read_features(b)
        assert meta["points"] == other["points"]
        for key in ("pts_feat", "uv_idx", "conf_2d", "xyz", "pts_idx"):
            np.testing.assert_array_equal(getattr(first, key), getattr(second, key))
        np.testing.assert_array_equal(first.attributes["rgb"], second.attributes["rgb"])


def test_an_index_of_another_configuration_is_refused(run_cli, run_script, demo_root):
    assert run_script(f"data.root={demo_root}", "uv_index=idx", "num_workers=1")[0] == 0
    code, err = run_cli(f"data.root={demo_root}", "uv_index=idx", "camera.far=3", small=False)
    assert code == 1
    assert "uv_index=idx was built with another configuration, which differs in camera.far: 20.0 there, 3.0 now" in err
    code, err = run_cli(f"data.root={demo_root}", "uv_index=nowhere", small=False)
    assert code == 1
    assert "uv_index=nowhere: holds no uv index; build it by scripts/build_uv_index.py" in err


def test_an_index_of_another_configuration_is_overwritten_if_asked_for(run_script, demo_root, tmp_path):
    base = [f"data.root={demo_root}", "uv_index=idx", "num_workers=1"]
    assert run_script(*base, "frames_per_scene=3")[0] == 0
    code, err = run_script(*base, "camera.far=3")
    assert code == 1
    assert "idx holds results of another configuration, which differs in camera.far: 20.0 there, 3.0 now. " in err
    assert "resume=overwrite to do everything again" in err
    code, err = run_script(*base, "camera.far=3", "frames_per_scene=1", "resume=overwrite")
    assert code == 0, err
    assert "2 frames to index, 0 there already" in err
    assert len(list((tmp_path / "idx").glob("*/*"))) == 2
    assert "2 frames to index" in run_script(*base, "camera.far=3", "frames_per_scene=1", "resume=overwrite")[1]


def test_a_bad_frame_of_the_index_is_listed_and_a_broken_file_of_it_is_named(run_cli, run_script, scans, tmp_path):
    (scans / "demo0000_00" / "pose" / "20.txt").unlink()
    code, err = run_script(f"data.root={scans}", "uv_index=idx", "num_workers=1")
    assert code == 0
    assert "7 frames indexed, 1 failed" in err
    assert "pose/20.txt: no such file" in err
    path = tmp_path / "idx" / "demo0000_00" / "uv_0.npz"
    path.write_bytes(path.read_bytes()[:100])
    code, err = run_cli(f"data.root={scans}", "uv_index=idx", "output_dir=out", "sampling.num_points=20000")
    assert code == 0
    assert "uv_0.npz: not a whole feature file" in err
    assert "Traceback" not in err
