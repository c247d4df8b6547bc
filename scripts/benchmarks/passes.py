"""What forward passes of one encoder cost by each choice of the configuration, in turns on the same pictures."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import measure
from clipfeat.extraction.config import ExtractConfig
from clipfeat.model.clip_model import ClipModel
from clipfeat.model.config import ATTENTIONS
from clipfeat.model.encoder import attending
from clipfeat.model.load import load_model, resolve_device
from clipfeat.system.processor import computes_bf16, processor_name


def benchmark_attention(cfg: ExtractConfig, frames: int, rounds: int) -> str:
    """A table of milliseconds a frame with each ``model.attention``, and with ``model.refine``."""
    model = load_model(cfg.model, resolve_device(cfg.device), cfg.seed)
    models = {
        name: replace(model, encoder=attending(model.encoder, cfg.model.encoder, name)) for name in ATTENTIONS
    } | {"vanilla, refined": replace(model, refine="self_similarity")}
    return _table("model.attention", models, "naclip", cfg, frames, rounds)


def benchmark_backends(cfg: ExtractConfig, frames: int, rounds: int) -> str:
    """The same with each ``model.backend`` and ``model.precision`` that is fast on this CPU, and what each changes."""
    device = torch.device("cpu")
    ways = [("torch", "fp32"), *([("torch", "bf16")] if computes_bf16() else [])]
    if find_spec("openvino") is not None:
        ways += [("openvino", precision) for _, precision in ways]
    models = {
        f"{backend} {precision}": load_model(replace(cfg.model, backend=backend, precision=precision), device, cfg.seed)
        for backend, precision in ways
    }
    return f"{processor_name()}\n\n" + _table("backend, precision", models, "torch fp32", cfg, frames, rounds)


def _table(
    title: str, models: Mapping[str, ClipModel], reference: str, cfg: ExtractConfig, frames: int, rounds: int
) -> str:
    model = models[reference]
    batch = cfg.batch_size or model.default_batch
    pictures, sizes = _pictures(model.preprocess.size, batch), [(model.preprocess.size,) * 2] * batch

    def run(name: str) -> None:
        for _ in range(max(frames // batch, 1)):
            models[name].feature_maps(pictures, sizes)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)  # what is measured is the work, not its order

    candidates: dict[str, Callable[[], object]] = {name: partial(run, name) for name in models}
    rates = measure(candidates, lambda: None, max(frames // batch, 1) * batch, rounds)
    of_reference = model.feature_maps(pictures, sizes)
    lines = [
        f"{model.arch} ({model.encoder.weights} weights) on {model.device}, {torch.get_num_threads()} threads, "
        f"{model.preprocess.size} pixels, batches of {batch}, median of {rounds} rounds",
        "",
        f"| {title} | ms a frame | of {reference} | relative difference |",
        "| --- | --- | --- | --- |",
    ]
    for name, found in rates.items():
        # Of the two in the same round: other work on the machine comes and goes.
        times = [other / rate for other, rate in zip(rates[reference], found, strict=True)]
        own = models[name].feature_maps(pictures, sizes)
        off = statistics.median(_difference(a.values, b.values) for a, b in zip(own, of_reference, strict=True))
        lines.append(
            f"| {name} | {1000 / statistics.median(found):.1f} | {statistics.median(times):.2f} × | {off:.1e} |"
        )
    return "\n".join(lines)


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(torch.linalg.norm(found - expected) / torch.linalg.norm(expected))


def _pictures(side: int, count: int) -> list[NDArray[np.uint8]]:
    """Noise, and large squares in it: what looks for likeness has something to find."""
    noise, squares = (np.random.default_rng(0).integers(0, 128, (count, n, n, 3), dtype=np.uint8) for n in (side, 4))
    return list(noise + squares[:, (rows := np.arange(side) * 4 // side)][:, :, rows])
