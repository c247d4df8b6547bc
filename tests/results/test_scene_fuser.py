"""Scenes that are merged, against slow twins in float64."""

import tracemalloc

import numpy as np
import pytest
import torch
from runs_to_fuse import SCENES, mesh_path, run_of
from scipy.spatial import cKDTree
from twins import slow_sample

from clipfeat.camera.projection import unproject_depth
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.output.fused import read_fused
from clipfeat.output.store import FeatureStore
from clipfeat.results.config import FuseConfig
from clipfeat.results.fuse import fuse
from clipfeat.sampling.point_files import read_faces, read_points


@pytest.fixture(scope="session")
def store_of(demo_root, tiny_arch, tmp_path_factory):
    return lambda name: run_of(name, demo_root, tiny_arch, tmp_path_factory)


def slow_views(store, root, scene_id, xyz, to_points=lambda samples: samples):
    """Rows, weights and samples of each frame in float64, a formula a line; uv and conf_2d are float32 by contract."""
    dataset = ScanNetDataset(root)
    for frame_id in store.frames(scene_id):
        frame, feature_map = dataset.load(scene_id, frame_id), store.map(scene_id, frame_id).feature_map
        cam = xyz @ np.linalg.inv(frame.cam_to_world)[:3, :3].T + np.linalg.inv(frame.cam_to_world)[:3, 3]
        z, k, k_depth = cam[:, 2], frame.color_camera.intrinsics, frame.depth_camera.intrinsics
        with np.errstate(all="ignore"):
            u, v = k[0, 0] * cam[:, 0] / z + k[0, 2], k[1, 1] * cam[:, 1] / z + k[1, 2]
            in_view = (z >= 0.1) & (z <= 20) & (u >= -1e-3) & (v >= -1e-3)
            in_view &= (u <= frame.color_camera.width - 1 + 1e-3) & (v <= frame.color_camera.height - 1 + 1e-3)
            column = (u - k[0, 2]) / k[0, 0] * k_depth[0, 0] + k_depth[0, 2] + 0.5
            row = (v - k[1, 2]) / k[1, 1] * k_depth[1, 1] + k_depth[1, 2] + 0.5
        height, width = frame.depth_m.shape
        rows = np.flatnonzero(in_view)
        row, column = (
            np.clip(values[rows], 0, size - 1).astype(int) for values, size in ((row, height), (column, width))
        )
        measured, z = frame.depth_m[row, column].astype(np.float64), z[rows]
        allowed = np.maximum(0.03, 0.01 * z)
        seen = (measured > 0) & (np.abs(z - measured) <= allowed)
        weight = np.exp(-0.5 * (3 * np.abs(z - measured) / allowed) ** 2).astype(np.float32)[seen]
        rows = rows[seen]
        uv = np.stack((u[rows], v[rows]), 1).astype(np.float32).astype(np.float64)
        cell = uv @ feature_map.image_to_map[:, :2].T + feature_map.image_to_map[:, 2]
        inside = ((cell >= -0.5) & (cell <= np.array(feature_map.values.shape[:0:-1]) - 0.5)).all(1)
        yield rows[inside], weight[inside], to_points(slow_sample(feature_map.values.double().numpy(), cell[inside]))


def slow_fusion(views, count, best=None):
    """Weighted mean, views and weight of each point, of all its views or of the best, a point at a time."""
    of_point = [[] for _ in range(count)]
    for rows, weights, samples in views:
        for row, weight, sample in zip(rows, weights.astype(np.float64), samples, strict=True):
            of_point[row].append((weight, sample))
    of_point = [sorted(own, key=lambda view: -np.float32(view[0]))[:best] for own in of_point]  # stable
    channels = next(own[0][1].shape[0] for own in of_point if own)
    mean = [sum(w * f for w, f in own) / sum(w for w, _ in own) if own else np.zeros(channels) for own in of_point]
    return np.array(mean), [len(own) for own in of_point], np.array([sum(w for w, _ in own) for own in of_point])


def assert_fused(found, expected, atol=1e-5):
    mean, views, weight = expected
    np.testing.assert_allclose(found.pts_feat, mean, atol=atol)
    np.testing.assert_array_equal(found.views, views)
    np.testing.assert_allclose(found.weight, weight, rtol=1e-5)
    assert found.seen.mean() > 0.1
    assert np.abs(mean).max() > 1
    assert max(views) > 1


@pytest.mark.parametrize("best", [None, 2])
@pytest.mark.parametrize("name", ["grid", "crop"])
def test_maps_on_a_mesh_equal_a_slow_twin(store_of, demo_root, tmp_path, name, best):
    summary = fuse(FuseConfig(str(store_of(name)), str(tmp_path), best_views=best))
    store = FeatureStore(store_of(name))
    for scene_id in SCENES:
        found = read_fused(tmp_path / f"{scene_id}.npz")
        mesh = read_points(mesh_path(demo_root, scene_id))
        assert_fused(found, slow_fusion(slow_views(store, demo_root, scene_id, mesh.xyz), len(mesh.xyz), best))
        np.testing.assert_allclose(found.points.xyz, mesh.xyz, atol=1e-6)
        np.testing.assert_array_equal(found.points.attributes["rgb"], mesh.attributes["rgb"])
        np.testing.assert_array_equal(found.faces, read_faces(mesh_path(demo_root, scene_id)))
        assert found.meta == summary["scenes"][scene_id] | {"schema_version": 1}
        assert found.meta["frames"] == [0, 20, 40, 60]
        assert found.meta["num_seen"] == found.seen.sum()
        assert found.meta["model"]["weights"] == "random"


@pytest.mark.parametrize("best", [None, 2])
def test_maps_on_voxels_equal_a_slow_twin(store_of, demo_root, tmp_path, best):
    fuse(FuseConfig(str(store_of("grid")), str(tmp_path), points="voxel", voxel_size=0.2, best_views=best))
    dataset, store = ScanNetDataset(demo_root), FeatureStore(store_of("grid"))
    for scene_id in SCENES:
        found = read_fused(tmp_path / f"{scene_id}.npz")
        frames = [dataset.load(scene_id, frame_id) for frame_id in store.frames(scene_id)]
        measured = np.concatenate(
            [unproject_depth(f.depth_m, f.depth_camera.intrinsics, f.cam_to_world)[0] for f in frames]
        )
        _, first, inverse = np.unique(np.floor(measured / 0.2), axis=0, return_index=True, return_inverse=True)
        inverse = inverse.ravel()
        xyz = np.stack([np.bincount(inverse, axis) / np.bincount(inverse) for axis in measured.T], 1)[np.argsort(first)]
        np.testing.assert_allclose(found.points.xyz, xyz, atol=1e-6)
        assert_fused(found, slow_fusion(slow_views(store, demo_root, scene_id, xyz), len(xyz), best))
        assert found.faces is None


def test_a_linear_layer_at_the_points_commutes_with_the_mean(store_of, demo_root, tmp_path):
    """proj128's is applied once, to the mean; the twin applies it to every sample."""
    store, scene_id = FeatureStore(store_of("proj128")), SCENES[0]
    fuse(FuseConfig(str(store.folder), str(tmp_path)))
    head = store.head_for(store.map(scene_id, 0).feature_map).double()
    found, xyz = read_fused(tmp_path / f"{scene_id}.npz"), read_points(mesh_path(demo_root, scene_id)).xyz
    views = slow_views(store, demo_root, scene_id, xyz, lambda s: head.to_points(torch.from_numpy(s)).numpy())
    mean = slow_fusion(views, len(xyz))[0]
    np.testing.assert_allclose(found.pts_feat, mean, atol=1e-5)
    assert found.pts_feat.shape[1] == 128
    assert (found.pts_feat[found.views == 0] == 0).all()  # and not the layer's bias
    assert np.abs(mean).max() > 0.1


def test_unit_vectors_are_averaged_as_such(store_of, demo_root, tmp_path):
    """text's features are of length 1: that does not commute with the mean."""
    store, scene_id = FeatureStore(store_of("text")), SCENES[1]
    fuse(FuseConfig(str(store.folder), str(tmp_path)))
    found, xyz = read_fused(tmp_path / f"{scene_id}.npz"), read_points(mesh_path(demo_root, scene_id)).xyz
    views = slow_views(store, demo_root, scene_id, xyz, lambda s: s / np.linalg.norm(s, axis=1, keepdims=True))
    np.testing.assert_allclose(found.pts_feat, slow_fusion(views, len(xyz))[0], atol=1e-5)


def test_features_at_vertices_go_to_their_vertices(store_of, demo_root, tmp_path):
    store = FeatureStore(store_of("mesh"))
    fuse(FuseConfig(str(store.folder), str(tmp_path), dtype="float16"))
    for scene_id in SCENES:
        found, mesh = read_fused(tmp_path / f"{scene_id}.npz"), read_points(mesh_path(demo_root, scene_id))
        loaded = [store.load(scene_id, frame_id) for frame_id in store.frames(scene_id)]
        views = [(f.pts_idx, f.conf_2d, f.pts_feat.astype(np.float64)) for f in loaded]
        mean, counts, _ = slow_fusion(views, len(mesh.idx))
        assert found.pts_feat.dtype == np.float16
        np.testing.assert_allclose(found.pts_feat, mean, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(found.views, counts)
        labels = read_points(demo_root / scene_id / f"{scene_id}_vh_clean_2.labels.ply").attributes["label"]
        np.testing.assert_array_equal(found.points.attributes["label"], labels)


@pytest.mark.parametrize("best", [None, 1])
@pytest.mark.parametrize(("points", "reach"), [("mesh", 0.04), ("voxel", np.inf)])
def test_features_at_other_points_go_to_the_nearest_in_reach(store_of, demo_root, tmp_path, points, reach, best):
    store, scene_id = FeatureStore(store_of("depth")), SCENES[0]
    fuse(FuseConfig(str(store.folder), str(tmp_path), points=points, voxel_size=0.04, best_views=best))
    found = read_fused(tmp_path / f"{scene_id}.npz")
    tree = cKDTree(found.points.xyz if points == "voxel" else read_points(mesh_path(demo_root, scene_id)).xyz)
    views, left_out = [], 0
    for frame_id in store.frames(scene_id):
        features = store.load(scene_id, frame_id)
        distance, nearest = tree.query(features.xyz)
        left_out += (distance > reach).sum()
        near, own = distance < reach, {}
        for row, conf, feature in zip(nearest[near], features.conf_2d[near], features.pts_feat[near], strict=True):
            own.setdefault(row, []).append((float(conf), feature.astype(np.float64)))
        rows = sorted(own)
        weight = np.array([np.mean([w for w, _ in own[row]]) for row in rows])
        means = [sum(w * f for w, f in own[row]) / sum(w for w, _ in own[row]) for row in rows]
        views.append((rows, weight, means))
    mean, counts, weight = slow_fusion(views, len(found.views), best)
    np.testing.assert_allclose(found.pts_feat, mean, atol=1e-5)
    np.testing.assert_array_equal(found.views, counts)
    np.testing.assert_allclose(found.weight, weight, rtol=1e-5)
    assert (left_out > 0) == (points == "mesh")
    assert found.meta["num_seen"] == (found.views > 0).sum() > 50


def test_voxels_have_the_colors_of_the_frames_points(store_of, tmp_path):
    store, scene_id = FeatureStore(store_of("mesh")), SCENES[0]
    fuse(FuseConfig(str(store.folder), str(tmp_path), points="voxel", voxel_size=0.2, formats=[]))
    found = read_fused(tmp_path / f"{scene_id}.npz")
    cells = {}
    for frame_id in store.frames(scene_id):
        features = store.load(scene_id, frame_id)
        of_points = np.floor(features.xyz.astype(np.float64) * (1 / 0.2)).astype(int)
        for cell, rgb in zip(map(tuple, of_points), features.attributes["rgb"].astype(float), strict=True):
            cells.setdefault(cell, []).append(rgb)
    expected = np.array([np.mean(colors, 0) for colors in cells.values()])
    np.testing.assert_allclose(found.points.attributes["rgb"], expected, atol=0.5 + 1e-9)


@pytest.mark.parametrize("options", [{}, {"best_views": 2, "formats": ["ply", "openscene"]}])
def test_memory_is_needed_for_the_points_and_not_for_the_views(store_of, demo_root, tmp_path, options):
    xyz = read_points(mesh_path(demo_root, SCENES[0])).xyz
    many = np.concatenate([xyz + 1e-3 * offset for offset in range(3)])
    np.savez(tmp_path / "many.npz", xyz=many)
    (tmp_path / "scenes.txt").write_text(SCENES[0])
    files = {"points_file": str(tmp_path / "many.npz"), "scenes_file": str(tmp_path / "scenes.txt")}
    options = {"formats": [], **options, **files}
    cfg = FuseConfig(str(store_of("grid")), str(tmp_path), resume="overwrite", **options)
    fuse(cfg)  # what is imported and compiled is not counted
    tracemalloc.start()
    fuse(cfg)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * read_fused(tmp_path / f"{SCENES[0]}.npz").pts_feat.nbytes
