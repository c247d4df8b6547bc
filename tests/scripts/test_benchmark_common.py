import os
import sys

import pytest
from conftest import CHECKOUT


@pytest.fixture
def common(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(CHECKOUT / "scripts"), *sys.path])
    from benchmarks import common

    return common


def test_what_a_host_took_is_read_from_the_first_line(common, tmp_path):
    ticks = os.sysconf("SC_CLK_TCK")
    path = tmp_path / "stat"
    path.write_text(f"cpu  10 20 30 40 50 60 70 {3 * ticks} 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n", encoding="ascii")
    assert common.host_seconds(path) == pytest.approx(3)
    assert common.host_seconds(tmp_path / "absent") == 0


def test_costs_are_of_each_candidate_and_round(common):
    costs, done = common.Costs(), []
    works = {name: lambda name=name: done.append(name) for name in ("ours", "plain")}
    rates = common.measure(works, lambda: None, 10, 2, costs)
    assert done == ["ours", "plain"] * 3
    assert [len(rates[name]) for name in works] == [2, 2]  # the first round warms up
    for counted in (costs.own, costs.host):
        assert [len(counted[name]) for name in works] == [3, 3]
        assert all(value >= 0 for values in counted.values() for value in values)


def test_the_median_leaves_out_the_round_that_warms_up(common):
    assert common.median_of([100, 1, 3]) == 2
    assert common.median_of([100]) == 100
