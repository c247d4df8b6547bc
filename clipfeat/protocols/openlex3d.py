"""OpenLex3D's open-set segmentation: of which category the likeliest labels of a point's object are.

Kassab et al., "OpenLex3D", NeurIPS 2025; counted as github.com/openlex3d/openlex3d 3dbad2b does,
openlex3d/core/metric.py (category_frequency_topn) and categories.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.json_files import json_object
from clipfeat.errors import DataError
from clipfeat.output.fused import FusedScene
from clipfeat.protocols.protocol import Rules
from clipfeat.protocols.truth import Labelled, other_name
from clipfeat.sampling.voxels import VoxelCloud
from clipfeat.system.pcd import read_pcd
from clipfeat.types import FloatArray
from clipfeat.vis.directions import unit_directions

CATEGORIES = ("synonyms", "depictions", "vis_sim", "clutter", "missing", "incorrect")
"""Of a label that a point gets, the best first. Missing: no prediction is near enough."""

_MISSING, _INCORRECT = CATEGORIES.index("missing"), CATEGORIES.index("incorrect")

_ROWS = 4096


@dataclass(frozen=True, eq=False)
class LabelledObjects:
    """What the labels of a scene's objects are.

    Attributes:
        path: of the file.
        labels: by object and category the labels, without spaces; of clutter the objects.
    """

    path: Path
    labels: dict[int, dict[str, list[str]]]

    def judged(self, ignore: Sequence[str]) -> list[int]:
        """The objects that have synonyms, none of which is ignored."""
        out = set(ignore)
        return [one for one, of in self.labels.items() if of["synonyms"] and not out & set(of["synonyms"])]

    def categories(self, one: int, prompts: Sequence[str]) -> NDArray[np.int8]:
        """(P,) index of the category of each prompt, as a label of this object."""
        own = self.labels[one]
        around = [self.labels[int(other)] for other in own["clutter"] if int(other) in self.labels]
        found = np.full(len(prompts), _INCORRECT, np.int8)
        words = [prompt.replace(" ", "") for prompt in prompts]
        near = {word for of in around for name in CATEGORIES[:3] for word in of[name]}
        for place, among in reversed([*enumerate(set(own[name]) for name in CATEGORIES[:3]), (3, near)]):
            found[[word in among for word in words]] = place
        return found


def read_objects(folder: Path, scene_id: str) -> LabelledObjects:
    """Reads ``<scene>/gt_categories.json``.

    Raises:
        DataError: If it is missing, or no such file.
    """
    path = _file(folder, scene_id, "gt_categories.json")
    try:
        labels = {int(one["object_id"]): _labels(one) for one in json_object(path)["dataset"]["samples"]}
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: no labels of OpenLex3D ({type(error).__name__}: {error})") from error
    return LabelledObjects(path, labels)


def _labels(sample: dict[str, Any]) -> dict[str, list[str]]:
    told = sample["labels"]["image_attributes"]
    return {name: [str(label).replace(" ", "") for label in told.get(name) or []] for name in CATEGORIES[:4]}


def read_prompts(folder: Path) -> list[str]:
    """Reads ``prompt_list.txt``, a label a line.

    Raises:
        DataError: If it can't be read, or is empty.
    """
    path = folder / "prompt_list.txt"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: can't be read ({getattr(error, 'strerror', None) or error}); it is in gt_openlex3d.zip, which "
            f"the README of github.com/openlex3d/openlex3d names"
        ) from error
    prompts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not prompts:
        raise DataError(f"{path}: holds no label, expected one a line")
    return prompts


def _file(folder: Path, scene_id: str, name: str) -> Path:
    other = folder / other_name(scene_id) / name
    return other if other.is_file() else folder / scene_id / name


def visible_points(
    folder: Path, scene_id: str, labelled: Labelled, reach: float
) -> tuple[FloatArray, NDArray[np.int64]]:
    """The points (M, 3) that are judged, and their objects (M,): of ``gt_visible_cloud.pcd`` where there is one.

    Each of its points is of the object that the nearest labelled point is of, within reach; else of -1.

    Raises:
        DataError: If it is damaged.
    """
    path = _file(folder, scene_id, "gt_visible_cloud.pcd")
    if not path.is_file():
        return labelled.xyz, labelled.labels
    from scipy.spatial import cKDTree

    try:
        xyz = read_pcd(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
    distance, nearest = cKDTree(labelled.xyz).query(xyz)
    return xyz, np.where(distance < reach, labelled.labels[nearest], -1)


def predictions(fused: FusedScene, texts: FloatArray, rules: Rules, top: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Voxels (V, 3) of the points that a frame sees, and the ``top`` likeliest texts (V, top) of each, best first.

    A voxel is at the mean of its points, and has the feature of the one that is nearest to that.

    Args:
        fused: the scene.
        texts: (P, C) of length 1.
        rules: of the protocol.
        top: how many.
    """
    from scipy.spatial import cKDTree

    xyz, rows = fused.points.xyz[fused.seen], np.flatnonzero(fused.seen)
    if rules.voxel_size and len(xyz):
        cloud = VoxelCloud(rules.voxel_size)
        cloud.add(xyz)
        means = cloud.points().xyz
        rows, xyz = rows[cKDTree(xyz).query(means)[1]], means
    found = np.empty((len(rows), min(top, len(texts))), np.int64)
    for begin in range(0, len(rows), _ROWS):
        cosines = unit_directions(fused.pts_feat[rows[begin : begin + _ROWS]]) @ texts.T
        found[begin : begin + _ROWS] = np.argsort(-cosines, axis=1, kind="stable")[:, : found.shape[1]]
    return xyz, found


def frequencies(
    xyz: FloatArray,
    objects: NDArray[np.int64],
    told: LabelledObjects,
    predicted: tuple[FloatArray, NDArray[np.int64]],
    prompts: Sequence[str],
    rules: Rules,
    tops: Sequence[int],
) -> dict[int, dict[str, float]]:
    """The share of each category, for each number of labels that may be right: its mean over objects.

    Args:
        xyz: (M, 3) of the judged points.
        objects: (M,) of these.
        told: what the objects' labels are.
        predicted: as ``predictions`` gives them, of as many labels as the largest of ``tops``.
        prompts: P labels.
        rules: of the protocol.
        tops: of how many labels the best one counts.

    Raises:
        DataError: If no point is of a judged object.
    """
    from scipy.spatial import cKDTree

    judged = np.intersect1d(told.judged(rules.ignore), objects)
    if len(judged) == 0:
        raise DataError(
            f"{told.path}: none of its objects has a point in the scene; do labels_file and it belong together?"
        )
    places, labels = predicted
    distance, nearest = (
        cKDTree(places).query(xyz) if len(places) else (np.full(len(xyz), np.inf), np.zeros(len(xyz), int))
    )
    shares = {top: np.zeros((len(judged), len(CATEGORIES))) for top in tops}
    for row, one in enumerate(judged.tolist()):
        own = np.flatnonzero(objects == one)
        category, near = told.categories(one, prompts), distance[own] <= rules.reach
        for top, share in shares.items():
            best = category[labels[nearest[own[near]], :top]].min(axis=1, initial=_INCORRECT) if near.any() else []
            share[row] = np.bincount(np.append(best, np.full((~near).sum(), _MISSING)).astype(int), minlength=6) / len(
                own
            )
    return {top: dict(zip(CATEGORIES, share.mean(0).tolist(), strict=True)) for top, share in shares.items()}
