"""A run on pictures of a lens that distorts: what its files say is where the points were, or it is refused."""

import layouts
import numpy as np
import pytest

from clipfeat.camera.projection import build_uv_index, world_to_cam
from clipfeat.errors import DataError
from clipfeat.fusion.frames import LabelledFrames
from clipfeat.output.store import FeatureStore
from clipfeat.results.config import ExportConfig
from clipfeat.results.export import SceneExporter
from clipfeat.types import Distortion

SCENE = "demo0000_00"
LENS = Distortion(radial=(-0.2, 0.03, 0, 0), tangential=(0.002, -0.001))


def test_points_of_a_distorted_run(demo_root, run_cli, tmp_path):
    layouts.write_nerfstudio(demo_root, tmp_path / "nerf", k1=-0.2, k2=0.03, p1=0.002, p2=-0.001)
    arguments = ["data=nerfstudio", f"data.root={tmp_path / 'nerf'}", "frames_per_scene=1"]
    code, err = run_cli(*arguments, "output=grid", "output_dir=grid")
    assert code == 0, err
    store = FeatureStore(tmp_path / "grid")
    grid, stored = store.map(SCENE, 1), store.load(SCENE, 1)
    assert grid.camera.distortion == LENS
    to_cam, size = world_to_cam(grid.cam_to_world), (grid.camera.width, grid.camera.height)
    seen = build_uv_index(grid.xyz, grid.camera.intrinsics, to_cam, size, distortion=LENS)
    assert np.abs(seen.uv - grid.uv_idx).max() < 1e-2  # xyz is float32
    straight = build_uv_index(grid.xyz, grid.camera.intrinsics, to_cam, size, distortion=None)
    assert np.abs(straight.uv - grid.uv_idx).max() > 1
    again = store.sample(SCENE, 1, stored.xyz)
    np.testing.assert_allclose(again.uv_idx, grid.uv_idx[again.pts_idx], atol=1e-2)
    files = SceneExporter(store, ExportConfig(str(store.folder), "scene_npz", str(tmp_path / "scenes"))).files()
    for _, write in files:
        write()
    with np.load(files[0][0]) as exported:
        assert exported["distortion"].tolist() == [[0, -0.2, 0.03, 0, 0, 0, 0, 0, 0.002, -0.001, 0, 0]]
    with pytest.raises(DataError, match="frame_1.*: taken through a lens that distorts, which training on maps doesn"):
        LabelledFrames(store, [SCENE], with_maps=True)._read((SCENE, 1), None)
