"""Scenes on the actors of a local Ray cluster: the arrays are those of one process, whatever happens to an actor."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import CHECKOUT
from stores import arrays, assert_same_arrays, uneven_scenes
from test_shards_pipeline import SAME, summary

from clipfeat.results.inspect import inspect_folder

ray = pytest.importorskip("ray")

# Every process of Ray's that works does this first. Its lanes take their time, and say which process takes which scene;
# where there is a file "deadly", the scene that it names kills whoever begins it.
SETUP = """
import os, signal, sys, time
from pathlib import Path
import open_clip
import clipfeat.extraction.lane as lane
open_clip.add_model_config({arch!r})
notes, call = Path({notes!r}), lane.Lane.__call__
def slow(self, frames):
    scene_id = frames[0].key[0]
    if (notes / "deadly").is_file() and (notes / "deadly").read_text() == scene_id:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.15)
    done = call(self, frames)
    [one.result() for one in done if not isinstance(one, lane.Failed)]
    (notes / scene_id).write_text(str(os.getpid()))
    return done
lane.Lane.__call__ = slow
"""
FIXED = ["batch_size=1", "num_workers=1", "report=false"]
RAY = ["engine=ray", "engine.num_workers=2", *FIXED]


@pytest.fixture(scope="module")
def root(demo_root, tmp_path_factory):
    """Five scenes of three, one, four, two and one frames."""
    root = tmp_path_factory.mktemp("scenes")
    return uneven_scenes(demo_root, root, (3, 1, 4, 2, 1))


@pytest.fixture(scope="module")
def environment(tiny_arch, tmp_path_factory):
    """What makes a process of Ray's do ``SETUP``, and the folder of its notes."""
    from open_clip.factory import _MODEL_CONFIG_PATHS

    notes = tmp_path_factory.mktemp("notes")
    arch = next(path for path in _MODEL_CONFIG_PATHS if (path / f"{tiny_arch}.json").is_file())
    (notes / "clipfeat_test_setup.py").write_text(SETUP.format(arch=str(arch), notes=str(notes)))
    return notes, {
        "PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(notes)]),
        "RAY_preload_python_modules": "clipfeat_test_setup",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def notes(environment):
    """A cluster that stays for all tests of this module; the folder where its processes leave notes."""
    folder, variables = environment
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        on_terminate = signal.getsignal(signal.SIGTERM)
        ray.init(
            address="local", num_cpus=2, object_store_memory=80 << 20, include_dashboard=False, log_to_driver=False,
            logging_level="error",
        )  # fmt: skip
        signal.signal(signal.SIGTERM, on_terminate)
        yield folder
        ray.shutdown()


@pytest.fixture
def run(run_cli, root, tmp_path):
    def extract(name, *overrides, code=0):
        found, err = run_cli(f"data.root={root}", f"output_dir={name}", *overrides)
        assert found == code, err
        assert "Traceback" not in err
        return tmp_path / name, err

    return extract


@pytest.fixture
def plain(run):
    return run("plain", *FIXED)[0]


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/frame_*.npz")}


def assert_whole(folder, plain):
    assert_same_arrays(folder, arrays(plain))
    assert {key: summary(folder)[key] for key in SAME if key != "visible_share"} == {
        key: summary(plain)[key] for key in SAME if key != "visible_share"
    }
    found = inspect_folder(folder, verify=True)
    assert (found.facts["run"], found.facts["record"], found.broken) == ("finished", "", [])
    assert not list(folder.glob("**/.*.tmp"))


def test_two_actors_give_the_arrays_and_the_summary_of_one_process(run, plain, notes, root, monkeypatch):
    monkeypatch.chdir(root.parent)  # paths may be relative
    out, err = run(plain.parent / "out", f"data.root={root.name}", *RAY)
    assert "engine=ray: 2 actors, each of 1 CPUs and 0 GPUs" in err
    assert err.count("weights=random: the arithmetic is right") == 1
    assert "demo0004_00: " in err
    assert_whole(out, plain)
    assert (summary(out)["run"]["workers"], summary(out)["run"]["frames"]) == (2, 11)
    assert summary(out)["run"]["seconds_a_stage"].keys() >= {"model", "write", "start ray"}
    assert sorted(path.name for path in out.glob("frames*")) == ["frames.0.jsonl", "frames.1.jsonl"]
    assert all((notes / f"demo{number:04d}_00").is_file() for number in range(5))
    before = times(out)
    assert "all 11 frames are done already" in run(out, f"data.root={root.name}", *FIXED)[1]  # by whatever engine
    assert times(out) == before


def kill_the_one_that_works(notes, scene_id, before, out):
    """In the background: when a process has done a frame of the scene, and not all, it is killed."""

    def kill():
        (notes / scene_id).unlink(missing_ok=True)
        deadline = time.monotonic() + 120
        while not (notes / scene_id).is_file() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.02)  # the note may be half written
        os.kill(int((notes / scene_id).read_text()), signal.SIGKILL)
        before.update(times(out))

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


@pytest.mark.parametrize("vis", ["none", "heatmap"])
def test_the_scene_of_an_actor_that_is_killed_goes_on_in_another(run, plain, notes, tmp_path, vis):
    before = {}
    killer = kill_the_one_that_works(notes, "demo0002_00", before, tmp_path / "out")
    out, err = run("out", *RAY, f"vis={vis}", "vis.dpi=30")
    killer.join()
    assert "WARNING a Ray actor died at demo0002_00, which goes on in another: its process was killed" in err
    assert_whole(out, plain)
    assert summary(out)["run"]["workers_died"] == 1
    assert summary(out)["run"]["frames"] == 11
    assert 0 < len(before) < 11
    if vis == "none":  # with pictures a scene is done as a whole
        assert {path: times(out)[path] for path in before} == before
    else:
        assert len(list(out.glob("*/vis_*.png"))) == 11


def test_a_scene_that_kills_every_actor_is_left_undone(run, plain, notes):
    (notes / "deadly").write_text("demo0002_00")
    try:
        out, err = run("out", *RAY, "engine.max_restarts=0", code=1)
    finally:
        (notes / "deadly").unlink()
    assert "clipfeat: 1 scenes are not done, as 1 Ray actors died of each; the others are. demo0002_00: its pro" in err
    assert len(times(out)) == 7
    assert summary(out)["run"]["interrupted"] is True
    before = times(out)
    out, err = run("out", *FIXED)
    assert "4 frames to do, 7 done already" in err
    assert {path: times(out)[path] for path in before} == before
    assert_whole(out, plain)


def test_what_is_wrong_in_an_actor_is_told_in_one_line(run, notes, scans):
    (scans / "demo0001_00" / "pose" / "20.txt").write_text("nonsense")
    one = ["engine=ray", "engine.num_workers=1", *FIXED]
    out, err = run("out", *one, f"data.root={scans}", "on_bad_frame=fail", code=1)
    last = err.strip().splitlines()[-1]
    assert last.startswith(f"clipfeat: {scans}/demo0001_00/pose/20.txt: ")
    out, err = run("out", *one, f"data.root={scans}")
    assert (summary(out)["frames"], summary(out)["failed"]) == (7, 1)
    err = run("other", *one, "model.pretrained=nowhere.pt", code=1)[1]
    assert "nowhere.pt" in err.strip().splitlines()[-1]
    err = run("other", *RAY, "device=cuda", code=1)[1]
    assert "engine.gpus_per_worker=1: no node of the Ray cluster has so many" in err


def processes():
    """Parent and command of each process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(path.name)] = parent, (path / "cmdline").read_bytes().decode()
        except OSError:
            continue
    return found


def below(process):
    """All that a process has started, and what that has started."""
    found, known = {process}, processes()
    for _ in range(10):
        found |= {number for number, (parent, _) in known.items() if parent in found}
    return found - {process}


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc")
def test_ctrl_c_ends_all_processes_and_keeps_what_is_done(run, plain, environment, root, tiny_arch, tmp_path):
    command = [sys.executable, "-m", "clipfeat_test_main", f"data.root={root}", "output_dir=out", *RAY]
    command += [f"model.arch={tiny_arch}", "model.pretrained=null", "vis=none", "sampling.num_points=200"]
    (environment[0] / "clipfeat_test_main.py").write_text(
        "from clipfeat.cli.commands import extract_main\nextract_main()\n"
    )
    out, everything = tmp_path / "out", {**os.environ, **environment[1]}
    started = subprocess.Popen(
        command, cwd=tmp_path, env=everything, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(times(out)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    children = below(started.pid)
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does
    err = started.communicate(timeout=60)[1]
    assert started.returncode == 130, err
    done = len(times(out))
    assert f"clipfeat: interrupted; {done} of 11 frames are done in out, the same command goes on from there" in err
    assert "Traceback" not in err
    assert 2 <= done < 11
    assert len(children) > 3
    time.sleep(0.5)
    assert not children.intersection(processes())
    before = times(out)
    assert f"{11 - done} frames to do, {done} done already" in run("out", *FIXED)[1]
    assert {path: times(out)[path] for path in before} == before
    assert_whole(out, plain)
