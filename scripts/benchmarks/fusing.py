"""Maps of many views merged onto a mesh, against a plain loop."""

import dataclasses
import logging
import shutil
import statistics
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import compose_config, measure
from benchmarks.projection import views_in_a_loop
from clipfeat.camera.projection import transform_points, world_to_cam
from clipfeat.camera.visibility import VisibilityRule
from clipfeat.data.base import Dataset
from clipfeat.data.demo import SceneOptions, render_scene
from clipfeat.data.layouts import build_dataset
from clipfeat.output.folders import write_config
from clipfeat.output.fused import read_fused
from clipfeat.output.grid import GridFrame
from clipfeat.output.run_folder import RunFolder
from clipfeat.output.store import FeatureStore
from clipfeat.results.config import FuseConfig
from clipfeat.results.fuse import fuse
from clipfeat.sampling.locate import build_locator
from clipfeat.sampling.point_files import read_points
from clipfeat.types import FeatureMap, resize_affine


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
            feature_map=feature_map, camera=camera, cam_to_world=pose, uv_idx=located.uv_idx, depth_m=depth_m,
            conf_2d=located.conf_2d, pts_idx=located.points.idx,
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
