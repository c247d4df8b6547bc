"""From classes of fused points to classes of labelled points, and from labelled points to labelled voxels."""

import numpy as np
from numpy.typing import NDArray

from clipfeat.types import FloatArray

NONE, UNSEEN = -1, -2
"""In place of a predicted class: like a text of what is no class, and seen by no frame."""

_ROWS = 200_000
"""Points that vote at a time."""


def votes(
    xyz: FloatArray, predicted: NDArray[np.int64], asked: FloatArray, neighbours: int, reach: float
) -> NDArray[np.int64]:
    """What most of the nearest points are; of several the smallest, and a class before ``NONE``.

    Args:
        xyz: (N, 3) of the points that vote.
        predicted: (N,) their classes, or ``NONE``.
        asked: (M, 3).
        neighbours: how many vote; all where there are fewer.
        reach: metres, beyond which none votes; inf for no limit.

    Returns:
        (M,) classes, ``NONE``, or ``UNSEEN`` where no point is within reach.
    """
    if len(xyz) == 0:
        return np.full(len(asked), UNSEEN, np.int64)
    from scipy.spatial import cKDTree

    tree, count = cKDTree(xyz), min(neighbours, len(xyz))
    # The row after the last one is what the tree gives in place of a neighbour that is too far away.
    voters = np.append(predicted, UNSEEN)
    parts = [
        _most(voters[tree.query(asked[begin : begin + _ROWS], count, distance_upper_bound=reach)[1].reshape(-1, count)])
        for begin in range(0, len(asked), _ROWS)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _most(voted: NDArray[np.int64]) -> NDArray[np.int64]:
    """The most frequent of each row (M, k)."""
    known = voted != UNSEEN
    often = ((voted[:, :, None] == voted[:, None, :]) & known[:, None, :]).sum(2)
    # NONE comes after all classes.
    order = np.where(voted == NONE, np.iinfo(np.int32).max, voted)
    best = np.lexsort((order, -np.where(known, often, -1)), axis=1)[:, 0]
    return voted[np.arange(len(voted)), best]


def voxels(xyz: FloatArray, classes: NDArray[np.int64], size: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Labelled points as voxels, each of the class that most of its points are of.

    Centres lie at whole multiples of the size, as RayFronts has them. Unlabelled points count as one class more, which
    wins a tie; of classes the smallest does.

    Args:
        xyz: (M, 3) metres.
        classes: (M,) classes, or -1.
        size: edge in metres.

    Returns:
        Centres (V, 3), and their classes (V,), -1 for unlabelled ones.
    """
    cells, place = np.unique(np.rint(xyz / size).astype(np.int64), axis=0, return_inverse=True)
    pairs, often = np.unique(np.stack([place.reshape(-1), classes], 1), axis=0, return_counts=True)
    # Of each voxel the pair that comes first: most points, and then the smallest class.
    order = np.lexsort((pairs[:, 1], -often, pairs[:, 0]))
    first = order[np.unique(pairs[order, 0], return_index=True)[1]]
    return cells * size, pairs[first, 1]
