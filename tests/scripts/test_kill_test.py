"""The proof that a run survives being stopped, in small; ``scripts/kill_test.py`` alone does fifty stops."""

import os

import pytest
from conftest import CHECKOUT

FEW = [
    "data.num_scenes=2", "data.num_frames=3", "data.color_size=[216,162]", "data.depth_size=[128,96]",
]  # fmt: skip
OF_EXTRACT = ["sampling.num_points=500", "vis.max_frames=2"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("command", "kills", "options"),
    [
        ("extract", 1, [*OF_EXTRACT, "vis=none"]),
        ("map", 1, []),
        pytest.param("extract", 5, [*OF_EXTRACT, "vis=heatmap"], marks=pytest.mark.slow),
        pytest.param("map", 20, ["data.num_frames=8"], marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_killed_and_resumed_ends_as_one_in_peace(tmp_path, start_warm, command, kills, options):
    work, how = tmp_path / "work", "kill"
    work.mkdir()
    arguments = ["--command", command, "--how", how, "--kills", kills, *FEW, *options]
    arguments += ["--true-every", "0", "--seed", "4", "--work", work]
    hunt = start_warm(CHECKOUT / "scripts" / "kill_test.py", arguments, {**os.environ, "PYTHONPATH": str(CHECKOUT)})
    out, err = hunt.communicate(timeout=550)
    assert hunt.returncode == 0, out + err
    assert f"{kills} stops ({how}), " in out
    assert list(work.iterdir()) == []
