"""Points counted: which class they are of, which they are predicted as, and the numbers that a rule makes of that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.fusion.metrics import Counts, class_iou
from clipfeat.protocols.protocol import Rules
from clipfeat.protocols.transfer import UNSEEN

MEASURES = ("miou", "fmiou", "macc", "accuracy")
"""Mean IoU, IoU weighted by the classes' points, mean accuracy of classes, and the share of points that are right."""


@dataclass(frozen=True, eq=False)
class Tally:
    """How often points of a class are predicted as another.

    Attributes:
        confusion: (K + 1, K + 1) int64, rows by truth (the last one: unlabelled), columns by prediction (the last one:
            no class), of the points that are seen.
        unseen: (K + 1,) int64 points that no frame sees, by truth.
    """

    confusion: NDArray[np.int64]
    unseen: NDArray[np.int64]

    @classmethod
    def of(cls, truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> "Tally":
        """Counts points (M,).

        Args:
            truth: classes, -1 where unlabelled.
            predicted: classes, ``NONE`` or ``UNSEEN``.
            classes: how many there are.
        """
        seen = predicted != UNSEEN
        rows, columns = (np.where(of < 0, classes, of) for of in (truth, predicted))
        flat = np.bincount(rows[seen] * (classes + 1) + columns[seen], minlength=(classes + 1) ** 2)
        unseen = np.bincount(rows[~seen], minlength=classes + 1)
        return cls(flat.reshape(classes + 1, -1).astype(np.int64), unseen.astype(np.int64))

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.confusion + other.confusion, self.unseen + other.unseen)

    @property
    def points(self) -> NDArray[np.int64]:
        """(K,) points of each class, seen or not."""
        return np.asarray((self.confusion.sum(1) + self.unseen)[:-1])


@dataclass(frozen=True, eq=False)
class ClassNumbers:
    """What is known of each of the K classes.

    Attributes:
        iou: (K,) NaN where a class is not judged or has no point.
        accuracy: (K,) share of its points that are predicted as it; NaN as above.
        points: (K,) that the IoU is over.
        counted: (K,) that the accuracy is over.
        predicted: (K,) that are predicted as it, of those that can lower its IoU.
        right: (K,) of its points that are predicted as it.
    """

    iou: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    points: NDArray[np.int64]
    counted: NDArray[np.int64]
    predicted: NDArray[np.int64]
    right: NDArray[np.int64]


def class_numbers(tally: Tally, rules: Rules, judged: NDArray[np.bool_]) -> ClassNumbers:
    """IoU and accuracy of each class.

    ``IoU = right / (points + predicted - right)``, where predicted are the points of judged classes that are predicted
    as it, or with ``ignored_as_false`` all that are.

    Args:
        tally: of the points.
        rules: of the protocol.
        judged: (K,) which classes are judged.
    """
    right, seen = np.diag(tally.confusion)[:-1], tally.confusion.sum(1)[:-1]
    rows = np.ones(len(judged) + 1, bool) if rules.ignored_as_false else np.append(judged, False)
    predicted = tally.confusion[rows].sum(0)[:-1]
    unseen = tally.unseen[:-1]
    points = seen + (unseen if rules.unseen == "wrong" else 0)
    counted = seen + (unseen if rules.unseen in ("wrong", "left_out_of_iou") else 0)
    hits, actual = np.where(judged, right, 0), np.where(judged, counted, 0)
    iou = class_iou(Counts(hits[None], predicted[None], np.where(judged, points, 0)[None]))[0]
    accuracy = np.where(actual > 0, hits / np.maximum(actual, 1), np.nan)
    # A class of which no frame sees a point has an accuracy, and so an IoU, of 0.
    iou = np.where(np.isnan(iou) & (actual > 0), 0.0, iou)
    return ClassNumbers(iou, accuracy, np.where(judged, points, 0), actual, predicted, hits)


def measures(
    tally: Tally, rules: Rules, judged: NDArray[np.bool_], groups: Mapping[str, NDArray[np.bool_]]
) -> dict[str, Any]:
    """The numbers of a tally: ``MEASURES``, and ``miou`` and ``macc`` of groups; NaN where there is nothing to count.

    Args:
        tally: of the points.
        rules: of the protocol.
        judged: (K,) which classes are judged.
        groups: by name the classes (K,) that are in it.
    """
    found = class_numbers(tally, rules, judged)
    counted, points = found.counted.sum(), found.points.sum()
    return {
        "miou": _mean(found.iou, judged, rules),
        "fmiou": float(np.nansum(found.iou * found.points) / points) if points else np.nan,
        "macc": _mean(found.accuracy, judged, rules),
        "accuracy": float(found.right.sum() / counted) if counted else np.nan,
        "groups": {
            name: {
                "miou": _mean(found.iou, judged & among, rules),
                "macc": _mean(found.accuracy, judged & among, rules),
            }
            for name, among in groups.items()
        },
    }


def _mean(values: NDArray[np.float64], among: NDArray[np.bool_], rules: Rules) -> float:
    chosen = values[among]
    chosen = np.nan_to_num(chosen) if rules.mean_over == "all" else chosen[np.isfinite(chosen)]
    return float(chosen.mean()) if len(chosen) else np.nan


def mean_of_scenes(scenes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of the scenes' own numbers; a scene without a number is left out of that one."""
    return {
        key: mean_of_scenes([one[key] for one in scenes])
        if isinstance(scenes[0][key], dict)
        else _finite_mean([one[key] for one in scenes])
        for key in scenes[0]
    }


def _finite_mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else np.nan
