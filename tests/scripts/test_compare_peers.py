"""``scripts/compare_peers.py`` as far as it goes without a checkout of another project."""

import runpy
import sys

import pytest
import torch
from conftest import CHECKOUT


def test_a_checkout_that_is_not_there_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare_peers.py", "openscene", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(CHECKOUT / "scripts" / "compare_peers.py"), run_name="__main__")
    assert stop.value.code == 2
    assert "nothing: no such folder; give a checkout of openscene's repository" in capsys.readouterr().err


def test_the_stand_in_for_torch_scatter_sums_and_averages_rows(monkeypatch):
    monkeypatch.syspath_prepend(str(CHECKOUT / "scripts"))
    from peers.rayfronts import scatter

    rows, index = torch.tensor([[1.0, 2], [3, 4], [5, 8]]), torch.tensor([2, 0, 2])
    for reduce, expected in (("sum", [[3, 4], [0, 0], [6, 10]]), ("mean", [[3, 4], [0, 0], [3, 5]])):
        out = torch.zeros(3, 2)
        scatter(src=rows, index=index, out=out, reduce=reduce, dim=0)
        assert out.tolist() == expected
