"""Features with a t-SNE picture a frame, against a plain loop that embeds all points."""

import dataclasses
import logging
import shutil
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.plain_loop import plain_loop
from clipfeat.data.layouts import build_dataset
from clipfeat.data.selection import list_frames
from clipfeat.extraction.config import ExtractConfig
from clipfeat.extraction.extract import extract
from clipfeat.model.load import load_model, resolve_device
from clipfeat.vis.config import VisConfig


def benchmark_pictures(cfg: ExtractConfig, limit: int, plain_frames: int) -> str:
    """Features with a t-SNE picture a frame, against a plain loop that embeds all points, and returns what was found.

    One round: a frame of the plain loop takes minutes.
    """
    dataset = build_dataset(cfg.data)
    scratch = Path(tempfile.mkdtemp(prefix="clipfeat-benchmark-", dir="."))
    vis = VisConfig("tsne")
    cfg = dataclasses.replace(cfg, vis=vis, resume="overwrite", output_dir=str(scratch / "out"))
    frames = list_frames(cfg, dataset)
    if len(frames) > limit:
        raise SystemExit(f"the configuration asks for {len(frames)} frames; raise --frames or lower frames_per_scene")
    model = load_model(cfg.model, resolve_device(cfg.device), cfg.seed)
    threads = torch.get_num_threads()
    logging.getLogger("clipfeat.extraction.extract").setLevel(logging.ERROR)
    try:
        begin = time.perf_counter()
        extract(cfg, model)
        ours = len(frames) / (time.perf_counter() - begin)
        torch.set_num_threads(threads)
        begin = time.perf_counter()
        plain_loop(dataset, frames[:plain_frames], model, cfg.sampling.num_points, scratch / "plain", draw=True)
        plain = plain_frames / (time.perf_counter() - begin)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return (
        f"{len(frames)} frames with a t-SNE picture each: {1 / ours:.2f} s a frame; the plain loop, which embeds all "
        f"{cfg.sampling.num_points} points of each of {plain_frames} frames: {1 / plain:.1f} s a frame, so "
        f"{ours / plain:.0f} ×"
    )
