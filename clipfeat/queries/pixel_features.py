"""The features of a frame and the pixels that they belong to, whatever the run has kept of it."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from clipfeat.data.selection import FrameKey
from clipfeat.errors import DataError
from clipfeat.output.grid import GridFrame
from clipfeat.output.store import FeatureStore
from clipfeat.sampling.bilinear import sample_img_feat
from clipfeat.types import FloatArray
from clipfeat.vis.overlay import reach_px

_COLUMNS = 128
"""Pixels of a map that are looked at, along the width of what is asked for. A map has some 14 to 80 cells there."""


class PixelFeatures(Protocol):
    """Features of a store's frames. Pixels are those of the original colour picture. Threads may call it at once."""

    def everywhere(self, key: FrameKey) -> tuple[FloatArray, FloatArray]:
        """Features (N, C) all over a frame, and their pixels (N, 2); N may be 0.

        Raises:
            DataError: If the frame's file can't be read.
        """
        ...

    def at(self, key: FrameKey, uv: FloatArray) -> FloatArray:
        """The feature (1, C) at a pixel (2,).

        Raises:
            DataError: If there is none, or the frame's file can't be read.
        """
        ...

    def within(self, key: FrameKey, box: FloatArray) -> FloatArray:
        """Features (N, C) within a box (4,), left, top, right and bottom; N is 1 at least.

        Raises:
            DataError: If there are none, or the frame's file can't be read.
        """
        ...


class PointPixels:
    """Features of a store that holds them at points: those that the run has seen there."""

    def __init__(self, store: FeatureStore):
        self.store = store

    def everywhere(self, key: FrameKey) -> tuple[FloatArray, FloatArray]:
        """Those of all of the frame's points."""
        found = self.store.load(*key)
        return found.pts_feat, found.uv_idx

    def at(self, key: FrameKey, uv: FloatArray) -> FloatArray:
        """That of the nearest point, which may not be further away than heat maps paint a point's colour."""
        features, pixels = self.everywhere(key)
        camera = self.store.meta(*key)["camera"]
        reach = reach_px(len(pixels), camera["height"], camera["width"])
        distance = np.hypot(*(pixels - uv).T)
        if len(distance) == 0 or distance.min() > reach:
            nearest = f"the nearest is {distance.min():.0f} px away" if len(distance) else "the frame has no points"
            raise DataError(
                f"{self.store.path(*key)}: no point within {reach:.0f} px of {_numbers(uv)}, {nearest}; take another "
                f"pixel, or a box"
            )
        return features[[distance.argmin()]]

    def within(self, key: FrameKey, box: FloatArray) -> FloatArray:
        """Those of the points that lie in it."""
        features, pixels = self.everywhere(key)
        inside = np.logical_and(pixels >= box[:2], pixels <= box[2:]).all(axis=1)
        if not inside.any():
            raise DataError(f"{self.store.path(*key)}: no point lies in the box {_numbers(box)}; take a larger one")
        return features[inside]


class MapPixels:
    """Features of a store that holds maps: a map knows every pixel that the network saw."""

    def __init__(self, store: FeatureStore):
        self.store = store

    def everywhere(self, key: FrameKey) -> tuple[FloatArray, FloatArray]:
        """Those of a lattice over the whole picture."""
        grid = self.store.map(*key)
        uv = _lattice(np.array([-0.5, -0.5, grid.camera.width - 0.5, grid.camera.height - 0.5]))
        uv = uv[grid.feature_map.covers(uv)]
        return self._sampled(grid, uv), uv

    def at(self, key: FrameKey, uv: FloatArray) -> FloatArray:
        """The map's own."""
        grid = self.store.map(*key)
        if not grid.feature_map.covers(uv[None])[0]:
            raise DataError(f"{self.store.path(*key)}: the network did not see pixel {_numbers(uv)}; take another one")
        return self._sampled(grid, uv[None])

    def within(self, key: FrameKey, box: FloatArray) -> FloatArray:
        """Those of a lattice in it."""
        grid = self.store.map(*key)
        uv = _lattice(box)
        uv = uv[grid.feature_map.covers(uv)]
        if len(uv) == 0:
            raise DataError(f"{self.store.path(*key)}: the network saw nothing of {_numbers(box)}; take another box")
        return self._sampled(grid, uv)

    def _sampled(self, grid: GridFrame, uv: FloatArray) -> FloatArray:
        with torch.inference_mode():
            head = self.store.head_for(grid.feature_map)
            return head.to_points(sample_img_feat(grid.feature_map, uv)).numpy()


def pixel_features(store: FeatureStore) -> PixelFeatures:
    """The features of a store's frames, whatever it holds."""
    return MapPixels(store) if store.keeps_maps else PointPixels(store)


def _lattice(box: FloatArray) -> NDArray[np.float64]:
    """Pixels (N, 2) in the middles of equal squares that fill a box (4,); of one pixel or less, its centre."""
    size = np.maximum(box[2:] - box[:2], 1e-9)
    step = max(float(size[0]) / _COLUMNS, float(size[1]) / _COLUMNS, 1.0)
    columns, rows = (max(1, round(float(side) / step)) for side in size)
    v, u = np.mgrid[:rows, :columns]
    middles = np.stack([(u.ravel() + 0.5) / columns, (v.ravel() + 0.5) / rows], axis=1)
    return np.asarray(box[:2] + middles * size, np.float64)


def _numbers(values: FloatArray) -> str:
    return "[" + ",".join(f"{value:g}" for value in values) + "]"
