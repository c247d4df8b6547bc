"""What ``scripts/slurm_array.sh`` makes of what SLURM says."""

import os
import shutil
import subprocess

import pytest
from conftest import CHECKOUT

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def run(tmp_path, **environment):
    program = tmp_path / "clipfeat-extract"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") and name != "SHARDS"}
    clean |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", **environment}
    command = ["bash", str(CHECKOUT / "scripts" / "slurm_array.sh"), "data.root=/a b", "output_dir=out"]
    return subprocess.run(command, env=clean, capture_output=True, text=True)


def test_a_task_takes_its_shard(tmp_path):
    task = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
    expected = ["data.root=/a b", "output_dir=out", "shard.index=3"]
    assert run(tmp_path, **task).stdout.splitlines() == [*expected, "shard.count=8"]
    alone = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "1", "SHARDS": "8"}
    assert run(tmp_path, **alone).stdout.splitlines() == [*expected, "shard.count=8"]


def test_without_sbatch_it_says_so(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 1
    assert "SLURM_ARRAY_TASK_ID: is not set: start this script by sbatch" in done.stderr
