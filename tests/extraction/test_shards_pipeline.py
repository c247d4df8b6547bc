"""Several processes into one folder: the arrays are those of one run, whatever happens to one of them."""

import json
import os
import signal
import time

import pytest
from conftest import CHECKOUT
from stores import arrays, assert_same_arrays, uneven_scenes

from clipfeat.results.inspect import inspect_folder


@pytest.fixture(scope="session")
def uneven_root(demo_root, tmp_path_factory):
    """Five scenes of three, one, three, two and one frames."""
    root = tmp_path_factory.mktemp("uneven")
    return uneven_scenes(demo_root, root, (3, 1, 3, 2, 1))


@pytest.fixture
def run(run_cli, tmp_path):
    """Runs into a folder, one frame a batch: the last digit of a feature depends on which frames share its batch."""

    def extract(root, name, *overrides):
        code, err = run_cli(f"data.root={root}", f"output_dir={name}", "batch_size=1", "report=false", *overrides)
        assert code == 0, err
        return tmp_path / name, err

    return extract


def summary(folder, name="summary.json"):
    return json.loads((folder / name).read_text())


SAME = ("frames", "failed", "points", "bytes", "visible_share", "model", "failures", "scenes_left_out")


@pytest.mark.parametrize(
    ("count", "output"),
    [(1, "npz"), (2, "h5_scene"), *(pytest.param(count, "npz", marks=pytest.mark.slow) for count in (4, 7))],
)
def test_shards_give_the_arrays_and_the_summary_of_one_run(run, uneven_root, tmp_path, count, output):
    plain, _ = run(uneven_root, "plain", f"output={output}")
    for index in reversed(range(count)):
        own = [f"output={output}", f"shard.index={index}", f"shard.count={count}", f"report={count == 2}"]
        out, err = run(uneven_root, "out", *own)
        assert (out / "summary.json").is_file() == (index == 0)
        assert (out / "report.html").is_file() == (index == 0 and count == 2)
        assert ("the last one to end writes summary.json" in err) == (index > 0)
        if index == 1:
            assert inspect_folder(out).facts["run"].startswith("still running")
    assert_same_arrays(out, arrays(plain))
    whole, expected = summary(out), summary(plain)
    assert {key: dict(whole)[key] for key in SAME} == {key: expected[key] for key in SAME}
    assert whole["run"]["frames"] == 10
    found = inspect_folder(out)
    assert (found.facts["run"], found.facts["record"], found.broken) == ("finished", "", [])
    if count > 1:
        assert not (out / "frames.jsonl").exists()
        assert whole["run"]["shards"] == count
        shards = [summary(out, f"summary.{index}.json") for index in range(count)]
        assert [shard["shard"]["index"] for shard in shards] == list(range(count))
        assert sum(shard["frames"] for shard in shards) == 10
    # The same command again, and one process for all: nothing is done twice.
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in (".npz", ".h5")}
    for again in ([f"shard.index={index}", f"shard.count={count}"] for index in range(count)):
        assert "frames are done already" in run(uneven_root, "out", f"output={output}", *again)[1]
    assert "all 10 frames are done already" in run(uneven_root, "out", f"output={output}")[1]
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_shards_of_real_frames_give_the_arrays_of_one_run(run, office):
    some = ["frames_per_scene=3", "model/head=none"]
    plain, _ = run(office, "plain", *some)
    for index in range(2):
        out, _ = run(office, "out", *some, f"shard.index={index}", "shard.count=2")
    assert_same_arrays(out, arrays(plain))


def test_torchrun_and_slurm_say_which_shard_it_is(run, uneven_root, monkeypatch):
    for names in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        with monkeypatch.context() as environment:
            environment.setenv(names[1], "2")
            environment.setenv(names[0], "1")
            out, err = run(uneven_root, names[0])
        assert "shard 1 of 2, counted from 0: " in err
        assert (out / "frames.1.jsonl").is_file()
        assert len((out / "frames.1.jsonl").read_text().splitlines()) == 5


def test_a_bad_scene_and_a_bad_frame_are_told_by_their_own_shard(run, scans):
    (scans / "demo0001_00" / "pose" / "20.txt").write_text("nonsense")
    for path in (scans / "demo0000_00" / "color").iterdir():
        path.unlink()
    for index in range(2):
        out, err = run(scans, "out", f"shard.index={index}", "shard.count=2")
        assert ("a scene is left out" in err) == (index == 1)
    whole = summary(out)
    assert (whole["frames"], whole["failed"], whole["scenes_left_out"]) == (3, 1, 1)
    assert [failure["scene_id"] for failure in whole["failures"]] == ["demo0001_00", "demo0000_00"]


def test_other_shards_than_before_go_on_and_one_that_is_overwritten_is_done_again(run, uneven_root):
    plain, _ = run(uneven_root, "plain")
    run(uneven_root, "out", "shard.index=0", "shard.count=2")
    for index in range(3):
        out, _ = run(uneven_root, "out", f"shard.index={index}", "shard.count=3")
    assert_same_arrays(out, arrays(plain))
    assert summary(out)["run"]["shards"] == 3
    out, err = run(uneven_root, "out", "shard.index=1", "shard.count=3", "resume=overwrite")
    assert ", 0 done already" in err
    assert_same_arrays(out, arrays(plain))
    out, _ = run(uneven_root, "out", "seed=1", "shard.index=0", "shard.count=2", "resume=overwrite")
    assert sorted(path.name for path in out.glob("*.*.json*")) == ["frames.0.jsonl", "summary.0.json"]


SLOW = (
    "import sys, time, open_clip, clipfeat.extraction.lane as lane\n"
    "open_clip.add_model_config(sys.argv.pop(1))\n"
    "call = lane.Lane.__call__\n"
    "def slow(*arguments):\n"
    "    time.sleep(0.1)\n"
    "    return call(*arguments)\n"
    "lane.Lane.__call__ = slow\n"
    "from clipfeat.cli.commands import extract_main\n"
    "extract_main()\n"
)


TOGETHER = SLOW.replace(
    "    time.sleep(0.1)\n",
    "    here = len(list(place.glob(f'*.{os.getpid()}')))\n"
    "    (place / f'{here}.{os.getpid()}').touch()\n"
    "    deadline = time.monotonic() + 60\n"
    "    while len(list(place.glob(f'{here}.*'))) < 2 and time.monotonic() < deadline:\n"
    "        time.sleep(0.002)\n",
).replace("call =", "import os, pathlib\nplace = pathlib.Path(os.environ['PLACE'])\ncall =")
"""Does a batch when another process has come as far."""


@pytest.fixture
def start(uneven_root, tiny_arch, start_warm):
    """Starts a process of clipfeat-extract that takes its time."""
    from open_clip.factory import _MODEL_CONFIG_PATHS

    arch = next(path for path in _MODEL_CONFIG_PATHS if (path / f"{tiny_arch}.json").is_file())

    def start(name, *overrides, program=SLOW, **environment):
        command = [str(arch), f"data.root={uneven_root}", f"output_dir={name}"]
        command += [f"model.arch={tiny_arch}", "model.pretrained=null", "vis=none", "sampling.num_points=200"]
        command += ["batch_size=1", "num_workers=1", "report=false", *overrides]
        return start_warm(program, command, {**os.environ, "PYTHONPATH": str(CHECKOUT), **environment})

    return start


def test_a_shard_that_is_killed_is_ended_by_the_same_command(run, start, uneven_root, tmp_path):
    plain, _ = run(uneven_root, "plain")
    out = tmp_path / "out"
    run(uneven_root, "out", "shard.index=0", "shard.count=2")
    killed, before = start("out", RANK="1", WORLD_SIZE="2"), len(list(out.glob("*/frame_*.npz")))
    deadline = time.monotonic() + 120
    while len(list(out.glob("*/frame_*.npz"))) == before and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    times = {path: path.stat().st_mtime_ns for path in out.glob("*/frame_*.npz")}
    assert before < len(times) < 10
    assert not (out / "summary.json").exists()
    assert "shard 0 is done; the last one to end" in run(uneven_root, "out", "shard.index=0", "shard.count=2")[1]
    run(uneven_root, "out", "shard.index=1", "shard.count=2")
    assert_same_arrays(out, arrays(plain))
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert {key: summary(out)[key] for key in SAME} == {key: summary(plain)[key] for key in SAME}
    assert summary(out)["run"]["interrupted"] is False


@pytest.mark.parametrize(("output", "told"), [("npz", {}), ("h5_scene", {"RANK": "0", "WORLD_SIZE": "2"})])
def test_two_processes_that_are_given_the_same_scenes_do_no_harm(run, start, uneven_root, tmp_path, output, told):
    plain, _ = run(uneven_root, "plain", f"output={output}")
    out, place = tmp_path / "out", tmp_path / "place"
    place.mkdir()
    own = 5 if told else 10  # frames
    both = [start("out", f"output={output}", program=TOGETHER, PLACE=str(place), **told) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    for process, err in zip(both, said, strict=True):
        assert process.returncode == 0, err
        assert f"{own} frames to do, 0 done already" in err  # none of them had a lead
        assert len(list(place.glob(f"*.{process.pid}"))) == own
    # Each wrote a line a frame, and none of them is torn.
    record = out / ("frames.0.jsonl" if told else "frames.jsonl")
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(lines) == 2 * own
    if told:
        assert not (out / "summary.json").exists()
        run(uneven_root, "out", f"output={output}", "shard.index=1", "shard.count=2")
    assert_same_arrays(out, arrays(plain))
    assert {key: summary(out)[key] for key in SAME} == {key: summary(plain)[key] for key in SAME}
    found = inspect_folder(out, verify=True)
    assert (found.facts["run"], found.facts["record"], found.broken) == ("finished", "", [])
    assert not list(out.rglob("*.tmp"))
    assert "10 frames are done already" in run(uneven_root, "out", f"output={output}")[1]
