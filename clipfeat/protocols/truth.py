"""The labelled points of a scene, and what their labels mean to a protocol."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.json_files import json_object
from clipfeat.data.label_ids import SAME_IDS, check_ids, choose_ids, ids_by_place, ids_of_vertices
from clipfeat.data.label_sets import LABEL_IDS
from clipfeat.data.scannet200 import UNLABELLED, LabelSet
from clipfeat.errors import DataError
from clipfeat.evaluate.frames import LABEL_ATTRIBUTES
from clipfeat.output.fused import FusedScene
from clipfeat.protocols.protocol import TABLES, Protocol
from clipfeat.sampling.point_files import read_points
from clipfeat.system.ply_reader import Lists, coordinates, read_ply
from clipfeat.types import FloatArray

OBJECT_ATTRIBUTES = ("object_id", "instance", *LABEL_ATTRIBUTES)
"""What the objects of points are called, for openlex3d."""

_SAME_M = 1e-4
"""Metres by which the float32 of a fused scene may differ from its mesh."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labelled points of a scene.

    Attributes:
        xyz: (M, 3) metres.
        labels: (M,) int64.
        own: whether they are the fused points, row by row.
        path: of the file that the labels are from, as far as it is known.
        ids: whose ids they are, as far as the labels tell.
    """

    xyz: FloatArray
    labels: NDArray[np.int64]
    own: bool
    path: Path
    ids: str | None = None


def other_name(scene_id: str) -> str:
    """The other one of the two names that Replica's scenes have: office0 is office_0."""
    match = re.fullmatch(r"(office|room)(_?)(\d)", scene_id)
    return scene_id if match is None else f"{match[1]}{'' if match[2] else '_'}{match[3]}"


def file_of(pattern: str, scene_id: str) -> Path:
    """The file of a scene, by whichever of its names it is there.

    Raises:
        DataError: If it is not there.
    """
    paths = [Path(pattern.replace("{scene}", name)) for name in (scene_id, other_name(scene_id))]
    for path in paths:
        if path.is_file():
            return path
    raise DataError(f"{paths[0]}: no such file, the labelled points of {scene_id} were expected (labels_file)")


def labelled_points(
    fused: FusedScene,
    scene_id: str,
    labels_file: str | None,
    points_file: str | None,
    names: tuple[str, ...] = LABEL_ATTRIBUTES,
) -> Labelled:
    """The labelled points of a scene.

    Args:
        fused: the scene.
        scene_id: its name.
        labels_file: see ``ProtocolConfig``.
        points_file: see ``ProtocolConfig``.
        names: of the attributes that count as labels, the first one that is there.

    Raises:
        DataError: If there are none, or they do not fit.
    """
    if labels_file is None:
        path = _labels_of(fused)
        labels = _attribute(fused.points.attributes, names)
        if labels is None:
            raise DataError(
                f"{scene_id}: its fused points bear no {' or '.join(names)}; give labels_file=…/{{scene}}….ply, here "
                f"or to clipfeat-fuse"
            )
        return Labelled(fused.points.xyz, labels, True, path, _told(path, labels))
    path = file_of(labels_file, scene_id)
    if path.suffix.lower() == ".txt":
        return _of_text(path, fused, None if points_file is None else file_of(points_file, scene_id))
    found = _of_faces(path, names) if path.suffix.lower() == ".ply" else None
    if found is None:
        points = read_points(path)
        labels = _attribute(points.attributes, names)
        if labels is None:
            raise DataError(f"{path}: its points bear no {' or '.join(names)}, but {_listed(points.attributes)}")
        found = Labelled(points.xyz, labels, False, path, ids_of_vertices(path, labels, points.attributes.get("rgb")))
    return replace(found, own=_same(found.xyz, fused))


def _same(xyz: FloatArray, fused: FusedScene) -> bool:
    return xyz.shape == fused.points.xyz.shape and bool(np.abs(xyz - fused.points.xyz).max(initial=0) < _SAME_M)


def _attribute(attributes: Mapping[str, NDArray[Any]], names: tuple[str, ...]) -> NDArray[np.int64] | None:
    found = next((attributes[name] for name in names if name in attributes), None)
    return None if found is None or found.ndim != 1 else found.astype(np.int64)


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "nothing"


def _labels_of(fused: FusedScene) -> Path:
    """The file that fused labels are from, as the scene's meta tells it."""
    scene_id = str(fused.meta.get("scene_id"))
    sampled = fused.meta.get("sampling") or {}
    said = fused.meta.get("labels_file") or sampled.get("labels_file") or sampled.get("points_file") or scene_id
    return Path(str(said).replace("{scene}", scene_id))


def _told(path: Path, labels: NDArray[np.int64]) -> str | None:
    """Whose ids fused labels are, by the file that they are from, where it is still there."""
    try:
        rgb = read_points(path).attributes.get("rgb")
    except DataError:
        return ids_by_place(path)
    return ids_of_vertices(path, labels, rgb if rgb is not None and len(rgb) == len(labels) else None)


def _of_text(path: Path, fused: FusedScene, points: Path | None) -> Labelled:
    xyz = fused.points.xyz if points is None else read_points(points).xyz
    try:
        labels = np.array(path.read_text(encoding="utf-8").split(), np.int64)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no labels ({error}), expected a whole number a line") from error
    if len(labels) != len(xyz):
        where = (
            points or f"the fused scene {fused.meta.get('scene_id')}; give points_file=… if they are of other points"
        )
        raise DataError(f"{path}: holds {len(labels)} labels, but there are {len(xyz)} points in {where}")
    return Labelled(xyz, labels, points is None or _same(xyz, fused), path, ids_by_place(path))


def _of_faces(path: Path, names: tuple[str, ...]) -> Labelled | None:
    """The corners of faces that bear ``object_id``, as Replica's do; None where the vertices bear labels, or no face.

    HOV-SG and OpenLex3D take these corners for points, each as often as a face has it. Classes of objects are told by
    ``info_semantic.json`` beside the mesh.
    """
    try:
        elements = read_ply(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}; copy or export it again") from error
    face, vertex = elements.get("face", {}), elements.get("vertex", {})
    corners = next((face[name] for name in ("vertex_indices", "vertex_index") if name in face), None)
    if any(name in vertex for name in names) or "object_id" not in face or not isinstance(corners, Lists):
        return None
    try:
        xyz = coordinates(elements)[corners.values].astype(np.float64)
    except (IndexError, ValueError) as error:
        raise DataError(f"{path}: its faces do not fit its vertices ({error}); copy or export it again") from error
    objects = np.repeat(face["object_id"].astype(np.int64), corners.counts)
    if "object_id" in names:
        return Labelled(xyz, objects, False, path)
    info = path.with_name("info_semantic.json")
    try:
        classes = {int(one["id"]): int(one["class_id"]) for one in json_object(info)["objects"]}
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{info}: no list of objects with id and class_id ({error}), which tells the classes of {path.name}"
        ) from error
    ids, place = np.unique(objects, return_inverse=True)
    return Labelled(xyz, np.array([classes.get(int(one), 0) for one in ids], np.int64)[place], False, path)


def classes_of(labelled: Labelled, protocol: Protocol, classes: LabelSet, stated: str | None) -> NDArray[np.int64]:
    """The protocol's class (M,) of each point, ``UNLABELLED`` where it has none.

    Args:
        labelled: the points.
        protocol: whose classes.
        classes: these.
        stated: ``labels_ids`` of the configuration.

    Raises:
        DataError: If it is not known whose ids the labels are, or they can't be of that set, or it has none of the
            protocol's classes.
    """
    own = SAME_IDS.get(protocol.labels_ids, protocol.labels_ids)
    if own not in LABEL_IDS and stated in (None, own) and labelled.ids is None:
        return classes.classes_of(labelled.labels)
    if stated == "replica" and own != stated:
        raise DataError(
            f"labels_ids=replica: those are ids of the tables of Replica, but these are {own}'s; leave it out"
        )
    stated = None if stated == own and own not in LABEL_IDS else stated
    known = choose_ids(stated, labelled.ids, labelled.path)
    check_ids(labelled.labels, known, labelled.path)
    theirs = str(stated or labelled.ids)
    return classes.classes_of(_translated(labelled.labels, SAME_IDS.get(theirs, theirs), known, own, classes))


def _translated(
    labels: NDArray[np.int64], theirs: str, known: LabelSet, own: str, classes: LabelSet
) -> NDArray[np.int64]:
    """Labels as the protocol's own ids; ``UNLABELLED`` where they are none of its classes."""
    if theirs == own:
        return labels
    if (theirs, own) == ("scannet", "nyu40"):
        ids, found = nyu40_of_scannet()
    else:
        ids_of = {name: label for label, name in classes.by_id().items()}
        shared = {label: ids_of[name] for label, name in known.by_id().items() if name in ids_of}
        if not shared:
            raise DataError(
                f"labels_ids={theirs}: none of its names is one of {classes.title}'s, such as {classes.names[0]}"
            )
        ids, found = np.array(list(shared)), np.array(list(shared.values()))
    row = np.searchsorted(ids, labels).clip(max=len(ids) - 1)
    return np.where(ids[row] == labels, found[row], UNLABELLED)


@cache
def nyu40_of_scannet() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """ScanNet's raw ids, ascending, and NYU40's of each.

    They are the columns id and nyu40id of ``scannetv2-labels.combined.tsv`` (MIT; github.com/facebookresearch/votenet
    2f6d6d3, scannet/meta_data). Three ids are there twice (pipe, shower door, cabinet door): the commoner one counts.
    """
    ids, found = np.loadtxt(TABLES / "scannet_nyu40.csv", np.int64, delimiter=",", skiprows=1).T
    return ids, found
