"""clipfeat-extract against its own model and a plain loop."""

import dataclasses
import logging
import os
import shutil
import statistics
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.common import Costs, measure, median_of
from benchmarks.plain_loop import plain_loop
from clipfeat.data.base import Dataset
from clipfeat.data.layouts import build_dataset
from clipfeat.data.selection import FrameKey, list_frames
from clipfeat.extraction.config import ExtractConfig
from clipfeat.extraction.extract import extract
from clipfeat.extraction.lane import default_lanes
from clipfeat.model.clip_model import ClipModel
from clipfeat.model.config import CacheConfig
from clipfeat.model.load import load_model, resolve_device
from clipfeat.output.config import OutputConfig
from clipfeat.output.summary import machine, peak_memory, versions


def benchmark(cfg: ExtractConfig, limit: int, rounds: int) -> dict[str, Any]:
    """Runs all candidates and returns what benchmark.json holds."""
    dataset = build_dataset(cfg.data)
    frames = list_frames(cfg, dataset)[:limit]
    per_scene = max(sum(1 for scene, _ in frames if scene == name) for name in {scene for scene, _ in frames})
    scratch = Path(tempfile.mkdtemp(prefix="clipfeat-benchmark-", dir="."))
    listed = scratch / "scenes.txt"
    listed.write_text("\n".join(dict.fromkeys(scene for scene, _ in frames)))
    cfg = dataclasses.replace(
        cfg, scenes_file=str(listed), frames_per_scene=per_scene, resume="overwrite", output_dir=str(scratch / "out")
    )
    frames = list_frames(cfg, dataset)
    model = load_model(cfg.model, resolve_device(cfg.device), cfg.seed)
    inputs = network_inputs(dataset, frames, model)
    batch, lanes = cfg.batch_size or model.default_batch, cfg.num_workers or default_lanes()
    summaries: list[dict[str, Any]] = []
    threads = torch.get_num_threads()

    def ours() -> None:
        summaries.append(extract(cfg, model))

    # Maps and no features at points: what is left is reading and the model.
    grid_cfg = dataclasses.replace(cfg, output=OutputConfig("grid"))

    def maps() -> None:
        extract(grid_cfg, model)

    # Filled by the round that warms up. The model is not loaded in the others.
    cached_cfg = dataclasses.replace(cfg, cache=CacheConfig("lmdb", str(scratch / "cache")))

    def cached() -> None:
        extract(cached_cfg)

    def with_all_threads(run: Callable[[], None]) -> Callable[[], None]:
        def call() -> None:
            torch.set_num_threads(threads)
            run()

        return call

    def plain() -> None:
        plain_loop(dataset, frames, model, cfg.sampling.num_points, scratch / "plain")

    def clean() -> None:
        for name in ("out", "plain"):
            shutil.rmtree(scratch / name, ignore_errors=True)
        os.sync()  # or the next would wait for the disk to take what the last one wrote

    logging.getLogger("clipfeat.extraction.extract").setLevel(logging.ERROR)
    costs = Costs()
    try:
        rates = measure(
            {
                "clipfeat": ours,
                **({"clipfeat, output=grid": maps} if cfg.output.name != "grid" else {}),
                "from the cache": cached,
                "model only": with_all_threads(lambda: model_only(model, inputs, batch)),
                "model in lanes": lambda: model_in_lanes(model, inputs, batch, lanes),
                "plain loop": with_all_threads(plain),
            },
            clean,
            len(frames),
            rounds,
            costs,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    rate = {name: statistics.median(values) for name, values in rates.items()}
    width, height = (dataset.load(*frames[0]).color_camera.width, dataset.load(*frames[0]).color_camera.height)
    last = summaries[-1]
    return {
        "frames": len(frames),
        "rounds": rounds,
        "picture": f"{width}×{height}",
        "points": cfg.sampling.num_points,
        "output": cfg.output.name,
        "batch": batch,
        "lanes": lanes,
        "frames_per_second": {name: round(value, 3) for name, value in rate.items()},
        "all_rounds": {name: [round(v, 3) for v in values] for name, values in rates.items()},
        "core_milliseconds_a_frame": {name: round(median_of(values), 1) for name, values in costs.own.items()},
        "core_milliseconds_of_the_host": {name: round(median_of(values), 1) for name, values in costs.host.items()},
        "ratio": {name: round(value / rate["model only"], 3) for name, value in rate.items()},
        "milliseconds_a_frame": {
            name: round(1000 * seconds / len(frames), 2) for name, seconds in last["run"]["seconds_a_stage"].items()
        },
        "megabytes_a_frame": round(last["bytes_per_frame"] / 1e6, 2),
        **peak_memory(),
        "model": model.describe(),
        "machine": machine(),
        "versions": versions(),
    }


def network_inputs(dataset: Dataset, frames: list[FrameKey], model: ClipModel) -> list[np.ndarray]:
    """The prepared (S, S, 3) pictures of all frames."""
    return [model.preprocess.pixels(dataset.load(*key).image) for key in frames]


def model_only(model: ClipModel, inputs: list[np.ndarray], batch: int) -> None:
    """The forward pass in batches, with the threads that torch takes by itself."""
    for begin in range(0, len(inputs), batch):
        part = inputs[begin : begin + batch]
        model.feature_maps(part, [(model.preprocess.size, model.preprocess.size)] * len(part))
    if model.device.type == "cuda":
        torch.cuda.synchronize()


def model_in_lanes(model: ClipModel, inputs: list[np.ndarray], batch: int, lanes: int) -> None:
    """The forward pass alone, in as many lanes of one thread as clipfeat-extract uses: the most that it can reach."""

    def run(part: list[np.ndarray]) -> None:
        torch.set_num_threads(max(1, default_lanes() // lanes))
        model_only(model, part, batch)

    threads = [threading.Thread(target=run, args=(inputs[k::lanes],)) for k in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def markdown(result: dict[str, Any]) -> str:
    """The tables of benchmark.md."""
    what = result["machine"]["gpu"] or f"{result['machine']['cpu']}, {default_lanes()} cores"
    model = result["model"]
    lines = [
        f"{model['arch']} ({model['weights']} weights), {model['precision']} by {model['backend']}, "
        f"head {model['head']}, on {what}; "
        f"{result['frames']} frames of {result['picture']}, {result['points']} points, output={result['output']}, "
        f"batches of {result['batch']}, {result['lanes']} lanes; median of {result['rounds']} rounds.",
        "",
        "| | frames/s | of the model only | ms of a core a frame | that a host took besides |",
        "|---|---|---|---|---|",
    ]
    own, host = result["core_milliseconds_a_frame"], result["core_milliseconds_of_the_host"]
    lines += [f"| {name} | {rate:.2f} | {result['ratio'][name]:.2f} × | {own[name]:.0f} | {host[name]:.0f} |"
              for name, rate in result["frames_per_second"].items()]  # fmt: skip
    stages = " · ".join(f"{name} {ms:.1f}" for name, ms in result["milliseconds_a_frame"].items())
    lines += ["", f"Milliseconds a frame of one lane: {stages}. {result['megabytes_a_frame']} MB a frame, "
              f"{result['peak_memory_bytes'] / 2**30:.2f} GiB at most in memory."]  # fmt: skip
    return "\n".join(lines) + "\n"


def chart(result: dict[str, Any], path: Path) -> None:
    """Bars of the rates."""
    names, rates = zip(*sorted(result["frames_per_second"].items(), key=lambda item: item[1]), strict=True)
    figure = Figure(figsize=(7.5, 0.55 * len(names) + 1.3), layout="constrained")
    axes = figure.subplots()
    colors = ["#2b6cb0" if name.startswith("clipfeat") else "#b8c4d0" for name in names]
    bars = axes.barh(names, rates, color=colors)
    axes.bar_label(bars, fmt="%.1f", padding=4)
    axes.set_xlabel("frames/s")
    axes.set_title(f"{result['model']['arch']}, {result['picture']}, {result['points']} points a frame")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.1)
    figure.savefig(path, dpi=130)
