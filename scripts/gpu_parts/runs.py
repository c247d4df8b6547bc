"""clipfeat-extract end to end, and which of the measured parts bounds it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_parts.common import Rates

COMMAND = "from clipfeat.cli.commands import extract_main; extract_main()"

WORK = {
    "preparing": ("read", "project", "preprocess"),
    "model and sampling": ("model", "sample"),
    "writing": ("write",),
}
"""Who does which stages: threads ahead of the lanes, the lanes, and threads behind them."""


@dataclass(frozen=True)
class Runs:
    """Where runs are made.

    Attributes:
        scratch: folder for what they write, which is removed.
        overrides: of all of them.
        rates: see ``Bench``.
        until: ``time.monotonic()`` when all has to be over.
        told: file that the lines are appended to.
    """

    scratch: Path
    overrides: Sequence[str]
    rates: Rates
    until: float
    told: Path

    def __call__(self, name: str, *overrides: str, processes: int = 1) -> None:
        """Makes one run, and tells in a line what came of it."""
        left, out = self.until - time.monotonic(), self.scratch / "out"
        if left < 20:
            self._tell(f"{name}: no time left")
            return
        command = [sys.executable, "-c", COMMAND, *self.overrides, f"output_dir={out}", *overrides]
        if processes > 1:
            command.append(f"devices={processes}")
        begin = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=left, check=False)  # noqa: S603
        except subprocess.TimeoutExpired:
            self._tell(f"{name}: out of time")
            return
        finally:
            seconds = time.monotonic() - begin
        if done.returncode:
            self._tell(f"{name} FAILED: {' '.join(done.stderr.splitlines()[-3:])[:600]}")
        else:
            summary = json.loads((out / "summary.json").read_text())
            self._tell(f"{name}: {described(summary, seconds)}; {bound(summary, self.rates, processes)}")
        shutil.rmtree(out, ignore_errors=True)
        os.sync()  # or the next would wait for the disk to take what this one wrote

    def _tell(self, line: str) -> None:
        print(f"  {line}", flush=True)
        with self.told.open("a") as file:
            file.write(f"{line}\n")


def described(summary: Mapping[str, Any], seconds: float) -> str:
    """Its speed, memory, and how many threads were at work on what, on average."""
    run = summary["run"]
    frames, rate = run["frames"], run["frames_per_second"]
    busy = {
        who: sum(run["seconds_a_stage"].get(stage, 0.0) for stage in stages) * rate / frames
        for who, stages in WORK.items()
    }
    return (
        f"{frames} frames, {rate:.1f} a second ({frames / seconds:.1f} with all of the start), "
        f"{run['peak_memory_bytes'] / 2**30:.2f} GiB and on the GPU {run.get('peak_gpu_memory_bytes', 0) / 2**30:.2f} "
        f"a process; threads at work: {', '.join(f'{who} {count:.1f}' for who, count in busy.items())}"
    )


def bound(summary: Mapping[str, Any], rates: Rates, processes: int) -> str:
    """What it can't exceed, of the parts that were measured by themselves, and how much of that it reaches.

    One process's threads share Python's lock, processes have one each; the disk takes bytes.
    """
    limits = {name: rate for name, rate in rates.items() if name in ("the model alone", "the cores")}
    if "Python's lock" in rates:
        limits["Python's lock"] = processes * rates["Python's lock"]
    if "the disk" in rates and summary["bytes_per_frame"]:
        limits["the disk"] = rates["the disk"] / summary["bytes_per_frame"]
    if not limits:
        return "bound unknown: no part was measured"
    name, *others = sorted(limits, key=lambda name: limits[name])
    share = summary["run"]["frames_per_second"] / limits[name]
    beside = ", ".join(f"{other} {limits[other]:.0f}" for other in others)
    return f"bound: {name}, {limits[name]:.0f} frames/s, {share:.0%} of it reached ({beside})"
