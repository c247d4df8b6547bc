"""How well points are told apart: intersection over union of each class, and their mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Counts:
    """What is known of predictions, scene by scene: all that IoU and accuracy need, and no (K, K) table a scene.

    Attributes:
        hits: (S, K) int64 points of a class that are predicted as it.
        predicted: (S, K) int64 points that are predicted as the class.
        actual: (S, K) int64 points that are of the class.
    """

    hits: NDArray[np.int64]
    predicted: NDArray[np.int64]
    actual: NDArray[np.int64]

    def resampled(self, weights: NDArray[np.int64]) -> "Counts":
        """The counts (R, K) of R sets of scenes, each with the scenes (R, S) that many times."""
        return Counts(weights @ self.hits, weights @ self.predicted, weights @ self.actual)

    @property
    def total(self) -> "Counts":
        """All scenes as one: (1, K)."""
        return self.resampled(np.ones((1, len(self.hits)), np.int64))


def count(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], scene: NDArray[np.int64], scenes: int, classes: int
) -> Counts:
    """Counts predictions.

    Args:
        truth: (N,) classes, 0 to ``classes`` - 1.
        predicted: (N,) classes; -1 for none of them, which is never right.
        scene: (N,) index of each point's scene, 0 to ``scenes`` - 1.
        scenes: how many there are.
        classes: how many there are.

    Raises:
        ValueError: If a shape or a class does not fit.
    """
    if not truth.shape == predicted.shape == scene.shape or truth.ndim != 1:
        raise ValueError(
            f"truth, predicted and scene must be (N,) all: {truth.shape}, {predicted.shape}, {scene.shape}"
        )
    if len(truth) and (min(truth.min(), predicted.min() + 1) < 0 or max(truth.max(), predicted.max()) >= classes):
        raise ValueError(f"classes must be 0 to {classes - 1}; leave unlabelled points out")

    def by_class(of: NDArray[np.int64], where: NDArray[np.bool_] | slice) -> NDArray[np.int64]:
        found = np.bincount((scene * classes + of)[where], minlength=scenes * classes)
        return found.reshape(scenes, classes).astype(np.int64)

    right, any_class = truth == predicted, predicted >= 0
    return Counts(by_class(truth, right), by_class(predicted, any_class), by_class(truth, slice(None)))


def class_iou(counts: Counts) -> NDArray[np.float64]:
    """(S, K) hits / (predicted + actual - hits); NaN for a class that has no point in that row."""
    union = counts.predicted + counts.actual - counts.hits
    return np.where(counts.actual > 0, counts.hits / np.maximum(union, 1), np.nan)


def mean_iou(counts: Counts, among: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Mean over classes of ``class_iou``, as in ScanNet's benchmark.

    Args:
        counts: of each row.
        among: (K,) which classes take part; None is all.

    Returns:
        A value a row, over the classes that have a point there; NaN without any. A class that is predicted and has no
        point lowers the IoU of those whose points it took, and has none of its own.
    """
    iou = class_iou(counts)
    present = np.isfinite(iou) if among is None else np.isfinite(iou) & among
    number = present.sum(axis=1)
    return np.where(number > 0, np.where(present, iou, 0.0).sum(axis=1) / np.maximum(number, 1), np.nan)


def accuracy(counts: Counts) -> NDArray[np.float64]:
    """Share of the points that are predicted right, a value a row; NaN without a point."""
    points = counts.actual.sum(axis=1)
    return np.where(points > 0, counts.hits.sum(axis=1) / np.maximum(points, 1), np.nan)


def none_share(counts: Counts) -> NDArray[np.float64]:
    """Share of the points that are predicted as no class, a value a row; NaN without a point."""
    points = counts.actual.sum(axis=1)
    return np.where(points > 0, 1 - counts.predicted.sum(axis=1) / np.maximum(points, 1), np.nan)


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
    def by_class(self) -> Counts:
        """What IoU and accuracy need of it, in one row."""
        return Counts(np.diag(self.counts)[None], self.counts.sum(0)[None], self.counts.sum(1)[None])

    @property
    def iou(self) -> NDArray[np.float64]:
        """(K,) intersection over union; NaN for a class that no point is of."""
        return class_iou(self.by_class)[0]

    @property
    def miou(self) -> float:
        """See ``mean_iou``; 0 without points."""
        return float(np.nan_to_num(mean_iou(self.by_class)[0]))

    @property
    def accuracy(self) -> float:
        """See ``accuracy``; 0 without points."""
        return float(np.nan_to_num(accuracy(self.by_class)[0]))

    def table(self, names: Sequence[str]) -> str:
        """A line a class that there are points of: IoU and how many they are, the most frequent first."""
        order = np.argsort(-self.counts.sum(1), kind="stable")
        lines = [
            f"  {names[k]:<16} {100 * self.iou[k]:5.1f} %  {self.counts[k].sum():>9} points"
            for k in order
            if self.counts[k].sum()
        ]
        return "\n".join(lines)
