"""The first three principal components of features, as colours."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipfeat.types import FloatArray
from clipfeat.vis.directions import unit_directions

LEAST_SPAN = 0.2
"""A component is stretched as if its span were at least this share of the first one's: noise must not shine."""


@dataclass(frozen=True, eq=False)
class PcaColors:
    """A map from features to colours. Equal directions get equal colours, in whichever frame they are.

    Attributes:
        mean: (C,) of the unit directions that it was fitted to.
        components: (3, C) orthonormal rows; zeros where the features span fewer than three dimensions.
        low: (3,) coordinates along the components that become 0.
        high: (3,) coordinates along the components that become 1.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def colors(self, features: FloatArray) -> NDArray[np.float32]:
        """(N, 3) RGB in [0, 1] of (N, C) features, which are L2-normalised first."""
        coordinates = (unit_directions(features) - self.mean) @ self.components.T
        return np.clip((coordinates - self.low) / (self.high - self.low), 0.0, 1.0).astype(np.float32)


def fit_pca_colors(features: FloatArray) -> PcaColors:
    """Fits colours to features: red, green and blue are the first three principal components.

    The features are L2-normalised first. Each component's 1st to 99th percentile becomes 0 to 1, with a span of at
    least ``LEAST_SPAN`` of the first one's. Where all features are equal they get a mid grey.

    Args:
        features: (N, C), finite. N may be 0.
    """
    directions = unit_directions(features).astype(np.float64)
    mean, components = principal_axes(directions, 3)
    if len(directions) == 0:
        return PcaColors(mean, components, np.full(3, -0.5), np.full(3, 0.5))
    low, high = np.percentile((directions - mean) @ components.T, (1, 99), axis=0)
    span = np.maximum(high - low, LEAST_SPAN * (high[0] - low[0]))
    span = np.where(span > 0, span, 1.0)
    middle = 0.5 * (low + high)
    return PcaColors(mean, components, middle - 0.5 * span, middle + 0.5 * span)


def principal_axes(values: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean (C,) of (N, C) values and their first ``count`` principal axes (count, C), see ``leading_axes``."""
    channels = values.shape[1]
    axes = np.zeros((count, channels))
    if len(values) == 0:
        return np.zeros(channels), axes
    mean = values.mean(axis=0)
    centred = values - mean
    found = min(count, channels)
    # The eigenvectors of the small (C, C) covariance: the same axes as by an SVD of all rows, many times as fast.
    axes[:found] = leading_axes(centred.T @ centred / len(values), found)
    return mean, axes


def leading_axes(covariance: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The first ``count`` principal axes (count, C) of a covariance (C, C), strongest first.

    The sign of an axis is such that its largest entry by magnitude is positive. Axes along which the values do not
    vary are zeros.
    """
    from scipy.linalg import eigh  # imports are lazy: a run without pictures does without them
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    channels = len(covariance)
    # One thread: of a small matrix two wait for each other more than they work, on a busy machine for seconds.
    with threadpool_limits(1, user_api="blas"):
        variances, vectors = eigh(covariance, subset_by_index=(channels - count, channels - 1))
    # Rounding leaves a variance of this size where there is none.
    varies = variances[::-1] > max(1e-10 * variances[-1], 1e-12)
    top = vectors.T[::-1]
    sign = np.sign(top[np.arange(count), np.abs(top).argmax(axis=1)])
    return np.where(varies[:, None], top * sign[:, None], 0.0)
