"""What the labels of an evaluation mean: said by ``labels_ids``, or found out from the labels themselves."""

from collections.abc import Sequence
from pathlib import Path

from clipfeat.data.base import Dataset
from clipfeat.data.frame_paths import FramePaths, frame_paths
from clipfeat.data.label_ids import choose_ids, ids_by_place, ids_of_picture, ids_of_vertices, label_set
from clipfeat.data.rasters import bits_of_picture
from clipfeat.data.scannet200 import LabelSet
from clipfeat.data.selection import FrameKey
from clipfeat.errors import DataError, FrameError
from clipfeat.evaluate.config import EvaluateConfig
from clipfeat.evaluate.frames import LABEL_ATTRIBUTES
from clipfeat.sampling.config import MeshSamplingConfig
from clipfeat.sampling.point_files import read_points


def classes_of_labels(cfg: EvaluateConfig, keys: Sequence[FrameKey], dataset: Dataset | None = None) -> LabelSet:
    """The classes that a run's labels are of.

    Where there are no labels at all, ScanNet's: the frames tell what is missing.

    Args:
        cfg: of the run.
        keys: its frames.
        dataset: whose names label pictures may have.

    Raises:
        DataError: If it is not said and can't be found out, or what is said is not so.
    """
    if cfg.labels is not None:
        return _of_pictures(frame_paths(cfg.labels, dataset, cfg.data.root), cfg.labels_ids, keys)
    if isinstance(cfg.sampling, MeshSamplingConfig):
        return _of_mesh(cfg.sampling, cfg.labels_ids, keys)
    if cfg.sampling.name == "frame_points":
        found = "scannet" if cfg.data.name == "scannet200_mv" else None
        return choose_ids(cfg.labels_ids, found, f"data={cfg.data.name}")
    return label_set(cfg.labels_ids or "scannet")


def _of_pictures(path_of: FramePaths, stated: str | None, keys: Sequence[FrameKey]) -> LabelSet:
    for key in keys:
        path = path_of(*key)
        if path.parent.name.startswith("instance"):
            raise DataError(f"{path}: numbers of instances, not of classes; give labels=… the folder of label pictures")
        try:
            bits = bits_of_picture(path, "label")
        except FrameError:
            continue
        # A converted picture may lie where ScanNet's own did: what is said counts more than where it lies.
        return choose_ids(stated, ids_by_place(path) if stated else ids_of_picture(path, bits), path)
    return label_set(stated or "scannet")


def _of_mesh(cfg: MeshSamplingConfig, stated: str | None, keys: Sequence[FrameKey]) -> LabelSet:
    path = Path((cfg.labels_file or cfg.points_file).replace("{scene}", keys[0][0]))
    try:
        attributes = read_points(path).attributes
    except DataError:
        return label_set(stated or "scannet")
    for name in LABEL_ATTRIBUTES:
        if name in attributes:
            return choose_ids(stated, ids_of_vertices(path, attributes[name], attributes.get("rgb")), path)
    return label_set(stated or "scannet")
