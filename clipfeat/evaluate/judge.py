"""From features at labelled points to the numbers of one row of the table."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipfeat.data.scannet200 import GROUPS, LabelSet
from clipfeat.evaluate.collect import ReadyCandidate, Store
from clipfeat.evaluate.metrics import Estimate, Measure, bootstrap, group_means, likeness
from clipfeat.evaluate.probes import linear_probe, nearest_neighbours, zero_shot
from clipfeat.fusion.metrics import Counts, accuracy, count, mean_iou, none_share
from clipfeat.types import FloatArray

NEVER = -1
"""In place of a fold: a scene that is only learnt from."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of the N points that are judged.

    Attributes:
        classes: (N,) of the points.
        scene: (N,) index of each point's scene.
        edge_px: (N,) pixels to the nearest edge of the labels, NaN where it is not known.
        held_out: (S,) fold in which each scene is held out, or ``NEVER``.
        labels: what the classes are.
    """

    classes: NDArray[np.int64]
    scene: NDArray[np.int64]
    edge_px: NDArray[np.float32]
    held_out: NDArray[np.int64]
    labels: LabelSet

    @property
    def asked(self) -> NDArray[np.bool_]:
        """(N,) which points are held out in some fold."""
        return self.held_out[self.scene] != NEVER

    def counts(self, predicted: NDArray[np.int64], among: NDArray[np.bool_]) -> Counts:
        """Counts of the points (N,) that are ``among``, by the scenes that are held out in some fold."""
        tested = np.flatnonzero(self.held_out != NEVER)
        scene = np.searchsorted(tested, self.scene[among])
        return count(self.classes[among], predicted[among], scene, len(tested), len(self.labels.ids))


@dataclass(frozen=True, eq=False)
class Judgement:
    """A candidate's predictions, counted.

    Attributes:
        linear: of the linear probe.
        neighbours: of the nearest neighbours.
        edge: of the linear probe, at the edges of the labels; None where edges are not known.
        inside: of the linear probe, away from them; None where edges are not known.
        texts: of zero-shot; None for features that texts can't be compared to.
    """

    linear: Counts
    neighbours: Counts
    edge: Counts | None
    inside: Counts | None
    texts: Counts | None


def judge(
    features: FloatArray,
    truth: Truth,
    *,
    neighbours: int,
    edge_px: float,
    names: FloatArray | None,
    device: torch.device,
) -> Judgement:
    """Asks each scene's points of probes that learnt from scenes of other folds.

    Args:
        features: (H, N, C) float32: one for all folds, or one for each.
        truth: of these points.
        neighbours: that vote on a point's class.
        edge_px: within which a point is at an edge.
        names: (K + A, C) vectors of the classes' names and then of what is no class, of length 1, for features in text
            space.
        device: where probes compute.
    """
    by_line, by_neighbours = np.zeros((2, features.shape[1]), np.int64)
    fold_of = truth.held_out[truth.scene]
    for fold in np.unique(fold_of[truth.asked]):
        learnt, asked = fold_of != fold, fold_of == fold
        of_fold = features[fold % len(features)]
        known, classes, unknown = of_fold[learnt], truth.classes[learnt], of_fold[asked]
        by_line[asked] = linear_probe(known, classes, unknown, device=device)
        by_neighbours[asked] = nearest_neighbours(known, classes, unknown, count=neighbours, device=device)
    everything, edges = truth.asked, bool(np.isfinite(truth.edge_px).any())
    at_edge = truth.edge_px <= edge_px
    return Judgement(
        linear=truth.counts(by_line, everything),
        neighbours=truth.counts(by_neighbours, everything),
        edge=truth.counts(by_line, everything & at_edge) if edges else None,
        inside=truth.counts(by_line, everything & ~at_edge) if edges else None,
        texts=None if names is None else truth.counts(zero_shot(features[0], names, len(truth.labels.ids)), everything),
    )


def row_of(
    ready: ReadyCandidate,
    store: Store,
    judgement: Judgement,
    first: Judgement,
    labels: LabelSet,
    *,
    frames: int,
    points: float,
    read_seconds: float,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """One row of the table, as JSON holds it: None where a number makes no sense.

    Args:
        ready: the candidate.
        store: its features and costs.
        judgement: of it.
        first: of the first candidate.
        labels: what the classes are.
        frames: that were looked at.
        points: that a frame has on average, all of which were sampled.
        read_seconds: of a frame, before the candidates differ.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    def estimate(counts: Counts | None, measure: Measure, less: Counts | None = None) -> dict[str, float | None] | None:
        return None if counts is None else _rounded(bootstrap(counts, measure, resamples, seed, less))

    alike = likeness(_joined(store.same), _joined(store.random))
    seconds = {stage: spent / frames for stage, spent in store.cost.items()} | {"read": read_seconds}
    groups = group_means(judgement.linear, {group: labels.in_group(group) for group in GROUPS})
    about = ready.view.model.describe()
    return {
        "candidate": ready.candidate.name,
        "offered": ready.candidate.offered,
        "weights": about["weights"],
        "head_weights": _head_weights(ready, about["weights"]),
        "channels": ready.channels,
        "linear_miou": estimate(judgement.linear, mean_iou),
        "linear_miou_minus_first": estimate(judgement.linear, mean_iou, first.linear),
        "linear_accuracy": estimate(judgement.linear, accuracy),
        "linear_miou_of_groups": {name: _number(value) for name, value in groups.items()},
        "neighbours_miou": estimate(judgement.neighbours, mean_iou),
        "neighbours_miou_minus_first": estimate(judgement.neighbours, mean_iou, first.neighbours),
        "neighbours_accuracy": estimate(judgement.neighbours, accuracy),
        "edge_accuracy": estimate(judgement.edge, accuracy),
        "inside_accuracy": estimate(judgement.inside, accuracy),
        "zero_shot_miou": estimate(judgement.texts, mean_iou),
        "zero_shot_accuracy": estimate(judgement.texts, accuracy),
        "zero_shot_none": estimate(judgement.texts, none_share),
        "views": None if alike is None else {key: round(value, 4) for key, value in asdict(alike).items()},
        "map_bytes": 2 * store.map_values // frames,
        "point_bytes": round(4 * points * ready.channels),
        "seconds": {stage: round(value, 5) for stage, value in seconds.items()},
        "frames_per_s": round(1 / sum(seconds.values()), 3),
    }


def _head_weights(ready: ReadyCandidate, encoder: str) -> str | None:
    """Where the weights of the head come from; None for a head without any."""
    if not ready.head.state_dict():
        return None
    if ready.method is not None:
        how = {"pca": "pca", "clip_cons": "ClipCons"}[ready.method]
        return (
            f"{how} of these frames' features (weights={encoder})"
            if encoder == "random"
            else f"{how} of these features"
        )
    return "file" if ready.from_file else "random"


def _joined(parts: list[FloatArray]) -> FloatArray:
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def _number(value: float) -> float | None:
    return round(value, 5) if np.isfinite(value) else None


def _rounded(estimate: Estimate) -> dict[str, float | None]:
    return {key: _number(value) for key, value in asdict(estimate).items()}
