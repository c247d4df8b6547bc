"""The rooms that are fused, with planted maps, and how well points are named by what came out."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from planted import NAMES, PlantedModel

import clipfeat
from clipfeat.data.demo.room import build_room
from clipfeat.extraction.scans import Scans, read_run_config
from clipfeat.fusion.metrics import count, mean_iou
from clipfeat.output.fused import FusedScene, read_fused
from clipfeat.sampling.point_files import read_points
from clipfeat.types import FeatureMap, FloatArray, Frame, Points

LABELS = np.array(sorted(NAMES))
"""ScanNet200 ids of all classes of the rooms."""

_SURFACE_M = 0.01
"""A line of sight that is free up to this far before a vertex shows it."""


class UnitModel(PlantedModel):
    """Whose features have length 1, as those of the head ``text`` have."""

    def point_features(self, sampled: torch.Tensor, memory: object = None) -> NDArray[np.float32]:  # noqa: ARG002
        """(N, C) of length 1."""
        features: NDArray[np.float32] = self.head.to_points(sampled).numpy()
        return features


class Recording:
    """Two rooms of the demo as recordings of 640×480, with a planted map a frame.

    Args:
        work: an empty folder.
        frames: a room.
        noise: see ``data.depth_noise``.
        holes: see ``data.depth_holes``.
        step: pixels that a cell of a map is wide.

    Attributes:
        root: of the scans, in ScanNet's exported layout.
        model: whose maps are planted.
        scenes: their names.
    """

    def __init__(self, work: Path, frames: int, noise: float, holes: float, step: int):
        self.root, self._work = work / "scans", work
        self.model = UnitModel(self.root, step)
        self.scenes = ("demo0000_00", "demo0001_00")
        size = "[640,480]"
        self._data = [f"data.num_frames={frames}", f"data.depth_noise={noise}", f"data.depth_holes={holes}"]
        self._data += [f"data.color_size={size}", f"data.depth_size={size}", "sampling=mesh"]
        self.store = self.extract()

    def extract(self, *rules: str) -> Path:
        """Runs ``clipfeat-extract output=grid`` with these rules of ``camera``; the folder."""
        folder = self._work / ("_".join(rules) or "run")
        overrides = [*self._data, "output=grid", "vis=none", "report=false", *rules]
        clipfeat.extract(self.root, folder, data="demo", overrides=overrides, model=self.model)
        return folder

    def fused(self, store: Path, *options: str) -> dict[str, FusedScene]:
        """Runs ``clipfeat-fuse``."""
        folder = clipfeat.fuse(store, store / "-".join(("fused", *options)), overrides=["formats=[]", *options])
        return {scene_id: read_fused(folder / f"{scene_id}.npz") for scene_id in self.scenes}

    def vertices(self, scene_id: str) -> Points:
        """Of the mesh, with the attribute ``label``."""
        return read_points(self.root / scene_id / f"{scene_id}_vh_clean_2.labels.ply")

    def frames(self, scene_id: str) -> Iterator[tuple[Frame, FeatureMap]]:
        """Each frame with its map."""
        store = clipfeat.FeatureStore(self.store)
        scans = Scans(store, read_run_config(store.folder).data)
        for number in store.frames(scene_id):
            yield scans.load(scene_id, number), self.map_of(scene_id, number)

    def map_of(self, scene_id: str, number: int) -> FeatureMap:
        """The planted map, in half precision as ``output=grid`` stores it."""
        found = clipfeat.FeatureStore(self.store).map(scene_id, number).feature_map
        return FeatureMap(found.values.half(), found.image_to_map)

    def depth_of(self, frame: Frame) -> NDArray[np.float64]:
        """(H, W) metres as other code reads them: the file's millimetres, divided by 1000."""
        with Image.open(self.root / frame.scene_id / "depth" / f"{frame.frame_id}.png") as millimetres:
            return np.asarray(millimetres) / 1000

    def shown(self, scene_id: str, frame: Frame, xyz: FloatArray) -> NDArray[np.bool_]:
        """(N,) whether nothing of the room stands between camera and point, whatever the depth says."""
        room = build_room(0, self.scenes.index(scene_id))
        eye = np.broadcast_to(frame.cam_to_world[:3, 3], xyz.shape)
        way = xyz - eye
        near = xyz - way * (_SURFACE_M / np.linalg.norm(way, axis=1, keepdims=True))
        return room.obstacles.free_share(eye, near) == 1

    def named(self, features: FloatArray) -> NDArray[np.int64]:
        """(N,) index in ``LABELS`` of the most alike vector of each feature (N, C); -1 where it is 0."""
        values = torch.from_numpy(np.asarray(features, np.float32))
        best = (values @ torch.from_numpy(self.model.vectors[LABELS]).T).argmax(1).numpy()
        return np.where(np.asarray(features).any(1), best, -1)


def miou(truth: NDArray[np.integer], named: NDArray[np.int64]) -> float:
    """Mean IoU over the classes that there are; unseen points are wrong."""
    classes = np.searchsorted(LABELS, truth)
    return float(mean_iou(count(classes, named, np.zeros(len(classes), np.int64), 1, len(LABELS)))[0])


def right(truth: NDArray[np.integer], named: NDArray[np.int64]) -> float:
    """Share of points whose label is theirs."""
    return float((LABELS[named] == truth)[named >= 0].mean()) if (named >= 0).any() else float("nan")
