"""Points of a mesh in many views, against a plain loop."""

import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import measure
from clipfeat.camera.visibility import VisibilityRule, project_views
from clipfeat.data.demo import SceneOptions, render_scene
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.sampling.point_files import read_points
from clipfeat.types import Frame


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
