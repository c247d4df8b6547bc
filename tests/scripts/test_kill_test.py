"""The proof that a run survives being killed, in small; ``scripts/kill_test.py`` alone does fifty stops."""

import os

import pytest
from conftest import CHECKOUT

FEW = [
    "data.num_scenes=2", "data.num_frames=3", "data.color_size=[216,162]", "data.depth_size=[128,96]",
    "sampling.num_points=500", "vis=heatmap", "vis.max_frames=2",
]  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_that_is_killed_and_resumed_ends_as_one_in_peace(tmp_path, start_warm):
    work = tmp_path / "work"
    work.mkdir()
    arguments = ["--kills", "3", *FEW, "--true-every", "0", "--seed", "4", "--work", work]
    hunt = start_warm(
        CHECKOUT / "scripts" / "kill_test.py", arguments, {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    )
    _, said = hunt.communicate(timeout=300)
    assert hunt.returncode == 0, said
    assert "3 stops (kill), " in said
    assert list(work.iterdir()) == []
