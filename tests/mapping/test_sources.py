"""Frames that come while a map is made: of a recording in progress, and line by line from a program."""

import json
import os
import shutil
import threading
import time

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from clipfeat.cli.commands import map_main
from clipfeat.cli.schemas import schemas_lent
from clipfeat.config.folder import config_dir
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.errors import FrameError
from clipfeat.mapping.json_frames import JsonFrames
from clipfeat.mapping.run import make_maps
from clipfeat.mapping.sources import Patience, WatchedFrames
from clipfeat.output.fused import read_fused

SCENES = ["demo0000_00", "demo0001_00"]


@pytest.fixture
def small(tiny_arch):
    return [f"model.arch={tiny_arch}", "model.pretrained=null", "voxel_size=0.2", "batch_size=1", "picture=none",
            "poll_s=0.01", "num_workers=1"]  # fmt: skip


@pytest.fixture
def configured(small):
    def configured(*overrides):
        with schemas_lent(), initialize_config_dir(str(config_dir()), version_base="1.3"):
            return OmegaConf.to_object(compose("map", [*small, *overrides]))

    return configured


def assert_same_maps(folder, other, scenes=SCENES):
    for scene_id in scenes:
        first, second = (read_fused(path / f"{scene_id}.npz") for path in (folder, other))
        np.testing.assert_array_equal(first.pts_feat, second.pts_feat)
        np.testing.assert_array_equal(first.points.xyz, second.points.xyz)
        assert first.meta["frames"] == second.meta["frames"]


class Scripted:
    """Gives what a list says, one entry a look; the clock goes on by each sleep."""

    def __init__(self, looks, waiting=()):
        self.looks, self.bad, self.now, self.left = list(looks), [], 0.0, list(waiting)
        self.forgotten = []

    @property
    def ended(self):
        return not self.looks

    @property
    def waiting(self):
        return bool(self.left) and self.left.pop(0)

    def new(self):
        return self.looks.pop(0) if self.looks else []

    def sleep(self, seconds):
        self.now += seconds

    def forget(self, key):
        self.forgotten.append(key)


def patience_of(frames, idle_s=None, retry_s=3.0):
    return Patience(frames, 1.0, idle_s, retry_s, lambda: frames.now, frames.sleep)


def test_what_can_not_be_read_comes_again_for_some_seconds():
    frames = Scripted([["a", "b"], [], ["c"]])
    patience, seen = patience_of(frames), []
    for portion in patience:
        seen += [(frames.now, portion)] if portion else []
        if "a" in portion:
            given_up = not patience.again("a")
    assert seen == [(0, ["a", "b"]), (1, ["a"]), (2, ["a", "c"]), (3, ["a"])]
    assert given_up
    patience.done("a")
    assert frames.forgotten == ["a"]


def test_it_ends_when_nothing_more_comes():
    class Endless(Scripted):
        ended = False

    frames = Endless([["a"], [], ["b"], []])
    assert list(patience_of(frames, idle_s=2)) == [["a"], [], ["b"], [], [], []]
    assert frames.now == 3
    frames = Endless([[], ["late"]], waiting=[True])
    assert list(patience_of(frames, idle_s=0)) == [[], ["late"], []]


def test_watching_waits_for_a_frame_to_be_listed_twice(configured, scans, tmp_path):
    watched = WatchedFrames(configured("data.root=" + str(tmp_path / "later")))
    assert watched.new() == []
    assert "later: no such folder" in watched.why
    shutil.copytree(scans / SCENES[0], tmp_path / "later" / SCENES[0])
    late = tmp_path / "later" / SCENES[0] / "color" / "60.jpg"
    aside = late.rename(tmp_path / "aside")
    assert watched.new() == []
    assert watched.waiting
    assert watched.new() == [(SCENES[0], frame_id) for frame_id in (0, 20, 40)]
    aside.rename(late)
    assert (watched.new(), watched.waiting) == ([], True)
    assert watched.new() == [(SCENES[0], 60)]
    assert watched.load(SCENES[0], 60).frame_id == 60
    assert not watched.waiting
    assert watched.why == ""


def test_a_recording_in_progress_is_mapped_as_it_is_written(configured, scans, tmp_path):
    """Files come in any order and half-written; what is read too soon is read again."""
    root, whole = tmp_path / "recording", configured(f"data.root={scans}", f"output_dir={tmp_path}/whole")
    make_maps(whole)

    def record():
        for scene_id in SCENES:
            target = root / scene_id
            shutil.copytree(scans / scene_id / "intrinsic", target / "intrinsic")
            for frame_id in ScanNetDataset(scans).frame_ids(scene_id):
                for name in (f"pose/{frame_id}.txt", f"color/{frame_id}.jpg", f"depth/{frame_id}.png"):
                    (target / name).parent.mkdir(parents=True, exist_ok=True)
                    content = (scans / scene_id / name).read_bytes()
                    with (target / name).open("wb") as file:
                        file.write(content[: len(content) // 2])
                        file.flush()
                        time.sleep(0.03)
                        file.write(content[len(content) // 2 :])

    recorder = threading.Thread(target=record)
    root.mkdir()
    recorder.start()
    summary = make_maps(configured(f"data.root={root}", "source=watch", "idle_s=1.0", f"output_dir={tmp_path}/out"))
    recorder.join()
    assert summary["failed"] == {}
    assert summary["added"] == 8
    for scene_id in SCENES:
        found, expected = (read_fused(tmp_path / f / f"{scene_id}.npz") for f in ("out", "whole"))
        assert set(found.meta["frames"]) == set(expected.meta["frames"])
        order, other = (np.lexsort(fused.points.attributes["voxel"].T) for fused in (found, expected))
        np.testing.assert_allclose(found.pts_feat[order], expected.pts_feat[other], atol=1e-5)


def test_a_frame_that_never_becomes_whole_is_bad_at_last(configured, scans, tmp_path):
    depth = scans / SCENES[0] / "depth" / "20.png"
    depth.write_bytes(depth.read_bytes()[:-40])
    cfg = configured(f"data.root={scans}", "source=watch", "idle_s=0.1", "retry_s=0.1", f"output_dir={tmp_path}/out")
    summary = make_maps(cfg)
    assert list(summary["failed"]) == [f"{SCENES[0]} frame 20"]
    assert summary["added"] == 7
    meta = read_fused(tmp_path / "out" / f"{SCENES[0]}.npz").meta
    assert [failure["frame_id"] for failure in meta["failed"]] == [20]


def lines_of(scans, **more):
    for scene_id in SCENES:
        dataset = ScanNetDataset(scans)
        for frame_id in dataset.frame_ids(scene_id):
            frame = dataset.load(scene_id, frame_id)
            yield {
                "scene": scene_id, "frame": frame_id, "color": f"{scene_id}/color/{frame_id}.jpg",
                "depth": f"{scene_id}/depth/{frame_id}.png", "intrinsics": frame.color_camera.intrinsics.tolist(),
                "depth_intrinsics": frame.depth_camera.intrinsics.tolist(), "pose": frame.cam_to_world.tolist(),
            } | more  # fmt: skip


def test_a_program_s_lines_are_mapped_as_the_recording_is(run_main, small, scans, tmp_path, monkeypatch):
    assert run_main(map_main, *small, f"data.root={scans}", "output_dir=whole")[0] == 0
    lines = [json.dumps(line) for line in lines_of(scans)]
    base = [*small, f"data.root={scans}", "source=stdin", "output_dir=out", "retry_s=0"]
    for part in (["no JSON", "", *lines[:3]], lines):  # the second time, those that are there are passed over
        (tmp_path / "lines").write_text("\n".join(part))  # without an end of the last line
        with (tmp_path / "lines").open() as file:
            monkeypatch.setattr("sys.stdin", file)
            code, err = run_main(map_main, *base)
        assert code == 0, err
        if "no JSON" in part:
            assert "3 in them (3 now), 1 could not be used" in err
            assert "WARNING failed: line 1 of standard input: no JSON (" in err
    assert_same_maps(tmp_path / "whole", tmp_path / "out")
    (tmp_path / "lines").write_text("no JSON\n")
    with (tmp_path / "lines").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        code, err = run_main(map_main, *base, "on_bad_frame=fail")
    assert code == 1
    assert "clipfeat: line 1 of standard input: no JSON" in err


@pytest.fixture
def pipe():
    read, write = os.pipe()
    with os.fdopen(write, "wb", buffering=0) as file:
        yield read, file
    os.close(read)


def test_lines_are_taken_as_they_come(pipe, scans):
    read, file = pipe
    frames = JsonFrames(read, scans, lambda _scene: [7], most=3)
    assert (frames.new(), frames.ended) == ([], False)
    one, *others = (json.dumps(line).encode() + b"\n" for line in lines_of(scans))
    file.write(one[:50])
    assert frames.new() == []
    file.write(one[50:])
    assert frames.new() == [(SCENES[0], 0)]
    frame, expected = frames.load(SCENES[0], 0), ScanNetDataset(scans).load(SCENES[0], 0)
    np.testing.assert_array_equal(frame.image, expected.image)
    np.testing.assert_array_equal(frame.depth_m, expected.depth_m)
    np.testing.assert_allclose(frame.depth_camera.intrinsics, expected.depth_camera.intrinsics)
    np.testing.assert_array_equal(frame.cam_to_world, expected.cam_to_world)
    file.write(b"".join(others))
    assert len(frames.new()) == 3  # the others wait
    unnamed = {k: v for k, v in json.loads(one).items() if k not in ("scene", "frame", "depth_intrinsics")}
    k = np.array(unnamed["intrinsics"])
    unnamed |= {"intrinsics": [k[0, 0], k[1, 1], k[0, 2], k[1, 2]], "pose": np.ravel(unnamed["pose"]).tolist()}
    file.write(json.dumps(unnamed | {"depth_scale": 500}).encode() + b"\n\n")
    while found := frames.new():
        last = found[-1]
    assert last == ("stream", 8)  # the next after those that are known
    frame = frames.load(*last)
    np.testing.assert_allclose(frame.depth_m, 2 * expected.depth_m)
    np.testing.assert_allclose(frame.depth_camera.intrinsics, frame.color_camera.resized(128, 96).intrinsics)
    again = json.dumps(unnamed | {"frame": 8}).encode() + b"\n"
    file.write(again)
    assert frames.new() == []
    assert frames.bad.pop().endswith("tells of frame 8 of stream once more, before it was added")
    frames.forget(last)
    file.write(again)
    file.close()
    assert frames.new() == [last]
    assert (frames.new(), frames.ended, frames.bad) == ([], True, [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[1]", "line 1 of standard input: expected an object, {color, depth, intrinsics, pose}"),
        (b'{"color": "a"}', "line 1 of standard input: no depth, intrinsics, pose; expected color, depth, "),
        ({"Frame": 1}, "Frame has no meaning; there may be scene, frame, depth_intrinsics, depth_scale"),
        ({"color": 3}, "color is '3', expected a path"),
        ({"depth": "d/\ud800.png"}, "depth is 'd/\\ud800.png', expected a path"),
        ({"depth_scale": 0}, "depth_scale is 0, expected a number above 0"),
        ({"depth_scale": 10**400}, "depth_scale is 1000"),
        ({"frame": -1}, "frame is -1, expected a whole number of 0 or more"),
        ({"frame": True}, "frame is True, expected a whole number"),
        ({"scene": None}, "scene is None, expected a name in quotes"),
        ({"scene": "../x"}, "scene name '../x' is not allowed"),
    ],
)
def test_lines_that_tell_no_frame_are_named(pipe, scans, line, message):
    read, file = pipe
    file.write((line if isinstance(line, bytes) else json.dumps(next(lines_of(scans)) | line).encode()) + b"\n")
    frames = JsonFrames(read, scans, lambda _scene: [], most=3)
    assert frames.new() == []
    [why] = frames.bad
    assert why.startswith("line 1 of standard input")
    assert message in why


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"color": "nowhere.jpg"}, "nowhere.jpg: no such file"),
        ({"intrinsics": "K"}, "demo0000_00 frame 0: intrinsics is K, expected 3×3 numbers"),
        ({"intrinsics": [500, 500, 900, 80]}, r"intrinsics: principal point \(900, 80\) lies outside the 216×162"),
        ({"depth_intrinsics": [1, 2, 3]}, "demo0000_00 frame 0: depth_intrinsics is .1, 2, 3., expected 3×3 numbers"),
        ({"pose": [10**400] * 16}, "demo0000_00 frame 0: pose is .1000"),
        ({"intrinsics": [float("nan")] * 9}, "demo0000_00 frame 0: intrinsics: intrinsics hold inf or NaN"),
        ({"pose": [1, 2, 3]}, "demo0000_00 frame 0: pose is .1, 2, 3., expected 4×4 numbers"),
        ({"pose": (2 * np.eye(4)).tolist()}, "demo0000_00 frame 0: pose: the upper left 3×3 is no rotation"),
    ],
)
def test_frames_that_a_line_tells_wrongly_are_bad_frames(pipe, scans, changes, message):
    read, file = pipe
    file.write(json.dumps(next(lines_of(scans)) | changes).encode() + b"\n")
    frames = JsonFrames(read, scans, lambda _scene: [], most=3)
    [key] = frames.new()
    with pytest.raises(FrameError, match=message):
        frames.load(*key)
