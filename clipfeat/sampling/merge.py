"""Many views of the same points, merged: running means that need no more memory than their result."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.sampling.bilinear import four_cells
from clipfeat.system.compiled import compiled
from clipfeat.types import FeatureMap


class ViewMerger:
    """The weighted mean of what several views say of each of N points.

    ``mean = Σ w·f / Σ w``, kept as a running mean: ``mean += (f - mean)·w / Σ w`` (West, 1979), which keeps float32
    accurate however many views there are. Views may come in any order. With ``most`` the sum of the weights is cut to
    it after each view, so that later ones count for more than earlier ones, which fade (the running average of Curless
    and Levoy, 1996, with the greatest weight of KinectFusion, Newcombe et al., 2011, section 3.3); the order then
    matters.

    Args:
        count: N.
        channels: C.
        most: greatest sum of the weights of a point; None for any.

    Attributes:
        mean: (N, C) float32, 0 where no view has been added.
        weight: (N,) float64 sum of the weights.
        views: (N,) int32 how many views were added.
    """

    def __init__(self, count: int, channels: int, most: float | None = None):
        self.mean = np.zeros((count, channels), np.float32)
        self.weight = np.zeros(count)
        self.views = np.zeros(count, np.int32)
        self._most = np.inf if most is None else most

    def make_room(self, count: int) -> None:
        """Makes N this, which is not less than before."""
        self.mean, self.weight, self.views = (with_room(a, count) for a in (self.mean, self.weight, self.views))

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Takes away what was said of these points."""
        self.mean[rows], self.weight[rows], self.views[rows] = 0, 0, 0

    def add_map(
        self,
        feature_map: FeatureMap,
        rows: NDArray[np.int64],
        uv: NDArray[np.floating],
        weight: NDArray[np.floating],
    ) -> None:
        """Adds a view as its map, sampled bilinearly where the points fall.

        Args:
            feature_map: values (C, h, w) on the CPU.
            rows: (M,) which of the N points, each at most once.
            uv: (M, 2) their pixels in the original colour picture, finite.
            weight: (M,) of each, at least 0; points of weight 0 are left out.

        Raises:
            ValueError: If a shape does not fit, uv or a weight is not finite, or a row is not one of the N.
        """
        values = feature_map.values
        channels, height, width = values.shape
        self._check(rows, weight, channels)
        if uv.shape != (len(rows), 2):
            raise ValueError(f"uv must be ({len(rows)}, 2), got {uv.shape}")
        rows_of_cells = values.detach().permute(1, 2, 0).reshape(height * width, channels).numpy()
        # By NumPy: torch would wake its threads for this, and on a busy machine wait for them many times as long.
        cells = np.ascontiguousarray(rows_of_cells, np.float32)
        if not np.isfinite(uv).all():
            raise ValueError("uv holds NaN or inf: points behind the camera have no pixel, leave them out")
        affine = np.ascontiguousarray(feature_map.image_to_map, np.float64)
        places, own = np.ascontiguousarray(uv, np.float64), np.ascontiguousarray(weight, np.float64)
        _add_map(cells, width, height, affine, rows, places, own, self.mean, self.weight, self.views, self._most)

    def add_points(self, features: NDArray[np.floating], rows: NDArray[np.int64], weight: NDArray[np.floating]) -> None:
        """Adds features that are known at the points.

        Args:
            features: (M, C).
            rows: (M,) which of the N points; one may come several times.
            weight: (M,) of each, at least 0; points of weight 0 are left out.

        Raises:
            ValueError: If a shape does not fit, a weight is not finite, or a row is not one of the N.
        """
        self._check(rows, weight, features.shape[1])
        own = np.ascontiguousarray(weight, np.float64)
        values = np.ascontiguousarray(features, np.float32)
        _add_points(values, rows, own, self.mean, self.weight, self.views, self._most)

    def _check(self, rows: NDArray[np.int64], weight: NDArray[np.floating], channels: int) -> None:
        count, own = self.mean.shape
        if channels != own:
            raise ValueError(f"features must have {own} channels, got {channels}")
        if rows.ndim != 1 or weight.shape != rows.shape:
            raise ValueError(f"rows and weight must be (M,), got {rows.shape} and {weight.shape}")
        if len(rows) and not (rows.min() >= 0 and rows.max() < count):
            raise ValueError(f"rows must lie in 0 to {count - 1}, got {rows.min()} to {rows.max()}")
        if len(weight) and not (np.isfinite(weight).all() and weight.min() >= 0):
            raise ValueError("weights must be finite and at least 0")


def with_room(array: NDArray[Any], count: int) -> NDArray[Any]:
    """A copy with so many rows, the new ones of zeros: memory that nobody has written to is not taken yet."""
    larger = np.zeros((count, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


class BestViews:
    """Which views show each of N points best: the K with the greatest weights, without keeping any features.

    Of equal weights the earlier view wins. Views are added in a first pass; ``chosen`` tells in a second one which
    points a view is for.

    Args:
        count: N.
        best: K.
    """

    def __init__(self, count: int, best: int):
        self._weight = np.zeros((count, best), np.float32)
        self._view = np.full((count, best), -1, np.int32)

    def add(self, view: int, rows: NDArray[np.int64], weight: NDArray[np.floating]) -> None:
        """Tells of a view; ``rows`` (M,) of the points and their weights (M,)."""
        _keep_best(view, rows, np.ascontiguousarray(weight, np.float32), self._weight, self._view)

    def chosen(self, view: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(M,) whether the view is among the best of each point."""
        result: NDArray[np.bool_] = (self._view[rows] == view).any(1)
        return result


@compiled(error_model="numpy")
def _add_map(
    cells: NDArray[np.float32],
    width: int,
    height: int,
    image_to_map: NDArray[np.float64],
    rows: NDArray[np.int64],
    uv: NDArray[np.float64],
    weight: NDArray[np.float64],
    mean: NDArray[np.float32],
    total: NDArray[np.float64],
    views: NDArray[np.int32],
    most: float,
) -> None:  # pragma: no cover - compiled
    """Straight into the mean: the samples are never written down."""
    m = image_to_map
    for i in range(len(rows)):
        if not weight[i] > 0:
            continue
        x = m[0, 0] * uv[i, 0] + m[0, 1] * uv[i, 1] + m[0, 2]
        y = m[1, 0] * uv[i, 0] + m[1, 1] * uv[i, 1] + m[1, 2]
        (a, b, c, d), (wa, wb, wc, wd) = four_cells(x, y, width, height)
        n = rows[i]
        total[n] += weight[i]
        views[n] += 1
        share = np.float32(weight[i] / total[n])
        total[n] = min(total[n], most)
        for j in range(cells.shape[1]):
            sample = wa * cells[a, j] + wb * cells[b, j] + wc * cells[c, j] + wd * cells[d, j]
            mean[n, j] += share * (sample - mean[n, j])


@compiled(error_model="numpy")
def _add_points(
    features: NDArray[np.float32],
    rows: NDArray[np.int64],
    weight: NDArray[np.float64],
    mean: NDArray[np.float32],
    total: NDArray[np.float64],
    views: NDArray[np.int32],
    most: float,
) -> None:  # pragma: no cover - compiled
    for i in range(len(rows)):
        if not weight[i] > 0:
            continue
        n = rows[i]
        total[n] += weight[i]
        views[n] += 1
        share = np.float32(weight[i] / total[n])
        total[n] = min(total[n], most)
        for j in range(features.shape[1]):
            mean[n, j] += share * (features[i, j] - mean[n, j])


@compiled(error_model="numpy")
def _keep_best(
    view: int, rows: NDArray[np.int64], weight: NDArray[np.float32], best: NDArray[np.float32], who: NDArray[np.int32]
) -> None:  # pragma: no cover - compiled
    """Inserts into each point's list, which is kept in descending order."""
    for i in range(len(rows)):
        n, w = rows[i], weight[i]
        k = best.shape[1] - 1
        if not w > best[n, k]:
            continue
        while k > 0 and w > best[n, k - 1]:
            best[n, k], who[n, k] = best[n, k - 1], who[n, k - 1]
            k -= 1
        best[n, k], who[n, k] = w, view
