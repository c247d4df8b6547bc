"""How sure a figure is (bootstrap over scenes), and what is judged beside classes: edges, likeness of views."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from clipfeat.fusion.metrics import Counts, mean_iou
from clipfeat.types import FloatArray
from clipfeat.vis.directions import unit_directions

_RESAMPLES_AT_A_TIME = 100


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
