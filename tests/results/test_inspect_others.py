"""``clipfeat-inspect`` on the folders of the other commands."""

import json

import pytest

from clipfeat.output.folders import write_config
from clipfeat.results.inspect import inspect_folder

QUERY = {
    "store": "out", "weights": "openai", "frames": 8, "scores": [],
    "prompts": [
        {
            "prompt": "a chair", "files": ["a-chair/best.png"],
            "ranked": [{"scene_id": "s1", "frame_id": 20, "best": 0.5}],
        }
    ],
    "earlier": [{"prompt": "a table", "files": ["a-table/best.png"]}],
}  # fmt: skip
EVALUATION = {
    "rows": [{"candidate": "none"}, {"candidate": "text"}], "scenes": 4, "scenes_held_out": 4, "frames": 9,
    "points": 700, "classes": 12, "weights": ["openai"], "failed": {}, "advice": "Use none (mIoU 0.300).",
}  # fmt: skip
TRAINING = {
    "steps": 300, "seconds": 12.5, "branches": "both", "miou": 0.21, "accuracy": 0.6, "points": {"wall": 5, "floor": 6},
    "features": {"arch": "ViT-B-16", "head": "none", "weights": "openai"},
}  # fmt: skip


def test_the_answers_of_a_query(tmp_path):
    (tmp_path / "query.json").write_text(json.dumps(QUERY))
    (tmp_path / "a-chair").mkdir()
    (tmp_path / "a-chair" / "best.png").write_bytes(b"x")
    found = inspect_folder(tmp_path)
    assert found.title == f"{tmp_path}: answers of clipfeat-query"
    assert found.facts["prompts"] == "1 (a chair)"
    assert found.facts["earlier"] == "1 (a table)"
    assert found.facts["best"] == "a chair: s1 frame 20 0.500"
    assert found.broken == [f"{tmp_path}/a-table/best.png: no such file, query.json names it"]


def test_an_evaluation(tmp_path):
    (tmp_path / "evaluation.json").write_text(json.dumps(EVALUATION))
    found = inspect_folder(tmp_path)
    assert found.title == f"{tmp_path}: an evaluation by clipfeat-evaluate"
    assert found.facts["candidates"] == "2 (none, text)"
    assert found.facts["advice"] == "Use none (mIoU 0.300)."
    assert found.broken == []
    (tmp_path / "evaluation.png").touch()
    found = inspect_folder(tmp_path, verify=True)
    assert found.facts["read"] == "1 .json, 1 .png"
    assert found.broken[0].startswith(f"{tmp_path}/evaluation.png: not a whole png file (")


PROTOCOL = {
    "protocol": "scannet20", "title": "ScanNet", "changed": ["unseen"], "weights": "openai", "store": "out/fused",
    "scenes": {"found": ["a", "b"], "wanted": 312}, "points": {"judged": 900}, "classes": [],
    "numbers": {"miou": 0.123, "accuracy": None, "groups": {"head": {"miou": 0.5}}},
}  # fmt: skip


def test_the_numbers_of_a_protocol(tmp_path):
    (tmp_path / "protocol.json").write_text(json.dumps(PROTOCOL))
    for name in ("protocol.md", "protocol.csv", "protocol_confusion.csv"):
        (tmp_path / name).touch()
    found = inspect_folder(tmp_path)
    assert found.title == f"{tmp_path}: the numbers of a protocol, by clipfeat-evaluate"
    assert (found.facts["scenes"], found.facts["numbers"]) == ("2 of 312", "miou 12.3 %, accuracy –")
    assert found.broken == [f"{tmp_path}/protocol.png: no such file; run the command again"]
    numbers = {"top1": {"synonyms": 0.25, "missing": 0.5}}
    told = {key: value for key, value in PROTOCOL.items() if key != "classes"} | {"numbers": numbers}
    (tmp_path / "protocol.json").write_text(json.dumps(told))
    found = inspect_folder(tmp_path)
    assert (found.facts["numbers"], found.broken) == ("top1 synonyms 25.0 %", [])


def test_heads(tmp_path):
    (tmp_path / "head.safetensors").write_bytes(b"x")
    told = {"head": "proj128", "fitted": "pca", "frames": 12, "weights": "openai"}
    (tmp_path / "head.json").write_text(json.dumps(told))
    found = inspect_folder(tmp_path)
    assert found.title == f"{tmp_path}: heads fitted by clipfeat-fit-head"
    assert found.facts == {"head.safetensors": "proj128, method=pca of 12 frames, weights=openai"}
    assert len(inspect_folder(tmp_path, verify=True).broken) == 1


def test_a_check_and_pictures_that_lie_in_folders_of_their_own(tmp_path):
    (tmp_path / "check").mkdir()
    told = {"scenes_in_run": 1, "checks": [{"scene_id": "s1", "verdict": "warning"}]}
    (tmp_path / "check" / "check.json").write_text(json.dumps(told))
    found = inspect_folder(tmp_path / "check")
    assert found.title.endswith("a check of the calibration, by clipfeat-extract check=only")
    assert found.facts == {"s1": "warning"}
    for scene_id, frame in (("s1", 0), ("s1", 5), ("s2", 0)):
        (tmp_path / "vis" / scene_id).mkdir(parents=True, exist_ok=True)
        (tmp_path / "vis" / scene_id / f"vis_{frame}.png").touch()
    found = inspect_folder(tmp_path / "vis")
    assert found.title.endswith("pictures of clipfeat-vis")
    assert found.facts == {"scenes": "2 (s1, s2)", "pictures": "3"}
    assert len(inspect_folder(tmp_path / "vis", verify=True).broken) == 3
    (tmp_path / "vis" / "s1" / "frame_0.npz").touch()
    assert not inspect_folder(tmp_path / "vis").title.endswith("pictures of clipfeat-vis")


def test_a_training(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"x")
    assert "has not ended" in inspect_folder(tmp_path).title
    (tmp_path / "metrics.json").write_text(json.dumps(TRAINING))
    found = inspect_folder(tmp_path)
    assert found.title == f"{tmp_path}: a training by clipfeat-train"
    assert found.facts["held out"] == "mIoU 21.0 %, accuracy 60.0 %"
    assert found.facts["features"] == "ViT-B-16, head none, weights=openai"
    found = inspect_folder(tmp_path, verify=True)
    assert found.facts["read"] == "1 .json, 1 .safetensors"
    assert found.broken[0].startswith(f"{tmp_path}/checkpoint.safetensors: not a whole safetensors file (")
    (tmp_path / "checkpoint.safetensors").unlink()
    assert "the network that was trained was expected" in inspect_folder(tmp_path).broken[0]


def test_an_export_is_not_taken_for_fused_scenes(tmp_path):
    write_config(tmp_path, {"format": "scene_npz", "output_dir": "out"})
    assert inspect_folder(tmp_path).broken == [f"{tmp_path}: holds no file"]
    (tmp_path / "s1.npz").write_bytes(b"x" * 100)
    found = inspect_folder(tmp_path)
    assert found.title == f"{tmp_path}: files for other projects, written by clipfeat-export"
    assert (found.facts["format"], found.facts["files"], found.facts["made of"]) == ("scene_npz", "1", "out")
    write_config(tmp_path, {"format": "openlex3d", "output_dir": "out/fused"})
    (tmp_path / "s1").mkdir()
    for name in ("embeddings.npy", "index.npy", "point_cloud.pcd"):
        (tmp_path / "s1" / name).write_bytes(b"x")
    assert inspect_folder(tmp_path).facts["files"] == "4"


@pytest.mark.parametrize("name", ["query.json", "evaluation.json", "protocol.json", "metrics.json"])
def test_what_is_damaged_is_said(tmp_path, name):
    (tmp_path / name).write_text('{"prompts": 3')
    assert f"{tmp_path / name}: damaged (" in inspect_folder(tmp_path).broken[0]
