"""Several processes on one machine: one that is killed, all that are interrupted, errors, and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from conftest import CHECKOUT
from stores import arrays, assert_same_arrays

from clipfeat.extraction import launch
from clipfeat.extraction.launch import process_count, start_method
from clipfeat.system.shards import begun_file

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")

# A file, for the processes that are started import it too. Slow, so that they can be caught in the middle.
PROGRAM = """
import os, time, clipfeat.cli.commands
if __name__ != "__main__" or "RANK" in os.environ:  # the one that starts them needs no model
    import open_clip, clipfeat.extraction.lane as lane
    open_clip.add_model_config({arch!r})
    call = lane.Lane.__call__
    def slow(*arguments):
        time.sleep(0.3)
        return call(*arguments)
    lane.Lane.__call__ = slow
if __name__ == "__main__":
    if "LEADS" in os.environ:
        os.setsid()
    clipfeat.cli.commands.extract_main()
"""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"]


@pytest.fixture
def plain(run_cli, demo_root, tmp_path):
    """The folder of a run of one process."""
    code, err = run_cli(f"data.root={demo_root}", "output_dir=plain", "batch_size=1", "report=false")
    assert code == 0, err
    return tmp_path / "plain"


@pytest.fixture
def start(demo_root, tiny_arch, tmp_path, start_warm):
    """Starts clipfeat-extract in a group of its own; nothing of the group may be left when the test ends.

    It begins warm, and so do its processes, but where a launcher starts it or it is asked for ``true`` processes.
    """
    from open_clip.factory import _MODEL_CONFIG_PATHS

    arch = next(path for path in _MODEL_CONFIG_PATHS if (path / f"{tiny_arch}.json").is_file())
    (tmp_path / "program.py").write_text(PROGRAM.format(arch=str(arch)))
    started, temporary = [], mkdtemp()  # of a short name: a socket's is limited

    def start(*overrides, launcher=(), root=demo_root, true=False):
        arguments = [f"data.root={root}", "output_dir=out", "report=false", f"model.arch={tiny_arch}"]
        arguments += ["model.pretrained=null", "vis=none", "sampling.num_points=200", "batch_size=1", "num_workers=1"]
        arguments += overrides
        environment = {
            **os.environ,
            "PYTHONPATH": str(CHECKOUT),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": temporary,
        }
        if launcher or true:
            command = [sys.executable, *launcher, "program.py", *arguments]
            process = subprocess.Popen(
                command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
            )
        else:
            process = start_warm(tmp_path / "program.py", arguments, environment | {"LEADS": "1"})
        started.append(process.pid)
        return process

    yield start
    for group in started:
        assert is_gone(group)
    left = [path.name for path in Path(temporary).iterdir() if not path.name.startswith("torchelastic_")]  # torchrun's
    shutil.rmtree(temporary)
    assert left == []


def is_gone(group):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    return False


def wait_for_frames(folder, scenes=2):
    """Until each of several scenes has a frame; returns when each file was written."""
    deadline = time.monotonic() + 120
    files = []
    while len({path.parent for path in files}) < scenes and time.monotonic() < deadline:
        files = list(folder.glob("*/frame_*.npz"))
        time.sleep(0.01)
    return {path: path.stat().st_mtime_ns for path in files}


def children(process):
    """Process id and command line of each."""
    found = map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
    return {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in found}


def workers(run):
    """The shards: children of the server that multiprocessing copies them from, or torchrun's own."""
    of_run = children(run.pid)
    servers = [child for child, command in of_run.items() if b"forkserver" in command]
    torchruns = [child for child, command in of_run.items() if b"program.py" in command]
    return torchruns or [child for server in servers for child in children(server)]


def assert_all_done_once(out, plain, times):
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert_same_arrays(out, arrays(plain))
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["frames"], summary["run"]["interrupted"]) == (8, False)
    assert sorted(path.name for path in out.glob("frames*.jsonl")) == ["frames.0.jsonl", "frames.1.jsonl"]
    lines = [json.loads(line) for path in out.glob("frames*.jsonl") for line in path.read_text().splitlines()]
    assert len({(line["scene_id"], line["frame_id"]) for line in lines}) == len(lines) == 8


def test_a_process_that_is_killed_is_started_again_and_nothing_is_done_twice(start, plain, tmp_path):
    run = start("devices=2", "resume=overwrite")
    times = wait_for_frames(tmp_path / "out")
    os.kill(workers(run)[-1], signal.SIGKILL)
    _, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    assert err.startswith("2 processes are started; each says [its number]")
    assert "\nWARNING process 1 terminated with signal SIGKILL; all of them are ended and go on from there\n" in err
    assert err.count("[1] shard 1 of 2, counted from 0: 1 of 2 scenes, 4 of 8 frames\n") == 2
    assert all(line[:3] in ("[0]", "[1]", "WAR", "2 p") for line in err.splitlines()), err
    assert_all_done_once(tmp_path / "out", plain, times)


@pytest.mark.slow
def test_torchrun_starts_a_process_that_is_killed_again_and_nothing_is_done_twice(start, plain, tmp_path):
    run = start("resume=overwrite", launcher=TORCHRUN)
    times = wait_for_frames(tmp_path / "out")
    os.kill(workers(run)[-1], signal.SIGKILL)
    _, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    assert_all_done_once(tmp_path / "out", plain, times)


def test_ctrl_c_ends_all_processes_and_the_same_command_goes_on(start, plain, tmp_path):
    run = start("devices=2")
    times = wait_for_frames(tmp_path / "out")
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=240)
    assert run.returncode == 130, err
    last = err.splitlines()[-1]
    assert last.startswith("clipfeat: interrupted; ")
    assert last.endswith(" of 8 frames are done in out, the same command goes on from there")
    assert "Traceback" not in err
    assert "SIG" not in err
    assert is_gone(run.pid)
    assert times.items() <= wait_for_frames(tmp_path / "out").items()
    run = start("devices=2")
    _, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    assert_all_done_once(tmp_path / "out", plain, times)


@pytest.mark.slow
def test_an_error_is_told_once_and_ends_all(start, scans):
    (scans / "demo0001_00" / "pose" / "20.txt").write_text("nonsense")
    run = start("devices=2", "on_bad_frame=fail", root=scans, true=True)
    _, err = run.communicate(timeout=240)
    assert run.returncode == 1, err
    assert err.count("clipfeat: ") == 1
    assert err.splitlines()[-1].startswith("clipfeat: ")
    assert "20.txt" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert err.count("shard 1 of 2") == 1


def test_a_shard_of_bad_frames_alone_is_no_error_but_a_run_of_them_is(run_cli, scans, tmp_path):
    for path in (scans / "demo0001_00" / "pose").iterdir():
        path.write_text("nonsense")
    for index in range(2):
        shard = [f"shard.index={index}", "shard.count=2"]
        code, err = run_cli(f"data.root={scans}", "output_dir=out", "report=false", *shard)
        assert code == 0, err
    for path in (scans / "demo0000_00" / "pose").iterdir():
        path.write_text("nonsense")
    for index in range(2):
        shard = [f"shard.index={index}", "shard.count=2"]
        code, err = run_cli(f"data.root={scans}", "output_dir=all", "report=false", *shard)
        assert code == index, err
    assert "clipfeat: all 8 frames failed; all/frames.*.jsonl say why" in err


def test_what_devices_mean(monkeypatch, caplog):
    assert [process_count(devices, "cpu") for devices in (None, "1", "3", "auto")] == [1, 1, 3, 1]
    for gpus in (0, 4):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpus=gpus: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        for cores, expected in ((2, 1), (16, 1), (17, 1), (64, 4)) if gpus else ((16, 1),):
            monkeypatch.setattr(launch, "usable_cores", lambda cores=cores: cores)
            assert process_count("auto", "auto") == max(1, gpus) * expected
        assert process_count("auto", "cpu") == 1
        assert process_count("2", "auto") == 2
        assert not caplog.text
    assert process_count("6", "cuda") == 6
    assert "WARNING devices=6: this machine shows 4 GPUs, which the processes share" in caplog.text


def test_processes_are_copies_of_a_server_where_it_can_listen(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for folder, method in {"/scratch/" + "x" * 90: "spawn", "/scratch": "forkserver"}.items():
        monkeypatch.setattr("clipfeat.extraction.launch.gettempdir", lambda folder=folder: folder)
        assert start_method() == method
    monkeypatch.setattr(sys, "platform", "darwin")
    assert start_method() == "spawn"


def test_one_device_is_this_process_alone(run_cli, demo_root, tmp_path):
    for devices in ("1", "auto"):
        own = ["devices=" + devices, "device=cpu", "output_dir=" + devices]
        code, err = run_cli(f"data.root={demo_root}", "frames_per_scene=1", "report=false", *own)
        assert code == 0, err
        assert (tmp_path / devices / "frames.jsonl").is_file()


@pytest.mark.parametrize(
    ("overrides", "environment", "message"),
    [
        (["devices=0"], {}, "clipfeat: devices=0: expected auto, or a number of processes of at least 1"),
        (["devices=two"], {}, "clipfeat: devices=two: expected auto, or a number"),
        (["devices=2", "device=cuda:2"], {}, "clipfeat: devices=2 device=cuda:2: each process takes a GPU of its own"),
        (["devices=2", "shard.index=0", "shard.count=2"], {}, "but this process is shard 0 of 2 already"),
        (["devices=2", "shard.index=0", "shard.count=1"], {}, "but this process is shard 0 of 1 already"),
        (["devices=2"], {"RANK": "1", "WORLD_SIZE": "4"}, "but this process is shard 1 of 4 already"),
        (["devices=2"], {"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}, "but this process is shard 1 of 4 already"),
    ],
)
def test_what_can_not_be_started_is_told(run_cli, monkeypatch, overrides, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, err = run_cli("data.root=x", *overrides)
    assert code == 1
    assert message in err


def test_where_a_process_says_that_it_had_begun(tmp_path):
    assert begun_file("out", {}) is None
    assert begun_file("out", {"RANK": "0", "TORCHELASTIC_ERROR_FILE": ""}) is None

    def of(attempt, rank, output_dir):
        error_file = tmp_path / "launch" / f"attempt_{attempt}" / rank / "error.json"
        return begun_file(output_dir, {"RANK": rank, "TORCHELASTIC_ERROR_FILE": str(error_file)})

    assert of(0, "1", "out") == of(3, "1", "out")
    assert of(0, "1", "out").parent == tmp_path / "launch"
    assert len({of(0, rank, output_dir) for rank in "01" for output_dir in ("out", "other")}) == 4
