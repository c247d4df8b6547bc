"""RayFronts' ``SemanticVoxelMap`` on the frames of the demo, beside maps of the same voxels."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from clipfeat.mapping.map3d import FeatureMap3D
from clipfeat.types import FloatArray
from peers.room import LABELS, Recording, miou, right

Cells = dict[tuple[int, ...], int]


def load(checkout: Path) -> Any:
    """Their module of maps, without their encoders, pictures and compressors, of which only names are needed."""
    package = ModuleType("rayfronts")
    package.__path__ = [str(checkout / "rayfronts")]
    sys.modules["rayfronts"] = package
    for name, classes in {
        "visualizers": ["Mapping3DVisualizer"],
        "image_encoders": ["ImageSpatialEncoder"],
        "feat_compressors": ["FeatCompressor"],
    }.items():
        module = ModuleType(f"rayfronts.{name}")
        for one in classes:
            setattr(module, one, object)
        sys.modules[f"rayfronts.{name}"] = module
        setattr(package, name, module)
    try:
        importlib.import_module("torch_scatter")
    except ImportError:
        stand_in = ModuleType("torch_scatter")
        stand_in.scatter = scatter  # type: ignore[attr-defined]
        sys.modules["torch_scatter"] = stand_in
    return importlib.import_module("rayfronts.mapping.semantic_voxel_map")


def scatter(src: torch.Tensor, index: torch.Tensor, out: torch.Tensor, reduce: str, dim: int) -> None:
    """Of torch_scatter what their code calls: sums or means of rows, into ``out`` of zeros."""
    out.index_add_(dim, index, src)
    if reduce == "mean":
        out /= torch.bincount(index, minlength=len(out))[:, None].clamp(min=1)


def fuse(theirs: Any, recording: Recording, scene_id: str, size: float) -> tuple[FloatArray, FloatArray]:
    """Their map of all frames; xyz (N, 3) and features (N, C) of its voxels."""
    first, _ = next(recording.frames(scene_id))
    k = torch.tensor(first.color_camera.intrinsics).float()
    world = theirs.SemanticVoxelMap(k, "cpu", encoder=SimpleNamespace(), max_pts_per_frame=-1, vox_size=size)
    for frame, feature_map in recording.frames(scene_id):
        world.process_posed_rgbd(
            rgb_img=torch.from_numpy(np.ascontiguousarray(frame.image)).permute(2, 0, 1)[None] / 255,
            depth_img=torch.from_numpy(frame.depth_m)[None, None],
            pose_4x4=torch.from_numpy(frame.cam_to_world).float()[None],
            feat_img=feature_map.values.float()[None],
        )
    return world.global_vox_xyz.numpy(), world.global_vox_feat.numpy()


def compare(recording: Recording, checkout: Path, size: float) -> None:
    """Prints the tables."""
    theirs = load(checkout)
    made = {
        "RayFronts": {s: fuse(theirs, recording, s, size) for s in recording.scenes},
        "clipfeat.FeatureMap3D, their cells": {s: _map(recording, s, size) for s in recording.scenes},
    }
    for points in ("measured", "voxel"):
        fused = recording.fused(recording.store, f"points={points}", f"voxel_size={size}")
        made[f"clipfeat-fuse points={points}"] = {s: (f.points.xyz, f.pts_feat) for s, f in fused.items()}
    truth = np.concatenate([recording.vertices(s).attributes["label"] for s in recording.scenes])
    print(f"{len(truth)} vertices, each named by the nearest voxel within {size:g} m\n")
    print("| fused by | voxels | vertices named | right of the named | mIoU |")
    for name, of in made.items():
        named = np.concatenate([_at_vertices(recording, s, *of[s], size) for s in recording.scenes])
        voxels = sum(len(xyz) for xyz, _ in of.values())
        print(f"| {name} | {voxels} | {(named >= 0).sum()} | {right(truth, named):.4f} | {miou(truth, named):.4f} |")
    their, our = made["RayFronts"], made["clipfeat.FeatureMap3D, their cells"]
    for scene_id in recording.scenes:
        _differences(recording, scene_id, size, their[scene_id], our[scene_id])


def _map(recording: Recording, scene_id: str, size: float) -> tuple[FloatArray, FloatArray]:
    """Ours of the cells that theirs has: around multiples of the size, not between them, so half a voxel away."""
    world = FeatureMap3D(recording.model, voxel_size=size)
    for frame, feature_map in recording.frames(scene_id):
        pose = frame.cam_to_world.copy()
        pose[:3, 3] += size / 2
        moved = replace(frame, cam_to_world=pose)
        values = replace(feature_map, values=feature_map.values.float())
        world.add_view(world.see(world.look(moved), values), moved)
    found = world.points()
    return found.xyz - size / 2, world.features()


def _at_vertices(
    recording: Recording, scene_id: str, xyz: FloatArray, features: FloatArray, size: float
) -> NDArray[np.int64]:
    distance, row = cKDTree(xyz).query(recording.vertices(scene_id).xyz, distance_upper_bound=size)
    named = np.append(recording.named(features), -1)
    found: NDArray[np.int64] = named[np.where(np.isfinite(distance), row, -1)]
    return found


def _differences(recording: Recording, scene_id: str, size: float, theirs: Any, ours: Any) -> None:
    cells, our_cells = (_cells(xyz, size) for xyz, _ in (theirs, ours))
    both = sorted(cells.keys() & our_cells.keys())
    a, b = theirs[1][[cells[c] for c in both]], ours[1][[our_cells[c] for c in both]]
    named, our_named = recording.named(a), recording.named(b)
    cosine = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-9)
    print(f"\n{scene_id}: voxels of both {len(both)}, of theirs alone {len(cells) - len(both)}, of ours alone", end=" ")
    print(f"{len(our_cells) - len(both)}; cosine above 0.9999 {(cosine > 0.9999).mean():.4f},", end=" ")
    print(f"above 0.99 {(cosine > 0.99).mean():.4f}, least {cosine.min():.3f}")
    vertices = recording.vertices(scene_id)
    tree = cKDTree(vertices.xyz)
    differ = np.flatnonzero(named != our_named)
    distance, row = tree.query(np.array(both)[differ] * size)
    label = vertices.attributes["label"][row]
    print(f"other labels {len(differ)}; of the vertex nearest to the voxel's centre it is ours", end=" ")
    print(f"{(LABELS[our_named[differ]] == label).sum()}, theirs {(LABELS[named[differ]] == label).sum()}", end="; ")
    print(f"that vertex is {np.median(distance) if len(differ) else 0:.3f} m away (median)")


def _cells(xyz: FloatArray, size: float) -> Cells:
    return {tuple(cell): row for row, cell in enumerate(np.rint(xyz / size).astype(int).tolist())}
