"""What each choice of ``model.attention`` and ``model.refine`` costs: forward passes of one encoder, in turns."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks.common import measure
from clipfeat.extraction.config import ExtractConfig
from clipfeat.model.config import ATTENTIONS
from clipfeat.model.encoder import attending
from clipfeat.model.load import load_model, resolve_device

REFERENCE = "naclip"


def benchmark_attention(cfg: ExtractConfig, frames: int, rounds: int) -> str:
    """Runs the same pictures with each choice, and returns a table of milliseconds a frame."""
    model = load_model(cfg.model, resolve_device(cfg.device), cfg.seed)
    batch = cfg.batch_size or model.default_batch
    side = model.preprocess.size
    # Noise, and large squares in it: what looks for likeness has something to find.
    noise, squares = (np.random.default_rng(0).integers(0, 128, (batch, n, n, 3), dtype=np.uint8) for n in (side, 4))
    pictures = noise + squares[:, (rows := np.arange(side) * 4 // side)][:, :, rows]
    models = {
        name: replace(model, encoder=attending(model.encoder, cfg.model.encoder, name)) for name in ATTENTIONS
    } | {"vanilla, refined": replace(model, refine="self_similarity")}

    def run(name: str) -> None:
        for _ in range(max(frames // batch, 1)):
            models[name].feature_maps(list(pictures), [(side, side)] * batch)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)  # what is measured is the work, not its order

    candidates: dict[str, Callable[[], object]] = {name: partial(run, name) for name in models}
    rates = measure(candidates, lambda: None, max(frames // batch, 1) * batch, rounds)
    lines = [f"{model.arch} on {model.device}, {side} pixels, batches of {batch}, median of {rounds} rounds", ""]
    lines += [f"| model.attention | ms a frame | of {REFERENCE} |", "| --- | --- | --- |"]
    for name, found in rates.items():
        # Of the two in the same round: other work on the machine comes and goes.
        times = [reference / rate for reference, rate in zip(rates[REFERENCE], found, strict=True)]
        lines.append(f"| {name} | {1000 / statistics.median(found):.1f} | {statistics.median(times):.2f} × |")
    return "\n".join(lines)
