"""Points of a mesh show a K that is a few pixels off."""

import dataclasses

import numpy as np
import pytest
import trimesh

from clipfeat.calibration.hypotheses import invert, with_depth_scaled, with_focal_scaled, with_principal_point_moved
from clipfeat.calibration.surface_fit import judge_surface
from clipfeat.camera.projection import unproject_depth
from clipfeat.data.demo import SceneOptions, render_scenes
from clipfeat.data.scannet import ScanNetDataset


def frames_of(root, count):
    dataset = ScanNetDataset(root)
    scene = dataset.scenes()[0]
    return [dataset.load(scene, i) for i in dataset.frame_ids(scene)[:count]]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Frames with depth of 640×480, and the vertices of the mesh."""
    root = tmp_path_factory.mktemp("mesh")
    options = SceneOptions(num_frames=3, color_size=(64, 48), depth_size=(640, 480), mesh_spacing=0.08)
    folder = render_scenes(root, 1, options)[0]
    mesh = trimesh.load(folder / f"{folder.name}_vh_clean_2.ply", process=False)
    return frames_of(root, 3), np.asarray(mesh.vertices)


def judged(scene, change=lambda frame: frame):
    frames, points = scene
    return judge_surface([change(frame) for frame in frames], points)


def test_the_mesh_of_a_right_k_is_well(scene):
    report = judged(scene)
    assert (report.verdict, report.cause) == ("ok", "")
    assert np.hypot(*report.shift_px) < 0.75
    assert report.focal_scale == pytest.approx(1, abs=0.0051)


@pytest.mark.parametrize("off", [(3.0, 0.0), (0.0, -3.0), (2.1, 2.1), (-0.6, 3.2)])
def test_a_principal_point_off_by_three_pixels_is_seen(scene, off):
    report = judged(scene, with_principal_point_moved(*off))
    assert report.verdict == "warning"
    assert report.cause.startswith("K is off: the mesh fits better with principal point: cx ")
    np.testing.assert_allclose(report.shift_px, np.negative(off), atol=0.8)


@pytest.mark.parametrize("factor", [1.02, 0.98])
def test_a_focal_length_off_by_a_fiftieth_is_seen(scene, factor):
    report = judged(scene, with_focal_scaled(factor))
    assert report.verdict == "warning"
    assert report.focal_scale == pytest.approx(1 / factor, abs=0.006)


def noisy(frame):
    rng = np.random.default_rng(frame.frame_id)
    depth = frame.depth_m + rng.normal(0, 0.02, frame.depth_m.shape)
    depth[rng.random(depth.shape) < 0.3] = 0
    return dataclasses.replace(frame, depth_m=depth.astype(np.float32))


def test_noise_and_holes_are_no_mistake_and_hide_none(scene):
    assert judged(scene, noisy).verdict == "ok"
    assert judged(scene, lambda frame: noisy(with_principal_point_moved(3, 0)(frame))).verdict == "warning"


@pytest.mark.parametrize("change", [with_depth_scaled(2.0), with_depth_scaled(0.5)])
def test_a_mesh_elsewhere_is_not_blamed_on_k(scene, change):
    report = judged(scene, change)
    assert report.verdict == "warning"
    assert report.cause == "the mesh does not lie on what the frames measured"


def test_an_aligned_mesh_is_named_as_elsewhere(scene):
    frames, points = scene
    report = judge_surface(frames, points[:, [1, 0, 2]] * (-1, 1, 1) + (4.0, 1.0, 0.0))
    assert report.verdict != "ok"
    assert not report.cause.startswith("K is off")


def test_points_out_of_view_say_nothing(scene):
    frames, points = scene
    report = judge_surface([invert(frame) for frame in frames], points + 1000)
    assert (report.verdict, report.points) == ("unknown", 0)
    with pytest.raises(ValueError, match=r"points must be \(N, 3\), got \(4,\)"):
        judge_surface(frames, np.zeros(4))


@pytest.mark.parametrize(("off", "verdict"), [((0, 0), "ok"), ((0, 3), "warning"), ((3, 0), "warning")])
def test_real_frames_against_points_of_their_neighbours(office, off, verdict):
    frames = frames_of(office, 10)
    clouds = [unproject_depth(f.depth_m, f.depth_camera.intrinsics, f.cam_to_world)[0][::15] for f in frames[2:10:2]]
    moved = [with_principal_point_moved(*off)(frame) for frame in frames[3:8:2]]
    assert judge_surface(moved, np.concatenate(clouds)).verdict == verdict
