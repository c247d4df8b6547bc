"""Reading a run as training does, against np.load of fp32 npz."""

import os
import shutil
import statistics
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler, default_collate
from tqdm import tqdm

from benchmarks.common import measure
from clipfeat.output.dataset import FeatureDataset, collate_points
from clipfeat.output.files import write_features
from clipfeat.output.store import FeatureStore


def benchmark_store(store: FeatureStore, limit: int, rounds: int, points: int = 2048, workers: int = 2) -> str:
    """Random points of random frames as training reads them, against np.load of the same features in fp32 npz."""
    dataset = FeatureDataset(store, points)
    half = FeatureDataset(store, points, dtype=torch.float16)
    keys = [(scene_id, frame_id) for scene_id in store.scenes for frame_id in store.frames(scene_id)][:limit]
    scratch = Path(tempfile.mkdtemp(prefix="clipfeat-benchmark-", dir="."))
    count = max(len(keys), 400)  # frames a round, some of them twice where the store has fewer
    try:
        paths = []
        for scene_id, frame_id in tqdm(keys, unit="frame", desc="npz", disable=None):
            paths.append(scratch / f"{scene_id}_{frame_id}.npz")
            write_features(paths[-1], "npz", store.load(scene_id, frame_id), store.meta(scene_id, frame_id))

        def readers(draws: int) -> dict[str, Callable[[], object]]:
            def reader(frames: torch.utils.data.Dataset[Any], collate: Any) -> Callable[[], object]:
                sampler = RandomSampler(range(len(keys)), replacement=draws > len(keys), num_samples=draws)
                loader = DataLoader(
                    frames, 8, sampler=sampler, num_workers=workers, collate_fn=collate, persistent_workers=True
                )
                return lambda: deque(loader, maxlen=0)

            return {
                "FeatureDataset": reader(dataset, collate_points),
                "in float16": reader(half, collate_points),
                "plain npz": reader(PlainDataset(paths, points), default_collate),
            }

        def forget() -> None:
            """Takes the files out of the page cache, where a data set that is larger than memory isn't either."""
            os.sync()
            for path in [*paths, *{store.path(*key) for key in keys}]:
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

        rates = measure(readers(count), lambda: None, count, rounds)
        cold = measure(readers(len(keys)), forget, len(keys), rounds) if hasattr(os, "posix_fadvise") else {}
        size, plain_size = (path.stat().st_size / 1e6 for path in (store.path(*keys[0]), paths[0]))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    channels = dataset[0]["pts_feat"].shape[1]
    lines = [
        f"{points} random points a frame, {channels} channels, {workers} workers, {len(keys)} frames, of "
        f"{size:.2f} MB as {store.format} and of {plain_size:.2f} MB as fp32 npz; frames/s, median of {rounds} rounds:"
    ]
    for where, found in (("all files in the page cache", rates), ("none in the page cache", cold)):
        if found:
            ours, in_half, plain = (statistics.median(values) for values in found.values())
            lines.append(
                f"{where}: FeatureDataset {ours:.0f}, in float16 {in_half:.0f}, np.load of npz {plain:.0f}, so "
                f"{ours / plain:.1f} × and {in_half / plain:.1f} ×"
            )
    return "\n".join(lines)


class PlainDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """What one writes first: np.load of the whole file, then random rows of it."""

    def __init__(self, paths: list[Path], points: int):
        self.paths = paths
        self.points = points

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        with np.load(self.paths[index]) as file:
            arrays = {name: file[name] for name in ("pts_feat", "xyz", "uv_idx", "conf_2d", "pts_idx")}
        rows = np.random.default_rng(int(torch.randint(2**63 - 1, ()))).permutation(len(arrays["xyz"]))[: self.points]
        return {name: torch.from_numpy(values[rows]) for name, values in arrays.items()}
