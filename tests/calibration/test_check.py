"""``check=…`` from the command line."""

import dataclasses
import json
from contextlib import nullcontext

import numpy as np
import pytest
import trimesh

from clipfeat.calibration import check as checking
from clipfeat.calibration.agreement import PairAgreement
from clipfeat.calibration.check import SceneCheck, SceneMesh, check_scene, choose_pairs, mesh_points, scene_table
from clipfeat.calibration.verdict import CalibrationReport
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.errors import CannotTellError, CheckError, ConfigError
from clipfeat.extraction.config import ExtractConfig


def change_files(scans, pattern, change):
    for path in scans.glob(pattern):
        np.savetxt(path, change(np.loadtxt(path)))


def report_of(tmp_path):
    return json.loads((tmp_path / "out" / "check.json").read_text())


def test_check_only_looks_and_stops(run_cli, demo_root, tmp_path):
    code, err = run_cli(f"data.root={demo_root}", "output_dir=out", "check=only", "model.arch=no-such", tiny=False)
    assert code == 0
    assert "check demo0000_00: ok" in err
    assert "check demo0001_00: ok" in err
    assert "WARNING" not in err
    report = report_of(tmp_path)
    assert report["scenes_in_run"] == 2
    for scene in report["checks"]:
        assert scene["verdict"] == "ok"
        assert scene["findings"] == []
        assert scene["depth"]["can_tell"] == {"pose direction": True, "focal length": True, "depth scale": True}
        assert scene["color"]["verdict"] == scene["mesh"]["verdict"] == "ok"
        assert len(scene["depth"]["pairs"]) >= 2
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["check.json"]


def test_the_other_scenes_are_looked_at_where_one_can_not_be_read(run_cli, scans, tmp_path):
    for path in (scans / "demo0000_00" / "color").iterdir():
        path.unlink()
    code, err = run_cli(f"data.root={scans}", "output_dir=out", "check=only")
    assert code == 1
    assert "check demo0001_00: ok" in err
    assert err.count("check demo0000_00: can't be read: ") == 1
    assert "clipfeat: 1 of the scenes can't be read, the others are well; the first: " in err
    assert [scene["scene_id"] for scene in report_of(tmp_path)["checks"]] == ["demo0001_00"]


def test_check_true_goes_on_with_the_run(run_cli, demo_root, tmp_path):
    code, err = run_cli(f"data.root={demo_root}", "output_dir=out", "check=true", "frames_per_scene=1")
    assert code == 0
    assert err.index("check demo0000_00: ok") < err.index("2 frames to do")
    assert (tmp_path / "out" / "demo0000_00" / "frame_0.npz").is_file()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["run"]["seconds_a_stage"]["check"] > 0


def test_a_run_without_it_checks_nothing_and_one_with_it_may_follow(run_cli, demo_root, tmp_path):
    arguments = f"data.root={demo_root}", "output_dir=out"
    assert run_cli(*arguments, "frames_per_scene=1")[0] == 0
    assert not (tmp_path / "out" / "check.json").exists()
    assert run_cli(*arguments, "frames_per_scene=2", "check=yes")[0] == 0
    assert (tmp_path / "out" / "check.json").exists()


@pytest.mark.parametrize(
    ("pattern", "change", "override", "cause"),
    [
        ("*/pose/*.txt", np.linalg.inv, None, "pose inverted"),
        ("*/pose/*.txt", lambda pose: pose @ np.diag([1, -1, -1, 1]), None, "OpenGL axes: poses of cameras with y up"),
        (
            "*/intrinsic/intrinsic_depth.txt",
            lambda k: k * [[1.1, 1, 1, 1], [1, 1.1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]],
            None,
            "focal length: fx and fy × 0.9",
        ),
        (
            "none",
            None,
            "data.depth_scale=500",
            "depth scale: depths × 0.5 agree, or pose units: translations × 2 agree; set data.depth_scale=1000, or",
        ),
        ("none", None, "data.depth_scale=1", "depth scale: depths × 0.001 agree; set data.depth_scale=1000"),
    ],
)
def test_a_mistake_in_the_files_is_named_and_ends_check_only_with_an_error(
    run_cli, scans, tmp_path, pattern, change, override, cause
):
    change_files(scans, pattern, change)
    code, err = run_cli(f"data.root={scans}", "output_dir=out", "check=only", *([override] if override else []))
    assert code == 1
    for scene in ("demo0000_00", "demo0001_00"):
        assert f"WARNING {scene}: {cause}" in err
    assert f"clipfeat: the calibration looks wrong in 2 of 2 scenes: {cause}" in err
    assert [scene["verdict"] for scene in report_of(tmp_path)["checks"]] == ["warning", "warning"]


def test_a_mistake_does_not_stop_a_run(run_cli, scans, tmp_path):
    change_files(scans, "*/pose/*.txt", np.linalg.inv)
    code, err = run_cli(f"data.root={scans}", "output_dir=out", "check=true", "frames_per_scene=1")
    assert code == 0
    assert "WARNING demo0000_00: pose inverted: world-to-camera poses agree; invert the pose files" in err
    assert (tmp_path / "out" / "demo0000_00" / "frame_0.npz").is_file()


def test_a_principal_point_off_is_seen_by_the_mesh(run_cli, scans, tmp_path):
    # 1.6 px of these 128 are 8 of the 640 that ScanNet's depth has: pixels are what the check can tell, not angles.
    down = np.zeros((4, 4))
    down[1, 2] = 1.6
    change_files(scans, "*/intrinsic/intrinsic_depth.txt", lambda k: k + down)
    code, err = run_cli(f"data.root={scans}", "output_dir=out", "check=only")
    assert code == 1
    assert "K is off: the mesh fits better with principal point" in err


def test_bad_frames_are_passed_over(run_cli, scans, tmp_path):
    (scans / "demo0000_00" / "pose" / "20.txt").write_text("-inf " * 4)
    (scans / "demo0000_00" / "depth" / "60.png").write_bytes(b"no picture")
    (scans / "demo0001_00" / "demo0001_00_vh_clean_2.ply").write_bytes(b"no mesh")
    assert run_cli(f"data.root={scans}", "output_dir=out", "check=only")[0] == 0
    first, second = report_of(tmp_path)["checks"]
    assert len(first["skipped"]) == 2
    assert {p[key] for p in first["depth"]["pairs"] for key in ("frame_a", "frame_b")} == {0, 40}
    assert second["mesh"] is None
    assert "demo0001_00_vh_clean_2.ply: not a PLY file" in second["skipped"][0]


def test_a_stored_point_cloud_serves_as_a_mesh(tmp_path):
    points = np.random.default_rng(0).normal(size=(50, 3))
    trimesh.PointCloud(points).export(tmp_path / "cloud.ply")
    np.savez(tmp_path / "cloud.npz", xyz=points)
    for name in ("cloud.ply", "cloud.npz"):
        found = mesh_points(SceneMesh(f"{tmp_path}/{{scene}}{name[5:]}", sampled=True), "cloud", [])
        np.testing.assert_allclose(np.sort(found, axis=0), np.sort(points, axis=0), atol=1e-6)
    for sampled in (False, True):
        skipped = []
        assert mesh_points(SceneMesh(f"{tmp_path}/{{scene}}.ply", sampled), "none", skipped) is None
        assert len(skipped) == sampled  # a mesh that only may be there is not missed


@pytest.mark.parametrize("sampling", [pytest.param("depth", marks=pytest.mark.slow), "mesh"])
def test_the_mesh_that_is_looked_at_is_the_one_of_the_run_s_points(run_cli, demo_root, tmp_path, sampling):
    """It said ok of ScanNet's mesh beside the frames, where the run took its points from another file."""
    far = np.random.default_rng(0).uniform(50, 60, (4000, 3))
    np.savez(tmp_path / "far.npz", xyz=far)
    of_mesh = [f"sampling.points_file={tmp_path}/far.npz", "sampling.num_points=null"] if sampling == "mesh" else []
    base = [f"data.root={demo_root}", "output_dir=out", f"sampling={sampling}", *of_mesh]
    code, err = run_cli(*base, "check=only")
    assert code == (sampling == "mesh")
    why = f"the frames see next to nothing of {tmp_path}/far.npz: is it of this scene, in metres, and in the axes"
    assert (why in err) == (sampling == "mesh")
    if sampling == "mesh":
        code, err = run_cli(*base, "frames_per_scene=1")
        assert "WARNING demo0000_00: only 0.00% of its points are visible; a mesh of another scene, in other" in err


def test_frames_without_depth_leave_nothing_to_check(run_cli, scans, tmp_path):
    for path in scans.glob("*/depth/*.png"):
        path.unlink()
    code, err = run_cli(f"data.root={scans}", "output_dir=out", "check=only")
    assert code == 2
    assert (
        "clipfeat: nothing could be told of the calibration of 2 scenes: demo0000_00: nothing could be checked" in err
    )
    assert "demo0000_00: nothing could be checked: no two frames with depth and a pose" in err
    assert "WARNING the check could tell nothing" in err
    assert [scene["verdict"] for scene in report_of(tmp_path)["checks"]] == ["unknown", "unknown"]


def test_frames_that_can_not_be_read_leave_nothing_to_check(run_cli, scans):
    for path in scans.glob("*/color/*"):
        path.write_bytes(b"no picture")
    code, err = run_cli(f"data.root={scans}", "output_dir=out", "check=only")
    assert code == 2
    assert "clipfeat: nothing could be told of the calibration of 2 scenes" in err


@pytest.mark.parametrize(
    ("verdicts", "error"),
    [
        ([], CannotTellError),
        (["unknown", "unknown"], CannotTellError),
        (["unknown", "ok"], None),
        (["ok", "warning"], CheckError),
        (["unknown", "warning"], CheckError),
    ],
)
def test_what_scripts_see(verdicts, error):
    checks = [checking.SceneCheck("s", verdict, ["why"], None, None, None, []) for verdict in verdicts]
    with pytest.raises(error) if error else nullcontext():
        checking.require_calibration(checks)


def test_at_most_three_scenes_are_looked_at(demo_root, monkeypatch, tmp_path):
    seen = []

    def spy(dataset, scene_id, of_run, mesh, num_pairs, keys):
        seen.append((scene_id, num_pairs))
        return checking.SceneCheck(scene_id, "ok", [], None, None, None, [])

    monkeypatch.setattr(checking, "check_scene", spy)
    checking.check_scenes(
        None, [(f"s{i}", 0) for i in range(11)], SceneMesh(str(demo_root), sampled=False), tmp_path, {}
    )
    assert seen == [("s0", 6), ("s5", 6), ("s10", 6)]


def test_partners_are_looked_for_farther_away_where_nothing_moves(demo_root):
    dataset = ScanNetDataset(demo_root)
    scene = dataset.scenes()[0]
    frames = {i: dataset.load(scene, i) for i in dataset.frame_ids(scene)}
    # The first frame four times, as in a video of a camera that waits, and then another view.
    recording = [frames[0], frames[0], frames[0], frames[0], frames[20]]
    pairs = choose_pairs(lambda i: recording[i], range(5), [0], 1)
    assert [(pair.a is frames[0], pair.b is frames[20]) for pair in pairs] == [(True, True)]


@pytest.mark.parametrize(("given", "kept"), [("True", "yes"), ("false", "no"), ("only", "only"), ("yes", "yes")])
def test_check_takes_booleans_and_words(given, kept):
    assert ExtractConfig(check=given).check == kept


def test_check_takes_nothing_else():
    with pytest.raises(ConfigError, match="check=maybe: expected one of no, yes, only"):
        ExtractConfig(check="maybe")


def test_the_office_is_well(office):
    dataset = ScanNetDataset(office)
    for scene in dataset.scenes():
        check = check_scene(
            dataset,
            scene,
            dataset.frame_ids(scene),
            SceneMesh(f"{office}/{{scene}}/{{scene}}_vh_clean_2.ply", False),
            6,
            {},
        )
        assert (check.verdict, check.mesh) == ("ok", None), check.findings
        assert len(check.depth.pairs) == 6


def test_json_gets_null_for_what_it_has_no_number_for():
    assert checking._plain({"error": np.inf, "pairs": ({"x": float("nan")}, 1.5)}) == {
        "error": None,
        "pairs": [{"x": None}, 1.5],
    }


@pytest.mark.parametrize("number", [20, 1667344455000000])
def test_columns_stay_apart_where_numbers_are_times(number):
    pair = PairAgreement(number, number + 200006, 0.1, 3, 0.5, 0.9, 0.002, None)
    report = CalibrationReport("s", "ok", "", "", 0.01, 0.5, (pair, dataclasses.replace(pair, frame_b=1)), (), {})
    _, *rows = scene_table(SceneCheck("s", "ok", [], report, None, None, [])).splitlines()[:4]
    assert [row.split("  ")[1] for row in rows] == ["frames", f"{number} → {number + 200006}", f"{number} → 1"]
    assert {row.index("0.10 m") for row in rows[1:]} == {rows[0].index("apart")}
