import json

import numpy as np
import pytest

from clipfeat.errors import OutputError
from clipfeat.output import RunFolder
from clipfeat.output.run_folder import different_keys
from clipfeat.types import PointFeatures

DONE = {"scene_id": "a", "frame_id": 0, "status": "done", "points": {"visible": 3}, "bytes": 9}
FAILED = {"scene_id": "a", "frame_id": 0, "status": "failed", "why": "0.png: damaged"}
FRAMES = [("a", 0), ("a", 20), ("b", 0)]


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "out", "npz", "float32")


def write(folder, scene_id, frame_id, model="m"):
    n = 3
    features = PointFeatures(
        np.zeros((n, 4), np.float32), np.zeros((n, 2), np.float32), np.zeros(n, np.float32),
        np.zeros((n, 3), np.float32), np.arange(n),
    )  # fmt: skip
    folder.write(scene_id, frame_id, features, {"model": {"weights_sha256": model}})


def test_done_means_that_the_file_is_there(folder):
    assert folder.missing(FRAMES, with_pictures=False) == FRAMES
    write(folder, "a", 20)
    assert folder.missing(FRAMES, with_pictures=False) == [("a", 0), ("b", 0)]
    folder.feature_path("a", 20).unlink()
    assert folder.missing(FRAMES, with_pictures=False) == FRAMES


def test_with_pictures_a_scene_is_done_as_a_whole(folder):
    for key in FRAMES:
        write(folder, *key)
    assert folder.missing(FRAMES, with_pictures=True) == FRAMES
    folder.picture_path("a", 0).touch()
    assert folder.missing(FRAMES, with_pictures=True) == [("b", 0)]
    folder.picture_path("b", 0).touch()
    assert folder.missing(FRAMES, with_pictures=True) == []
    folder.feature_path("a", 20).unlink()
    assert folder.missing(FRAMES, with_pictures=True) == [("a", 0), ("a", 20)]


def test_another_configuration_is_refused_and_the_difference_named(folder):
    config = {"model": {"arch": "A", "head": {"name": "none"}}, "batch_size": 8, "seed": 0}
    folder.claim(config, overwrite=False)
    folder.claim(config | {"batch_size": 2}, overwrite=False)  # says how, not what
    other = {"model": {"arch": "A", "head": {"name": "proj128"}}, "batch_size": 8, "seed": 1}
    message = r"another configuration, which differs in model.head.name: none there, proj128 now; seed: 0 there, 1 now"
    with pytest.raises(OutputError, match=message):
        folder.claim(other, overwrite=False)
    folder.claim(other, overwrite=True)
    folder.claim(other, overwrite=False)


def test_features_of_another_model_are_refused(folder):
    folder.check_model([], {"weights_sha256": "m"})
    write(folder, "a", 0)
    folder.check_model([("a", 0)], {"weights_sha256": "m"})
    with pytest.raises(OutputError, match="features of another model, which differs in weights_sha256: m there, x now"):
        folder.check_model([("a", 0)], {"weights_sha256": "x"})


def test_files_that_can_not_say_their_model_are_passed_over(folder):
    for frame_id in range(3):
        write(folder, "a", frame_id)
    first, second = (folder.feature_path("a", frame_id) for frame_id in (0, 1))
    first.write_bytes(first.read_bytes()[:100])
    np.savez(second, meta=np.array('{"schema_version": 1}'))
    frames = [("a", frame_id) for frame_id in range(3)]
    folder.check_model(frames, {"weights_sha256": "m"})
    with pytest.raises(OutputError, match="features of another model"):
        folder.check_model(frames, {"weights_sha256": "x"})


def test_the_latest_line_of_a_frame_counts_and_a_cut_off_line_does_not(folder):
    folder.append_record(FAILED)
    folder.append_record(DONE)
    with (folder.path / "frames.jsonl").open("a") as file:
        file.write('{"scene_id": "a", "fra')
    assert folder.records() == [DONE]


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
    folder.append_record(DONE)
    with (folder.path / "frames.jsonl").open("a") as file:
        file.write(f"{line}\n")
    assert folder.records() == [DONE]


def test_a_scene_that_could_not_be_read_is_forgotten_when_it_can(folder):
    left_out = FAILED | {"frame_id": None, "why": "a.sens: cut off"}
    other = left_out | {"scene_id": "b"}
    for record in (left_out, other, left_out | {"why": "a.sens: empty"}):
        folder.append_record(record)
    assert [r["why"] for r in folder.records()] == ["a.sens: cut off", "a.sens: empty"]
    folder.append_record(DONE)
    assert folder.records() == [other, DONE]


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"{", b"[" * 100_000, b"\xff\x00"])
def test_a_damaged_summary_is_as_good_as_none(folder, content):
    (folder.path / "summary.json").write_bytes(content)
    assert folder.read_summary() == {}


@pytest.mark.parametrize(
    "content",
    [b"", b"7", b"a: b: c", b"[" * 100_000, b"\xff\x00", b"a: \x00", b"a: !!timestamp x", b"? [a]: {}\n? {}: 1"],
)
def test_a_damaged_config_is_named_in_one_line(folder, content):
    (folder.path / "config.yaml").write_bytes(content)
    with pytest.raises(OutputError, match=r"out/config.yaml: .*; choose another folder or delete it") as caught:
        folder.claim({"seed": 0}, overwrite=False)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"output_dir=.*file/out: can't be written to .*; choose another"):
        RunFolder(tmp_path / "file" / "out", "npz", "float32")


def test_differences_know_missing_keys():
    assert different_keys({"a": 1}, {"a": 1, "b": None}) == []
    assert different_keys({"a": {"x": 1}}, {"a": None}) == ["a: {'x': 1} there, None now"]
