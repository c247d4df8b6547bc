"""``clipfeat-vis`` end to end: the run's own pictures again, others, some, kept and drawn anew; and its script."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKOUT
from PIL import Image
from planted import config_of

import clipfeat.extraction.redraw
import clipfeat.extraction.worker
from clipfeat.cli.commands import vis_main
from clipfeat.extraction.extract import extract
from clipfeat.vis.build import build_pictures

SCENES = ["demo0000_00", "demo0001_00"]
SMALL = ["vis.dpi=40", "vis.points_per_frame=60", "vis.overlay_points=300", "vis.perplexity=10"]


def stay_in_this_process(patch, module):
    """Processes of their own, which t-SNE is drawn in below, take seconds to start."""
    patch.setattr(module, "build_pictures", lambda *args, **given: build_pictures(*args, **given | {"processes": 0}))


@pytest.fixture(scope="module")
def run_of(demo_root, tiny_arch, tmp_path_factory):
    """The folder of a run with pictures of a kind, in a format; made when it is first asked for."""
    root = tmp_path_factory.mktemp("runs")

    def make(kind, output="npz"):
        folder = root / f"{kind}_{output}"
        if not folder.exists():
            fixed = [f"data.root={demo_root}", f"output_dir={folder}", f"model.arch={tiny_arch}"]
            fixed += ["model.pretrained=null", "sampling.num_points=500", "report=false", "seed=3"]
            with pytest.MonkeyPatch.context() as patch:
                stay_in_this_process(patch, clipfeat.extraction.worker)
                extract(config_of(*fixed, f"vis={kind}", *SMALL, f"output={output}", "num_workers=1"))
        return folder

    return make


@pytest.fixture
def run_vis(run_main):
    return lambda *overrides: run_main(vis_main, *overrides)


@pytest.fixture
def in_this_process(monkeypatch):
    stay_in_this_process(monkeypatch, clipfeat.extraction.redraw)


def pictures(folder):
    return {path.relative_to(folder).as_posix(): np.asarray(Image.open(path)) for path in folder.glob("*/vis_*.png")}


@pytest.mark.parametrize(
    ("kind", "output"), [pytest.param("tsne", "npz", marks=pytest.mark.slow), ("pca", "npz"), ("heatmap", "h5_scene")]
)
def test_the_pictures_are_those_of_the_run(run_of, run_vis, tmp_path, monkeypatch, kind, output):
    if kind != "tsne":
        stay_in_this_process(monkeypatch, clipfeat.extraction.redraw)
    store = run_of(kind, output)
    code, err = run_vis(f"store={store}", f"vis={kind}", *SMALL, "output_dir=again", "num_workers=1")
    assert code == 0, err
    assert "8 pictures to draw, 0 are there already, into again" in err
    assert "  drawn            8 pictures (clipfeat-test-ViT · none · weights=random), in " in err
    before, now = pictures(store), pictures(tmp_path / "again")
    assert before.keys() == now.keys()
    assert len(now) == 8
    for name, picture in before.items():
        np.testing.assert_array_equal(now[name], picture)


@pytest.mark.usefixtures("in_this_process")
def test_pictures_of_maps_differ_by_the_rounding_of_their_features_alone(run_of, run_vis, tmp_path):
    code, err = run_vis(f"store={run_of('pca', 'grid')}", "vis=pca", *SMALL, "output_dir=again")
    assert code == 0, err
    before, now = pictures(run_of("pca", "grid")), pictures(tmp_path / "again")
    assert before.keys() == now.keys()
    for name, picture in before.items():
        assert np.abs(now[name].astype(int) - picture).mean() < 1


@pytest.mark.usefixtures("in_this_process")
def test_pictures_that_are_there_are_kept_unless_told_otherwise(run_of, run_vis, tmp_path):
    store = Path(shutil.copytree(run_of("pca"), tmp_path / "store"))
    base = [f"store={store}", "vis=heatmap", *SMALL]
    old = pictures(store)
    code, err = run_vis(*base)
    assert code == 0, err
    assert "0 pictures to draw, 8 are there already" in err
    assert "kept             8 pictures; resume=overwrite draws them again" in err
    (store / SCENES[0] / "vis_20.png").unlink()
    code, err = run_vis(*base)
    assert "1 pictures to draw, 7 are there already" in err
    now = pictures(store)
    changed = [name for name in old if not np.array_equal(old[name], now[name])]
    assert changed == [f"{SCENES[0]}/vis_20.png"]
    code, err = run_vis(*base, "resume=overwrite")
    assert "8 pictures to draw, 0 are there already" in err
    now = pictures(store)
    assert not any(np.array_equal(old[name], now[name]) for name in old)


@pytest.mark.usefixtures("in_this_process")
def test_some_scenes_and_frames_can_be_drawn(run_of, run_vis, tmp_path):
    base = [f"store={run_of('pca')}", "vis=pca", *SMALL]
    assert run_vis(*base, "output_dir=a", f"scenes={SCENES[1]}", "frames=[20,60]")[0] == 0
    assert sorted(pictures(tmp_path / "a")) == [f"{SCENES[1]}/vis_20.png", f"{SCENES[1]}/vis_60.png"]
    assert run_vis(*base, "output_dir=b", "vis.max_frames=1", "frames=40")[0] == 0
    assert len(pictures(tmp_path / "b")) == 2
    for more, message in (
        ("frames=7", f"clipfeat: frames=[7]: {run_of('pca')} holds no frame 7 in demo0000_00, demo0001_00; see the"),
        ("scenes=nowhere", "holds no frame of a scene nowhere"),
        ("vis=none", "clipfeat: vis=none: there is nothing to draw, expected tsne, pca or heatmap"),
        ("data_root=gone", "clipfeat: data_root=gone: no such folder, the scans of"),
        ("frames=first", "clipfeat: frames=first: expected the number of a frame, or a list of them"),
    ):
        code, err = run_vis(*base, "output_dir=c", more)
        assert code == 1
        assert message in err
        assert "Traceback" not in err


@pytest.mark.usefixtures("in_this_process")
def test_bad_frames_are_skipped_and_told_or_end_it(run_of, run_vis, tmp_path, scans):
    store = Path(shutil.copytree(run_of("pca"), tmp_path / "store"))
    path = store / SCENES[0] / "frame_20.npz"
    path.write_bytes(path.read_bytes()[:-9])
    (scans / SCENES[1] / "color" / "0.jpg").unlink()
    base = [f"store={store}", f"data_root={scans}", "vis=pca", *SMALL]
    code, err = run_vis(*base, "output_dir=out")
    assert code == 0, err
    assert len(pictures(tmp_path / "out")) == 6
    assert "WARNING failed: demo0000_00 frame 20: " in err
    assert "WARNING failed: demo0001_00 frame 0: " in err
    code, err = run_vis(*base, "output_dir=out2", "on_bad_frame=fail")
    assert code == 1
    assert "frame_20.npz: not a whole feature file" in err
    code, err = run_vis(*base, "output_dir=out3", f"scenes={SCENES[0]}", "frames=20")
    assert code == 1
    assert "clipfeat: all 1 frames failed; the first: " in err


def test_the_script_draws_the_pictures_of_a_scene(run_of, tmp_path, start_warm):
    store = run_of("pca")
    script, env = CHECKOUT / "scripts" / "vis_clip_feat.py", {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    program = start_warm(script, [store, SCENES[0], tmp_path, "--kind", "heatmap"], env)
    out, err = program.communicate(timeout=120)
    assert program.returncode == 0, err
    assert f"4 pictures in {tmp_path / SCENES[0]}" in out
    assert len(pictures(tmp_path)) == 4
