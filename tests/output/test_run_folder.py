import json
import os
import subprocess
import threading
import time

import numpy as np
import pytest
import torch
from record_twin import plain

from clipfeat.errors import OutputError
from clipfeat.output.folders import different_keys, read_config
from clipfeat.output.frame_files import holds_features
from clipfeat.output.grid import GridFrame
from clipfeat.output.run_folder import RunFolder
from clipfeat.system.atomic import locked, temporary_path
from clipfeat.types import Camera, FeatureMap, PointFeatures

DONE = {"scene_id": "a", "frame_id": 0, "status": "done", "points": {"visible": 3}, "bytes": 9}
FAILED = {"scene_id": "a", "frame_id": 0, "status": "failed", "why": "0.png: damaged"}
FRAMES = [("a", 0), ("a", 20), ("b", 0)]
MODEL = {"weights_sha256": "m"}
CONFIG = {"model": {"arch": "A", "head": {"name": "none"}}, "batch_size": 8, "seed": 0, "check": "no"}
OTHER = {"model": {"arch": "A", "head": {"name": "proj128"}}, "batch_size": 8, "seed": 1, "check": "no"}


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "out", "npz", "float32")


def point_features(n=3):
    return PointFeatures(
        np.zeros((n, 4), np.float32), np.zeros((n, 2), np.float32), np.zeros(n, np.float32),
        np.zeros((n, 3), np.float32), np.arange(n),
    )  # fmt: skip


def grid_frame():
    points, camera = point_features(), Camera(np.eye(3), 8, 6)
    feature_map = FeatureMap(torch.zeros(4, 2, 2).half(), np.eye(2, 3))
    return GridFrame(
        feature_map=feature_map, camera=camera, cam_to_world=np.eye(4), uv_idx=points.uv_idx, depth_m=points.conf_2d,
        conf_2d=points.conf_2d, pts_idx=points.pts_idx,
    )  # fmt: skip


def write(folder, scene_id, frame_id, model="m"):
    features = point_features()
    meta = {"model": {"weights_sha256": model}, "points": {"visible": 3, "occluded": 1}, "depth": False}
    folder.write(scene_id, frame_id, features, meta)


def names(folder):
    files = (p for p in folder.path.rglob("*") if p.is_file() and p.name != ".lock")
    return sorted(p.relative_to(folder.path).as_posix() for p in files)


def test_a_run_from_before_a_key_goes_on(tmp_path):
    """Poses of any layout by patterns had OpenCV's axes before there was a word for it."""
    (tmp_path / "config.yaml").write_text("data: {name: posed_rgbd, root: x}\nseed: 0\n")
    before, now = read_config(tmp_path), {"name": "posed_rgbd", "root": "x"}
    now |= {"pose_axes": "opencv", "pixel_center": 0.0, "depth_along": "z", "posed_only": False}
    now |= {"distortion": None, "depth_distortion": None}
    assert different_keys(before, {"data": now, "seed": 0}) == []
    changed = {"data": now | {"pose_axes": "opengl"}, "seed": 0}
    assert different_keys(before, changed) == ["data.pose_axes: opencv there, opengl now"]
    (tmp_path / "config.yaml").write_text("data: {name: scannet, root: x}\n")
    assert read_config(tmp_path) == {"data": {"name": "scannet", "root": "x"}}


def test_a_run_from_before_a_key_of_the_model_goes_on_if_it_means_the_same():
    before, now = {"model": {"arch": "A"}}, {"model": {"arch": "A", "source": "open_clip"}}
    assert different_keys(before, now) == []
    assert different_keys(before, {"model": {"arch": "A", "source": "timm"}}) == [
        "model.source: open_clip there, timm now"
    ]
    assert different_keys({"arch": "A"}, {"arch": "A", "pooling": "token", "refine": "none"}) == []
    assert different_keys(before, {"model": {"arch": "A", "refine": "self_similarity"}}) == [
        "model.refine: none there, self_similarity now"
    ]
    # What stood for the whole picture was the class token, or a mean, where attention pools.
    assert different_keys({"arch": "A"}, {"arch": "A", "pooling": "map"}) == ["pooling: token there, map now"]


def test_done_means_that_the_file_is_there(folder):
    folder.claim(CONFIG, MODEL, FRAMES, overwrite=False)
    assert folder.done_before(FRAMES, CONFIG) == set()
    write(folder, "a", 20)
    assert folder.done_before(FRAMES, CONFIG) == {("a", 20)}
    folder.feature_path("a", 20).unlink()
    assert folder.done_before(FRAMES, CONFIG) == set()


def test_pictures_are_missing_of_frames_that_are_done(folder):
    pictured = {("a", 0), ("b", 0)}
    assert folder.undrawn(pictured) == set()
    for key in FRAMES:
        write(folder, *key)
    assert folder.undrawn(pictured) == pictured
    folder.picture_path("a", 0).touch()
    assert folder.undrawn(pictured) == {("b", 0)}
    folder.feature_path("b", 0).unlink()
    assert folder.undrawn(pictured) == set()


def test_a_file_without_its_line_gets_it(folder):
    folder.claim(CONFIG, MODEL, FRAMES, overwrite=False)
    write(folder, "a", 0)
    folder.append_record(FAILED)
    write(folder, "b", 0)
    folder.append_record(DONE | {"scene_id": "b", "bytes": folder.files.own_size("b", 0), "points": {"visible": 7}})
    assert folder.done_before(FRAMES, CONFIG) == {("a", 0), ("b", 0)}
    mended, kept = plain(folder.records())
    assert kept["points"] == {"visible": 7}
    assert mended["points"] == {"visible": 3, "occluded": 1}
    line = json.loads((folder.path / "frames.jsonl").read_text().splitlines()[-1])
    line.pop("time")
    assert line == {
        "scene_id": "a", "frame_id": 0, "status": "done", "points": {"visible": 3, "occluded": 1},
        "visible_share": 0.75, "depth": False, "bytes": folder.feature_path("a", 0).stat().st_size, "seconds": {},
    }  # fmt: skip


def test_a_file_without_its_line_that_is_not_whole_is_not_done(folder, caplog):
    folder.claim(CONFIG, MODEL, FRAMES, overwrite=False)
    write(folder, "a", 0)
    folder.feature_path("a", 0).write_bytes(b"PK")
    assert folder.done_before(FRAMES, CONFIG) == set()
    assert "frame_0.npz: not a whole feature file" in caplog.text
    assert "(it is done again now)" in caplog.text


@pytest.mark.parametrize("left", [0, 100, -1])
@pytest.mark.parametrize("format_name", ["npz", "h5", "grid", "h5_scene"])
def test_a_file_that_is_not_as_large_as_its_line_says_is_not_done(tmp_path, caplog, format_name, left):
    """As of runs before 0.2 after a power cut: an empty file under its name, and a line that says done."""
    folder = RunFolder(tmp_path / "out", format_name, "float32")
    folder.claim(CONFIG, MODEL, FRAMES, overwrite=False)
    for key in FRAMES:
        size = folder.write(*key, grid_frame() if format_name == "grid" else point_features(), {"points": {}})
        folder.append_record(DONE | {"scene_id": key[0], "frame_id": key[1], "bytes": size})
    path = folder.feature_path("a", 20)
    path.write_bytes(path.read_bytes()[:left])
    assert folder.done_before(FRAMES, CONFIG) == {("a", 0), ("b", 0)}
    assert f"{path}: not a whole feature file" in caplog.text


def test_a_whole_file_of_another_size_gets_a_new_line(folder):
    """Such as of a frame that was done again, when the run was killed before the line."""
    folder.claim(CONFIG, MODEL, FRAMES, overwrite=False)
    write(folder, "a", 0)
    folder.append_record(DONE | {"bytes": 7})
    assert folder.done_before(FRAMES, CONFIG) == {("a", 0)}
    assert [record["bytes"] for record in plain(folder.records())] == [folder.feature_path("a", 0).stat().st_size]


def test_another_configuration_is_refused_and_the_difference_named(folder):
    folder.claim(CONFIG, MODEL, FRAMES, overwrite=False)
    folder.claim(CONFIG | {"batch_size": 2}, MODEL, FRAMES, overwrite=False)  # says how, not what
    write(folder, "elsewhere", 0)
    message = (
        r"another configuration, which differs in model.head.name: none there, proj128 now; seed: 0 there, 1 now. "
        r"Choose another folder, or resume=overwrite to do everything again"
    )
    for refused in (
        lambda: folder.claim(OTHER, MODEL, FRAMES, overwrite=False),
        lambda: folder.done_before(FRAMES, OTHER),
    ):
        with pytest.raises(OutputError, match=message):
            refused()


@pytest.mark.parametrize(
    ("config", "model"), [(OTHER, MODEL), (CONFIG, {"weights_sha256": "x"}), ("[", MODEL)], ids=["config", "model", "?"]
)
def test_a_folder_in_which_nothing_was_finished_is_free_for_another_configuration(folder, config, model):
    """Such as after wrong masks, where each frame failed."""
    folder.claim(CONFIG, MODEL, FRAMES, overwrite=False)
    folder.append_record(FAILED)
    folder.write_summary({})
    folder.write_head({"w": torch.ones(2)}, {**MODEL, "head": "proj128"})
    (folder.path / "notes.md").touch()
    if config == "[":
        (folder.path / "config.yaml").write_text(config)
        config = CONFIG
    assert folder.done_before(FRAMES, config) == set()
    folder.claim(config, model, FRAMES, overwrite=False)
    assert names(folder) == ["config.yaml", "model.json", "notes.md"]
    assert read_config(folder.path) == config
    assert folder.read_model() == model


def test_a_run_stops_before_its_first_file_if_another_has_taken_the_folder(folder):
    """Both found nothing finished there: what they write must not mix."""
    folder.claim(CONFIG, MODEL, FRAMES, overwrite=False)
    second = RunFolder(folder.path, "npz", "float32")
    second.claim(OTHER, MODEL, FRAMES, overwrite=False)
    with pytest.raises(OutputError, match=r"results of another configuration, which differs in model.head.name"):
        write(folder, "a", 0)
    assert not holds_features(folder.path)
    write(second, "a", 0)
    write(second, "a", 20)
    with pytest.raises(OutputError, match="another configuration"):
        folder.claim(CONFIG, MODEL, FRAMES, overwrite=False)


def test_a_process_that_others_claimed_the_folder_for_looks_too(folder):
    """An actor of a cluster: the process that leads has claimed the folder, and this one writes."""
    folder.claim(OTHER, MODEL, FRAMES, overwrite=False)
    actor = RunFolder(folder.path, folder.format_name, folder.dtype)
    actor.expect(CONFIG)
    with pytest.raises(OutputError, match="holds results of another configuration"):
        write(actor, "a", 0)
    actor.expect(OTHER)
    write(actor, "a", 0)
    assert actor.done(FRAMES) == {("a", 0)}


def test_features_of_another_model_are_refused(folder):
    folder.claim(CONFIG, MODEL, FRAMES, overwrite=False)
    write(folder, "elsewhere", 0)
    message = "features of another model, which differs in weights_sha256: m there, x now. Choose another folder, or"
    for missing in (False, True):  # a folder of an older version has no model.json, but files that say it
        if missing:
            write(folder, "b", 0)
            (folder.path / "model.json").unlink()
        with pytest.raises(OutputError, match=message):
            folder.claim(CONFIG, {"weights_sha256": "x"}, FRAMES, overwrite=False)
    folder.claim(CONFIG, MODEL, FRAMES, overwrite=False)


def test_frames_that_nobody_knows_the_configuration_of_are_refused(folder):
    write(folder, "a", 0)
    with pytest.raises(OutputError, match=r"holds 1 of the frames, but no config.yaml .* made. Choose another folder"):
        folder.done_before(FRAMES, CONFIG)


@pytest.fixture
def full_folder(folder):
    """Results of a run, and files that are none of ours."""
    folder.claim(CONFIG, MODEL, FRAMES, overwrite=False)
    for key in [*FRAMES, ("gone", 7)]:
        write(folder, *key)
        folder.picture_path(*key).touch()
    folder.append_record(DONE)
    folder.write_summary({})
    for name in ("head_proj128.safetensors", "check.json", *FOREIGN):
        path = folder.path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return folder


FOREIGN = ["a/frame_x.npz", "a/frame_0.npz.bak", "a/notes.txt", "mine/model.json", "notes.md", "frame_0.npz"]


@pytest.mark.parametrize("what", ["config", "model", "unreadable"])
def test_overwrite_leaves_nothing_of_another_run_and_all_that_is_not_ours(full_folder, what):
    config, model = (OTHER, MODEL) if what == "config" else (CONFIG, {"weights_sha256": "x"})
    if what == "unreadable":
        (full_folder.path / "config.yaml").write_text("[")
    full_folder.claim(config, model, FRAMES, overwrite=True)
    assert names(full_folder) == sorted([*FOREIGN, "config.yaml", "model.json"])
    assert full_folder.read_model() == model
    assert not (full_folder.path / "gone").exists()
    full_folder.claim(config, model, FRAMES, overwrite=False)


def test_what_the_check_said_of_this_run_stays(full_folder):
    full_folder.claim(OTHER | {"check": "yes"}, MODEL, FRAMES, overwrite=True)
    assert "check.json" in names(full_folder)


def test_overwrite_with_the_same_configuration_does_the_run_s_own_frames_again(full_folder):
    """Shards share a folder: one must not remove what another has just written."""
    full_folder.claim(CONFIG, MODEL, [("a", 0), ("a", 20)], overwrite=True)
    left = names(full_folder)
    assert [n for n in left if n.startswith(("b/", "gone/"))] == [
        "b/frame_0.npz", "b/vis_0.png", "gone/frame_7.npz", "gone/vis_7.png"
    ]  # fmt: skip
    assert not [n for n in left if n.startswith("a/") and n not in FOREIGN]
    assert "frames.jsonl" in left
    assert plain(full_folder.records()) == []  # its file is gone


def test_overwrite_removes_nothing_of_a_folder_that_was_never_a_run_s(folder):
    write(folder, "other", 5)
    folder.claim(CONFIG, MODEL, FRAMES, overwrite=True)
    assert "other/frame_5.npz" in names(folder)


@pytest.mark.parametrize("last", ["features", "model"])
def test_a_run_that_is_killed_while_it_clears_a_folder_leaves_it_the_old_run_s(full_folder, monkeypatch, last):
    real = type(full_folder.path).unlink

    def killed(path, **kwargs):
        if path.name == ("frame_0.npz" if last == "features" else "model.json"):
            raise KeyboardInterrupt
        real(path, **kwargs)

    monkeypatch.setattr(type(full_folder.path), "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        full_folder.claim(OTHER, {"weights_sha256": "x"}, FRAMES, overwrite=True)
    monkeypatch.undo()
    if last == "features":  # else no feature is left
        with pytest.raises(OutputError, match="another configuration"):
            full_folder.claim(OTHER, {"weights_sha256": "x"}, FRAMES, overwrite=False)
    assert read_config(full_folder.path) == CONFIG
    full_folder.claim(CONFIG, MODEL, FRAMES, overwrite=False)


def test_one_process_at_a_time_claims_a_folder(folder):
    order = []

    def second():
        with locked(folder.path):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(folder.path):
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_what_killed_processes_left_is_removed_from_the_run_s_scenes(folder, caplog):
    caplog.set_level("INFO")
    gone = subprocess.Popen(["true"])
    gone.wait()
    for scene in ("a", "b", "c"):
        (folder.path / scene).mkdir()
        path = temporary_path(folder.path / scene / "frame_0.npz")
        path.with_name(path.name.replace(f".{os.getpid()}-", f".{gone.pid}-")).touch()
    folder.remove_leftovers(["a", "b", "z"])
    assert not any(n.startswith(("a/", "b/")) for n in names(folder))
    assert any(n.startswith("c/.frame_0.npz.") for n in names(folder))
    assert "2 unfinished files" in caplog.text


def test_the_latest_line_of_a_frame_counts_and_a_cut_off_line_does_not(folder):
    write(folder, "a", 0)
    folder.append_record(FAILED)
    folder.append_record(DONE)
    with (folder.path / "frames.jsonl").open("a") as file:
        file.write('{"scene_id": "a", "fra')
    assert plain(folder.records()) == [DONE]
    folder.append_record(FAILED | {"scene_id": "b"})  # the half line must not swallow it
    assert [(r["scene_id"], r["status"]) for r in plain(folder.records())] == [("a", "done"), ("b", "failed")]


def test_a_line_whose_file_is_gone_does_not_count(folder):
    folder.append_record(DONE)
    assert plain(folder.records()) == []


@pytest.mark.parametrize(
    "line",
    [
        "[]", "7", "null", "[" * 100_000, "\x00", '{"scene_id": "a", "frame_id": 1}',
        json.dumps(FAILED | {"frame_id": 1, "why": None}), json.dumps(DONE | {"frame_id": 1, "status": "dine"}),
        json.dumps(DONE | {"frame_id": 1, "bytes": float("nan")}), json.dumps(DONE | {"frame_id": [1]}),
        json.dumps(DONE | {"frame_id": 1, "points": {"visible": 1e300}}), json.dumps(DONE | {"points": 3}),
    ],
)  # fmt: skip
def test_a_damaged_line_is_passed_over(folder, line):
    write(folder, "a", 0)
    folder.append_record(DONE)
    with (folder.path / "frames.jsonl").open("a") as file:
        file.write(f"{line}\n")
    assert plain(folder.records()) == [DONE]


def test_a_scene_that_could_not_be_read_is_forgotten_when_it_can(folder):
    write(folder, "a", 0)
    left_out = FAILED | {"frame_id": None, "why": "a.sens: cut off"}
    other = left_out | {"scene_id": "b"}
    for record in (left_out, other, left_out | {"why": "a.sens: empty"}):
        folder.append_record(record)
    assert [r["why"] for r in plain(folder.records())] == ["a.sens: cut off", "a.sens: empty"]
    folder.append_record(DONE)
    assert plain(folder.records()) == [other, DONE]


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"{", b"[" * 100_000, b"\xff\x00"])
def test_a_damaged_summary_is_as_good_as_none(folder, content):
    (folder.path / "summary.json").write_bytes(content)
    assert folder.read_summary() == {}


@pytest.mark.parametrize(
    "content",
    [b"", b"7", b"a: b: c", b"[" * 100_000, b"\xff\x00", b"a: \x00", b"a: !!timestamp x", b"? [a]: {}\n? {}: 1"],
)
def test_a_damaged_config_is_named_in_one_line(folder, content):
    write(folder, "a", 0)
    (folder.path / "config.yaml").write_bytes(content)
    with pytest.raises(OutputError, match=r"out/config.yaml: .*\. Choose another folder") as caught:
        folder.claim(CONFIG, MODEL, FRAMES, overwrite=False)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"output_dir=.*file/out: can't be written to .*; choose another"):
        RunFolder(tmp_path / "file" / "out", "npz", "float32")


def test_differences_know_missing_keys():
    assert different_keys({"a": 1}, {"a": 1, "b": None}) == []
    assert different_keys({"a": {"x": 1}}, {"a": None}) == ["a: {'x': 1} there, None now"]
