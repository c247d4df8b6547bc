"""What ``scripts/gpu_check.sh`` makes of its measures; the rest of it is tried by ``DRY=1``."""

import json
import sys

import pytest
import torch
from conftest import CHECKOUT


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(CHECKOUT / "scripts"), *sys.path])
    from gpu_parts import common, runs

    return common, runs


RATES = {"the model alone": 5000.0, "the cores": 970.0, "Python's lock": 385.0, "the disk": 2e9}


@pytest.mark.parametrize(
    ("bytes_per_frame", "processes", "said"),
    [
        (620_000, 1, "bound: Python's lock, 385 frames/s, 50% of it reached (the cores 970, the disk 3226, the model"),
        (62_000_000, 1, "bound: the disk, 32 frames/s, 600% of it reached (Python's lock 385, "),
        (620_000, 4, "bound: the cores, 970 frames/s, 20% of it reached (Python's lock 1540, "),
    ],
)
def test_the_least_rate_is_the_bound(parts, bytes_per_frame, processes, said):
    summary = {"bytes_per_frame": bytes_per_frame, "run": {"frames_per_second": 193.5484}}
    assert parts[1].bound(summary, RATES, processes).startswith(said)
    assert parts[1].bound(summary, {}, processes) == "bound unknown: no part was measured"


def test_a_part_that_fails_is_told_and_what_was_found_is_kept(parts, tmp_path, capsys):
    bench = parts[0].Bench(tmp_path, "A", torch.device("cpu"), tmp_path / "profile.json", 0.0)
    bench.rates["the cores"] = 3.0
    bench.part(lambda bench: bench.note("one", "2 frames/s"))

    def broken(bench):
        raise RuntimeError("no such kernel")

    bench.part(broken)
    found = json.loads((tmp_path / "profile.json").read_text())
    assert found == {"one": "2 frames/s", "broken FAILED": "RuntimeError: no such kernel", "rates": {"the cores": 3.0}}
    assert "broken FAILED: RuntimeError: no such kernel" in capsys.readouterr().out
