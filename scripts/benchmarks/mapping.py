"""Frames into a map, against their extraction; and a query over a map of 81,000 voxels."""

import logging
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.common import Costs, measure, median_of
from clipfeat.data.layouts import build_dataset
from clipfeat.data.selection import list_frames
from clipfeat.extraction.config import ExtractConfig
from clipfeat.extraction.extract import extract
from clipfeat.mapping.config import MapConfig
from clipfeat.mapping.frame_view import View
from clipfeat.mapping.map3d import FeatureMap3D
from clipfeat.mapping.run import make_maps
from clipfeat.model.load import load_model, resolve_device
from clipfeat.output.config import OutputConfig
from clipfeat.types import Points

POINTS, CHANNELS = 81_000, 768


def benchmark_map(cfg: ExtractConfig, frames: int, rounds: int) -> str:
    """Does the same frames by clipfeat-extract output=grid and by clipfeat-map, in turns; returns what was found."""
    scratch = Path(tempfile.mkdtemp(prefix="clipfeat-benchmark-", dir="."))
    device = resolve_device(cfg.device)
    model = load_model(cfg.model, device, cfg.seed)
    extraction = replace(
        cfg, output=OutputConfig("grid"), output_dir=str(scratch / "run"), resume="overwrite", report=False,
        frames_per_scene=frames,
    )  # fmt: skip
    mapped = MapConfig(
        data=cfg.data, scenes_file=cfg.scenes_file, frames_per_scene=frames, camera=cfg.camera, model=cfg.model,
        seed=cfg.seed, output_dir=str(scratch / "map"), resume="overwrite",
    )  # fmt: skip
    count = len(list_frames(extraction, build_dataset(cfg.data)))
    for name in ("extraction", "mapping", "output"):
        logging.getLogger(f"clipfeat.{name}").setLevel(logging.ERROR)
    works = {"extract": lambda: extract(extraction, model), "map": lambda: make_maps(mapped, model)}
    costs = Costs()
    try:
        rates = measure(works, lambda: None, count, rounds, costs)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    ours, theirs = (statistics.median(rates[name]) for name in ("map", "extract"))
    cpu, cpu_theirs = (median_of(costs.own[name]) for name in ("map", "extract"))
    first, others = query_seconds()
    return (
        f"{count} frames: {ours:.2f} frames/s into maps, which are written and drawn, {theirs:.2f} by an extraction "
        f"with output=grid, so {ours / theirs:.2f} ×; {cpu:.0f} and {cpu_theirs:.0f} ms of a core a frame\n"
        f"a query over {POINTS} points of {CHANNELS} channels: {1e3 * first:.0f} ms where all have changed since the "
        f"last, else {1e3 * statistics.median(others):.0f} ms"
    )


def query_seconds(repeats: int = 9) -> tuple[float, list[float]]:
    """Seconds of a query by a vector: the median of those where every feature is new, and all others."""
    rng = np.random.default_rng(0)
    everyone, weight = np.arange(POINTS), np.ones(POINTS)
    features = rng.normal(size=(POINTS, CHANNELS)).astype(np.float32)
    vector = rng.normal(size=CHANNELS)
    firsts: list[float] = []
    others: list[float] = []
    world = FeatureMap3D(points=Points(np.zeros((POINTS, 3)), everyone))
    for _ in range(repeats):
        world.add_view(View(everyone, weight, features))
        for seconds in (firsts, others):
            begin = time.perf_counter()
            world.query(vector)
            seconds.append(time.perf_counter() - begin)
    return statistics.median(firsts), others
