"""Measures clipfeat-extract against its own model and against a plain loop, all in one run.

    python scripts/benchmark.py                                     the demo, ViT-B/16 with random weights
    python scripts/benchmark.py --frames 100 data.root=/data/scans  any data set: overrides as for clipfeat-extract
    python scripts/benchmark.py --frames 300 --store out            reading a run as training does
    python scripts/benchmark.py --shards 2 data.root=/data/scans    processes of a core each, against one of them

Every candidate does the same frames, in turns, warm; the figures are medians over the rounds. Writes benchmark.md,
benchmark.json and benchmark.png.
"""

import argparse
import dataclasses
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image
from sklearn.manifold import TSNE
from torch.utils.data import DataLoader, RandomSampler, default_collate
from tqdm import tqdm

from clipfeat.camera.projection import transform_points, world_to_cam
from clipfeat.camera.visibility import VisibilityRule, project_views
from clipfeat.cli.schemas import register_schemas
from clipfeat.config.folder import config_dir
from clipfeat.data.base import Dataset
from clipfeat.data.demo import SceneOptions, render_scene
from clipfeat.data.layouts import build_dataset
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.data.selection import FrameKey, list_frames
from clipfeat.errors import ConfigError
from clipfeat.extraction.config import ExtractConfig
from clipfeat.extraction.extract import extract
from clipfeat.extraction.lane import default_lanes
from clipfeat.model.clip_model import ClipModel, load_model, resolve_device
from clipfeat.model.config import CacheConfig
from clipfeat.output.config import OutputConfig
from clipfeat.output.dataset import FeatureDataset, collate_points
from clipfeat.output.files import write_features
from clipfeat.output.folders import write_config
from clipfeat.output.fused import read_fused
from clipfeat.output.grid import GridFrame
from clipfeat.output.run_folder import RunFolder
from clipfeat.output.store import FeatureStore
from clipfeat.output.summary import machine, peak_memory, versions
from clipfeat.results.config import FuseConfig
from clipfeat.results.fuse import fuse
from clipfeat.sampling.locate import build_locator
from clipfeat.sampling.point_files import read_points
from clipfeat.system.shards import Shard
from clipfeat.types import FeatureMap, Frame, resize_affine
from clipfeat.vis.config import VisConfig

log = logging.getLogger("clipfeat.benchmark")


def compose_config(overrides: list[str]) -> ExtractConfig:
    """The configuration of the run: the demo with random weights where nothing else is said."""
    register_schemas()
    base = ["vis=none"]
    if not any(o.startswith(("data", "experiment")) for o in overrides):
        base += ["experiment=demo", "data.num_scenes=4", "data.num_frames=10", "model.pretrained=null"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = OmegaConf.to_object(compose("extract", base + overrides))
    if not isinstance(cfg, ExtractConfig):
        raise TypeError("the configuration is not that of clipfeat-extract")
    if cfg.model.window is not None:
        raise ConfigError(f"model.window={cfg.model.window}: the plain loop knows no windows; leave it out")
    return cfg


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


def plain_loop(
    dataset: Dataset, frames: list[FrameKey], model: ClipModel, count: int | None, out: Path, *, draw: bool = False
) -> None:
    """What one writes first: a frame at a time, grid_sample, np.savez, and a t-SNE of all points if it shall draw."""
    size, rng = model.preprocess.size, np.random.default_rng(0)
    mean = torch.tensor(model.preprocess.mean).view(1, 3, 1, 1)
    std = torch.tensor(model.preprocess.std).view(1, 3, 1, 1)
    out.mkdir(parents=True)
    for scene_id, frame_id in frames:
        frame = dataset.load(scene_id, frame_id)
        if frame.depth_m is None or frame.depth_camera is None:
            continue
        resized = Image.fromarray(frame.image).resize((size, size), Image.Resampling.BICUBIC)
        tensor = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            tokens = model.encoder.tokens(((tensor - mean) / std).to(model.device, model.dtype))
            tokens = model.encoder.project(tokens) if model.head.projected else tokens
            feature_map = model.head.to_map(tokens.float())
        v, u = np.nonzero(frame.depth_m > 0)
        chosen = rng.permutation(len(v))[:count]
        u, v, z = u[chosen], v[chosen], frame.depth_m[v[chosen], u[chosen]].astype(np.float64)
        k = frame.depth_camera.intrinsics
        cam = np.stack(((u - k[0, 2]) / k[0, 0] * z, (v - k[1, 2]) / k[1, 1] * z, z, np.ones_like(z)))
        world = (frame.cam_to_world @ cam).T
        back = (np.linalg.inv(frame.cam_to_world) @ world.T).T
        c = frame.color_camera
        uv = np.stack(
            (
                c.intrinsics[0, 0] * back[:, 0] / back[:, 2] + c.intrinsics[0, 2],
                c.intrinsics[1, 1] * back[:, 1] / back[:, 2] + c.intrinsics[1, 2],
            ),
            1,
        ).astype(np.float32)
        grid = (torch.from_numpy(uv) + 0.5) / torch.tensor([c.width, c.height]) * 2 - 1
        sampled = nnf.grid_sample(
            feature_map, grid[None, :, None].to(feature_map), padding_mode="border", align_corners=False
        )
        features = model.point_features(sampled[0, :, :, 0].T)
        np.savez(
            out / f"{scene_id}_{frame_id}.npz",
            pts_feat=features,
            uv_idx=uv,
            conf_2d=np.ones(len(uv), np.float32),
            xyz=world[:, :3].astype(np.float32),
            pts_idx=(v * frame.depth_m.shape[1] + u),
        )
        if draw:
            embedded = TSNE(n_components=2, random_state=0).fit_transform(features)
            figure = Figure(figsize=(8, 8))
            figure.subplots().scatter(
                embedded[:, 0], embedded[:, 1], s=1, c=frame.image[uv[:, 1].astype(int), uv[:, 0].astype(int)] / 255
            )
            figure.savefig(out / f"{scene_id}_{frame_id}.png")


def measure(
    candidates: dict[str, Callable[[], object]], clean: Callable[[], None], frames: int, rounds: int
) -> dict[str, list[float]]:
    """Frames a second of each candidate in each round; they take turns, so that a busy moment hits all alike.

    ``clean`` runs before each, untimed.
    """
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            clean()
            begin = time.perf_counter()
            run()
            seconds = time.perf_counter() - begin
            if number:  # the first round warms up
                rates[name].append(frames / seconds)
            log.info("round %d of %d, %-16s %6.2f frames/s", number, rounds, name, frames / seconds)
    return rates


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


def views_in_a_loop(points: np.ndarray, frames: list[Frame], rule: VisibilityRule) -> list[np.ndarray]:
    """The usual way: a view at a time, whole arrays, rounded pixels, the same depth test. (N, 3) row, column, seen."""
    mappings = []
    for frame in frames:
        if frame.depth_m is None or frame.depth_camera is None:
            raise ValueError("the plain loop needs depth")
        k, depth = frame.depth_camera.intrinsics, frame.depth_m
        mapping = np.zeros((3, len(points)), dtype=int)
        homogeneous = np.concatenate([points, np.ones([len(points), 1])], axis=1).T
        cam = np.matmul(np.linalg.inv(frame.cam_to_world), homogeneous)
        with np.errstate(all="ignore"):
            cam[0] = cam[0] * k[0, 0] / cam[2] + k[0, 2]
            cam[1] = cam[1] * k[1, 1] / cam[2] + k[1, 2]
            pixel = np.round(cam).astype(int)
        inside = (pixel[0] >= 0) & (pixel[1] >= 0) & (pixel[0] < depth.shape[1]) & (pixel[1] < depth.shape[0])
        inside &= (cam[2] >= rule.near) & (cam[2] <= rule.far)
        measured, z = depth[pixel[1][inside], pixel[0][inside]], cam[2][inside]
        allowed = np.maximum(rule.tolerance, rule.tolerance_rel * z)
        inside[inside] = (measured > 0) & (np.abs(measured - z) <= allowed)
        mapping[0][inside], mapping[1][inside], mapping[2][inside] = pixel[1][inside], pixel[0][inside], 1
        mappings.append(mapping.T)
    return mappings


def benchmark_views(rounds: int, num_views: int = 100) -> str:
    """Projects the vertices of a demo room into many views, against a plain loop, and returns what was found."""
    scratch = Path(tempfile.mkdtemp(prefix="clipfeat-benchmark-", dir="."))
    try:
        options = SceneOptions(num_frames=num_views, color_size=(324, 242), mesh_spacing=0.044)
        scene = render_scene(scratch, 0, options)
        dataset = ScanNetDataset(scratch)
        frames = [dataset.load(scene.name, i) for i in dataset.frame_ids(scene.name)]
        points = read_points(scene / f"{scene.name}_vh_clean_2.ply").xyz
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    rule = VisibilityRule()
    rates = measure(
        {
            "project_views": lambda: project_views(points, frames, rule),
            "plain loop": lambda: views_in_a_loop(points, frames, rule),
        },
        lambda: None,
        len(frames),
        rounds,
    )
    ours, plain = (statistics.median(rates[name]) * len(points) / 1e6 for name in ("project_views", "plain loop"))
    same = np.mean(
        project_views(points, frames, rule).visible == np.stack(views_in_a_loop(points, frames, rule))[..., 2]
    )
    return (
        f"{len(points)} vertices into {len(frames)} views: {ours:.1f} million point-views a second, the plain loop "
        f"{plain:.1f} million, so {ours / plain:.1f} ×; {100 * same:.2f} % of the point-views have the same visibility"
    )


def make_maps(root: Path, num_views: int) -> Dataset:
    """A run of output=grid by hand: a demo room with depth in full size, and random maps of 192×28×28."""
    options = SceneOptions(num_frames=num_views, color_size=(324, 242), mesh_spacing=0.0447)
    scene_id = render_scene(root / "scans", 0, options).name
    cfg = compose_config([f"data.root={root / 'scans'}", "data=scannet", "output=grid", f"output_dir={root / 'store'}"])
    folder = RunFolder(Path(cfg.output_dir), cfg.output.name, cfg.output.dtype)
    write_config(folder.path, dataclasses.asdict(cfg))
    dataset, locate, rng = build_dataset(cfg.data), build_locator(cfg), np.random.default_rng(0)
    model = {"arch": "ViT-B-16", "weights": "random", "weights_sha256": "", "head": "pixelshuffle", "head_sha256": None}
    for frame_id in dataset.frame_ids(scene_id):
        frame = dataset.load(scene_id, frame_id)
        located, camera, pose = locate(frame), frame.color_camera, frame.cam_to_world
        values = torch.from_numpy(rng.normal(size=(28, 28, 192)).astype(np.float16)).permute(2, 0, 1)
        feature_map = FeatureMap(values, resize_affine((camera.width, camera.height), (28, 28)))
        depth_m = transform_points(world_to_cam(pose), located.points.xyz)[:, 2].astype(np.float32)
        grid = GridFrame(
            feature_map, camera, pose, located.uv_idx, depth_m, located.conf_2d, located.points.idx
        )  # fmt: skip
        meta = {
            "camera": {"intrinsics": camera.intrinsics.tolist(), "width": camera.width, "height": camera.height},
            "cam_to_world": pose.tolist(),
            "image_to_map": feature_map.image_to_map.tolist(),
            "model": model,
        }
        folder.write(scene_id, frame_id, grid, meta)
    return dataset


def fuse_in_a_loop(store: FeatureStore, dataset: Dataset, mesh: Path, out: Path) -> None:
    """The usual way: a view at a time, the nearest cell of the map, float32 sums of the points that are seen."""
    (scene_id,) = store.scenes
    points = read_points(mesh).xyz
    sums, views = np.zeros((len(points), 192), np.float32), np.zeros(len(points), np.float32)
    for frame_id in store.frames(scene_id):
        frame = dataset.load(scene_id, frame_id)
        values = store.map(scene_id, frame_id).feature_map.values.float().numpy()
        (mapping,) = views_in_a_loop(points, [frame], VisibilityRule())
        seen = mapping[:, 2] != 0
        height, width = frame.depth_m.shape if frame.depth_m is not None else (1, 1)
        row, column = mapping[:, 0] * values.shape[1] // height, mapping[:, 1] * values.shape[2] // width
        sums[seen] += values[:, row, column].T[seen]
        views[seen] += 1
    mean = sums / np.maximum(views, 1)[:, None]
    np.savez(out, pts_feat=mean, xyz=points.astype(np.float32), views=views)


def benchmark_fuse(rounds: int, num_views: int = 100) -> str:
    """Merges the maps of many views onto a mesh, against a plain loop, and returns what was found."""
    scratch = Path(tempfile.mkdtemp(prefix="clipfeat-benchmark-", dir="."))
    try:
        dataset = make_maps(scratch, num_views)
        store = FeatureStore(scratch / "store")
        scene_id = store.scenes[0]
        mesh = scratch / "scans" / scene_id / f"{scene_id}_vh_clean_2.ply"
        cfg = FuseConfig(str(scratch / "store"), str(scratch / "out"), formats=[], resume="overwrite")
        logging.getLogger("clipfeat.results.fuse").setLevel(logging.ERROR)
        rates = measure(
            {
                "fuse": lambda: fuse(cfg),
                "plain loop": lambda: fuse_in_a_loop(store, dataset, mesh, scratch / "plain.npz"),
            },
            lambda: None,
            num_views,
            rounds,
        )
        tracemalloc.start()
        fuse(cfg)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        count, channels = read_fused(scratch / "out" / f"{scene_id}.npz").pts_feat.shape
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    ours, plain = (statistics.median(rates[name]) for name in ("fuse", "plain loop"))
    return (
        f"{num_views} views onto {count} vertices, {channels} channels: {ours:.1f} frames/s, the plain loop "
        f"{plain:.1f}, so {ours / plain:.1f} ×; {peak / 1e6:.0f} MB in memory at most, "
        f"{peak / (4 * count * channels):.2f} × the features"
    )


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


def benchmark_shards(overrides: list[str], count: int, rounds: int) -> str:
    """Processes with a shard, a core and a thread each, against one such process that does all of the work."""
    cores = sorted(os.sched_getaffinity(0))[:count]
    if len(cores) < count:
        raise ConfigError(f"--shards {count}: expected at most {len(cores)}, a core for each")
    scratch = Path(tempfile.mkdtemp(prefix="clipfeat-benchmark-", dir="."))
    walls: dict[int, list[float]] = {1: [], count: []}
    working: dict[int, list[float]] = {1: [], count: []}
    try:
        # A last word that none of the overrides can take back.
        fixed = [f"output_dir={scratch}/out", "num_workers=1", "vis=none", "report=false"]
        for _ in tqdm(range(rounds + 1), unit="round", disable=None):
            for shards, wall in walls.items():
                shutil.rmtree(scratch / "out", ignore_errors=True)
                begin = time.perf_counter()
                processes = [
                    _start_on(core, [*overrides, *fixed, f"shard.index={index}", f"shard.count={shards}"])
                    for index, core in enumerate(cores[:shards])
                ]
                said = [process.communicate()[0] for process in processes]
                wall.append(time.perf_counter() - begin)
                if any(process.returncode for process in processes):
                    raise ConfigError("a shard failed: " + " / ".join(text[-500:] for text in said))
                summaries = [Shard(index, shards).file_name("summary.json") for index in range(shards)]
                runs = [json.loads((scratch / "out" / name).read_text())["run"] for name in summaries]
                working[shards].append(max(run["seconds"] for run in runs))
            frames = json.loads((scratch / "out/summary.json").read_text())["frames"]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    lines = [f"{frames} frames, a core and a thread for each process; seconds, median of {rounds} rounds:"]
    for what, found in (("from start to end", walls), ("after Python and its packages are loaded", working)):
        one, several = (statistics.median(values[1:]) for values in found.values())
        lines.append(f"{what}: one process {one:.1f}, {count} shards {several:.1f}, so {one / several:.2f} ×")
    return "\n".join(lines)


def _start_on(core: int, overrides: list[str]) -> "subprocess.Popen[str]":
    program = [sys.executable, "-c", "from clipfeat.cli.commands import extract_main; extract_main()", *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    return subprocess.Popen(  # noqa: S603 - our own program
        program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip


def markdown(result: dict[str, Any]) -> str:
    """The tables of benchmark.md."""
    what = result["machine"]["gpu"] or f"{result['machine']['cpu']}, {default_lanes()} cores"
    model = result["model"]
    lines = [
        f"{model['arch']} ({model['weights']} weights), {model['precision']}, head {model['head']}, on {what}; "
        f"{result['frames']} frames of {result['picture']}, {result['points']} points, output={result['output']}, "
        f"batches of {result['batch']}, {result['lanes']} lanes; median of {result['rounds']} rounds.",
        "",
        "| | frames/s | of the model only |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {rate:.2f} | {result['ratio'][name]:.2f} × |" for name, rate in
              result["frames_per_second"].items()]  # fmt: skip
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


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=40, help="frames at most (default 40)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds after the one that warms up (default 3)")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark"), help="folder for the results")
    parser.add_argument(
        "--pictures", type=int, metavar="N", help="only t-SNE pictures, against N frames of a plain loop (minutes each)"
    )
    parser.add_argument("--views", action="store_true", help="only project a mesh into 100 views, against a plain loop")
    parser.add_argument("--fuse", action="store_true", help="only merge 100 views onto a mesh, against a plain loop")
    parser.add_argument("--store", metavar="PATH", help="only read a run's features as training does, against fp32 npz")
    parser.add_argument("--shards", type=int, metavar="N", help="only N processes of a core each, against one of them")
    parser.add_argument("overrides", nargs="*", help="as for clipfeat-extract")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL, format="%(message)s", stream=sys.stderr)
    logging.getLogger("clipfeat").setLevel(logging.INFO)
    if arguments.views:
        print(benchmark_views(arguments.rounds))
        return
    if arguments.fuse:
        print(benchmark_fuse(arguments.rounds))
        return
    if arguments.shards:
        print(benchmark_shards(arguments.overrides, arguments.shards, arguments.rounds))
        return
    if arguments.store:
        print(benchmark_store(FeatureStore(arguments.store), arguments.frames, arguments.rounds))
        return
    if arguments.pictures:
        print(benchmark_pictures(compose_config(arguments.overrides), arguments.frames, arguments.pictures))
        return
    result = benchmark(compose_config(arguments.overrides), arguments.frames, arguments.rounds)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "benchmark.json").write_text(json.dumps(result, indent=2, ensure_ascii=False))
    (arguments.out / "benchmark.md").write_text(markdown(result))
    chart(result, arguments.out / "benchmark.png")
    print(markdown(result))


if __name__ == "__main__":
    main()
