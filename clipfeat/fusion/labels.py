"""What the labels of a store's points mean: which are classes, and what these are called."""

from pathlib import Path
from typing import Any

import numpy as np

from clipfeat.data.label_ids import check_ids, choose_ids, ids_of_vertices, label_set
from clipfeat.errors import DataError
from clipfeat.fusion.config import TrainConfig
from clipfeat.fusion.frames import Classes, LabelledFrames, read_classes
from clipfeat.output.folders import read_config
from clipfeat.output.store import FeatureStore
from clipfeat.sampling.point_files import read_points


def classes_of_frames(cfg: TrainConfig, frames: LabelledFrames) -> Classes:
    """The labels that the frames have; with names, those of them that have one.

    Raises:
        DataError: If none is known, or they are of another set of ids than is said.
    """
    ids = frames.labels(frames.keys)
    names = _names(cfg, frames.store, frames.keys[0][0], ids) or {int(i): str(i) for i in ids}
    ids = np.array([i for i in ids.tolist() if i in names], np.int64)
    if not len(ids):
        raise DataError(f"{frames.store.folder}: no point of {len(frames.keys)} frames has a label that is known")
    return Classes(ids, [names[i] for i in ids.tolist()])


def _names(cfg: TrainConfig, store: FeatureStore, scene_id: str, ids: Any) -> dict[int, str] | None:
    if cfg.labels_ids is None and cfg.classes_file is None:
        return None  # numbers say nothing that could be wrong
    found, where = _ids_of_store(cfg.label, store, scene_id)
    if cfg.labels_ids is not None:
        known = choose_ids(cfg.labels_ids, found, where)
        check_ids(ids, known, where)
        return known.by_id()
    names = read_classes(Path(cfg.classes_file or ""))
    if found is not None:
        called, otherwise = label_set(found).by_id(), label_set("nyu40" if found == "scannet" else "scannet").by_id()
        shared = [i for i in ids.tolist() if i in names and called.get(i) != otherwise.get(i)]
        wrong = [i for i in shared if names[i] == otherwise.get(i)]
        if len(wrong) > sum(names[i] == called.get(i) for i in shared):
            raise DataError(
                f"classes_file={cfg.classes_file}: calls the label {wrong[0]} {names[wrong[0]]}, but it is "
                f"{called.get(wrong[0], 'nothing')} in {where}, which is {found}'s; give labels_ids={found} instead"
            )
    return names


def _ids_of_store(label: str, store: FeatureStore, scene_id: str) -> tuple[str | None, str]:
    """The set of the labels that a store's run read, where it can still be seen; and where they come from."""
    where = f"{store.folder}, attribute {label}"
    config = read_config(store.folder) if (store.folder / "config.yaml").is_file() else {}
    if label == "semantic" and (config.get("data") or {}).get("name") == "scannet200_mv":
        return "scannet", where
    sampling = config.get("sampling") or {}
    pattern = sampling.get("labels_file") or sampling.get("points_file")
    if pattern is None:
        return None, where
    path = Path(pattern.replace("{scene}", scene_id))
    try:
        attributes = read_points(path).attributes
    except DataError:  # moved since
        return None, where
    if label not in attributes:
        return None, where
    return ids_of_vertices(path, attributes[label], attributes.get("rgb")), str(path)
