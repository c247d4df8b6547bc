import dataclasses
import json
import os
import re

import numpy as np
import pytest
from stores import MODEL, some_features, some_grid, some_of, write_store

from clipfeat.cli.commands import inspect_main
from clipfeat.errors import DataError, OutputError
from clipfeat.output.files import write_features
from clipfeat.output.folders import write_config
from clipfeat.output.fused import FusedScene, write_fused
from clipfeat.output.records import done_record
from clipfeat.results.inspect import inspect_folder
from clipfeat.system.atomic import temporary_path
from clipfeat.types import Points

FRAMES = {("s1", 0): 10, ("s1", 7): 12, ("s1", 20): 11, ("s10", 3): 10, ("s2", 0): 10}


def points_of(scene_id, count):
    return {"visible": count, "occluded": count if scene_id == "s10" else 0}


@pytest.fixture(params=["npz", "h5", "grid", "segments"])
def run(request, tmp_path):
    """A run of three scenes as it ends, two frames of it failed."""
    some = some_of(request.param)
    folder = write_store(tmp_path / "run", {key: some(count, count) for key, count in FRAMES.items()}, request.param)
    write_config(folder.path, {"sampling": {"name": "mesh", "num_points": None}, "output": {"name": request.param}})
    for key, count in FRAMES.items():
        folder.append_record(done_record(*key, {"points": points_of(key[0], count)}, 1000, {}))
    for key in (("s1", 40), ("s2", 40)):
        why = f"/scans/{key[0]}/pose/{key[1]}.txt: the pose holds inf"
        folder.append_record({"scene_id": key[0], "frame_id": key[1], "status": "failed", "why": why})
    folder.append_record({"scene_id": "s3", "frame_id": None, "status": "failed", "why": "s3: no pictures"})
    folder.write_summary({"run": {"interrupted": False}})
    return folder


def test_a_whole_run_is_described_on_one_screen(run):
    found = inspect_folder(run.path, verify=True)
    assert not found.broken
    total = sum(run.feature_path(*key).stat().st_size for key in FRAMES) / 1e6
    assert found.title == f"{run.path}: features written by clipfeat-extract, output={run.format_name}"
    assert found.facts["scenes"] == "3 (s1, s2, s10)"
    assert found.facts["frames"] == "5; a scene has 1 to 3, 1 in the median"
    assert found.facts["model"] == "A, weights=w (0123)"
    assert found.facts["head"] == "none, 6 channels"
    assert found.facts["points"] == "sampling=mesh, all asked for, 10 to 12, 10 in the median visible in a frame"
    assert found.facts["size"] == f"{total / 5:.2f} MB a frame, {total:.2f} MB in all"
    share = f"{53 / 63:.1%} of the points that were looked at; frames by share: 0 ▁▁▁▁▁▃▁▁▁█ 1"
    assert found.facts["visible"] == f"{share}\nleast in s10 50.0%, s1 100.0%, s2 100.0%"
    assert found.facts["failed"].splitlines() == [
        "3",
        "2 × such as: /scans/s1/pose/40.txt: the pose holds inf",
        "1 × such as: s3: no pictures",
    ]
    assert found.facts["run"] == "finished"
    text = found.text()
    assert len(text.splitlines()) == 14
    assert text.endswith("broken      nothing: all files were read")
    assert "record" not in text
    assert inspect_folder(run.path).text().endswith("broken      nothing seen; --verify reads all files")


def test_nothing_is_changed(run):
    before = {path: path.stat().st_mtime_ns for path in [run.path, *run.path.rglob("*")]}
    inspect_folder(run.path, verify=True)
    assert {path: path.stat().st_mtime_ns for path in [run.path, *run.path.rglob("*")]} == before


def test_damaged_files_are_found_by_verifying_and_empty_ones_at_once(run):
    path = run.feature_path("s1", 7)
    data = bytearray(path.read_bytes())
    features = some_of(run.format_name)(12, 12)
    data[data.index(features.uv_idx.tobytes()) + 9] ^= 16
    path.write_bytes(data)
    run.feature_path("s2", 0).write_bytes(b"")
    found = inspect_folder(run.path)
    assert len(found.broken) == 1
    assert re.search(r"s2/frame_0\.\w+: is empty; delete it and run the same command again", found.broken[0])
    found = inspect_folder(run.path, verify=True)
    assert any(re.search(r"s1/frame_7\.\w+: not a whole feature file", line) for line in found.broken)
    assert {line.split(": ")[0].rsplit("/", 2)[-2] for line in found.broken} == {"s1", "s2"}
    assert "s1/frame_7" in found.text()


def test_features_of_another_model_are_found(run):
    some = some_of(run.format_name)
    write_store(run.path, {("s1", 7): some(0)}, run.format_name, model=MODEL | {"weights_sha256": "9"})
    found = inspect_folder(run.path, verify=True)
    told = [line for line in found.broken if "features of another model" in line]
    assert any("weights_sha256: 0123 there, 9 now" in line for line in told)


def test_arrays_of_unlike_length_are_found(tmp_path):
    grid = dataclasses.replace(some_grid(0), conf_2d=np.ones(29, np.float32))
    features = dataclasses.replace(some_features(0), attributes={"label": np.arange(29)})
    for name, frame, told in (("grid", grid, "conf_2d 29"), ("npz", features, "label 29")):
        write_store(tmp_path / name, {("s", 0): frame}, name)
        found = inspect_folder(tmp_path / name, verify=True)
        assert re.search(rf"s/frame_0\.\w+: its arrays are not of the same points \(.*{told}", found.broken[-1])


def test_what_the_record_and_the_files_do_not_agree_in_is_told(run):
    run.feature_path("s1", 20).unlink()
    some = some_of(run.format_name)
    write_store(run.path, {("s1", 40): some(1), ("s1", 99): some(2)}, run.format_name)
    found = inspect_folder(run.path)
    assert found.facts["record"].splitlines() == [
        "frames without a line in frames.jsonl: 1 (s1 frame 99)",
        "frames that failed when last tried, with a file of before: 1 (s1 frame 40)",
    ]
    told = "frames done, says frames.jsonl, that have no file: 1 (s1 frame 20); run the command again"
    assert found.broken == [told]


def test_how_a_run_ended_and_what_it_left(run):
    run.write_summary({"run": {"interrupted": True}})
    for key in (("s1", 1), ("s1", 2)):
        temporary_path(run.feature_path(*key)).touch()
    temporary_path(run.path / "summary.json").touch()
    found = inspect_folder(run.path)
    assert found.facts["run"] == "interrupted: the same command goes on from there"
    assert found.facts["unfinished"] == "3 temporary files of a run that goes on or was killed"
    os.utime(run.path / "summary.json", (1, 1))
    later = "still running, or it was killed: the same command goes on from there"
    assert inspect_folder(run.path).facts["run"] == later
    (run.path / "summary.json").unlink()
    assert inspect_folder(run.path).facts["run"] == later


def test_a_run_that_has_written_nothing_yet(run):
    for key in FRAMES:
        run.feature_path(*key).unlink()
    found = inspect_folder(run.path, verify=True)
    assert found.facts["scenes"] == "0"
    assert found.facts["failed"].startswith("3\n")
    assert "s1 frame 0, s1 frame 7, s1 frame 20, s10 frame 3, s2 frame 0" in found.broken[0]


def test_files_of_two_formats_and_a_damaged_configuration_are_broken(run):
    other = "h5" if run.format_name == "npz" else "npz"
    write_store(run.path, {("s2", 50): some_features(0)}, other)
    (run.path / "config.yaml").write_text("a: [")
    found = inspect_folder(run.path)
    assert any(line.startswith(f"{run.path}/config.yaml: can't be read") for line in found.broken)
    assert any("give each format a folder of its own" in line for line in found.broken)


def test_the_weights_of_the_head_are_missed(tmp_path):
    model = MODEL | {"head": "proj128", "head_sha256": "77"}
    write_store(tmp_path, {("s", 0): some_features(0)}, model=model)
    found = inspect_folder(tmp_path)
    assert found.facts["head"] == "proj128 (77), 6 channels"
    assert found.broken[0].startswith(f"{tmp_path}/head_proj128.safetensors: no such file, the weights that")


def test_many_broken_files_do_not_fill_more_than_a_screen(tmp_path):
    write_store(tmp_path, {("s", i): some_features(i) for i in range(50)})
    for i in range(1, 50):
        (tmp_path / "s" / f"frame_{i}.npz").write_bytes(b"")
    found = inspect_folder(tmp_path)
    assert len(found.broken) == 49
    assert len(found.text().splitlines()) < 35
    assert "… and 29 more" in found.text()


def test_a_scene_file(tmp_path):
    folder = write_store(tmp_path, {("s", i): some_features(i, 1000) for i in range(4)}, "h5_scene")
    folder.finish_scenes([("s", 0)], [])
    size = (tmp_path / "s.h5").stat().st_size / 1e6
    found = inspect_folder(tmp_path, verify=True)
    assert not found.broken
    assert found.facts["frames"] == "4"
    assert found.facts["size"] == f"{size / 4:.2f} MB a frame, {size:.2f} MB in all"
    (tmp_path / "s.h5").write_bytes((tmp_path / "s.h5").read_bytes()[:5000])
    assert "s.h5: not a whole" in inspect_folder(tmp_path).broken[0]


def test_a_cache_of_maps(tmp_path):
    pytest.importorskip("lmdb")
    from clipfeat.model.cache import MapCache
    from clipfeat.model.cache_entry import CacheEntry

    path = tmp_path / "maps.lmdb"
    with MapCache.open(path) as cache:
        for fingerprint in ("f", "g"):
            cache.put(fingerprint, [CacheEntry("s", i, "00" * 16, some_grid(i).feature_map) for i in range(3)])
        cache.put_card("f", {"a": 1})
    found = inspect_folder(path, verify=True)
    assert found.title == f"{path}: a cache of feature maps, for cache=lmdb cache.path={path}"
    assert found.facts["maps"] == "6, of 2 models or settings of one"
    assert not found.broken
    values = some_grid(1).feature_map.values.permute(1, 2, 0).numpy().tobytes()
    data = (path / "data.mdb").read_bytes()  # in pages that are no longer used, too
    (path / "data.mdb").write_bytes(data.replace(values, values[:-1] + bytes([values[-1] ^ 1])))
    broken = inspect_folder(path, verify=True).broken
    assert len(broken) == 2
    assert f"cache.path={path}: the map of s/1 is damaged (its checksum does not fit)" in broken[0]


def test_a_uv_index(tmp_path, demo_root):
    from clipfeat.data.config import ScanNetConfig
    from clipfeat.extraction.config import ExtractConfig
    from clipfeat.extraction.uv_index import write_uv_index

    folder = tmp_path / "index"
    write_uv_index(ExtractConfig(data=ScanNetConfig(root=str(demo_root)), uv_index=str(folder), num_workers=1))
    found = inspect_folder(folder, verify=True)
    assert found.title.startswith(f"{folder}: a uv index written by scripts/build_uv_index.py")
    assert found.facts["frames"] == "8; a scene has 4"
    assert found.facts["points"] == "sampling=depth, 20000 asked for"
    assert not found.broken
    path = sorted(folder.glob("*/uv_20.npz"))[1]
    path.write_bytes(path.read_bytes()[:500])
    (line,) = inspect_folder(folder, verify=True).broken
    assert line.startswith(f"{path}: not a whole")


def write_fused_scenes(folder, **changes):
    for number, scene_id in enumerate(("s1", "s2", "s10")):
        count = 10 + number
        meta = {
            "scene_id": scene_id, "frames": [0, 20], "failed": [{"frame_id": 40, "why": "x"}] if number else [],
            "num_points": count, "num_seen": number + 1, "mean_views": 1.5, "model": MODEL,
        }  # fmt: skip
        scene = FusedScene(
            Points(np.zeros((count, 3)), np.arange(count)), np.zeros((count, 6), np.float32),
            np.zeros(count, np.int32), np.zeros(count, np.float32), None, meta | changes,
        )  # fmt: skip
        write_fused(folder / f"{scene_id}.npz", scene)
    write_config(folder, {"store": "out", "points": "voxel"})


def test_a_folder_of_fused_scenes(tmp_path):
    write_fused_scenes(tmp_path)
    found = inspect_folder(tmp_path, verify=True)
    assert found.broken == []
    assert found.title == f"{tmp_path}: scenes fused by clipfeat-fuse"
    assert found.facts["scenes"] == "3 (s1, s2, s10)"
    assert found.facts["frames"] == "6; a scene has 2"
    assert found.facts["model"].startswith("A, weights=w (0123)")
    assert found.facts["head"] == "none"
    assert found.facts["points"] == "points=voxel, 33; a scene has 10 to 12, 11 in the median"
    assert found.facts["seen"] == "18.2% of the points\nleast in s1 10.0%, s2 18.2%, s10 25.0%"
    assert found.facts["failed"] == "2 (s2 frame 40, s10 frame 40)"
    assert found.facts["made of"] == "out"


def test_damaged_and_foreign_files_among_fused_scenes_are_broken(tmp_path):
    write_fused_scenes(tmp_path)
    (tmp_path / "s1.ply").write_bytes(b"ply")
    path = tmp_path / "s2.npz"
    path.write_bytes(path.read_bytes()[:-9])
    write_features(tmp_path / "frame_0.npz", "npz", some_features(0), {"model": MODEL})
    broken = inspect_folder(tmp_path).broken
    assert len(broken) == 2
    assert "frame_0.npz: no fused scene (its meta has no frames, failed, num_points, num_seen)" in broken[0]
    assert "s2.npz: not a whole feature file" in broken[1]
    verified = inspect_folder(tmp_path, verify=True).broken
    assert verified[-1].startswith(f"{tmp_path}/s1.ply: not a whole ply file (not a PLY file)")


def test_any_other_folder_is_none_of_clipfeats(tmp_path):
    with pytest.raises(DataError, match="holds no features, expected <scene>/frame_<i>"):
        inspect_folder(tmp_path)
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        inspect_folder(tmp_path / "nowhere")
    (tmp_path / "data.mdb").write_bytes(b"nothing")
    pytest.importorskip("lmdb")
    with pytest.raises(OutputError, match="not a whole cache"):
        inspect_folder(tmp_path)


def run_inspect(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["clipfeat-inspect", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        inspect_main()
    return stop.value.code, capsys.readouterr()


def test_the_command_ends_with_code_one_if_something_is_broken(monkeypatch, capsys, tmp_path):
    write_store(tmp_path, {("s", 0): some_features(0), ("s", 1): some_features(1)})
    code, output = run_inspect(monkeypatch, capsys, tmp_path)
    assert code == 0
    assert output.out == inspect_folder(tmp_path).text() + "\n"
    path = tmp_path / "s" / "frame_1.npz"
    path.write_bytes(path.read_bytes()[:700])
    assert run_inspect(monkeypatch, capsys, tmp_path)[0] == 0
    code, output = run_inspect(monkeypatch, capsys, tmp_path, "--verify")
    assert code == 1
    assert "s/frame_1.npz: not a whole feature file" in output.out
    code, output = run_inspect(monkeypatch, capsys, tmp_path / "nowhere")
    assert (code, output.out) == (1, "")
    assert output.err.startswith(f"clipfeat: {tmp_path}/nowhere: no such file or folder")
    code, output = run_inspect(monkeypatch, capsys, "--help")
    assert code == 0
    assert "--verify" in output.out


def test_lines_of_a_crash_do_not_stop_it(tmp_path):
    folder = write_store(tmp_path, {("s", 0): some_features(0)})
    lines = ['{"scene_id": "s"', "[]", json.dumps({"scene_id": "s", "frame_id": 0, "status": "done", "points": 3})]
    (tmp_path / "frames.jsonl").write_text("\n".join(lines))
    found = inspect_folder(folder.path, verify=True)
    assert not found.broken
    assert found.facts["record"] == "frames without a line in frames.jsonl: 1 (s frame 0)"
