"""How much each point looks like its picture as a whole."""

import numpy as np
from numpy.typing import NDArray

from clipfeat.types import FloatArray
from clipfeat.vis.directions import unit_directions


def similarity_to_mean(features: FloatArray) -> NDArray[np.float32]:
    """The cosine between each feature and the mean feature of them all.

    The features are L2-normalised first, so that each counts the same in the mean.

    Args:
        features: (N, C), finite. N may be 0.

    Returns:
        (N,) float32 in [-1, 1]; 0 where a feature or the mean is zero.
    """
    directions = unit_directions(features)
    if len(directions) == 0:
        return np.zeros(0, np.float32)
    mean = unit_directions(directions.mean(axis=0, dtype=np.float64, keepdims=True))
    return np.clip(directions @ mean[0], -1.0, 1.0)


def shared_limits(values: FloatArray) -> tuple[float, float]:
    """The 1st and 99th percentile, at least 0.01 apart: the ends of a colour bar that outliers do not stretch."""
    if len(values) == 0:
        return 0.0, 1.0
    low, high = (float(x) for x in np.percentile(values, (1, 99)))
    middle, half = 0.5 * (low + high), max(0.5 * (high - low), 0.005)
    return middle - half, middle + half
