import json
import random
from collections import Counter, defaultdict

import pytest
from record_twin import plain, twin_latest
from stores import some_features

from clipfeat.output import record_table, records, run_folder
from clipfeat.output.files import write_features
from clipfeat.output.record_table import latest_lines, scenes_told
from clipfeat.output.records import record_files
from clipfeat.output.run_folder import RunFolder
from clipfeat.output.totals import add_up
from clipfeat.system.shards import Shard

NAMES = ("visible", "occluded", "out_of_view", "masked")


def done(scene_id, frame_id, **changes):
    points = {"visible": 3, "occluded": 1}
    return {"scene_id": scene_id, "frame_id": frame_id, "status": "done", "points": points, "bytes": 9} | changes


def failed(scene_id, frame_id, why="lost", **changes):
    return {"scene_id": scene_id, "frame_id": frame_id, "status": "failed", "why": why} | changes


def some_line(rng):
    """A line of a few frames of a few scenes, so that most are told of again; one in twenty is damaged or unusual."""
    scene_id, frame_id = f"s{rng.randrange(6)}", rng.randrange(40)
    time = {"time": rng.randrange(50) / 2} if rng.random() < 0.9 else {}
    points = {name: rng.randrange(5) for name in NAMES[: rng.choice((2, 4, 4, 4))]}
    line = done(scene_id, frame_id, points=points, bytes=rng.randrange(99), depth=rng.random() < 0.7, **time)
    kind = rng.random()
    if kind < 0.1:
        line = failed(scene_id, frame_id, f"lost {rng.randrange(9)}", **time)
    elif kind < 0.15:
        line = failed(scene_id, None, f"gone {rng.randrange(9)}", **time)
    elif kind < 0.2:
        line |= rng.choice(ODD)
    return json.dumps(line) if rng.random() > 0.02 else json.dumps(line)[: rng.randrange(60)]


ODD = [
    {"frame_id": 10**30}, {"frame_id": -3}, {"frame_id": 2**63}, {"frame_id": True}, {"frame_id": 1.5}, {"time": "no"},
    {"frame_id": None}, {"time": float("nan")}, {"time": 7}, {"bytes": -1}, {"bytes": 1.5}, {"points": {"v": None}},
    {"points": {}}, {"points": []}, {"depth": 0}, {"depth": None}, {"scene_id": 7}, {"scene_id": "é\u2028"},
    {"status": "failed"}, {"status": 3}, {"more": {"a": [1, None]}}, {"why": 3}, {"bytes": True},
]  # fmt: skip


@pytest.mark.parametrize("block", [400, 1 << 20])
@pytest.mark.parametrize("names", [["frames.jsonl"], ["frames.0.jsonl", "frames.1.jsonl", "frames.jsonl"]])
def test_the_latest_lines_are_those_of_the_slow_twin(tmp_path, monkeypatch, names, block):
    monkeypatch.setattr(records, "_BLOCK", block)
    rng = random.Random(len(names))  # noqa: S311
    for name in names:
        (tmp_path / name).write_text("".join(f"{some_line(rng)}\n" for _ in range(1500)))
    expected = twin_latest(tmp_path)
    for line in expected:
        line.pop("time", None)
        if line["status"] == "done":
            line["points"] = {name: count for name, count in line["points"].items() if count}
            depth = {} if line.pop("depth", True) else {"depth": False}
            kept = {key: line[key] for key in ("scene_id", "frame_id", "status", "points", "bytes")}
        else:
            depth, kept = {}, {key: line[key] for key in ("scene_id", "frame_id", "status", "why")}
        line.clear()
        line.update(kept | depth)
    found = plain(latest_lines(record_files(tmp_path)))
    assert found == expected
    some = [line for line in expected if line["scene_id"] in ("s1", "s4")]
    assert plain(latest_lines(record_files(tmp_path), {"s1", "s4"})) == some
    assert set(scenes_told(record_files(tmp_path))) == {line["scene_id"] for line in expected}
    check_totals(add_up(latest_lines(record_files(tmp_path))), expected)


def check_totals(totals, lines):
    """The sums of the slow twin's lines, as each summary had them before there were columns."""
    finished, bad = ([line for line in lines if line["status"] == status] for status in ("done", "failed"))
    points, sizes = defaultdict(Counter), Counter()
    for line in finished:
        points[line["scene_id"]].update(line["points"])
        sizes[line["scene_id"]] += line["bytes"]
    with_frames = {scene_id: scene for scene_id, scene in totals.scenes.items() if scene.frames}
    assert list(with_frames) == list(points)
    assert {scene_id: +scene.points for scene_id, scene in with_frames.items()} == points
    assert {scene_id: scene.size for scene_id, scene in with_frames.items()} == sizes
    assert sum(scene.without_depth for scene in with_frames.values()) == sum("depth" in line for line in finished)
    assert totals.failures == [{key: line[key] for key in ("scene_id", "frame_id", "why")} for line in bad]
    assert {scene_id: s.failed for scene_id, s in totals.scenes.items() if s.failed} == Counter(
        line["scene_id"] for line in bad
    )


def test_sums_are_exact_beyond_what_columns_hold(tmp_path):
    most = done("a", 0, points={"visible": 2**31 - 1}, bytes=2**63 - 1)
    lines = [most, most | {"frame_id": 1}, most | {"frame_id": 2, "points": {"visible": 2**31}}]
    (tmp_path / "frames.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = add_up(latest_lines(record_files(tmp_path))).scenes["a"]
    assert (found.frames, found.size, found.points["visible"]) == (2, 2**64 - 2, 2**32 - 2)


@pytest.fixture
def shards(tmp_path):
    """Two of three shards of a folder have come to their end: each has a scene of two frames, one of them failed."""
    folders = [RunFolder(tmp_path, "npz", "float32", Shard(index, 3)) for index in range(3)]
    for index, folder in enumerate(folders):
        write(folder, f"s{index}", 0)
        folder.append_record(failed(f"s{index}", 1))
    for folder in folders[:2]:
        end(folder)
    return folders


FRAMES = {"s0": [0, 1], "s1": [0, 1], "s2": [0, 1]}


def write(folder, scene_id, frame_id):
    """Stands for a feature file: nobody looks into it here."""
    folder.feature_path(scene_id, frame_id).parent.mkdir(exist_ok=True)
    folder.feature_path(scene_id, frame_id).touch()
    folder.append_record(done(scene_id, frame_id))


def end(folder, *, interrupted=False, **changes):
    shard = {"index": folder.shard.index, "count": folder.shard.count}
    summary = {"frames": 1, "failed": 1, "run": {"interrupted": interrupted}, "shard": shard} | changes
    folder.write_summary(summary, folder.shard)


@pytest.fixture
def read(monkeypatch):
    """The names of the records that are read."""
    names = []

    def noted(path):
        names.append(path.name)
        return records.read_lines(path)

    monkeypatch.setattr(record_table, "read_lines", noted)
    return names


ALL = ["frames.0.jsonl", "frames.1.jsonl", "frames.2.jsonl"]


def test_a_shard_that_is_not_the_last_reads_no_record_of_others(shards, read):
    assert shards[0].own_totals({"s0"}).scenes.keys() == {"s0"}
    assert read == ["frames.0.jsonl"]
    assert shards[0].totals_if_settled(FRAMES) is None
    assert read == ["frames.0.jsonl"]
    end(shards[2])
    totals = shards[2].totals_if_settled(FRAMES)
    assert (list(totals.scenes), len(totals.failures)) == (["s0", "s1", "s2"], 3)
    assert read == ["frames.0.jsonl", *ALL]


@pytest.mark.parametrize(
    "changes", [{"interrupted": True}, {"frames": 0}, {"frames": None}, {"run": 3}, {"shard": {"index": 2, "count": 4}}]
)
def test_what_an_earlier_run_of_a_shard_said_does_not_count(shards, read, changes):
    end(shards[2], **changes)
    assert shards[0].totals_if_settled(FRAMES) is None
    assert read == []


def test_frames_whose_files_are_there_are_settled_whoever_did_them(shards, read):
    write(shards[0], "s2", 1)
    assert shards[0].totals_if_settled(FRAMES).scenes["s2"].frames == 2
    assert read == ALL


def test_a_shard_that_says_it_is_through_is_not_believed_over_the_files(shards, read):
    end(shards[2])
    shards[2].feature_path("s2", 0).unlink()
    assert shards[2].totals_if_settled(FRAMES) is None
    assert read == ALL


def test_shards_without_frames_are_not_waited_for(shards):
    end(shards[2])
    more = [RunFolder(folder.path, "npz", "float32", Shard(index, 9)) for index, folder in enumerate(shards)]
    for folder in more:
        end(folder)
    assert more[0].totals_if_settled(FRAMES) is not None


def test_a_shard_that_is_overwritten_is_not_through_any_more(shards):
    config = {"check": "no"}
    shards[0].claim(config, {}, [("s0", 0)], overwrite=True)
    assert not (shards[0].path / "summary.0.json").exists()
    assert (shards[0].path / "summary.1.json").exists()


def test_a_shard_asks_the_others_where_its_own_record_does_not_tell_of_all_files(shards, read):
    """Where the shards were others before."""
    write(shards[1], "s0", 20)
    write(shards[1], "s7", 0)
    assert shards[0].own_totals({"s0"}).scenes["s0"].frames == 2
    assert read == ["frames.0.jsonl", *ALL]
    assert shards[2].own_totals({"s2", "s7"}).scenes.keys() == {"s2", "s7"}
    assert read[4:] == ["frames.2.jsonl", *ALL]


def test_a_frame_that_failed_in_one_shard_and_was_done_by_another_is_done(shards, read):
    write(shards[1], "s0", 1)
    assert shards[0].own_totals({"s0"}).scenes["s0"].frames == 2
    assert read == ["frames.0.jsonl", *ALL]


def test_a_shard_that_goes_on_asks_the_others_only_what_its_own_record_does_not_tell(shards, read, monkeypatch):
    monkeypatch.setattr(run_folder, "_SOONER_READ", 0)
    config = {"check": "no"}
    shards[0].claim(config, {}, [], overwrite=False)
    for scene_id in ("s0", "s1"):
        shards[0].feature_path(scene_id, 0).write_bytes(b"123456789")
    assert shards[0].done_before([("s0", 0)], config) == {("s0", 0)}
    assert read == ["frames.0.jsonl"]
    assert shards[0].done_before([("s0", 0), ("s1", 0)], config) == {("s0", 0), ("s1", 0)}
    assert read == ["frames.0.jsonl", "frames.0.jsonl", *ALL]
    assert len((shards[0].path / "frames.0.jsonl").read_text().splitlines()) == 2


def test_a_shard_that_was_killed_before_a_line_reads_the_file_and_no_record_of_others(shards, read):
    config = {"check": "no"}
    shards[0].claim(config, {}, [], overwrite=False)
    for frame_id in (5, 6):
        path = shards[0].feature_path("s0", frame_id)
        write_features(path, "npz", some_features(3), {"points": {"visible": 3}})
    path.write_bytes(path.read_bytes()[:-1])
    assert shards[0].done_before([("s0", 5), ("s0", 6)], config) == {("s0", 5)}
    assert read == ["frames.0.jsonl"]
    line = json.loads((shards[0].path / "frames.0.jsonl").read_text().splitlines()[-1])
    assert (line["frame_id"], line["points"]) == (5, {"visible": 3})
