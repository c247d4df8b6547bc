"""Colours of a scene's points: what their features are alike in, or how much each looks like a text."""

import numpy as np
from numpy.typing import NDArray

from clipfeat.output.ply import UNSEEN
from clipfeat.queries.answers import LEAST_RANGE
from clipfeat.queries.prompts import best_mean
from clipfeat.types import FloatArray
from clipfeat.vis.pca import fit_pca_colors
from clipfeat.vis.scores import score_rgb

_COLORED = 10_000
"""Points that colours are fitted to, and that are coloured at a time: of all points at once, the float64 copies would
take more memory than the features."""

FEWER = 2_000
"""Points that suffice for colours which are fitted again and again."""


def pca_rgb(features: FloatArray, seen: NDArray[np.bool_], most: int = _COLORED) -> NDArray[np.uint8]:
    """Colours (N, 3) of points: the principal components of their features (N, C); grey where nothing is seen.

    They are fitted to ``most`` of the points.
    """
    rgb = np.full((len(seen), 3), UNSEEN, np.uint8)
    rows = np.flatnonzero(seen)
    fitted = np.random.default_rng(0).permutation(rows)[:most]
    colors = fit_pca_colors(features[fitted])
    for begin in range(0, len(rows), _COLORED):
        some = rows[begin : begin + _COLORED]
        rgb[some] = np.round(255 * colors.colors(features[some]))
    return rgb


def scores_rgb(scores: NDArray[np.float32], seen: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Colours (N, 3) of points by their scores (N,), between ``score_limits``; grey where nothing is seen."""
    rgb = score_rgb(scores, score_limits(scores, seen))
    rgb[~seen] = UNSEEN
    return rgb


def score_limits(scores: NDArray[np.float32], seen: NDArray[np.bool_]) -> tuple[float, float]:
    """Scores that get the darkest and the brightest colour: the mean of all that are seen, and that of the best."""
    if not seen.any():
        return 0.0, 1.0
    low = float(scores[seen].mean())
    return low, max(float(best_mean(scores[seen][:, None])[0]), low + LEAST_RANGE)
