"""Features to the host, sampling on the GPU, and what the disk takes."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from clipfeat.sampling.bilinear import sample_img_feat
from clipfeat.system.direct import PageBuffer, direct_file
from gpu_parts.common import Bench
from gpu_parts.model import SIZE, loaded

POINTS = 20_000


def copies(bench: Bench) -> None:
    """From the GPU to memory that is its own or pinned, by one thread and by eight."""
    if not bench.gpu:
        return
    features = torch.randn(POINTS, 768, device=bench.device)
    pinned = torch.empty(features.shape, pin_memory=True)
    size = features.numel() * 4

    def to_pinned() -> None:
        pinned.copy_(features, non_blocking=True)
        bench.sync()

    for name, run in (("pageable", features.cpu), ("pinned", to_pinned)):
        seconds = bench.per_call(run)
        bench.note(f"61 MB of features to the host, {name}", f"{1e3 * seconds:.1f} ms, {size / seconds / 1e9:.1f} GB/s")
    with ThreadPoolExecutor(8) as pool:
        begin = time.perf_counter()
        list(pool.map(lambda _: features.cpu(), range(80)))
    bench.note("the same in 8 threads, pageable", f"{80 * size / (time.perf_counter() - begin) / 1e9:.1f} GB/s")


def sampling(bench: Bench) -> None:
    """One frame's points, there and on the host."""
    model = loaded(bench)
    side = model.preprocess.size
    [found] = model.feature_maps([np.zeros((side, side, 3), np.uint8)], [SIZE])
    uv = np.random.default_rng(0).uniform(0, 900, (POINTS, 2)).astype(np.float32)
    seconds = bench.per_call(lambda: sample_img_feat(found, uv))
    bench.note(f"sample {POINTS} points", f"{1000 * seconds:.2f} ms")
    seconds = bench.per_call(lambda: model.point_features(sample_img_feat(found, uv)))
    bench.note("the same, and to the host", f"{1000 * seconds:.2f} ms")
    if bench.gpu:
        memory = partial(PageBuffer().floats, pinned=True)
        seconds = bench.per_call(lambda: model.point_features(sample_img_feat(found, uv), memory))
        bench.note("the same, into pinned pages as a run does", f"{1000 * seconds:.2f} ms")


def disk(bench: Bench) -> None:
    """Bytes a second of files as large as a frame's npz, written as a run writes them, by four threads."""
    values = np.ones((POINTS, 768), np.float32)
    count = 64 if bench.gpu else 4
    with TemporaryDirectory(dir=bench.root.parent) as folder, ThreadPoolExecutor(4) as pool:

        def write(number: int) -> None:
            with direct_file(Path(folder) / f"{number}.bin", one_of_many=True) as file:
                file.write(values)

        begin = time.perf_counter()
        list(pool.map(write, range(count)))
        os.sync()
        bench.rates["the disk"] = count * values.nbytes / (time.perf_counter() - begin)
    bench.note(f"{count} files of {values.nbytes / 1e6:.0f} MB written", f"{bench.rates['the disk'] / 1e9:.2f} GB/s")
