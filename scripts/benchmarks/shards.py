"""Processes of a core each, against one of them."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from clipfeat.errors import ConfigError
from clipfeat.system.shards import Shard


def benchmark_shards(overrides: list[str], count: int, rounds: int) -> str:
    """Processes with a shard, a core and a thread each, against one such process that does all of the work."""
    cores = sorted(os.sched_getaffinity(0))[:count]
    if len(cores) < count:
        raise ConfigError(f"--shards {count}: expected at most {len(cores)}, a core for each")
    scratch = Path(tempfile.mkdtemp(prefix="clipfeat-benchmark-", dir="."))
    walls: dict[int, list[float]] = {1: [], count: []}
    working: dict[int, list[float]] = {1: [], count: []}
    try:
        # A last word that none of the overrides can take back.
        fixed = [f"output_dir={scratch}/out", "num_workers=1", "vis=none", "report=false"]
        for _ in tqdm(range(rounds + 1), unit="round", disable=None):
            for shards, wall in walls.items():
                shutil.rmtree(scratch / "out", ignore_errors=True)
                begin = time.perf_counter()
                processes = [
                    _start_on(core, [*overrides, *fixed, f"shard.index={index}", f"shard.count={shards}"])
                    for index, core in enumerate(cores[:shards])
                ]
                said = [process.communicate()[0] for process in processes]
                wall.append(time.perf_counter() - begin)
                if any(process.returncode for process in processes):
                    raise ConfigError("a shard failed: " + " / ".join(text[-500:] for text in said))
                summaries = [Shard(index, shards).file_name("summary.json") for index in range(shards)]
                runs = [json.loads((scratch / "out" / name).read_text())["run"] for name in summaries]
                working[shards].append(max(run["seconds"] for run in runs))
            frames = json.loads((scratch / "out/summary.json").read_text())["frames"]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    lines = [f"{frames} frames, a core and a thread for each process; seconds, median of {rounds} rounds:"]
    for what, found in (("from start to end", walls), ("after Python and its packages are loaded", working)):
        one, several = (statistics.median(values[1:]) for values in found.values())
        lines.append(f"{what}: one process {one:.1f}, {count} shards {several:.1f}, so {one / several:.2f} ×")
    return "\n".join(lines)


def _start_on(core: int, overrides: list[str]) -> "subprocess.Popen[str]":
    program = [sys.executable, "-c", "from clipfeat.cli.commands import extract_main; extract_main()", *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    return subprocess.Popen(  # noqa: S603 - our own program
        program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip
