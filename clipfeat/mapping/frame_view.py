"""What one frame says of a scene's points."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from clipfeat.sampling.bilinear import sample_img_feat
from clipfeat.sampling.locate import Located
from clipfeat.types import FeatureMap, FloatArray, Points


class Merger(Protocol):
    """What views are added to: ``ViewMerger``, or ``DeviceMerger``."""

    def add_map(
        self,
        feature_map: FeatureMap,
        rows: NDArray[np.int64],
        uv: NDArray[np.floating],
        weight: NDArray[np.floating],
    ) -> None:
        """See ``ViewMerger``."""

    def add_points(self, features: NDArray[np.floating], rows: NDArray[np.int64], weight: NDArray[np.floating]) -> None:
        """See ``ViewMerger``."""


@dataclass(frozen=True, eq=False)
class View:
    """What one frame says of a scene's points.

    Attributes:
        rows: (M,) int64 of the points that it sees, each once.
        weight: (M,) its confidence in each, above 0.
        features: (M, C); or the frame's map, to be sampled at ``uv``.
        uv: (M, 2) pixels of the original colour picture, where there is a map; else None.
        points: the M points that the frame itself measured, one a voxel (``sampling.voxels.VOXEL``), perhaps with
            ``rgb``; None where the points were given.
    """

    rows: NDArray[np.int64]
    weight: FloatArray
    features: FloatArray | FeatureMap
    uv: NDArray[np.float32] | None = None
    points: Points | None = None

    @property
    def channels(self) -> int:
        """C."""
        features = self.features
        return features.values.shape[0] if isinstance(features, FeatureMap) else features.shape[1]

    def add_to(self, merger: Merger, chosen: NDArray[np.bool_] | None = None) -> None:
        """Adds the view, or the chosen (M,) of its points."""
        pick = slice(None) if chosen is None else chosen
        if isinstance(self.features, FeatureMap):
            if self.uv is None:
                raise ValueError("a map without the places of its points")
            merger.add_map(self.features, self.rows[pick], self.uv[pick], self.weight[pick])
        else:
            merger.add_points(self.features[pick], self.rows[pick], self.weight[pick])


def view_of(
    located: Located,
    feature_map: FeatureMap,
    to_points: Callable[[torch.Tensor], NDArray[np.float32]] | None = None,
    *,
    measured: bool = False,
) -> View:
    """What a frame says of the points that it sees, each with the confidence ``conf_2d``.

    Args:
        located: where they are in its picture.
        feature_map: of the picture.
        to_points: makes point features of sampled ones (N, C); None leaves the map to be sampled later.
        measured: whether the points are the frame's own.
    """
    used = np.flatnonzero(feature_map.covers(located.uv_idx) & (located.conf_2d > 0))
    rows, weight, uv = located.points.idx[used], located.conf_2d[used], located.uv_idx[used]
    points = located.points.take(used) if measured else None
    if to_points is None:
        return View(rows, weight, feature_map, uv, points)
    with torch.inference_mode():
        return View(rows, weight, to_points(sample_img_feat(feature_map, uv)), None, points)
