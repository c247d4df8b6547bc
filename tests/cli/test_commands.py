import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import CHECKOUT

from clipfeat.cli.commands import sweep_folder


@pytest.mark.parametrize("overrides", [["--help"], ["data.root=x", "--cfg", "job"]])
def test_questions_are_answered_without_importing_what_is_slow(overrides):
    program = (
        "import sys, clipfeat.cli.commands\n"
        f"sys.argv = ['clipfeat-extract', *{overrides!r}]\n"
        "try:\n    clipfeat.cli.commands.extract_main()\n"
        "finally:\n"
        "    heavy = {'torch', 'open_clip', 'sklearn', 'matplotlib', 'scipy', 'h5py', 'numpy'} & set(sys.modules)\n"
        "    print('heavy:', sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment())
    assert done.returncode == 0
    assert "heavy: []" in done.stderr
    assert "sampling" in done.stdout
    assert "num_points: 20000" in done.stdout


def environment():
    return {**os.environ, "PYTHONPATH": str(CHECKOUT)}


def test_help_shows_how_to_start():
    done = subprocess.run(
        [sys.executable, "-c", "import clipfeat.cli.commands; clipfeat.cli.commands.extract_main()", "--help"],
        capture_output=True,
        text=True,
        env=environment(),
    )
    for phrase in ("experiment=demo", "data.root=", "on_bad_frame=skip|fail", "model.pretrained=null"):
        assert phrase in done.stdout


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["frames_per_scen=3"], "clipfeat: frames_per_scen: no such key; did you mean frames_per_scene"),
        (["model.precison=fp16"], "clipfeat: model.precison: no such key; did you mean model.precision"),
        (["output=hdf5"], "clipfeat: output=hdf5: no such choice, expected one of grid, h5, h5_scene, npz"),
        (["model/head=big"], "clipfeat: model/head=big: no such choice, expected one of none, pixelshuffle, proj128"),
        (
            ["frames_per_scene=few"],
            "clipfeat: frames_per_scene: Value 'few' of type 'str' could not be converted to Integer",
        ),
        (["data.num_scenes=3"], "clipfeat: data.num_scenes: not a key of the chosen data"),
        (["device"], "clipfeat: cannot read the override 'device': expected key=value"),
        ([], "clipfeat: data.root is not set: give the folder that holds one folder a scene, as data.root=…"),
        (["data.root=x", "frames_per_scene=0"], "clipfeat: frames_per_scene=0: expected a number of at least 1"),
        (["data.root=nowhere"], "clipfeat: data.root=nowhere: no such folder"),
        (["data.root=x", "device=tpu"], "clipfeat: device=tpu: expected auto, cpu, cuda or cuda:<n>"),
        (["data.root=x", "device=cuda:99"], "clipfeat: device=cuda:99: this machine shows"),
        (["--config-name=fuse"], "clipfeat: --config-name=fuse: is not for clipfeat-extract"),
        (
            ["--config-name=composer", "fuse.best_view=3"],
            "clipfeat: fuse.best_view: no such key; did you mean fuse.best_v",
        ),
        (
            ["-cn", "composer", "xyz=3"],
            "clipfeat: xyz: no such key; clipfeat-extract --config-name composer --help lists the keys",
        ),
        (["data.root=x", "model.head.name=big"], "clipfeat: model.head.name=big: expected one of none"),
    ],
)
def test_a_wrong_command_line_gets_one_line_and_exit_code_one(run_cli, overrides, message):
    code, err = run_cli(*overrides, tiny=False, small=False)
    assert code == 1
    assert [line for line in err.splitlines() if line.startswith(message)], err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


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
        assert len(name) < 120
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
    run = start_warm(program, command, environment())
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
