"""How good predicted classes are, and how sure that is: IoU, accuracy, likeness of views, bootstrap over scenes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from clipfeat.types import FloatArray
from clipfeat.vis.directions import unit_directions

_RESAMPLES_AT_A_TIME = 100


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
        predicted: (N,) classes.
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
    if len(truth) and (min(truth.min(), predicted.min()) < 0 or max(truth.max(), predicted.max()) >= classes):
        raise ValueError(f"classes must be 0 to {classes - 1}; leave unlabelled points out")

    def by_class(of: NDArray[np.int64], where: NDArray[np.bool_] | slice) -> NDArray[np.int64]:
        found = np.bincount((scene * classes + of)[where], minlength=scenes * classes)
        return found.reshape(scenes, classes).astype(np.int64)

    everything = slice(None)
    return Counts(by_class(truth, truth == predicted), by_class(predicted, everything), by_class(truth, everything))


def mean_iou(counts: Counts, among: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Mean over classes of hits / (predicted + actual - hits).

    Args:
        counts: of each row.
        among: (K,) which classes take part; None is all.

    Returns:
        A value a row, over the classes that have a point there; NaN without any. A class that is predicted and has no
        point lowers the IoU of those whose points it took, and has none of its own.
    """
    union = counts.predicted + counts.actual - counts.hits
    present = counts.actual > 0 if among is None else (counts.actual > 0) & among
    iou = np.where(present, counts.hits / np.maximum(union, 1), 0.0)
    number = present.sum(axis=1)
    return np.where(number > 0, iou.sum(axis=1) / np.maximum(number, 1), np.nan)


def accuracy(counts: Counts) -> NDArray[np.float64]:
    """Share of the points that are predicted right, a value a row; NaN without a point."""
    points = counts.actual.sum(axis=1)
    return np.where(points > 0, counts.hits.sum(axis=1) / np.maximum(points, 1), np.nan)


@dataclass(frozen=True)
class Estimate:
    """A number and how far scenes like these leave it open.

    Attributes:
        value: over all scenes.
        low: 2.5 % of the resamples are below it.
        high: 2.5 % of the resamples are above it.
    """

    value: float
    low: float
    high: float


Measure = Callable[[Counts], NDArray[np.float64]]
"""From counts (R, K) to R numbers, such as ``mean_iou`` and ``accuracy``."""


def bootstrap(counts: Counts, measure: Measure, resamples: int, seed: int, less: Counts | None = None) -> Estimate:
    """A measure with its 95 % interval: scenes are drawn with replacement (percentile bootstrap, Efron 1979).

    Points of one scene are alike, so it is the scenes that are drawn and not the points.

    Args:
        counts: of S scenes.
        measure: what is measured.
        resamples: sets of scenes that are drawn.
        seed: of the drawing.
        less: of the same scenes by another candidate, whose measure is taken off; the same scenes are drawn for both.
            That tells two candidates apart whose own intervals overlap, for scenes are hard or easy for both.
    """
    scenes = len(counts.hits)

    def of(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        own = measure(counts.resampled(weights))
        return own if less is None else own - measure(less.resampled(weights))

    rng = np.random.default_rng(seed)
    drawn = []
    for begin in range(0, resamples, _RESAMPLES_AT_A_TIME):
        rows = min(_RESAMPLES_AT_A_TIME, resamples - begin)
        drawn.append(of(rng.multinomial(scenes, np.full(scenes, 1 / scenes), size=rows).astype(np.int64)))
    found = np.concatenate(drawn)
    found = found[np.isfinite(found)]
    low, high = np.quantile(found, (0.025, 0.975)) if len(found) else (np.nan, np.nan)
    return Estimate(float(of(np.ones((1, scenes), np.int64))[0]), float(low), float(high))


def edge_distances(labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """Pixels from each pixel's centre to that of the nearest pixel that is beside another label, inf where none is.

    Args:
        labels: (H, W), of any kind; unlabelled is a label like the others.

    Returns:
        (H, W) float32; 0 on both sides of an edge.
    """
    edge = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    if not edge.any():
        return np.full(labels.shape, np.inf, np.float32)
    return np.asarray(distance_transform_edt(~edge), np.float32)


@dataclass(frozen=True)
class Likeness:
    """How alike the features of one 3D point are in two frames.

    Attributes:
        same: mean cosine of a point's two features.
        random: mean cosine of the features of two points, one in each of the frames.
        separation: chance that the first is larger than the second (the area under the ROC curve): 0.5 says nothing,
            1 all. Unlike the cosines it does not depend on a part that all features share.
        pairs: how many points.
    """

    same: float
    random: float
    separation: float
    pairs: int


def likeness(same: FloatArray, random: FloatArray) -> Likeness | None:
    """From the cosines (P,) of P points in two frames and those (P,) of random pairs; None without any."""
    if len(same) == 0:
        return None
    # Mann and Whitney (1947): the sum of ranks, ties shared, is the number of pairs of cosines in the right order.
    order = np.sort(random)
    below, upto = np.searchsorted(order, same, "left"), np.searchsorted(order, same, "right")
    return Likeness(
        same=float(same.mean(dtype=np.float64)),
        random=float(random.mean(dtype=np.float64)),
        separation=float((below + upto).mean() / (2 * len(random))),
        pairs=len(same),
    )


def cosines(first: FloatArray, second: FloatArray) -> NDArray[np.float32]:
    """(N,) of the rows of two (N, C)."""
    return np.einsum("nc,nc->n", unit_directions(first), unit_directions(second))


def group_means(counts: Counts, groups: Mapping[str, NDArray[np.bool_]]) -> dict[str, float]:
    """``mean_iou`` over all scenes, of the classes (K,) of each group; NaN for a group without a point."""
    return {name: float(mean_iou(counts.total, among)[0]) for name, among in groups.items()}
