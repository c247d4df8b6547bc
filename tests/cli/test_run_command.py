import argparse
import copy
import os
import signal
import time

import pytest
from conftest import CHECKOUT
from hydra.core.config_store import ConfigStore
from omegaconf.errors import ConfigKeyError

from clipfeat.cli.run import late_help_accepted, sweep_folder


def test_sweep_folders_are_readable_and_can_not_collide():
    names = [
        sweep_folder(o)
        for o in (
            ["model=vit_b16", "sampling.num_points=5000"],
            ["model=vit_b16", "sampling.num_points=20000"],
            ["data.root=/a/b", "model=vit_b16"],
            ["data.root=/a:b", "model=vit_b16"],
            ["scenes_file=" + "x" * 200 + "1"],
            ["scenes_file=" + "x" * 200 + "2"],
            ["output_dir=out"],
            ["output_dir=../../etc"],
        )
    ]
    assert len(set(names)) == len(names)
    assert names[0].startswith("model=vit_b16-sampling.num_points=5000-")
    for name in names:
        assert "/" not in name
        assert not name.startswith(".")
        assert len(name) < 143
    swept = sweep_folder(["data.root=/a/very/long/way/to/my scans", "scenes_file=/b/" + "x" * 90, "model/head=proj128"])
    assert swept.startswith("model.head=proj128-data.root=my-scans-scenes_file=xxx")
    assert sweep_folder(["a=1"]) == sweep_folder(["a=1"])
    assert sweep_folder(["a=1", "shard.index=0"]) == sweep_folder(["a=1", "shard.index=1"]) == sweep_folder(["a=1"])


def test_a_sweep_writes_to_folders_of_its_own_and_runs_again_without_work(run_cli, demo_root, tmp_path):
    sweep = ["-m", f"data.root={demo_root}", "frames_per_scene=1", "output_dir=sw", "output=npz,h5", "seed=0,1"]
    code, _ = run_cli(*sweep)
    assert code == 0
    jobs = sorted(p for p in (tmp_path / "sw").iterdir() if p.is_dir())
    assert len(jobs) == 4
    for job in jobs:
        assert len(list(job.glob("*/frame_0.*"))) == 2
        assert (job / "summary.json").is_file()
    code, err = run_cli(*sweep)
    assert code == 0
    assert err.count("all 2 frames are done already in") == 4


@pytest.mark.parametrize("place", ["clipfeat.cli.run.hydra.main", "clipfeat.cli.commands._extract"])
def test_an_interrupt_that_others_trip_over_is_one(run_cli, monkeypatch, place):
    """As in OmegaConf: what it puts back fails, in the middle of what was stopped, and this is what it raises."""

    def tripping(*_args, **_options):
        try:
            raise KeyboardInterrupt
        finally:
            try:
                None.flags
            except AttributeError as error:
                raise ConfigKeyError(str(error)) from None

    monkeypatch.setattr(place, tripping)
    code, err = run_cli("data=demo", "data.root=x")
    assert code == 130
    assert err == "clipfeat: interrupted; what was finished is kept, the same command goes on from there\n"


def test_sigterm_ends_a_run_like_ctrl_c(demo_root, tmp_path, start_warm):
    """What SLURM and kill send: exit code 130, what is done stays, no traceback."""
    program = (
        "import clipfeat.extraction.lane as lane, clipfeat.cli.commands, time\n"
        "call = lane.Lane.__call__\n"
        "def slow(*a):\n"
        "    time.sleep(0.7)\n"
        "    return call(*a)\n"
        "lane.Lane.__call__ = slow\n"
        "clipfeat.cli.commands.extract_main()\n"
    )
    out = tmp_path / "out"
    command = [f"data.root={demo_root}", f"output_dir={out}", "vis=none", "batch_size=1", "num_workers=1"]
    command += ["model.arch=ViT-S-32-alt", "model.pretrained=null", "sampling.num_points=100"]
    run = start_warm(program, command, {**os.environ, "PYTHONPATH": str(CHECKOUT)})
    deadline = time.monotonic() + 120
    while not list(out.glob("*/frame_*.npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    done = len(list(out.glob("*/frame_*.npz")))
    assert 1 <= done < 8
    assert f"clipfeat: interrupted; {done} of 8 frames are done in {out}, the same command goes on" in err
    assert "Traceback" not in err
    assert not list(out.glob("**/*.tmp"))
    assert '"interrupted": true' in (out / "summary.json").read_text()


def test_hydra_s_store_is_shared_for_a_command_and_left_as_it_was(run_cli):
    """It is looked up in place while a command is composed, so nothing that is composed may change it."""
    run_cli("--help")  # from which on it has what Hydra's plugins put there
    store = ConfigStore.instance()
    before = copy.deepcopy(store.repo)
    for arguments in (["--cfg", "job", "data=tum", "data.root=x", "model.input_size=336"], ["--help"]):
        run_cli(*arguments)
    assert "__deepcopy__" not in vars(ConfigStore)
    assert store.repo == before


class LateHelp:
    """As Hydra's of ``--shell-completion``."""

    def __repr__(self):
        return "written when it is shown"


@pytest.fixture
def help_checked(monkeypatch):
    """argparse as of Python 3.14, which looks at each help text as soon as it is given (Lib/argparse.py)."""
    if hasattr(argparse.ArgumentParser, "_check_help"):
        return

    def check(self, action):
        try:
            if action.help and "%" in action.help:
                self._get_formatter()._expand_help(action)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError("badly formed help string") from error

    def add_and_check(self, *args, **options):
        action = add(self, *args, **options)
        self._check_help(action)
        return action

    add = argparse.ArgumentParser.add_argument
    monkeypatch.setattr(argparse.ArgumentParser, "_check_help", check, raising=False)
    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", add_and_check)


@pytest.mark.usefixtures("help_checked")
@pytest.mark.parametrize("arguments", [["--help"], ["--cfg=job", "data=demo"]])
def test_hydra_s_parser_passes_argparse_of_python_3_14(run_cli, arguments):
    assert run_cli(*arguments) == (0, "")


@pytest.mark.usefixtures("help_checked")
def test_only_a_late_help_is_accepted_and_only_meanwhile():
    with late_help_accepted():
        argparse.ArgumentParser().add_argument("--late", help=LateHelp())
        with pytest.raises(ValueError, match="badly formed help string"):
            argparse.ArgumentParser().add_argument("--wrong", help="100 %")
    with pytest.raises(ValueError, match="badly formed help string"):
        argparse.ArgumentParser().add_argument("--late", help=LateHelp())
