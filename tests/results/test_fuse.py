"""``clipfeat-fuse`` end to end: against slow twins in float64, from every kind of store, resumed, with bad input."""

import dataclasses
import io
import json
import re
import shutil
import tracemalloc

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from scipy.spatial import cKDTree
from twins import slow_sample

import clipfeat.results.fuse
from clipfeat.camera.projection import unproject_depth
from clipfeat.cli.commands import fuse_main
from clipfeat.cli.schemas import register_schemas
from clipfeat.config.folder import config_dir
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.extraction.extract import extract
from clipfeat.output.fused import read_fused
from clipfeat.output.ply import UNSEEN
from clipfeat.output.store import FeatureStore
from clipfeat.results.config import FUSED_FORMATS, FuseConfig
from clipfeat.results.fuse import FORMATS, fuse, pca_rgb
from clipfeat.sampling.colors import depth_pixel_colors
from clipfeat.sampling.point_files import read_faces, read_points

SCENES = ["demo0000_00", "demo0001_00"]
LABELS = "sampling.labels_file='${data.root}/{scene}/{scene}_vh_clean_2.labels.ply'"
STORES = {
    "grid": ["output=grid"],
    "crop": ["output=grid", "model.resize_mode=crop"],
    "proj128": ["output=grid", "model/head=proj128"],
    "text": ["output=grid", "model/head=text"],
    "depth": ["output=npz", "sampling.num_points=700"],
    "mesh": ["output=h5", "output.dtype=float16", "sampling=mesh", "sampling.num_points=2000", LABELS],
}


@pytest.fixture(scope="module")
def store_of(demo_root, tiny_arch, tmp_path_factory):
    """The folder of a run of that name, extracted when it is first asked for."""
    root = tmp_path_factory.mktemp("stores")

    def make(name):
        folder = root / name
        if not folder.exists():
            register_schemas()
            fixed = [f"data.root={demo_root}", f"output_dir={folder}", "vis=none", f"model.arch={tiny_arch}"]
            fixed += ["model.pretrained=null", "model/head=none"]
            with initialize_config_dir(str(config_dir()), version_base="1.3"):
                extract(OmegaConf.to_object(compose("extract", [*fixed, *STORES[name]])))
        return folder

    return make


@pytest.fixture
def run_fuse(run_main):
    return lambda *overrides: run_main(fuse_main, *overrides)


def mesh_path(root, scene_id):
    return root / scene_id / f"{scene_id}_vh_clean_2.ply"


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


def test_meshes_of_other_programs_give_the_same_features(store_of, demo_root, tmp_path):
    """As text, with colours from 0 to 1, triangles and quads, and a vertex that no face uses in front."""
    cfg = FuseConfig(str(store_of("grid")), str(tmp_path / "own"), formats=[], scenes_file=str(tmp_path / "s.txt"))
    (tmp_path / "s.txt").write_text(SCENES[0])
    fuse(cfg)
    own = read_fused(tmp_path / "own" / f"{SCENES[0]}.npz")
    lines = ["ply", "format ascii 1.0", f"element vertex {len(own.points.xyz) + 1}"]
    lines += [f"property float {name}" for name in ("x", "y", "z", "red", "green", "blue")]
    lines += [f"element face {len(own.faces) + 1}", "property list uchar int vertex_indices", "end_header"]
    rgb = own.points.attributes["rgb"] / 255
    lines += ["-90 -90 -90 0 0 1", *(" ".join(f"{x:.9g}" for x in row) for row in np.hstack([own.points.xyz, rgb]))]
    lines += ["4 1 2 3 4", *("3 {} {} {}".format(*(face + 1)) for face in own.faces)]
    (tmp_path / "m.ply").write_text("\n".join(lines) + "\n")
    fuse(dataclasses.replace(cfg, output_dir=str(tmp_path / "text"), points_file=str(tmp_path / "m.ply")))
    found = read_fused(tmp_path / "text" / f"{SCENES[0]}.npz")
    np.testing.assert_array_equal(found.pts_feat[1:], own.pts_feat)
    np.testing.assert_array_equal(found.views, [0, *own.views])
    np.testing.assert_array_equal(found.points.attributes["rgb"], [[0, 0, 255], *own.points.attributes["rgb"]])
    np.testing.assert_array_equal(found.faces, [[1, 2, 3], [1, 3, 4], *(own.faces + 1)])


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


def test_the_bar_counts_a_frame_once_however_often_it_is_gone_through(store_of, tmp_path, monkeypatch):
    bars = []

    class Bar(clipfeat.results.fuse.tqdm):
        def __init__(self, **about):
            super().__init__(**about | {"disable": False, "file": io.StringIO()})
            bars.append(self)

    monkeypatch.setattr("clipfeat.results.fuse.tqdm", Bar)
    fuse(FuseConfig(str(store_of("grid")), str(tmp_path), points="voxel", voxel_size=0.2, best_views=2, formats=[]))
    assert (bars[0].total, round(bars[0].n, 6)) == (8, 8)


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


def test_without_any_mesh_voxels_are_taken_in_the_pictures_colours(store_of, run_fuse, tmp_path, scans):
    for scene_id in SCENES:
        mesh_path(scans, scene_id).unlink()
    base = [f"store={store_of('grid')}", f"data_root={scans}", "voxel_size=0.2", "formats=[]"]
    code, err = run_fuse(*base, "output_dir=out")
    assert code == 0, err
    assert "no scene has a mesh (" in err
    assert "{scene}_vh_clean_2.ply): fusing onto voxels of 0.2 m; points_file=" in err
    found = read_fused(tmp_path / "out" / f"{SCENES[0]}.npz")
    assert found.meta["points"] == "voxel"
    cells = {}
    for frame_id in found.meta["frames"]:
        frame = ScanNetDataset(scans).load(SCENES[0], frame_id)
        xyz, pixels = unproject_depth(frame.depth_m, frame.depth_camera.intrinsics, frame.cam_to_world)
        rgb, inside = depth_pixel_colors(frame, pixels)
        of_points = np.floor(xyz * (1 / 0.2)).astype(int)
        for cell, color, known in zip(map(tuple, of_points), rgb.astype(float), inside, strict=True):
            cells.setdefault(cell, []).extend([color] * bool(known))
    expected = np.array([np.mean(colors, 0) if colors else np.full(3, 128.0) for colors in cells.values()])
    np.testing.assert_allclose(found.points.attributes["rgb"], expected, atol=0.5 + 1e-9)
    # The folder's voxels are gone on with, also when meshes are there; and what was asked for is not replaced.
    code, err = run_fuse(f"store={store_of('grid')}", "voxel_size=0.2", "formats=[]", "output_dir=out")
    assert (code, "0 scenes to fuse, 2 done already" in err) == (0, True), err
    code, err = run_fuse(*base, "output_dir=other", "points=mesh")
    assert code == 1
    assert "demo0000_00_vh_clean_2.ply: no such file, the mesh of demo0000_00 was expected; say where it is by" in err


def test_voxels_too_small_for_the_scene_are_an_error_that_names_it(store_of, run_fuse):
    code, err = run_fuse(f"store={store_of('depth')}", "output_dir=out", "points=voxel", "voxel_size=1e-12")
    assert code == 1
    assert "the first: demo0000_00 frame 0: points must lie within 1073741824 voxels of 1e-12 m around the" in err
    assert "take a larger voxel_size" in err
    assert "Traceback" not in err


def test_every_format_is_written_and_says_whose_features_it_shows(store_of, run_fuse, tmp_path):
    code, err = run_fuse(f"store={store_of('grid')}", "output_dir=out", "formats=[ply,openscene]")
    assert code == 0, err
    assert "2 done (2 now), 0 failed" in err
    assert "8 fused, 0 skipped" in err
    assert "weights          random" in err
    assert {p.name for p in (tmp_path / "out").glob("demo*")} == {
        s + e for s in SCENES for e in (".npz", ".ply", "_0.pt")
    }
    assert set(FORMATS) == set(FUSED_FORMATS)
    for scene_id in SCENES:
        found = read_fused(tmp_path / "out" / f"{scene_id}.npz")
        path = tmp_path / "out" / f"{scene_id}.ply"
        assert b"clipfeat-test-ViT none weights=random" in path.read_bytes()
        rgb = read_points(path).attributes["rgb"]
        np.testing.assert_array_equal(rgb, pca_rgb(found))
        assert (rgb[~found.seen] == UNSEEN).all()
        assert len(np.unique(rgb[found.seen], axis=0)) > 100
        np.testing.assert_array_equal(read_faces(path), found.faces)
        half = torch.load(tmp_path / "out" / f"{scene_id}_0.pt", weights_only=True)
        assert half["mask_full"].tolist() == found.seen.tolist()
        np.testing.assert_array_equal(half["feat"].numpy(), found.pts_feat[found.seen].astype(np.float16))


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


def test_voxels_of_a_real_recording(office, run_cli, run_fuse, tmp_path):
    (tmp_path / "scenes.txt").write_text("scene9000_00\n")
    base = [f"data.root={office}", "scenes_file=scenes.txt", "output_dir=run", "output=grid", "frames_per_scene=8"]
    assert run_cli(*base)[0] == 0
    code, err = run_fuse("store=run", "points=voxel")
    assert code == 0, err
    found = read_fused(tmp_path / "run" / "fused" / "scene9000_00.npz")
    assert found.seen.mean() > 0.9
    assert (found.views > 1).mean() > 0.3  # neighbours overlap by half; with wrong poses next to nothing would
    # The floor is one flat layer of voxels: their heights differ by less than the voxels are high.
    heights, counts = np.unique(np.floor(found.points.xyz[:, 1] / 0.05), return_counts=True)
    floor = heights[counts.argmax()]
    near = found.points.xyz[np.abs(found.points.xyz[:, 1] / 0.05 - floor - 0.5) < 2, 1]
    assert np.percentile(np.abs(near - np.median(near)), 50) < 0.02


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("demo*")}


def test_the_same_command_again_does_only_what_is_missing(store_of, run_fuse, tmp_path, scans):
    store = shutil.copytree(store_of("grid"), tmp_path / "store")
    base, out = [f"store={store}", f"data_root={scans}"], store / "fused"
    assert run_fuse(*base)[0] == 0
    before = times(out)
    code, err = run_fuse(*base)
    assert code == 0
    assert "0 scenes to fuse, 2 done already" in err
    assert "2 done (0 now)" in err
    assert times(out) == before
    moved = scans.rename(tmp_path / "moved")  # nothing is to do, so nobody needs the scans
    assert run_fuse(*base)[0] == 0
    code, err = run_fuse(*base, "formats=[openscene]")  # made of what is there
    assert code == 0
    assert {p.name for p in out.glob("*.pt")} == {"demo0000_00_0.pt", "demo0001_00_0.pt"}
    (out / "demo0001_00.npz").unlink()
    code, err = run_fuse(*base)
    assert code == 1
    assert f"clipfeat: data_root={scans}: no such folder, the scans of {store} were expected there" in err
    code, err = run_fuse(f"store={store}", f"data_root={moved}")
    assert code == 0, err
    assert "1 scenes to fuse, 1 done already" in err
    assert times(out)["demo0000_00.npz"] == before["demo0000_00.npz"]
    assert not (out / "demo0001_00_0.pt").exists()  # it was of the old npz
    code, err = run_fuse(f"store={store}", "best_views=1")
    assert code == 1
    assert "holds results of another configuration, which differs in best_views: None there, 1 now" in err
    code, err = run_fuse(f"store={store}", f"data_root={moved}", "best_views=1", "resume=overwrite")
    assert code == 0
    assert read_fused(out / "demo0000_00.npz").views.max() == 1


def test_frames_that_come_later_are_fused_too(store_of, run_fuse, tmp_path, demo_root):
    store = shutil.copytree(store_of("grid"), tmp_path / "store")
    last = store / "demo0000_00" / "frame_60.safetensors"
    aside = last.rename(tmp_path / "aside")
    assert run_fuse(f"store={store}", f"data_root={demo_root}")[0] == 0
    assert read_fused(store / "fused" / "demo0000_00.npz").meta["frames"] == [0, 20, 40]
    aside.rename(last)
    assert "1 scenes to fuse, 1 done already" in run_fuse(f"store={store}", f"data_root={demo_root}")[1]
    assert read_fused(store / "fused" / "demo0000_00.npz").meta["frames"] == [0, 20, 40, 60]


@pytest.mark.parametrize("options", [[], ["points=voxel"], ["best_views=2"]])
def test_bad_frames_are_skipped_and_listed(store_of, run_fuse, tmp_path, scans, options):
    store = shutil.copytree(store_of("grid"), tmp_path / "store")
    path = store / "demo0000_00" / "frame_20.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    (scans / "demo0000_00" / "pose" / "40.txt").unlink()
    base = [f"store={store}", f"data_root={scans}", *options]
    code, err = run_fuse(*base)
    assert code == 0, err
    assert "6 fused, 2 skipped" in err
    assert "WARNING failed: demo0000_00 frame 20: " in err
    assert "pose/40.txt: no such file" in err
    meta = read_fused(store / "fused" / "demo0000_00.npz").meta
    assert meta["frames"] == [0, 60]
    assert sorted(failure["frame_id"] for failure in meta["failed"]) == [20, 40]
    assert "0 scenes to fuse, 2 done already" in run_fuse(*base)[1]
    code, err = run_fuse(*base, "resume=overwrite", "on_bad_frame=fail")
    assert code == 1
    assert err.strip().splitlines()[-1].startswith("clipfeat: ")
    assert "Traceback" not in err


def test_a_scene_that_can_not_be_fused_is_named_and_the_others_are_done(store_of, run_fuse, tmp_path, scans):
    mesh_path(scans, SCENES[0]).unlink()
    base = [f"store={store_of('grid')}", f"data_root={scans}"]
    code, err = run_fuse(*base, "output_dir=out")
    assert code == 0
    assert "1 done (1 now), 1 failed" in err
    assert "demo0000_00_vh_clean_2.ply: no such file, the mesh of demo0000_00 was expected; say where it is by" in err
    assert run_fuse(*base, "output_dir=o2", "on_bad_frame=fail")[0] == 1
    far = tmp_path / "far.npz"
    np.savez(far, xyz=np.full((5, 3), 99.0))
    code, err = run_fuse(*base, "output_dir=o3", f"points_file={far}")
    assert code == 1
    assert (
        "clipfeat: all 2 scenes failed; the first: demo0000_00: none of its 4 frames sees a point of it (the po" in err
    )
    assert not list((tmp_path / "o3").glob("demo*"))


def test_few_seen_points_are_worth_a_warning(store_of, run_fuse, tmp_path, demo_root):
    xyz = read_points(mesh_path(demo_root, SCENES[0])).xyz
    np.savez(tmp_path / "turned.npz", xyz=np.concatenate((xyz, xyz + 99, xyz - 99)))
    (tmp_path / "scenes.txt").write_text("demo0000_00\n")
    code, err = run_fuse(f"store={store_of('grid')}", "output_dir=out", f"points_file={tmp_path}/turned.npz",
                         "scenes_file=scenes.txt", "formats=[]")  # fmt: skip
    assert code == 0
    assert "WARNING demo0000_00: only " in err
    assert {p.name for p in (tmp_path / "out").glob("demo*")} == {"demo0000_00.npz"}


@pytest.mark.parametrize(
    ("change", "why"),
    [(lambda xyz: xyz[:50], r"vertex \d+ among them, it has 50"), (lambda xyz: xyz + 0.01, r"one is 0.01 m away")],
)
def test_a_mesh_that_was_not_sampled_is_refused(store_of, run_fuse, tmp_path, scans, change, why):
    for scene_id in SCENES:
        np.savez(tmp_path / f"{scene_id}.npz", xyz=change(read_points(mesh_path(scans, scene_id)).xyz))
    store = shutil.copytree(store_of("mesh"), tmp_path / "store")
    config = (store / "config.yaml").read_text()
    lines = [line for line in config.splitlines() if "labels_file" not in line]
    lines = [f"  points_file: {tmp_path}/{{scene}}.npz" if "points_file" in line else line for line in lines]
    (store / "config.yaml").write_text("\n".join(lines))
    code, err = run_fuse(f"store={store}")
    assert code == 1
    assert re.search(rf"its points are not the vertices of the given mesh \({why}", err)
    assert "say where the run's own meshes are, as points_file=…" in err


def test_a_store_without_a_usable_configuration_is_named(store_of, run_fuse, tmp_path):
    store = shutil.copytree(store_of("depth"), tmp_path / "store")
    good = (store / "config.yaml").read_text()
    (store / "config.yaml").unlink()
    code, err = run_fuse(f"store={store}")
    assert code == 1
    assert f"clipfeat: {store}/config.yaml: no such file, the configuration of the run; give the output_dir of" in err
    (store / "config.yaml").write_text(good.replace("depth_tolerance:", "depth_tolerances:"))
    code, err = run_fuse(f"store={store}")
    assert code == 1
    assert f"{store}/config.yaml: not the configuration of a run of this clipfeat (no configuration of clipf" in err
    assert len(err.strip().splitlines()) == 1
    code, err = run_fuse("store=nowhere")
    assert code == 1
    assert "clipfeat: nowhere: no such folder; give the output_dir of clipfeat-extract" in err
    code, err = run_fuse()
    assert "clipfeat: store is not set: give the output_dir of clipfeat-extract, as store=…" in err


def test_pictures_of_another_size_are_not_those_of_the_run(store_of, run_fuse, tmp_path, scans):
    from PIL import Image

    path = scans / "demo0000_00" / "color" / "0.jpg"
    Image.open(path).resize((200, 150)).save(path)
    code, err = run_fuse(f"store={store_of('grid')}", f"data_root={scans}", "output_dir=out")
    assert code == 0
    assert "frame_0.safetensors: of a picture of 216×162 pixels, but it now has 200×150; give the scans that" in err


def test_instance_masks_speak_here_too(demo_root, store_of, tmp_path):
    plain = store_of("grid")
    masked = shutil.copytree(plain, tmp_path / "store")
    config = (masked / "config.yaml").read_text()
    masks = f"masks: {demo_root}/{{scene}}/instance-filt/{{frame}}.png"
    assert "masks: null" in config
    (masked / "config.yaml").write_text(config.replace("masks: null", masks))
    metas = [fuse(FuseConfig(str(s), str(tmp_path / n)))["scenes"] for s, n in ((plain, "a"), (masked, "b"))]
    for scene_id in SCENES:
        assert 0.3 * metas[0][scene_id]["num_seen"] < metas[1][scene_id]["num_seen"] < metas[0][scene_id]["num_seen"]


def test_ctrl_c_keeps_the_scenes_that_are_done(store_of, tmp_path, monkeypatch):
    from clipfeat.results import fuse as module

    write = module.write_fused

    def stop_at_the_second(path, fused):
        if "demo0001" in path.name:
            raise KeyboardInterrupt
        return write(path, fused)

    monkeypatch.setattr(module, "write_fused", stop_at_the_second)
    cfg = FuseConfig(str(store_of("grid")), str(tmp_path))
    with pytest.raises(KeyboardInterrupt, match="1 of 2 scenes are done in"):
        fuse(cfg)
    monkeypatch.undo()
    assert list(fuse(cfg)["scenes"]) == SCENES
    assert json.loads(json.dumps(fuse(cfg)))["fused"] == 0
    assert fuse(dataclasses.replace(cfg, resume="overwrite"))["fused"] == 2
