"""``scripts/simulate_shards.py`` where the answer is known."""

import importlib.util
import sys

import numpy as np
import pytest
from conftest import CHECKOUT


@pytest.fixture(scope="module")
def simulation():
    spec = importlib.util.spec_from_file_location("simulate_shards", CHECKOUT / "scripts" / "simulate_shards.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulate_shards"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["simulate_shards"]


def fleet(simulation, *speeds, **deaths):
    return simulation.Fleet(speeds, [deaths.get(f"of_{i}", np.inf) for i in range(len(speeds))])


def test_equal_workers_on_equal_scenes_take_the_ideal_time(simulation):
    sizes = {f"s{i:03d}": 50 for i in range(120)}
    for _, tasks, _ in simulation.plans(sizes, 10, [1, 4]):
        assert sum(tasks) == 6000
        assert simulation.Run(fleet(simulation, *[5.0] * 10))(tasks) == pytest.approx(6000 / 10 / 5)


def test_the_longest_first_is_not_always_the_best(simulation):
    assert simulation.Run(fleet(simulation, 1.0, 1.0))([3, 4, 3, 5, 3]) == 10  # 5 + 3 and 4 + 3 + 3, where 9 would do


def test_a_straggler_holds_up_its_shard_and_not_the_tasks(simulation):
    slow = fleet(simulation, 1.0, 1.0, 1.0, 0.25)
    assert simulation.Run(slow)([40.0] * 4) == 160
    assert simulation.Run(slow)([1.0] * 160) == pytest.approx(160 / 3.25, abs=4)


def test_the_model_is_loaded_once_a_worker_or_once_a_task(simulation):
    pair = fleet(simulation, 1.0, 1.0)
    assert simulation.Run(pair, setup_s=7)([10.0] * 6) == 37
    assert simulation.Run(pair, setup_s=7, setup_each=True)([10.0] * 6) == 51


def test_what_a_worker_that_dies_has_done_is_kept(simulation):
    healthy = simulation.FRAMES_PER_SECOND
    one = fleet(simulation, healthy, of_0=40.0)
    run = simulation.Run(one, setup_s=5, returns_s=25, replace_s=25)
    # 35 s of work are done at the death, the replacement is there at 65 s and has to load the model.
    assert run([100 * healthy]) == pytest.approx(65 + 5 + 65)
    assert run.busy == [(0, 40), (65, pytest.approx(135))]
    # Where another is free, it need not wait for the replacement; one that dies idle is not asked.
    two = fleet(simulation, healthy, healthy, of_0=40.0)
    assert simulation.Run(two, returns_s=10, replace_s=1e6)([100 * healthy]) == pytest.approx(50 + 60)
    both = fleet(simulation, healthy, healthy, of_0=40.0, of_1=45.0)
    assert simulation.Run(both, returns_s=10, replace_s=100)([100 * healthy]) == pytest.approx(140 + 60)


def test_the_number_of_workers_at_work(simulation):
    times, count = simulation.busy_workers([(0, 2), (0, 5), (2, 4)])
    assert (times.tolist(), count.tolist()) == ([0, 2, 4, 5], [2, 2, 1, 0])


def test_the_script_prints_a_table_and_draws(simulation, tmp_path, monkeypatch, capsys):
    plot = tmp_path / "new" / "plot.png"
    arguments = ["--workers", "8", "--scenes", "200", "--seeds", "2", "--shards", "1", "4", "--plot", str(plot)]
    monkeypatch.setattr(sys, "argv", ["simulate_shards.py", *arguments])
    simulation.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| | equal workers | stragglers | stragglers and deaths |"
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| 8 shards", "| 32 shards", "| a task a scene"]
    assert plot.read_bytes().startswith(b"\x89PNG")
