"""The proof that a run survives being killed, in small; ``scripts/kill_test.py`` alone does fifty stops."""

import os
import subprocess
import sys

import pytest
from conftest import CHECKOUT

FEW = [
    "data.num_scenes=2", "data.num_frames=3", "data.color_size=[216,162]", "data.depth_size=[128,96]",
    "sampling.num_points=500", "vis=heatmap", "vis.max_frames=2",
]  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_that_is_killed_and_resumed_ends_as_one_in_peace(tmp_path):
    command = [sys.executable, str(CHECKOUT / "scripts" / "kill_test.py"), "--kills", "3", *FEW]
    command += ["--true-every", "0", "--seed", "4", "--work", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 stops (kill), " in done.stdout
    assert list(tmp_path.iterdir()) == []
