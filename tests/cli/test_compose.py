"""Everything in one go: what each step leaves, what is done again after a stop, and what is told."""

import re
import shutil

import numpy as np
import pytest
import yaml

import clipfeat.cli.compose
import clipfeat.extraction.lane
import clipfeat.extraction.redraw
import clipfeat.extraction.uv_index
import clipfeat.results.fuse
import clipfeat.vis.pictures
from clipfeat.cli.commands import fuse_main
from clipfeat.cli.config import ComposerConfig
from clipfeat.data.config import ScanNetConfig
from clipfeat.errors import ConfigError
from clipfeat.extraction.config import ExtractConfig
from clipfeat.sampling.config import MeshSamplingConfig
from clipfeat.vis.build import build_pictures

STEPS = ["uv index", "extraction", "fusion", "pictures", "report"]


@pytest.fixture
def composer(run_cli, demo_root):
    """Runs the composer on the two small scenes into ``out``; a frame a batch, so that a stop may come anywhere."""

    def run(*overrides, root=demo_root):
        fixed = [f"data.root={root}", "output_dir=out", "sampling=mesh", "num_workers=1", "batch_size=1"]
        fixed += ["model/head=none", "vis=pca", "vis.dpi=30"]
        return run_cli("--config-name=composer", *fixed, *overrides)

    return run


@pytest.fixture
def in_this_process(monkeypatch):
    """Pictures are drawn here: processes of their own take seconds to start, and no call in them could be counted."""
    monkeypatch.setattr(
        clipfeat.extraction.redraw, "build_pictures", lambda *a, **kw: build_pictures(*a, **kw | {"processes": 0})
    )


@pytest.fixture(scope="module")
def kept():
    """What a run in peace leaves; made when it is first asked for."""
    return {}


@pytest.fixture
def in_peace(kept, composer, in_this_process, tmp_path):
    """The contents that a run in peace leaves, see ``contents``."""
    if not kept:
        code, err = composer()
        assert code == 0, err
        kept.update(contents(tmp_path / "out"))
        shutil.rmtree(tmp_path / "out")
    return kept


def steps_of(err):
    return re.findall(r"^step \d of (\d)  ([a-z ]+?) +[\d.]+ s  (.*)$", err, re.MULTILINE)


def contents(folder):
    """What the files hold, arrays for npz and names for the rest; without what differs from run to run."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found |= {f"{name} {key}": arrays[key].tobytes() for key in arrays if key != "meta"}
        elif path.is_file():
            found[name] = path.read_bytes() if path.suffix in (".ply", ".png") else None
    return found


def test_all_steps_are_done_and_the_next_time_none(composer, run_main, tmp_path):
    code, err = composer()
    assert code == 0, err
    steps = steps_of(err)
    assert [name for _, name, _ in steps] == STEPS
    assert {count for count, _, _ in steps} == {"5"}
    told = [said for _, _, said in steps]
    assert told[0] == "8 frames done, 8 of them now"
    assert told[1].startswith("8 frames done, 8 of them now; ")
    assert told[1].endswith("head none, weights=random")
    assert told[2:] == [
        "2 scenes done, 2 of them now",
        "8 pictures done, 8 of them now",
        "written into out/report.html",
    ]
    places = "report out/report.html, fused scenes out/fused/*.ply, pictures out/*/vis_*.png"
    assert re.search(rf"all done in [\d.]+ s: {re.escape(places)}$", err.strip())
    out = tmp_path / "out"
    counts = {"report.html": 1, "fused/*.ply": 2, "*/vis_*.png": 8, "uv_index/*/uv_*.npz": 8, "*/frame_*.npz": 8}
    assert {pattern: len(list(out.glob(pattern))) for pattern in counts} == counts
    assert "weights=random" in (out / "report.html").read_text()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}

    code, err = composer()
    assert code == 0, err
    told = [said for _, _, said in steps_of(err)]
    assert told[0] == "8 frames done before"
    assert told[1].startswith("8 frames done before; ")
    assert told[2:4] == ["2 scenes done before", "8 pictures done before"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")} == before

    # The commands one by one go on in what the composer has written, and find nothing to do.
    code, err = run_main(fuse_main, "store=out")
    assert code == 0
    assert "0 scenes to fuse, 2 done already" in err
    assert "fuse" not in yaml.safe_load((out / "config.yaml").read_text())


def test_shards_do_all_steps_of_their_own_scenes_and_the_last_one_writes_the_report(
    composer, in_peace, tmp_path, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for index in (1, 0):
        monkeypatch.setenv("RANK", str(index))
        code, err = composer()
        assert code == 0, err
        told = [said for _, _, said in steps_of(err)]
        assert told[0] == "4 frames done, 4 of them now"
        assert told[2:4] == ["1 scene done, 1 of them now", "4 pictures done, 4 of them now"]
        assert told[4] == ("left to the last shard" if index else "written into out/report.html")
        assert (tmp_path / "out" / "summary.json").exists() == (index == 0)
    whole, plain = contents(tmp_path / "out"), in_peace
    own = {
        f"{name}.{index}.{ending}" for name, ending in (("frames", "jsonl"), ("summary", "json")) for index in (0, 1)
    }
    assert whole.keys() == plain.keys() - {"frames.jsonl"} | own
    assert {name: whole[name] for name in plain if name != "frames.jsonl"} == {
        name: content for name, content in plain.items() if name != "frames.jsonl"
    }
    # Doing a share anew leaves what the other one has made.
    code, err = composer("resume=overwrite")
    assert code == 0, err
    assert contents(tmp_path / "out") == whole


def stop_after(count, call):
    """The same function, which Ctrl-C interrupts after so many calls."""
    calls = iter(range(count))

    def stopped(*arguments, **keywords):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return call(*arguments, **keywords)

    return stopped


def slowly(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("step", "place", "name", "how_far"),
    [
        slowly(0, clipfeat.extraction.uv_index, "write_located", "3 of 8 frames are done in out/uv_index"),
        (1, clipfeat.extraction.lane.Lane, "__call__", "3 of 8 frames are done in out"),
        slowly(2, clipfeat.results.fuse.SceneFuser, "__call__", "1 of 2 scenes are done in out/fused"),
        (3, clipfeat.vis.pictures, "save_png", "what was finished is kept"),
        slowly(4, clipfeat.cli.compose, "write_report", "what was finished is kept"),
    ],
)
def test_a_stop_in_any_step_is_made_up_for(composer, in_peace, tmp_path, monkeypatch, step, place, name, how_far):
    calls = [3, 3, 1, 3, 0][step]
    with monkeypatch.context() as patch:
        patch.setattr(place, name, stop_after(calls, getattr(place, name)))
        code, err = composer()
    assert code == 130, err
    assert f"clipfeat: interrupted; {how_far}, the same command goes on from there" in err
    assert [done for _, done, _ in steps_of(err)] == STEPS[:step]
    code, err = composer()
    assert code == 0, err
    told = [said for _, _, said in steps_of(err)]
    assert all("done before" in said for said in told[:step])
    rest = [
        "8 frames done, 5 of them",
        "8 frames done, 5 of",
        "2 scenes done, 1 of",
        "8 pictures done, 5 of",
        "written",
    ]
    assert told[step].startswith(rest[step])
    assert contents(tmp_path / "out") == in_peace


def test_an_overwriting_run_that_is_stopped_leaves_no_scene_that_was_fused_of_older_features(
    composer, scans, tmp_path, monkeypatch
):
    assert composer("vis=none", root=scans)[0] == 0
    before = contents(tmp_path / "out")
    for depth in (scans / "demo0000_00" / "depth").iterdir():  # other scans under the same names
        shutil.copy(next((scans / "demo0001_00" / "depth").iterdir()), depth)
    with monkeypatch.context() as patch:
        patch.setattr(clipfeat.extraction.lane.Lane, "__call__", stop_after(3, clipfeat.extraction.lane.Lane.__call__))
        assert composer("vis=none", "resume=overwrite", root=scans)[0] == 130
    code, err = composer("vis=none", root=scans)
    assert code == 0, err
    assert steps_of(err)[2][2] == "2 scenes done, 2 of them now"
    assert contents(tmp_path / "out")["fused/demo0000_00.npz views"] != before["fused/demo0000_00.npz views"]


def test_a_frame_that_always_fails_does_not_end_the_next_run(composer, scans):
    (scans / "demo0000_00" / "depth" / "20.png").write_bytes(b"no picture")
    for now in ("7 frames done, 7 of them now, 1 failed", "7 frames done before, 1 failed"):
        code, err = composer("vis=none", root=scans)
        assert code == 0, err
        told = [said for _, _, said in steps_of(err)]
        assert told[0] == now
        assert told[1].startswith(now)
        assert "WARNING failed: demo0000_00 frame 20" in err


def test_a_scene_that_can_not_be_read_is_left_out_of_every_step(composer, scans, tmp_path):
    for path in (scans / "demo0000_00" / "color").iterdir():
        path.unlink()
    code, err = composer("vis=none", root=scans)
    assert code == 0, err
    assert [said.split(";")[0] for _, _, said in steps_of(err)][:3] == [
        "4 frames done, 4 of them now, 1 failed",
        "4 frames done, 4 of them now, 1 failed",
        "1 scene done, 1 of them now",
    ]
    assert [path.stem for path in (tmp_path / "out" / "fused").glob("*.npz")] == ["demo0001_00"]


def test_steps_can_be_left_out(composer, tmp_path):
    code, err = composer("sampling=depth", "report=false", "vis=none", "fuse.points=voxel", "fuse.formats=[]")
    assert code == 0, err
    assert [name for _, name, _ in steps_of(err)] == ["extraction", "fusion"]
    assert err.strip().endswith("s: fused scenes out/fused/*.npz")
    assert not (tmp_path / "out" / "uv_index").exists()
    assert not (tmp_path / "out" / "report.html").exists()


def test_what_can_not_end_well_is_told_before_anything_begins(composer, scans, tmp_path):
    for scene in scans.iterdir():
        (scene / f"{scene.name}_vh_clean_2.ply").unlink(missing_ok=True)
    code, err = composer("sampling=depth", "fuse.points=mesh", root=scans)
    assert code == 1
    assert "clipfeat: " in err
    assert (
        "demo0000_00_vh_clean_2.ply: no such file, and 2 of 2 scenes have no mesh that their features could be fused "
        "onto; say where it is by fuse.points_file=…/{scene}….ply, or take fuse.points=voxel" in err
    )
    code, err = composer("fuse.store=elsewhere")
    assert code == 1
    assert "clipfeat: fuse.store=elsewhere: the extraction's own features are fused, those of output_dir=out;" in err
    assert not (tmp_path / "out").exists()


def test_a_sweep_fuses_each_job_of_its_own(composer, tmp_path):
    code, err = composer("-m", "seed=0,1", "vis=none", "frames_per_scene=1", "uv_index=null")
    assert code == 0, err
    jobs = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    assert [len(list(job.glob("fused/*.ply"))) for job in jobs] == [2, 2]


def test_an_extraction_is_told_all_but_the_other_steps():
    cfg = ComposerConfig(data=ScanNetConfig(root="x"), output_dir="a", uv_index="b", seed=7)
    alone = clipfeat.cli.compose.extraction_of(cfg)
    assert type(alone) is ExtractConfig
    assert (alone.output_dir, alone.seed, alone.uv_index, alone.report) == ("a", 7, None, False)
    assert (alone.vis.name, cfg.vis.name) == ("none", "tsne")
    cfg.sampling = MeshSamplingConfig(points_file="c.ply")
    assert clipfeat.cli.compose.extraction_of(cfg).uv_index == "b"
    with pytest.raises(ConfigError, match=r"fuse.store=\?\?\?: the extraction's own features are fused"):
        clipfeat.cli.compose.compose(cfg)
