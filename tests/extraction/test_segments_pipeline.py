"""output=segments, end to end: the same reader, fusion, exports and queries as of points."""

import numpy as np
import pytest
from planted import NAMES, PlantedModel, PlantedTexts

import clipfeat
from clipfeat import FeatureStore
from clipfeat.output.files import read_arrays
from clipfeat.output.fused import read_fused
from clipfeat.queries.ask import query
from clipfeat.queries.config import QueryConfig
from clipfeat.results.config import ExportConfig, FuseConfig
from clipfeat.results.export import export
from clipfeat.results.fuse import fuse

MASKS = "data.masks='${data.root}/{scene}/instance-filt/{frame}.png'"
SCENE = "demo0000_00"
STEP = 60
"""Pixels of a cell, some 22 of them across, as a ViT's are."""


@pytest.fixture(scope="module")
def runs(demo_root, tmp_path_factory):
    """A planted run in maps' coarse cells, once with features at points and once in segments."""
    root = tmp_path_factory.mktemp("segments")
    for name in ("npz", "segments"):
        overrides = [
            "vis=none",
            "report=false",
            f"output={name}",
            MASKS,
            "frames_per_scene=2",
            "sampling.num_points=5000",
        ]
        clipfeat.extract(demo_root, root / name, overrides=overrides, model=PlantedModel(demo_root, STEP))
    return {name: root / name for name in ("npz", "segments")}


def test_the_same_points_in_a_part_of_the_bytes(runs):
    """Here of 32 channels; of 768 see docs/outputs.md."""
    dense, pooled = (FeatureStore(folder) for folder in runs.values())
    assert pooled.scenes == dense.scenes
    for frame in dense.frames(SCENE):
        expected, found = dense.load(SCENE, frame), pooled.load(SCENE, frame)
        np.testing.assert_array_equal(found.pts_idx, expected.pts_idx)
        np.testing.assert_array_equal(found.uv_idx, expected.uv_idx)
        np.testing.assert_allclose(found.xyz, expected.xyz, atol=1e-5)
        vectors = pooled.segments(SCENE, frame).segment_feat
        assert len(vectors) < 100
        assert {row.tobytes() for row in found.pts_feat} <= {row.tobytes() for row in vectors}
        sizes = [store.path(SCENE, frame).stat().st_size for store in (pooled, dense)]
        assert sizes[0] < 0.2 * sizes[1]


def test_pooled_vectors_find_the_right_class_at_no_fewer_vertices(runs, demo_root, tmp_path):
    classes, right = sorted(NAMES.values()), {}
    for name, folder in runs.items():
        labels = f"{demo_root}/{{scene}}/{{scene}}_vh_clean_2.labels.ply"
        fuse(FuseConfig(str(folder), labels_file=labels, formats=[]))
        asked = QueryConfig(str(folder / "fused"), output_dir=str(tmp_path / name), text=classes, against=[])
        report = query(asked, PlantedTexts())
        arrays, _ = read_arrays(tmp_path / name / report["scores"][0])
        labels = read_fused(folder / f"fused/{SCENE}.npz").points.attributes["label"]
        found = np.array(classes)[arrays["scores"].argmax(1)] == [NAMES[label] for label in labels]
        right[name] = np.count_nonzero(found[arrays["views"] > 0])
    assert right["segments"] >= right["npz"] > 50


def test_exports_and_queries_in_frames_read_them(runs, tmp_path):
    export(ExportConfig(str(runs["segments"]), format="scene_npz", output_dir=str(tmp_path / "export")))
    assert (tmp_path / f"export/{SCENE}.npz").is_file()
    asked = QueryConfig(str(runs["segments"]), output_dir=str(tmp_path / "q"), text=["floor"], heatmaps="none")
    assert query(asked, PlantedTexts())["frames"] == 4


def test_segments_want_masks(run_cli, demo_root):
    code, err = run_cli(f"data.root={demo_root}", "output=segments", "output_dir=out")
    assert code == 1
    assert "output=segments: pools over instance masks, so data.masks=" in err
