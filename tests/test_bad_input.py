"""One bad frame among good ones: it is skipped, counted and listed, or stops the run."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from sens_writer import write_like

SCENE = "demo0000_00"


def truncate(name, keep=0.5):
    def damage(scene):
        path = scene / name
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep)])

    return damage


def as_png_truncated(scene):
    image = Image.open(scene / "color" / "20.jpg")
    (scene / "color" / "20.jpg").unlink()
    image.save(scene / "color" / "20.png")
    truncate("color/20.png")(scene)


def pose(matrix):
    return lambda scene: np.savetxt(scene / "pose" / "20.txt", matrix)


def eight_bit_depth(scene):
    depth = np.asarray(Image.open(scene / "depth" / "20.png"))
    Image.fromarray((depth / 256).astype(np.uint8)).save(scene / "depth" / "20.png")


def no_valid_depth(scene):
    Image.fromarray(np.zeros((96, 128), np.uint16)).save(scene / "depth" / "20.png")


DAMAGES = {
    "no depth": (
        lambda s: (s / "depth" / "20.png").unlink(),
        "frame 20: no depth file, and sampling=depth takes its points",
    ),
    "no pose": (lambda s: (s / "pose" / "20.txt").unlink(), "pose/20.txt: no such file, a 4×4 camera-to-world pose"),
    "lost pose": (pose(np.full((4, 4), -np.inf)), "pose/20.txt: the pose holds inf or NaN, so tracking was lost"),
    "nan pose": (pose(np.full((4, 4), np.nan)), "pose/20.txt: the pose holds inf or NaN"),
    "pose 2×4": (pose(np.eye(4)[:2]), "pose/20.txt: pose of shape (2, 4), expected 4×4 camera-to-world"),
    "truncated jpeg": (truncate("color/20.jpg"), "color/20.jpg: damaged file"),
    "empty jpeg": (truncate("color/20.jpg", 0), "color/20.jpg: not a picture"),
    "truncated png": (as_png_truncated, "color/20.png: damaged file"),
    "truncated depth": (truncate("depth/20.png"), "depth/20.png: damaged file"),
    "8-bit depth": (eight_bit_depth, "depth/20.png: 8-bit depth, but 16 bits in one channel were expected"),
    "no valid depth": (no_valid_depth, "frame 20: no depth pixel holds a measurement"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_bad_frame_is_skipped_counted_and_listed(scans, run_cli, tmp_path, kind):
    damage, message = DAMAGES[kind]
    damage(scans / SCENE)
    code, err = run_cli(f"data.root={scans}", "output_dir=out")
    assert code == 0, err
    assert "Traceback" not in err
    assert message in err
    assert "7 done (7 now), 1 failed" in err
    assert len(list((tmp_path / "out").glob("*/frame_*.npz"))) == 7
    lines = [json.loads(line) for line in (tmp_path / "out" / "frames.jsonl").read_text().splitlines()]
    failed = [line for line in lines if line["status"] == "failed"]
    assert [(f["scene_id"], f["frame_id"]) for f in failed] == [(SCENE, 20)]
    assert message in failed[0]["why"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["failed"] == 1


@pytest.mark.parametrize("kind", DAMAGES)
def test_on_bad_frame_fail_stops_and_says_why(scans, run_cli, tmp_path, kind):
    damage, message = DAMAGES[kind]
    damage(scans / SCENE)
    code, err = run_cli(f"data.root={scans}", "output_dir=out", "on_bad_frame=fail", "batch_size=1", "num_workers=1")
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    done = {path.stem for path in (tmp_path / "out" / SCENE).glob("frame_*.npz")}
    assert "frame_0" in done  # it came before; one or two that were in work already may be there too
    assert "frame_20" not in done
    assert not list((tmp_path / "out").glob("demo0001_00/frame_60.npz"))


def without_intrinsics(scene):
    (scene / "intrinsic" / "intrinsic_color.txt").unlink()


def zero_focal_length(scene):
    k = np.loadtxt(scene / "intrinsic" / "intrinsic_color.txt")
    k[0, 0] = 0
    np.savetxt(scene / "intrinsic" / "intrinsic_color.txt", k)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_intrinsics, "intrinsic_color.txt: no such file, a 3×3 or 4×4 camera matrix was expected"),
        (zero_focal_length, ".jpg: focal lengths must be positive, got fx=0"),
    ],
)
def test_a_bad_scene_fails_all_its_frames_and_no_others(scans, run_cli, tmp_path, damage, message):
    damage(scans / SCENE)
    code, err = run_cli(f"data.root={scans}", "output_dir=out")
    assert code == 0
    assert message in err
    assert "4 done (4 now), 4 failed" in err


@pytest.fixture
def recordings(demo_frames, tmp_path):
    """Two recordings, the first of them cut off in its header."""
    for scene in ("s0", "s1"):
        write_like(tmp_path / "sens" / f"{scene}.sens", demo_frames)
    bad = tmp_path / "sens" / "s0.sens"
    bad.write_bytes(bad.read_bytes()[:200])
    return bad.parent


WHY = "s0.sens: cut off in the header, after 200 bytes; copy or download the file again"


def test_a_scene_that_can_not_be_read_is_left_out_counted_and_listed(recordings, run_cli, tmp_path):
    command = ["data=sens", f"data.root={recordings}", "output_dir=out"]
    code, err = run_cli(*command)
    assert code == 0, err
    assert f"WARNING a scene is left out: {recordings}/{WHY}" in err
    assert "4 done (4 now), 0 failed, 1 scenes left out" in err
    assert f"WARNING failed: s0: {recordings}/{WHY}" in err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["failures"] == [{"scene_id": "s0", "frame_id": None, "why": f"{recordings}/{WHY}"}]
    code, err = run_cli(*command)
    assert code == 0
    assert "a scene is left out" in err
    assert "all 4 frames are done already" in err
    shutil.copy(recordings / "s1.sens", recordings / "s0.sens")
    code, err = run_cli(*command)
    assert code == 0
    assert "8 done (4 now), 0 failed\n" in err


def test_a_scene_that_can_not_be_read_stops_a_run_that_wants_all(recordings, run_cli):
    code, err = run_cli("data=sens", f"data.root={recordings}", "output_dir=out", "on_bad_frame=fail")
    assert code == 1
    assert err == f"clipfeat: {recordings}/{WHY}\n"
    (recordings / "s1.sens").unlink()
    code, err = run_cli("data=sens", f"data.root={recordings}", "output_dir=out")
    assert code == 1
    assert err == f"clipfeat: none of the 1 scenes can be read; the first: {recordings}/{WHY}\n"


def test_three_by_three_intrinsics_are_fine(scans, run_cli):
    for name in ("color", "depth"):
        path = scans / SCENE / "intrinsic" / f"intrinsic_{name}.txt"
        np.savetxt(path, np.loadtxt(path)[:3, :3])
    code, err = run_cli(f"data.root={scans}", "output_dir=out")
    assert code == 0
    assert "8 done (8 now), 0 failed" in err


def test_a_run_in_which_all_frames_fail_exits_non_zero(scans, run_cli):
    for scene in scans.iterdir():
        if scene.is_dir():
            shutil.rmtree(scene / "pose")
    code, err = run_cli(f"data.root={scans}", "output_dir=out")
    assert code == 1
    assert "clipfeat: all 8 frames failed; out/frames.jsonl says why" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("../x\n", "scenes_file=scenes.txt: scene name '../x' is not allowed"),
        ("/etc\n", "scenes_file=scenes.txt: scene name '/etc' is not allowed"),
        ("scene0000_00\n", "scene0000_00: no such scene, expected a folder with color/, depth/, pose/ and intrinsic/"),
        ("", "scenes_file=scenes.txt: names no scene"),
        (None, "scenes_file=scenes.txt: no such file"),
    ],
)
def test_a_bad_scenes_file_stops_before_any_work(scans, run_cli, tmp_path, content, message):
    if content is not None:
        (tmp_path / "scenes.txt").write_text(content)
    code, err = run_cli(f"data.root={scans}", "output_dir=out", "scenes_file=scenes.txt")
    assert code == 1
    assert "clipfeat: scenes_file=scenes.txt: " in err
    assert message in err
    assert "Traceback" not in err
    assert not list((tmp_path / "out").glob("*/frame_*"))


def test_an_output_dir_that_cannot_be_written(scans, run_cli, tmp_path):
    (tmp_path / "file").touch()
    code, err = run_cli(f"data.root={scans}", "output_dir=file/out")
    assert code == 1
    assert "clipfeat: output_dir=file/out: can't be written to (Not a directory); choose another" in err


def test_weights_that_cannot_be_had(scans, run_cli, monkeypatch):
    from clipfeat.model import weights

    monkeypatch.setattr(weights, "hub_answers", lambda: False)
    code, err = run_cli(f"data.root={scans}", "output_dir=out", "vis=none", tiny=False)
    assert code == 1
    assert "give a checkpoint file, or model.pretrained=null for random weights" in err
    assert "Traceback" not in err


def test_ctrl_c_keeps_what_is_done(scans, run_cli, tmp_path, monkeypatch):
    import clipfeat.extraction.worker as module

    whole = module.prefetch

    def interrupted(*args, **kwargs):
        for count, batch in enumerate(whole(*args, **kwargs)):
            if count == 3:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(module, "prefetch", interrupted)
    code, err = run_cli(f"data.root={scans}", "output_dir=out", "batch_size=1", "num_workers=1")
    assert code == 130
    done = len(list((tmp_path / "out").glob("*/frame_*.npz")))
    assert f"clipfeat: interrupted; {done} of 8 frames are done in out, the same command goes on from there" in err
    assert 3 <= done < 8
    assert not list((tmp_path / "out").glob("**/*.tmp"))
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["run"]["interrupted"] is True
    monkeypatch.setattr(module, "prefetch", whole)
    code, err = run_cli(f"data.root={scans}", "output_dir=out")
    assert code == 0
    assert f"{8 - done} frames to do, {done} done already" in err
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["frames"] == 8


def test_features_that_overflow_are_a_bad_frame(scans, run_cli, monkeypatch):
    from clipfeat.model.clip_model import ClipModel

    real = ClipModel.feature_maps

    calls = []

    def overflow(self, pixels, image_sizes):
        maps = real(self, pixels, image_sizes)
        calls.append(1)
        if len(calls) == 2:
            values = maps[0].values.clone()
            values[0, 3, 3] = float("inf")
            maps[0] = dataclasses.replace(maps[0], values=values)
        return maps

    monkeypatch.setattr(ClipModel, "feature_maps", overflow)
    code, err = run_cli(f"data.root={scans}", "output_dir=out", "batch_size=1", "num_workers=1")
    assert code == 0
    assert "frame 20: the features hold inf or NaN; try model.precision=fp32" in err
    assert "7 done (7 now), 1 failed" in err


def test_a_map_that_float16_can_not_hold_is_a_bad_frame_where_that_is_written(scans, run_cli, monkeypatch):
    from clipfeat.model.clip_model import ClipModel

    real = ClipModel.feature_maps

    def large(self, pixels, image_sizes):
        return [dataclasses.replace(m, values=m.values * 1e6) for m in real(self, pixels, image_sizes)]

    with monkeypatch.context() as patch:
        patch.setattr(ClipModel, "feature_maps", large)
        code, err = run_cli(f"data.root={scans}", "output_dir=grid", "output=grid")
        assert code == 1
        assert "hold inf or NaN; try model.precision=fp32 or output=npz: a grid is float16" in err
        code, err = run_cli(f"data.root={scans}", "output_dir=half", "output.dtype=float16")
        assert code == 1
        assert "hold inf or NaN; try model.precision=fp32 or output.dtype=float32" in err
        code, err = run_cli(f"data.root={scans}", "output_dir=npz")
        assert code == 0, err


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_disk_that_fills_up_stops_the_run_and_keeps_what_is_done(scans, run_cli, tmp_path, monkeypatch):
    import clipfeat.output.files as files

    real = files.FORMATS["npz"].write
    count = []

    def full(file, arrays, meta):
        count.append(1)
        if len(count) == 4:
            raise OSError(28, "No space left on device")
        real(file, arrays, meta)

    monkeypatch.setitem(files.FORMATS, "npz", dataclasses.replace(files.FORMATS["npz"], write=full))
    code, err = run_cli(f"data.root={scans}", "output_dir=out", "batch_size=1", "num_workers=1")
    assert code == 1
    done = len(list((tmp_path / "out").glob("*/frame_*.npz")))
    assert 3 <= done < 8
    kept = f"what was finished before is kept; {done} of 8 frames are done in out, the same command goes on from there"
    assert f"can't be written (No space left on device); {kept}" in err
    assert not list((tmp_path / "out").glob("**/*.tmp"))


def test_results_do_not_go_between_the_recordings(run_cli, scans):
    for more in ((), ("check=only",)):
        code, err = run_cli(f"data.root={scans}", f"output_dir={scans}/../scans", *more)
        assert (code, "is data.root, the folder of the recordings; choose another" in err) == (1, True)
