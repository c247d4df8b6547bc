"""The network alone: by batch and precision, by lanes, and how far its features are off the CPU's."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray

from clipfeat.model.batches import fetch
from clipfeat.model.clip_model import ClipModel
from clipfeat.model.config import ModelConfig
from clipfeat.model.heads import build_head
from clipfeat.model.load import load_model
from gpu_parts.common import Bench

SIZE = (1296, 968)


def loaded(bench: Bench, precision: str = "auto") -> ClipModel:
    """The model with random weights; the same one each time."""
    return _loaded(bench.arch, precision, bench.device)


@cache
def _loaded(arch: str, precision: str, device: torch.device) -> ClipModel:
    return load_model(ModelConfig(arch=arch, pretrained=None, precision=precision), device, 0)


def rates(bench: Bench) -> None:
    """Frames a second by precision and batch; the model's own choice of both may bound a run."""
    for precision in ("fp16", "fp32", "bf16") if bench.gpu else ("fp32",):
        model = loaded(bench, precision)
        for batch in (8, 32, 128, 256) if bench.gpu else (2,):
            pictures = _blank(model, batch)
            with model.stream():
                seconds = bench.per_call(partial(model.feature_maps, pictures, [SIZE] * batch))
            if (precision, batch) == ("fp16", model.default_batch) or not bench.gpu:
                bench.rates["the model alone"] = batch / seconds
            said = f"{batch / seconds:.0f} frames/s, {1000 * seconds:.2f} ms a batch"
            bench.note(f"model alone, {precision}, batch {batch}", said)


def launching(bench: Bench) -> None:
    """How long ordering a batch keeps a core, whatever the GPU does meanwhile: the thread's own CPU time."""
    model, count = loaded(bench), 20 if bench.gpu else 2
    for name, make in (("", _blank), (" of original pictures", _originals)):
        pictures = make(model, model.default_batch if bench.gpu else 2)
        model.feature_maps(pictures, [SIZE] * len(pictures))
        begin = time.thread_time()
        for _ in range(count):
            model.feature_maps(pictures, [SIZE] * len(pictures))
        each = (time.thread_time() - begin) / count
        said = f"{1000 * each:.2f} ms, {len(pictures) / each:.0f} frames/s of a core"
        bench.note(f"CPU of ordering a batch{name}", said)


def lanes(bench: Bench) -> None:
    """Threads with a stream each, maps fetched to the host as ``output=grid`` does: what they win, and keep."""
    model = loaded(bench)
    count = model.default_batch if bench.gpu else 2
    inputs = _blank(model, count)
    for threads in (1, 2, 3, 4, 8, 16) if bench.gpu else (1, 2):
        rate = _by_lanes(bench, f"{threads} lanes of batches of {count}", model, inputs, threads)
        bench.rates["the model alone"] = max(rate, bench.rates.get("the model alone", 0.0))
    if bench.gpu:  # what a run there is bounded by
        originals = _originals(model, count)
        bench.rates["the model alone"] = max(
            _by_lanes(bench, f"{threads} lanes of batches of {count} original pictures", model, originals, threads)
            for threads in (1, 3)
        )


def _by_lanes(bench: Bench, name: str, model: ClipModel, pictures: list[NDArray[np.uint8]], threads: int) -> float:
    """Frames a second."""

    def work(_: int) -> None:
        with model.stream():
            fetch(model.feature_maps(pictures, [SIZE] * len(pictures)), half=True)

    before = _emptied(bench)
    with ThreadPoolExecutor(threads) as pool:  # of new threads, so of new streams
        list(pool.map(work, range(2 * threads)))
        count = 60 if bench.gpu else 2
        begin = time.perf_counter()
        list(pool.map(work, range(count)))
        bench.sync()
        rate = count * len(pictures) / (time.perf_counter() - begin)
    said = f"{rate:.0f} frames/s"
    if bench.gpu:
        reserved, peak = torch.cuda.memory_reserved() - before, torch.cuda.max_memory_allocated() - before
        said += f", GPU memory beyond the weights {reserved / 2**30:.2f} GiB, of that used {peak / 2**30:.2f}"
    bench.note(name, said)
    return rate


def precision(bench: Bench) -> None:
    """Maps by each precision against the CPU's fp32, a batch against its pictures, and a head's convolution."""
    names = ("fp32", "fp16", "bf16") if bench.gpu else ("fp32",)
    reference = _loaded(bench.arch, "fp32", torch.device("cpu"))
    rng = np.random.default_rng(0)
    side = reference.preprocess.size
    pictures = list(rng.integers(0, 256, (4, side, side, 3), dtype=np.uint8))
    expected = _stacked(reference, pictures)
    for name in names:
        model = loaded(bench, name)
        found = _stacked(model, pictures)
        alone = torch.cat([_stacked(model, [picture]) for picture in pictures])
        said = f"{_off(found, expected):.2e}; batch of 4 against one at a time {_off(alone, found):.2e}"
        bench.note(f"{name} against the CPU's fp32", said)
    head = build_head("proj128", reference.encoder.width, None, 0)
    tokens = torch.randn(2, reference.encoder.width, 14, 14, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        on_cpu = head.to_map(tokens)
        found = head.to(bench.device).to_map(tokens.to(bench.device)).cpu()
    bench.note("proj128's map against the CPU's", f"{_off(found, on_cpu):.2e}")


def _stacked(model: ClipModel, pictures: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    maps = model.feature_maps(pictures, [SIZE] * len(pictures))
    return torch.stack([found.values.float().cpu() for found in maps])


def _off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _blank(model: ClipModel, count: int) -> list[NDArray[np.uint8]]:
    return [np.zeros((model.preprocess.size, model.preprocess.size, 3), np.uint8)] * count


def _originals(_: ClipModel, count: int) -> list[NDArray[np.uint8]]:
    """Pictures as they are decoded, which the model resizes where it runs."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8) for _ in range(count)]


def _emptied(bench: Bench) -> int:
    """Gives back what is cached, and says how many bytes are still in use."""
    if not bench.gpu:
        return 0
    bench.sync()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()
