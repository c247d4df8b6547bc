"""How well points are told apart: intersection over union of each class, and their mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often points of one class were taken for another.

    Attributes:
        counts: (K, K) int64, rows by truth, columns by prediction.
    """

    counts: NDArray[np.int64]

    @classmethod
    def of(cls, truth: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> "Confusion":
        """Counts points (M,); those whose truth is negative are left out."""
        known = truth >= 0
        flat = truth[known].astype(np.int64) * classes + predicted[known]
        return cls(np.bincount(flat, minlength=classes * classes).reshape(classes, classes))

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(self.counts + other.counts)

    @property
    def iou(self) -> NDArray[np.float64]:
        """(K,) intersection over union; NaN for a class that no point is of."""
        hits = np.diag(self.counts)
        truth, predicted = self.counts.sum(1), self.counts.sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(truth > 0, hits / (truth + predicted - hits), np.nan)

    @property
    def miou(self) -> float:
        """Mean of ``iou`` over the classes that there are points of, as in ScanNet's benchmark; 0 without points."""
        iou = self.iou
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else 0.0

    @property
    def accuracy(self) -> float:
        """Share of the points that are told rightly; 0 without points."""
        return float(np.trace(self.counts) / max(self.counts.sum(), 1))

    def table(self, names: Sequence[str]) -> str:
        """A line a class that there are points of: IoU and how many they are, the most frequent first."""
        order = np.argsort(-self.counts.sum(1), kind="stable")
        lines = [
            f"  {names[k]:<16} {100 * self.iou[k]:5.1f} %  {self.counts[k].sum():>9} points"
            for k in order
            if self.counts[k].sum()
        ]
        return "\n".join(lines)
