import dataclasses
import json
import logging
import os

import numpy as np
import pytest
import torch
import yaml
from stores import MODEL, some_features, some_grid, write_store

from clipfeat import FeatureStore
from clipfeat.cli.commands import export_main
from clipfeat.errors import DataError, OutputError
from clipfeat.output.folders import write_config
from clipfeat.results.config import EXPORT_FORMATS, ExportConfig
from clipfeat.results.export import EXPORTERS, export
from clipfeat.results.export_scenes import ASKED_EXPORTERS, FUSED_EXPORTERS
from clipfeat.results.inspect import inspect_folder
from clipfeat.sampling.bilinear import sample_img_feat
from clipfeat.sampling.point_files import read_points
from clipfeat.types import FeatureMap

VERTICES = np.random.default_rng(5).normal(size=(1000, 3))


def at_vertices(seed, count=300):
    features = some_features(seed, count)
    return dataclasses.replace(features, xyz=VERTICES[features.pts_idx].astype(np.float32))


@pytest.fixture
def meshes(tmp_path):
    folder = tmp_path / "meshes"
    folder.mkdir()
    for scene_id in ("s1", "s2"):
        np.savez(folder / f"{scene_id}.npz", xyz=VERTICES)
    return folder


FRAMES = {("s1", 0): at_vertices(0), ("s1", 5): at_vertices(1), ("s2", 0): at_vertices(2)}


@pytest.fixture
def run(tmp_path, meshes):
    """A run with sampling=mesh, two scenes of three frames in all."""
    folder = write_store(tmp_path / "run", FRAMES, sampling="mesh")
    write_config(folder.path, {"sampling": {"name": "mesh", "points_file": f"{meshes}/{{scene}}.npz"}})
    return folder.path


@pytest.fixture
def grids(tmp_path):
    """A run with output=grid."""
    return write_store(tmp_path / "grids", {("s", i): some_grid(i) for i in (0, 20, 40)}, "grid").path


def config(store, name, tmp_path, **kwargs):
    return ExportConfig(store=str(store), format=name, output_dir=str(tmp_path / "out"), **kwargs)


def load(path):
    return torch.load(path, weights_only=True)


def test_every_format_is_in_the_table():
    assert {*EXPORTERS, *FUSED_EXPORTERS, *ASKED_EXPORTERS} == set(EXPORT_FORMATS)


def test_openscene_gets_the_weighted_mean_of_each_vertex_that_is_seen(run, tmp_path):
    assert export(config(run, "openscene", tmp_path))["written"] == 2
    found = load(tmp_path / "out" / "s1_0.pt")
    assert list(found) == ["feat", "mask_full"]  # OpenScene's loader tells its forms apart by the number of keys
    total, weight = np.zeros((1000, 6)), np.zeros(1000)
    for frame_id in (0, 5):
        features = FRAMES["s1", frame_id]
        for row, vertex in enumerate(features.pts_idx):
            total[vertex] += float(features.conf_2d[row]) * features.pts_feat[row].astype(np.float64)
            weight[vertex] += float(features.conf_2d[row])
    seen = weight > 0
    assert found["mask_full"].dtype == torch.bool
    np.testing.assert_array_equal(found["mask_full"], seen)
    assert found["feat"].dtype == torch.float16
    np.testing.assert_allclose(found["feat"].numpy(), total[seen] / weight[seen, None], rtol=1e-3, atol=1e-3)


def test_esam_gets_the_map_and_the_global_feature_of_each_frame(grids, tmp_path):
    assert export(config(grids, "esam", tmp_path))["written"] == 3
    for i in (0, 20, 40):
        found, expected = load(tmp_path / "out" / "clip_feat" / "s" / "color" / f"{i}.pt"), some_grid(i).feature_map
        assert list(found) == ["pix", "global"]
        assert (found["pix"].dtype, found["global"].dtype) == (torch.float16, torch.float32)
        assert torch.equal(found["pix"], expected.values)
        assert found["pix"].is_contiguous()
        assert torch.equal(found["global"], expected.clip_global)


@pytest.mark.parametrize("name", EXPORTERS)
def test_what_is_there_is_left_unless_it_is_to_be_overwritten(run, grids, tmp_path, name, caplog):
    caplog.set_level(logging.INFO, "clipfeat")
    cfg = config(grids if name == "esam" else run, name, tmp_path)
    export(cfg)
    files = sorted([*(tmp_path / "out").rglob("*.pt"), *(tmp_path / "out").glob("*.npz")])
    content = [path.read_bytes() for path in files]
    files[0].unlink()
    left = files[0].with_name(f".{files[0].name}.elsewhere.1-1.tmp")
    left.touch()
    os.utime(left, (1, 1))
    for path in files[1:]:
        path.write_bytes(b"kept")
    assert export(cfg)["there"] == len(files) - 1
    assert files[0].read_bytes() == content[0]
    assert not left.exists()
    assert all(path.read_bytes() == b"kept" for path in files[1:])
    folder = tmp_path / "out" / ("clip_feat" if name == "esam" else "")
    assert len(inspect_folder(folder, verify=True).broken) == len(files) - 1
    unit = "frames" if name == "esam" else "scenes"
    assert f"1 {unit} written, 0.0 MB; {len(files) - 1} were there already; in {tmp_path}/out" in caplog.text
    export(dataclasses.replace(cfg, resume="overwrite"))
    assert [path.read_bytes() for path in files] == content
    found = inspect_folder(folder, verify=True)
    assert (found.facts["read"], found.broken) == (f"{len(files)} {files[0].suffix}", [])


def test_files_of_other_features_are_not_mixed_with_these(run, tmp_path):
    cfg = config(run, "openscene", tmp_path)
    export(cfg)
    path = run / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"camera": {"near": 0.5}}))
    with pytest.raises(OutputError, match=r"out: holds files of other features, which differ in camera.*; choose"):
        export(cfg)
    with pytest.raises(OutputError, match="holds files of other features"):
        export(dataclasses.replace(cfg, resume="overwrite"))


def test_files_that_somebody_else_wrote_are_not_taken_for_done(grids, tmp_path):
    path = tmp_path / "out" / "clip_feat" / "s" / "color" / "20.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    cfg = config(grids, "esam", tmp_path)
    with pytest.raises(OutputError, match=r"20\.pt: is there already, and clipfeat-export did not write it; choose"):
        export(cfg)
    assert path.read_bytes() == b"mine"
    assert export(dataclasses.replace(cfg, resume="overwrite"))["written"] == 3
    assert "pix" in load(path)


def test_stores_that_lack_what_a_form_needs_are_refused(run, grids, tmp_path, meshes):
    with pytest.raises(DataError, match="run: output=npz keeps features at points and no maps; extract with output=gr"):
        export(config(run, "esam", tmp_path))
    with pytest.raises(DataError, match="grids: holds features at points of sampling=None, and format=openscene takes"):
        export(config(grids, "openscene", tmp_path))
    (meshes / "s2.npz").unlink()
    with pytest.raises(DataError, match=r"meshes/s2\.npz: no such file, expected the mesh whose vertices the features"):
        export(config(run, "openscene", tmp_path))
    (run / "config.yaml").unlink()
    with pytest.raises(DataError, match=r"run: no config\.yaml says where the run's meshes are; say it, as points_fil"):
        export(config(run, "openscene", tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("vertices", "why"),
    [(VERTICES[:900], r"vertex \d+ among them, it has 900"), (VERTICES + 0.01, "one is 0.01 m away from its own")],
)
def test_another_mesh_is_noticed(run, tmp_path, meshes, vertices, why):
    moved = tmp_path / "moved"
    meshes.rename(moved)
    cfg = config(run, "openscene", tmp_path, points_file=f"{moved}/{{scene}}.npz")
    assert export(cfg)["written"] == 2
    np.savez(moved / "s2.npz", xyz=vertices)
    with pytest.raises(DataError, match=rf"s2/frame_0\.npz: its points are not the vertices of .*s2\.npz \({why}\)"):
        export(dataclasses.replace(cfg, resume="overwrite"))


def test_a_damaged_frame_is_named_and_leaves_nothing_half_written(run, tmp_path):
    path = run / "s2" / "frame_0.npz"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(DataError, match=r"s2/frame_0\.npz: not a whole feature file"):
        export(config(run, "openscene", tmp_path, num_workers=1))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.yaml", "s1_0.pt"]


def test_maps_that_esam_would_read_wrongly_are_refused(tmp_path):
    grid, values = some_grid(0), some_grid(0).feature_map
    crop = dataclasses.replace(values, image_to_map=values.image_to_map + np.array([[0, 0, 1], [0, 0, 0]]))
    poor = dataclasses.replace(values, clip_global=None)
    for name, feature_map, why in (
        ("crop", crop, "its map is not that of the whole picture, and format=esam has no place to say so"),
        ("poor", poor, "has no clip_global, which format=esam needs; extract the frame again"),
    ):
        frames = {("s", 0): dataclasses.replace(grid, feature_map=feature_map)}
        write_store(tmp_path / name, frames, "grid")
        with pytest.raises(DataError, match=rf"s/frame_0\.safetensors: {why}"):
            export(config(tmp_path / name, "esam", tmp_path))


def test_features_that_float16_can_not_hold_are_refused(tmp_path, run):
    big = dataclasses.replace(FRAMES["s2", 0], pts_feat=np.full((300, 6), 7e4, np.float32))
    write_store(run, {("s2", 0): big}, sampling="mesh")
    with pytest.raises(DataError, match="s2: has features beyond ±65504, which the float16 of the exported files"):
        export(config(run, "openscene", tmp_path))


def load_scene(path):
    """The arrays and the meta of a scene's file, of either form."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            found = dict(arrays)
        return found, json.loads(str(found.pop("meta")))
    found = load(path)
    meta = json.loads(found.pop("meta"))
    return {name: tensor.numpy() for name, tensor in found.items()}, meta


def test_frame_numbers_above_64_bits_are_told_in_a_line(tmp_path):
    stamp = 20240501102231012345
    folder = write_store(tmp_path / "stamps", {("s", stamp): some_features(0)})
    with pytest.raises(DataError, match=rf"frame_{stamp}.npz: a number above 64 bits, which no array of frames holds"):
        export(config(folder.path, "scene_npz", tmp_path))


def slow_scene(store, scene_id, dtype=None):
    """All that a scene's file holds, in memory at once."""
    frames = [store.load(scene_id, i) for i in store.frames(scene_id)]
    found = {
        name: np.concatenate([getattr(f, name) for f in frames]) for name in ("uv_idx", "conf_2d", "xyz", "pts_idx")
    }
    found["pts_feat"] = np.concatenate([f.pts_feat for f in frames]).astype(dtype or frames[0].pts_feat.dtype)
    found |= {name: np.concatenate([f.attributes[name] for f in frames]) for name in frames[0].attributes}
    found["frame_id"] = np.array(store.frames(scene_id))
    found["offset"] = np.cumsum([len(f.pts_idx) for f in frames])
    found["clip_global"] = np.stack([f.clip_global for f in frames])
    metas = [store.meta(scene_id, i) for i in store.frames(scene_id)]
    if "camera" in metas[0]:
        found["intrinsics"] = np.stack([meta["camera"]["intrinsics"] for meta in metas])
        found["image_size"] = np.array([[meta["camera"]["width"], meta["camera"]["height"]] for meta in metas])
        found["cam_to_world"] = np.stack([meta["cam_to_world"] for meta in metas])
    return found


def assert_scene(path, expected):
    found, meta = load_scene(path)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert (meta["schema_version"], meta["scene_id"], meta["model"]) == (1, path.stem, MODEL)


@pytest.mark.parametrize("dtype", [None, "float16"])
@pytest.mark.parametrize("suffix", ["npz", "pt"])
@pytest.mark.parametrize("kind", ["npz", "h5", "h5_scene", "grid"])
def test_a_scene_s_frames_become_one_file(tmp_path, kind, suffix, dtype):
    make = some_grid if kind == "grid" else some_features
    counts = {("s1", 2): 30, ("s1", 10): 0, ("s1", 4): 7, ("s2", 0): 12}
    frames = {key: make(seed, count) for seed, (key, count) in enumerate(counts.items())}
    folder = write_store(tmp_path / "run", frames, kind)
    for scene_id in ("s1", "s2"):
        folder.files.finish_scene(scene_id)
    assert export(config(folder.path, f"scene_{suffix}", tmp_path, dtype=dtype))["written"] == 2
    store = FeatureStore(folder.path)
    for scene_id in ("s1", "s2"):
        assert_scene(tmp_path / "out" / f"{scene_id}.{suffix}", slow_scene(store, scene_id, dtype))
    found, _ = load_scene(tmp_path / "out" / f"s1.{suffix}")
    assert (found["frame_id"].tolist(), found["offset"].tolist()) == ([2, 4, 10], [30, 37, 37])
    assert {"intrinsics", "image_size", "cam_to_world"} <= found.keys() or kind != "grid"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.yaml", f"s1.{suffix}", f"s2.{suffix}"]


def test_a_scene_of_unlike_frames_is_told(tmp_path):
    frames = {("s", i): some_features(i) for i in range(3)}
    del frames["s", 1].attributes["label"]
    store = write_store(tmp_path / "run", frames).path
    message = r"s/frame_1\.npz: does not fit the scene's other frames \(other label than before\); extract the scene"
    for name in ("scene_npz", "scene_pt"):
        with pytest.raises(DataError, match=message):
            export(config(store, name, tmp_path))
        assert list((tmp_path / "out").iterdir()) == []  # nothing that would claim the folder


def test_points_can_not_carry_what_is_a_frame_s_own(tmp_path):
    frames = {("s", i): some_features(i) for i in range(2)}
    for features in frames.values():
        features.attributes["offset"] = features.attributes.pop("label")
    export(config(write_store(tmp_path / "run", frames).path, "scene_npz", tmp_path))
    assert load_scene(tmp_path / "out" / "s.npz")[0]["offset"].tolist() == [30, 60]


def test_features_of_a_scene_that_float16_can_not_hold_are_refused(tmp_path):
    big = dataclasses.replace(some_features(0), pts_feat=np.full((30, 6), 7e4, np.float32))
    store = write_store(tmp_path / "run", {("s", 0): big}).path
    with pytest.raises(DataError, match=r"s/frame_0\.npz: has features beyond ±65504"):
        export(config(store, "scene_pt", tmp_path, dtype="float16"))
    assert export(config(store, "scene_pt", tmp_path / "whole"))["written"] == 1


def test_a_scene_s_file_of_another_type_is_not_taken_for_done(tmp_path):
    store = write_store(tmp_path / "run", {("s", 0): some_features(0)}).path
    export(config(store, "scene_npz", tmp_path))
    with pytest.raises(OutputError, match="out: holds files of other features, which differ in dtype: None there, flo"):
        export(config(store, "scene_npz", tmp_path, dtype="float16"))


@pytest.mark.parametrize("head", ["pixelshuffle", "proj128"])
def test_a_run_is_exported_from_the_command_line(run_cli, run_main, demo_root, tmp_path, head):
    base = [f"data.root={demo_root}", "output_dir=run", "output=grid", "sampling=mesh", "vis=none"]
    assert run_cli(*base, f"model/head={head}", small=False)[0] == 0
    store = FeatureStore(tmp_path / "run")
    for name, count in (("openscene", 2), ("esam", 8), ("scene_pt", 2)):
        code, err = run_main(export_main, "store=run", f"format={name}", f"output_dir={name}")
        assert code == 0, err
        assert len(list((tmp_path / name).rglob("*.pt"))) == count
        code, err = run_main(export_main, "store=run", f"format={name}", f"output_dir={name}")
        assert f"0 {'scenes' if count == 2 else 'frames'} written, 0.0 MB; {count} were there already" in err
    for scene_id in store.scenes:
        found = load(tmp_path / "openscene" / f"{scene_id}_0.pt")
        mesh = read_points(demo_root / scene_id / f"{scene_id}_vh_clean_2.ply")
        assert len(found["mask_full"]) == len(mesh.idx)
        seen = np.unique(np.concatenate([store.load(scene_id, i).pts_idx for i in store.frames(scene_id)]))
        np.testing.assert_array_equal(np.flatnonzero(found["mask_full"]), seen)
        whole = load_scene(tmp_path / "scene_pt" / f"{scene_id}.pt")[0]
        expected = slow_scene(store, scene_id)
        assert whole.keys() == expected.keys()
        assert all(np.array_equal(whole[key], expected[key]) for key in expected)
        features = store.load(scene_id, 0)
        pix = load(tmp_path / "esam" / "clip_feat" / scene_id / "color" / "0.pt")["pix"]
        sampled = sample_img_feat(
            FeatureMap(pix, store.map(scene_id, 0).feature_map.image_to_map), features.uv_idx
        ).numpy()
        error = np.linalg.norm(sampled - features.pts_feat, axis=1) / np.linalg.norm(features.pts_feat, axis=1)
        assert error.max() < 2e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "clipfeat: store is not set: give the output_dir of clipfeat-extract, as store=…"),
        (["store=x"], "clipfeat: format is not set: give openscene or esam or scene_npz or scene_pt or openlex3d or"),
        (["store=x", "format=npz"], "clipfeat: format=npz: expected one of openscene, esam, scene_npz, scene_pt"),
        (
            ["store=x", "format=esam", "dtype=float16"],
            "clipfeat: dtype=float16: has no meaning with format=esam, leave",
        ),
        (["store=x", "format=scene_pt", "dtype=half"], "clipfeat: dtype=half: expected one of float32, float16"),
        (["store=x", "format=esam", "outputdir=y"], "clipfeat: outputdir: no such key; did you mean output_dir?"),
        (["store=x", "format=esam", "data.root=y"], "clipfeat: data.root: no such key; clipfeat-export --help lists"),
        (["store=x", "format=esam", "resume=no"], "clipfeat: resume=no: expected one of true, overwrite"),
        (["store=nowhere", "format=esam"], "clipfeat: nowhere: no such folder; give the output_dir of clipfeat-extr"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(run_main, arguments, message):
    code, err = run_main(export_main, *arguments)
    assert code == 1
    assert err.startswith(message)
    assert len(err.strip().splitlines()) == 1
