"""What it costs to sum up a long run: seconds and memory for its record, of all shards and of one."""

import dataclasses
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clipfeat.output.record_table import latest_lines
from clipfeat.output.records import done_record, record_files
from clipfeat.output.run_folder import RunFolder
from clipfeat.output.summary import Stopwatch, summarize
from clipfeat.output.totals import add_up
from clipfeat.system.shards import Shard

FRAMES = 1550
"""Of a scene, as ScanNet's have in the mean."""

SECONDS = {"read": 0.01234, "project": 0.00456, "preprocess": 0.00321, "sample": 0.00123, "write": 0.00321}


def benchmark_record(lines: int, shards: int) -> str:
    """Sums up made-up lines in the form of real ones, a failed one in 500; no feature files are made or looked for."""
    scratch = Path(tempfile.mkdtemp(prefix="clipfeat-benchmark-", dir="."))
    try:
        frames = _write(scratch, lines, shards)
        size = sum(path.stat().st_size for path in record_files(scratch))
        last = RunFolder(scratch, "npz", "float32", Shard(shards - 1, shards))
        about = {"model": {}, "sampling": "mesh"}

        def all_lines() -> object:
            totals = add_up(latest_lines(record_files(scratch)), frames)
            return summarize(totals, Stopwatch(), 0, about, interrupted=False)

        def own_lines() -> object:
            return last.own_totals(list(frames)[shards - 1 :: shards]), last.totals_if_settled(frames)

        told = [f"{lines:,} lines of {len(frames):,} scenes, {size / 1e9:.2f} GB in the records of {shards} shards:"]
        for name, work in (
            ("the last shard sums up all", all_lines),
            ("another sums up its own, and sees that it is not the last", own_lines),
        ):
            seconds, grown = _measured(work)
            told.append(f"{name}: {seconds:.2f} s, {1e6 * seconds / lines:.2f} µs a line of all, {grown / 1e6:.0f} MB")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return "\n".join(told)


def _write(folder: Path, lines: int, shards: int) -> dict[str, list[int]]:
    """Writes the records, and the summaries of all shards but the last one; returns the frames of each scene."""
    rng = np.random.default_rng(0)
    frames = {f"scene{i // 3:04d}_{i % 3:02d}": list(range(FRAMES)) for i in range(-(-lines // FRAMES))}
    frames[next(reversed(frames))] = list(range(lines - FRAMES * (len(frames) - 1)))
    files = [(folder / Shard(i, shards).file_name("frames.jsonl")).open("w") for i in range(shards)]
    for number, (scene_id, frame_ids) in enumerate(frames.items()):
        for frame_id, seen, lost in zip(frame_ids, *rng.integers(0, 10_000, (2, len(frame_ids))).tolist(), strict=True):
            points = {"visible": seen, "occluded": lost, "out_of_view": 0, "behind": 0, "no_depth": 0, "masked": 0}
            record = done_record(scene_id, frame_id, {"points": points}, 620_000 + seen, SECONDS)
            if rng.random() < 0.002:
                why = f"/data/scans/{scene_id}/pose/{frame_id}.txt: holds inf, the frame has no pose"
                record = {"scene_id": scene_id, "frame_id": frame_id, "status": "failed", "why": why}
            at = {"time": round(1.8e9 + number + frame_id / 1e3, 3)}
            files[number % shards].write(json.dumps(record | at) + "\n")
    for file in files:
        file.close()
    for shard in (Shard(i, shards) for i in range(shards - 1)):
        summary = {"frames": lines, "failed": 0, "run": {"interrupted": False}, "shard": dataclasses.asdict(shard)}
        (folder / shard.file_name("summary.json")).write_text(json.dumps(summary))
    return frames


def _measured(work: Callable[[], object]) -> tuple[float, int]:
    """Seconds, and the bytes by which the process was larger at most than before."""
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin, _memory("VmHWM") - before


def _memory(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0
