"""Exports of fused scenes and of answers, each read back by a reader that is not ours."""

import gzip
import json
import pickle

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from planted import PlantedTexts, vector_of
from stores import some_features, write_store

from clipfeat.errors import ConfigError, DataError
from clipfeat.mapping.scene_colors import pca_rgb
from clipfeat.output.fused import FusedScene, write_fused
from clipfeat.queries.ask import query
from clipfeat.queries.config import QueryConfig
from clipfeat.results.config import ExportConfig
from clipfeat.results.export import export
from clipfeat.results.export_scenes import FUSED_EXPORTERS, SHOWN
from clipfeat.results.inspect import inspect_folder
from clipfeat.system.pcd import read_pcd
from clipfeat.types import Points
from clipfeat.vis.scores import score_rgb

MODEL = {
    "arch": "planted", "weights": "planted", "weights_sha256": "0123456789abcdef", "head": "text", "head_sha256": None,
    "input_size": 224, "window": None, "precision": "fp32",
}  # fmt: skip
NAMES = ("chair", "table", "floor")


def fused_scene(scene_id, seed, *, instances=True):
    """Three boxes of 200 points, of which one object each; the last tenth of the points is not seen."""
    rng = np.random.default_rng(seed)
    xyz = (rng.random((600, 3)) + np.repeat([[0, 0, 0], [2, 0, 0], [0, 2, 0]], 200, axis=0)).astype(np.float32)
    vectors = np.stack([vector_of(name) for name in NAMES])
    features = np.repeat(vectors, 200, axis=0) + 0.2 * rng.normal(size=(600, vectors.shape[1]))
    views = np.where(np.arange(600) % 200 < 180, rng.integers(1, 9, 600), 0)
    attributes = {"rgb": rng.integers(0, 256, (600, 3)).astype(np.uint8)}
    if instances:
        attributes["instance"] = np.repeat([3, 0, 8], 200)
    faces = np.arange(600).reshape(200, 3)
    features[views == 0] = 0
    meta = {
        "scene_id": scene_id, "model": MODEL, "frames": [0, 5], "failed": [], "num_points": 600, "num_seen": 540,
        "mean_views": 3.0, "up": [0.0, 0.0, 1.0],
    }  # fmt: skip
    return FusedScene(
        Points(xyz.astype(np.float64), np.arange(600), attributes), features.astype(np.float32),
        views.astype(np.int32), views.astype(np.float32), faces, meta,
    )  # fmt: skip


SCENES = {"office0": fused_scene("office0", 0), "room1": fused_scene("room1", 1)}


@pytest.fixture
def fused(tmp_path):
    folder = tmp_path / "fused"
    folder.mkdir()
    for scene_id, scene in SCENES.items():
        write_fused(folder / f"{scene_id}.npz", scene)
    return folder


def run(store, tmp_path, name, **options):
    return export(ExportConfig(store=str(store), format=name, output_dir=str(tmp_path / "out"), **options))


def test_openlex3d_gets_the_three_files_that_its_loader_opens(fused, tmp_path):
    assert run(fused, tmp_path, "openlex3d")["written"] == 2
    for scene_id, scene in SCENES.items():
        folder = tmp_path / "out" / scene_id
        # As openlex3d/core/io.py: np.load of both, and embeddings[index] of the points of the cloud.
        embeddings, index = np.load(folder / "embeddings.npy"), np.load(folder / "index.npy")
        cloud = read_pcd(folder / "point_cloud.pcd")
        assert (embeddings.dtype, index.dtype) == (np.float32, np.int64)
        assert len(cloud) == len(index) == 540
        np.testing.assert_array_equal(embeddings[index], scene.pts_feat[scene.seen])
        np.testing.assert_allclose(cloud, scene.points.xyz[scene.seen], atol=1e-6)
        assert {path.name for path in folder.iterdir()} == {"embeddings.npy", "index.npy", "point_cloud.pcd"}


class PlainUnpickler(pickle.Unpickler):
    """Knows the two things that a file of plain arrays needs."""

    def find_class(self, module, name):
        assert (module, name) in (("numpy", "ndarray"), ("builtins", "bytearray")), f"{module}.{name}"
        return super().find_class(module, name)


def test_conceptgraphs_gets_a_map_of_objects(fused, tmp_path):
    run(fused, tmp_path, "conceptgraphs")
    scene = SCENES["office0"]
    with gzip.open(tmp_path / "out" / "office0.pkl.gz") as file:
        found = PlainUnpickler(file).load()
    assert found["bg_objects"] is None
    assert set(found) == {"objects", "bg_objects", "cfg", "class_names", "class_colors"}
    assert len(found["objects"]) == 2  # instance 0 is none
    for one, rows in zip(found["objects"], (slice(0, 180), slice(400, 580)), strict=True):
        # As conceptgraph/slam/slam_classes.py: torch.from_numpy of both features, Vector3dVector of all else.
        feature = torch.from_numpy(one["clip_ft"])
        own = torch.from_numpy(scene.pts_feat[rows])
        expected = torch.nn.functional.normalize(torch.nn.functional.normalize(own, dim=1).mean(0), dim=0)
        torch.testing.assert_close(feature, expected, atol=1e-6, rtol=1e-5)
        assert torch.from_numpy(one["text_ft"]).shape == feature.shape
        np.testing.assert_allclose(one["pcd_np"], scene.points.xyz[rows], atol=1e-6)
        np.testing.assert_allclose(one["pcd_color_np"], scene.points.attributes["rgb"][rows] / 255)
        assert one["bbox_np"].shape == (8, 3)
        np.testing.assert_allclose(one["bbox_np"].max(0), scene.points.xyz[rows].max(0), atol=1e-6)
        assert one["num_detections"] == scene.views[rows].max()
        assert found["class_names"][one["class_id"][0]] == one["class_name"][0]
        assert str(one["class_id"][0]) in found["class_colors"]
        assert one["pcd_np"].flags.writeable
    write_fused(fused / "room1.npz", fused_scene("room1", 1, instances=False))
    with pytest.raises(DataError, match="room1.npz: its points bear no instance or object_id, and a map of"):
        run(fused, tmp_path, "conceptgraphs", resume="overwrite")


def test_openscene_gets_the_features_of_the_points_that_are_seen(fused, tmp_path):
    run(fused, tmp_path, "openscene")
    found = torch.load(tmp_path / "out" / "room1_0.pt", weights_only=True)
    scene = SCENES["room1"]
    assert list(found) == ["feat", "mask_full"]
    np.testing.assert_array_equal(found["mask_full"], scene.seen)
    np.testing.assert_allclose(found["feat"].float(), scene.pts_feat[scene.seen], atol=2e-3)


def test_a_fused_scene_is_a_gltf_in_its_pca_colours(fused, tmp_path):
    run(fused, tmp_path, "glb")
    scene = SCENES["office0"]
    [mesh] = trimesh.load(tmp_path / "out" / "office0.glb").geometry.values()
    np.testing.assert_allclose(mesh.vertices, scene.points.xyz, atol=1e-6)
    np.testing.assert_array_equal(mesh.faces, scene.faces)
    unseen, seen = (np.asarray(mesh.visual.vertex_attributes["color"])[rows, :3] for rows in (~scene.seen, scene.seen))
    assert len(np.unique(unseen, axis=0)) == 1
    assert len(np.unique(seen, axis=0)) > 50
    assert len(np.unique(pca_rgb(scene.pts_feat, scene.seen), axis=0)) > 50


def test_a_fused_scene_is_a_picture_and_a_turntable(fused, tmp_path):
    (fused / "room1.npz").unlink()
    run(fused, tmp_path, "png")
    picture = np.asarray(Image.open(tmp_path / "out" / "office0.png").convert("RGB"))
    assert (picture != 255).any(2).mean() > 0.02
    assert export(ExportConfig(str(fused), "turntable", str(tmp_path / "turns")))["written"] == 1
    with Image.open(tmp_path / "turns" / "office0.gif") as turns:
        assert (turns.n_frames, turns.size, turns.info["loop"], turns.info["duration"]) == (36, (640, 480), 0, 100)
        assert json.loads(turns.info["comment"])["weights"] == "planted"
        shown = []
        for number in (0, 9, 18):
            turns.seek(number)
            shown.append(np.asarray(turns.convert("RGB")).astype(int))
    shares = [(one != 255).any(2).mean() for one in shown]
    assert min(shares) > 0.02
    assert all(np.abs(one - other).mean() > 1 for one, other in ((shown[0], shown[1]), (shown[0], shown[2])))


@pytest.fixture
def asked(fused, tmp_path):
    cfg = QueryConfig(str(fused), text=["a chair", "a table"], score="cosine", output_dir=str(tmp_path / "asked"))
    return query(cfg, PlantedTexts()), tmp_path / "asked"


def test_answers_are_gltf_and_pictures_in_the_scores_colours(asked, tmp_path):
    report, folder = asked
    assert run(folder, tmp_path, "glb")["written"] == 4
    content = (tmp_path / "out" / "a-chair" / "office0.glb").read_bytes()
    told = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    assert told["asset"]["extras"]["prompt"] == "a chair"
    scores = np.load(folder / "scores" / "office0.npz")["scores"][:, 0]
    accessor = told["accessors"][told["meshes"][0]["primitives"][0]["attributes"]["_SCORE"]]
    begin = 28 + int.from_bytes(content[12:16], "little") + told["bufferViews"][accessor["bufferView"]]["byteOffset"]
    np.testing.assert_array_equal(np.frombuffer(content, "<f4", 600, begin), scores)
    assert export(ExportConfig(str(folder), "png", str(tmp_path / "pictures")))["written"] == 4
    picture = np.asarray(Image.open(tmp_path / "pictures" / "a-chair" / "room1.png").convert("RGB"))
    best = score_rgb(np.array([1.0]), tuple(report["prompts"][0]["limits"]))[0]
    assert (picture == best).all(2).sum() > 100  # the chair's points have the colour of the highest score


def test_the_plys_of_answers_have_their_scores(asked):
    _, folder = asked
    mesh = trimesh.load(folder / "a-chair" / "office0.ply", process=False)
    scores = np.load(folder / "scores" / "office0.npz")["scores"]
    found = mesh.metadata["_ply_raw"]["vertex"]["data"]["score"].reshape(-1)
    np.testing.assert_allclose(found, scores[:, 0], atol=1e-6)
    found = inspect_folder(folder, verify=True)
    assert (found.facts["read"], found.broken) == ("1 .json, 2 .npz, 4 .ply", [])
    path = folder / "a-table" / "room1.ply"
    path.write_bytes(path.read_bytes()[:-1])
    (line,) = inspect_folder(folder, verify=True).broken
    assert line.startswith(f"{path}: not a whole ply file (it is cut off: it declares 200 rows of face")


def test_what_can_be_made_of_what_is_told(fused, asked, tmp_path):
    with pytest.raises(ConfigError, match="format=esam: .*fused holds fused scenes, of which openscene, openlex3d"):
        run(fused, tmp_path, "esam")
    with pytest.raises(ConfigError, match="holds answers of clipfeat-query, of which glb, png, turntable can be made$"):
        run(asked[1], tmp_path, "openlex3d")
    store = write_store(tmp_path / "run", {("s", 0): some_features(0, 20)}).path
    with pytest.raises(ConfigError, match="holds frames of a run, of which .*; others of fused scenes, which"):
        run(store, tmp_path, "glb")
    for path in fused.glob("*.npz"):
        path.unlink()
    with pytest.raises(DataError, match=r"\(the fused scenes that were asked; ask again where they are now\)"):
        run(asked[1], tmp_path, "glb")


@pytest.mark.parametrize("name", FUSED_EXPORTERS)
def test_what_is_there_is_left(fused, tmp_path, name):
    (fused / "room1.npz").unlink()
    assert run(fused, tmp_path, name)["written"] == 1
    assert run(fused, tmp_path, name) == {"written": 0, "there": 1, "bytes": 0}
    assert inspect_folder(tmp_path / "out", verify=True).text().endswith("nothing: all files were read")
    path = next(path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != "config.yaml")
    path.write_bytes(path.read_bytes()[:-1])
    (line,) = inspect_folder(tmp_path / "out", verify=True).broken
    assert line.startswith(f"{path}: not a whole {path.suffix[1:]} file (")


def test_every_format_of_a_shown_scene_is_in_the_table():
    assert set(SHOWN) < set(FUSED_EXPORTERS)
