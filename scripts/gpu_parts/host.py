"""What reading, projecting and resizing cost: by threads of one process, which share a lock, and by processes."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from benchmarks.common import compose_config

from clipfeat.data.selection import FrameKey, list_frames
from clipfeat.extraction.prepare import FramePreparer
from clipfeat.extraction.worker import open_job
from clipfeat.model.preprocess import Preprocess
from clipfeat.system.shards import WHOLE, usable_cores
from clipfeat.types import Frame
from gpu_parts.common import Bench
from gpu_parts.model import loaded


def preparing(bench: Bench) -> None:
    """Frames a second and milliseconds of a core a frame; the best of threads and of processes may bound a run.

    As a run does it, where pictures are resized by the GPU; and for comparison once by the cores.
    """
    preprocess = loaded(bench).preprocess
    prepare, keys = preparer(bench.root, preprocess)
    most, cores = (400, usable_cores()) if bench.gpu else (6, 2)
    keys = keys[:most]
    for key in keys[:3]:  # what is compiled is compiled now
        prepare(key)
    best = 0.0
    counts = [n for n in (1, 2, 4, 8, 16) if n <= cores]
    for threads in counts:
        best = max(best, _by_threads(bench, "", prepare, keys[: 40 * threads], threads))
    by_the_cores, _ = preparer(bench.root, replace(preprocess, there=False))
    _by_threads(bench, ", resized by the cores", by_the_cores, keys[: 40 * counts[-1]], counts[-1])
    bench.rates["Python's lock"] = best
    # Not copies of this process, which has threads and uses the GPU.
    for processes in sorted({max(cores // 4, 2), cores}):
        with get_context("spawn").Pool(processes, _warm_up, (bench.root, preprocess)) as pool:
            pool.map(_prepare_one, [(bench.root, preprocess, key) for key in keys[: 2 * processes]], chunksize=1)
            begin = time.perf_counter()
            pool.map(_prepare_one, [(bench.root, preprocess, key) for key in keys], chunksize=2)
            rate = len(keys) / (time.perf_counter() - begin)
        best = max(best, rate)
        bench.note(f"prepare, {processes} processes", f"{rate:.0f} frames/s")
    bench.rates["the cores"] = best


def _by_threads(bench: Bench, how: str, prepare: FramePreparer, keys: Sequence[FrameKey], threads: int) -> float:
    cpu, begin = time.process_time(), time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(prepare, keys):  # what is not kept is not in memory, as in a run
            pass
    rate = len(keys) / (time.perf_counter() - begin)
    each = 1000 * (time.process_time() - cpu) / len(keys)
    bench.note(
        f"prepare, {threads} threads of one process{how}", f"{rate:.0f} frames/s, {each:.1f} ms of a core a frame"
    )
    return rate


@cache
def preparer(root: Path, preprocess: Preprocess) -> tuple[FramePreparer, list[FrameKey]]:
    """What prepares the frames of the scans, and their names; a process makes it once."""
    cfg = compose_config(["data=scannet", f"data.root={root}", f"output_dir={root.parent / 'unused'}"])
    job = open_job(cfg, WHOLE)

    def network_input(frame: Frame) -> object:
        return preprocess.network_input(frame.picture)

    prepare = FramePreparer(job.dataset, job.locate, preprocess, network_input, job.stopwatch)
    return prepare, list_frames(cfg, job.dataset)


def _warm_up(root: Path, preprocess: Preprocess) -> None:
    prepare, keys = preparer(root, preprocess)
    prepare(keys[0])


def _prepare_one(what: tuple[Path, Preprocess, FrameKey]) -> None:
    root, preprocess, key = what
    preparer(root, preprocess)[0](key)
