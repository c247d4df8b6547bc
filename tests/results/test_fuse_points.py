"""Onto which points ``clipfeat-fuse`` fuses: meshes of any program, or voxels where there are none."""

import dataclasses
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from runs_to_fuse import SCENES, mesh_path, run_of

from clipfeat.camera.projection import unproject_depth
from clipfeat.cli.commands import fuse_main
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.output.fused import read_fused
from clipfeat.results.config import FuseConfig
from clipfeat.results.fuse import fuse
from clipfeat.sampling.colors import depth_pixel_colors


@pytest.fixture(scope="session")
def store_of(demo_root, tiny_arch, tmp_path_factory):
    return lambda name: run_of(name, demo_root, tiny_arch, tmp_path_factory)


@pytest.fixture
def run_fuse(run_main):
    return lambda *overrides: run_main(fuse_main, *overrides)


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


def test_the_bar_counts_a_frame_once_however_often_it_is_gone_through(store_of, tmp_path, monkeypatch):
    counted = []

    @contextmanager
    def bar(total, _unit):
        counted.append(total)
        yield SimpleNamespace(update=counted.append, set_description=lambda _: None, disable=False)

    monkeypatch.setattr("clipfeat.results.fuse.progress_bar", bar)
    fuse(FuseConfig(str(store_of("grid")), str(tmp_path), points="voxel", voxel_size=0.2, best_views=2, formats=[]))
    assert (counted[0], sum(counted[1:])) == (8, pytest.approx(8))
