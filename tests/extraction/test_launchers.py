"""Shards as the jobs of a sweep, on this machine and on what looks like a SLURM cluster."""

import shutil
import sys
from pathlib import Path

import pytest
from conftest import CHECKOUT
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from stores import arrays, assert_same_arrays

from clipfeat.cli.commands import extract_main

SBATCH = """
import os, re, shutil, subprocess, sys
script = sys.argv[-1]
first, last = re.search(r"--array=([0-9]+)-([0-9]+)", open(script).read()).groups()
shutil.copy(script, os.environ["SUBMITTED"])
for task in range(int(first), int(last) + 1):
    told = {"JOB_ID": 100 + task, "ARRAY_JOB_ID": 77, "ARRAY_TASK_ID": task, "NTASKS": 1, "JOB_NUM_NODES": 1}
    told |= {"PROCID": 0, "LOCALID": 0, "NODEID": 0}
    environment = os.environ | {f"SLURM_{name}": str(value) for name, value in told.items()}
    subprocess.Popen(["bash", script], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job 77")
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Programs that do what those of SLURM do: sbatch starts each task of an array, srun what stands in the script."""
    pytest.importorskip("submitit")
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "sbatch": f"#!{sys.executable}{SBATCH}",
        "srun": f'#!/bin/sh\nuntil [ "$1" = "{sys.executable}" ]; do shift; done\nexec "$@"\n',
        "sacct": "#!/bin/sh\n",
    }
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{Path('/usr/bin')}:{Path('/bin')}")
    monkeypatch.setenv("SUBMITTED", str(tmp_path / "submitted.sh"))
    return tmp_path / "submitted.sh"


@pytest.fixture
def run(run_main, monkeypatch):
    """Runs one frame a batch with a small model that jobs, which are processes of their own, know too."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    fixed = ["model.arch=ViT-S-32-alt", "model.pretrained=null", "vis=none", "sampling.num_points=200", "batch_size=1"]
    fixed += ["num_workers=1", "report=false"]

    def extract(*overrides):
        flags = [o for o in overrides if o.startswith("-")]
        return run_main(extract_main, *flags, *fixed, *(o for o in overrides if o not in flags))

    return extract


def job_folder(out):
    [folder] = [path for path in out.iterdir() if path.is_dir() and path.name != ".submitit"]
    return folder


def two_jobs(run, root, launcher, *more):
    sweep = ["-m", f"hydra/launcher={launcher}", "shard.index=0,1", "shard.count=2"]
    return run(*sweep, f"data.root={root}", "output_dir=out", *more)


@pytest.mark.slow
def test_two_jobs_on_this_machine_give_the_arrays_of_one_process(run, demo_root, tmp_path):
    assert run(f"data.root={demo_root}", "output_dir=plain")[0] == 0
    code, err = two_jobs(run, demo_root, "submitit_local")
    assert code == 0, err
    out = job_folder(tmp_path / "out")
    assert_same_arrays(out, arrays(tmp_path / "plain"))
    assert sorted(path.name for path in out.glob("frames*.jsonl")) == ["frames.0.jsonl", "frames.1.jsonl"]
    assert (out / "summary.json").is_file()
    logs = "".join(path.read_text() for path in (tmp_path / "out" / ".submitit").glob("*/*.err"))
    for index in range(2):
        assert f"shard {index} of 2, counted from 0: 1 of 2 scenes, 4 of 8 frames" in logs
    assert "No pretrained weights loaded" not in logs  # other packages are as silent in a job


@pytest.mark.slow
def test_two_jobs_on_slurm_give_the_arrays_of_one_process_on_real_frames(run, office, tmp_path, slurm):
    some = ["frames_per_scene=2", "model/head=none"]
    assert run(f"data.root={office}", "output_dir=plain", *some)[0] == 0
    code, err = two_jobs(run, office, "slurm", "hydra.launcher.partition=gpu", *some)
    assert code == 0, err
    assert_same_arrays(job_folder(tmp_path / "out"), arrays(tmp_path / "plain"))
    asked = slurm.read_text().splitlines()
    for line in ("--array=0-1%2", "--partition=gpu", "--cpus-per-task=8", "--gpus-per-node=1", "--time=720"):
        assert f"#SBATCH {line}" in asked


@pytest.mark.slow
def test_what_is_wrong_in_a_job_is_told_in_one_line(run, tmp_path):
    code, err = two_jobs(run, "nowhere", "submitit_local")
    assert code == 1
    assert err.strip().splitlines()[-1].startswith("clipfeat: data.root=nowhere: no such folder")
    assert "Traceback" not in err


def test_a_job_that_is_lost_is_told_in_one_line(run, demo_root, slurm):
    srun = slurm.parent / "bin" / "srun"
    srun.write_text("#!/bin/sh\nexit 1\n")
    (srun.parent / "sbatch").write_text(
        '#!/bin/sh\necho "sbatch: error: invalid partition specified: gpu" >&2\nexit 1\n'
    )
    code, err = two_jobs(run, demo_root, "slurm")
    assert code == 1
    [line] = [line for line in err.splitlines() if line.startswith("clipfeat: ")]
    assert "a job of the sweep could not be started or was lost, the same command goes on: " in line
    assert "invalid partition specified: gpu" in line
    assert "Traceback" not in err


def test_where_there_is_no_slurm_it_says_so(run, demo_root):
    if shutil.which("srun"):
        pytest.skip("there is SLURM here")
    code, err = two_jobs(run, demo_root, "slurm")
    assert code == 1
    assert (
        err
        == "clipfeat: hydra/launcher: there is no srun here; go to a machine of the cluster, or take submitit_local\n"
    )


def test_without_the_plugin_it_says_how_to_get_it(run_main, monkeypatch):
    Plugins.instance()
    launchers = ConfigStore.instance().repo["hydra"]["launcher"]
    for name in [name for name in launchers if name.startswith("submitit")]:
        monkeypatch.delitem(launchers, name)
    for launcher in ("slurm", "submitit_local"):
        code, err = run_main(extract_main, "-m", f"hydra/launcher={launcher}", "data.root=x")
        assert code == 1
        name = "submitit_slurm" if launcher == "slurm" else launcher
        assert err == f'clipfeat: hydra/launcher={name}: needs packages of its own: pip install "clipfeat[slurm]"\n'


@pytest.mark.slow
def test_the_launcher_does_not_change_the_folder_of_a_job(run, demo_root, tmp_path):
    sweep = ["-m", "shard.index=0", "shard.count=1", f"data.root={demo_root}", "output_dir=out", "frames_per_scene=1"]
    assert run(*sweep)[0] == 0
    before = job_folder(tmp_path / "out")
    code, err = run(*sweep, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5")
    assert code == 0, err
    assert job_folder(tmp_path / "out") == before
