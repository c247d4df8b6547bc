"""OpenLex3D's categories: planted predictions against a slow count, and its files read or refused."""

import json

import numpy as np
import pytest
from planted import PlantedTexts, vector_of
from planted_scenes import MODEL

from clipfeat.errors import ConfigError, DataError
from clipfeat.output.fused import FusedScene, write_fused
from clipfeat.protocols.config import ProtocolConfig
from clipfeat.protocols.openlex3d import CATEGORIES
from clipfeat.protocols.run import evaluate_protocol
from clipfeat.results.inspect import inspect_folder
from clipfeat.system.pcd import write_pcd
from clipfeat.types import Points

PROMPTS = ["chair", "office chair", "table", "cat", "wall", "lamp", "picture"]
OBJECTS = {
    1: {"synonyms": ["office chair", "chair"], "depictions": ["cat"], "vis_sim": ["lamp"], "clutter": [2]},
    2: {"synonyms": ["table"], "depictions": [], "vis_sim": ["wall"], "clutter": []},
    3: {"synonyms": ["wall"], "depictions": ["picture"], "vis_sim": [], "clutter": []},
    4: {"synonyms": [], "depictions": ["cat"], "vis_sim": [], "clutter": []},
}


def write_labels(folder, scene_id, objects=None):
    samples = [
        {"object_id": one, "labels": {"image_attributes": of}}
        for one, of in (OBJECTS if objects is None else objects).items()
    ]
    (folder / scene_id).mkdir(parents=True, exist_ok=True)
    (folder / scene_id / "gt_categories.json").write_text(json.dumps({"dataset": {"samples": samples}}))
    (folder / "prompt_list.txt").write_text("\n".join(PROMPTS) + "\n")


def write_scene(folder, scene_id, rng, points=200):
    """Points on a grid wider than the voxels, so that each is one; returns xyz, objects and features."""
    cells = rng.permutation(8**3)[:points]
    xyz = np.stack([cells // 64, cells // 8 % 8, cells % 8], 1) * 0.2 + 0.05
    objects = rng.integers(0, 6, points)
    features = np.stack([vector_of(PROMPTS[k]) for k in rng.integers(0, len(PROMPTS), points)])
    features += 0.3 * np.stack([vector_of(PROMPTS[k]) for k in rng.integers(0, len(PROMPTS), points)])
    seen = rng.random(points) < 0.8
    fused = FusedScene(
        Points(xyz, np.arange(points), {"instance": objects}), np.where(seen[:, None], features, 0).astype(np.float32),
        seen.astype(np.int32), seen.astype(np.float32), None, {"scene_id": scene_id, "model": MODEL},
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_fused(folder / f"{scene_id}.npz", fused)
    return xyz, objects, features, seen


def slow_shares(xyz, objects, features, seen, top, ignore):
    """As the benchmark counts: point by point, label by label."""

    def words(one, name):
        return [str(label).replace(" ", "") for label in OBJECTS.get(one, {}).get(name, [])]

    places = xyz[seen]
    scores = (
        features[seen]
        / np.linalg.norm(features[seen], axis=1, keepdims=True)
        @ np.stack(list(map(vector_of, PROMPTS))).T
    )
    shares, met = dict.fromkeys(CATEGORIES, 0.0), set()
    for point, one in zip(xyz, objects.tolist(), strict=True):
        if not words(one, "synonyms") or set(ignore) & set(words(one, "synonyms")):
            continue
        met.add(one)
        distance = np.sqrt(((places - point) ** 2).sum(1))
        found = []
        if distance.min() > 0.05:
            found = ["missing"]
        else:
            for k in np.argsort(-scores[distance.argmin()])[:top]:
                label = PROMPTS[k].replace(" ", "")
                own = [name for name in CATEGORIES[:3] if label in words(one, name)]
                near = any(
                    label in words(int(other), name) for other in words(one, "clutter") for name in CATEGORIES[:3]
                )
                found.append(own[0] if own else "clutter" if near else "incorrect")
        shares[min(found, key=CATEGORIES.index)] += 1 / (objects == one).sum()
    return {name: share / len(met) for name, share in shares.items()}


def run(tmp_path, **options):
    cfg = ProtocolConfig("openlex3d", str(tmp_path / "fused"), output_dir=str(tmp_path / "out"), **options)
    return evaluate_protocol(cfg, PlantedTexts())


def test_shares_are_those_of_a_slow_count(tmp_path):
    rng = np.random.default_rng(0)
    scenes = {name: write_scene(tmp_path / "fused", name, rng) for name in ("office0", "room_2")}
    for name in ("office0", "room2"):
        write_labels(tmp_path / "gt", name)
    report = run(tmp_path, categories=str(tmp_path / "gt"), top=[1, 3])
    ignore = ["wall", "floor", "ceiling", "doorframe", "ledge", "windowledge"]
    for top in (1, 3):
        slow = [slow_shares(*scene, top, ignore) for scene in scenes.values()]
        for name in CATEGORIES:
            expected = np.mean([one[name] for one in slow])
            assert report["numbers"][f"top{top}"][name] == pytest.approx(expected, abs=1e-5), name
        assert sum(report["numbers"][f"top{top}"].values()) == pytest.approx(1, abs=1e-4)
    assert report["numbers"]["top3"]["synonyms"] > report["numbers"]["top1"]["synonyms"]
    assert report["numbers"]["top1"]["missing"] > 0.1
    assert report["scenes"]["found"] == ["office0", "room_2"]
    assert "synonyms" in (tmp_path / "out" / "protocol.md").read_text()
    found = inspect_folder(tmp_path / "out", verify=True)
    assert (found.facts["read"], found.broken) == ("1 .json, 1 .md", [])


def test_the_visible_cloud_is_what_is_judged(tmp_path):
    rng = np.random.default_rng(1)
    xyz, objects, _, seen = write_scene(tmp_path / "fused", "office0", rng)
    write_labels(tmp_path / "gt", "office0")
    shown = np.flatnonzero(rng.random(len(xyz)) < 0.5)
    lost = xyz[:5] + 10
    cloud = np.concatenate([xyz[shown] + 0.01, lost])
    write_pcd(tmp_path / "gt" / "office0" / "gt_visible_cloud.pcd", cloud, np.zeros((len(cloud), 3), np.uint8))
    report = run(tmp_path, categories=str(tmp_path / "gt"), top=[1])
    assert report["points"]["judged"] == len(cloud)
    judged = np.isin(objects[shown], [1, 2])
    near_seen = seen[shown][judged]
    missing = np.mean([(~near_seen[objects[shown][judged] == one]).mean() for one in (1, 2)])
    assert report["numbers"]["top1"]["missing"] == pytest.approx(missing, abs=1e-5)


def test_what_is_missing_is_told(tmp_path):
    write_scene(tmp_path / "fused", "office0", np.random.default_rng(0), 50)
    with pytest.raises(ConfigError, match="categories is not set: give the folder of OpenLex3D's labels"):
        run(tmp_path)
    (tmp_path / "gt").mkdir()
    with pytest.raises(DataError, match="prompt_list.txt: can't be read"):
        run(tmp_path, categories=str(tmp_path / "gt"))
    write_labels(tmp_path / "gt", "room0")
    with pytest.raises(DataError, match="gt_categories.json: no labels of OpenLex3D"):
        run(tmp_path, categories=str(tmp_path / "gt"))
    write_labels(tmp_path / "gt", "office0", {77: OBJECTS[1]})
    with pytest.raises(DataError, match="none of its objects has a point in the scene"):
        run(tmp_path, categories=str(tmp_path / "gt"))
