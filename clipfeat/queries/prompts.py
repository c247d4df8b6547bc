"""What features are compared to: texts, or an example, as directions; and how much they look like it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.model.pretrained import CLIP_TEMPERATURE
from clipfeat.types import FloatArray
from clipfeat.vis.directions import unit_directions

TOP_SHARE = 0.01
"""Share of a frame's points, the best ones, whose mean score says whether it shows what is asked for: a chair may cover
little of a picture, and a single point may be best by chance."""

_ROWS = 16_384
"""Features that are compared at a time: those of a whole scene would be copied in float32 at once."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Directions that are asked for, and how features are scored by them.

    A prompt's score does not depend on the other prompts: it competes with ``others`` alone, if with anything.

    Attributes:
        names: of the P prompts.
        vectors: (P, C) float32 of length 1.
        others: (A, C) float32 of length 1, what every prompt competes with; A is 0 but for softmax and relevancy.
        other_names: of these.
        score: cosine, softmax, relevancy or sigmoid; see ``scores``.
        temperature: what cosines are divided by, but for the plain cosine.
        bias: of sigmoid.
    """

    names: tuple[str, ...]
    vectors: NDArray[np.float32]
    others: NDArray[np.float32]
    other_names: tuple[str, ...] = ()
    score: str = "cosine"
    temperature: float = CLIP_TEMPERATURE
    bias: float = 0.0

    def describe(self) -> dict[str, Any]:
        """How scores are made, for a file that holds some."""
        return {
            "score": self.score,
            "against": list(self.other_names),
            "temperature": None if self.score == "cosine" else float(f"{self.temperature:.6g}"),
            "bias": float(f"{self.bias:.6g}") if self.score == "sigmoid" else None,
        }

    def scores(self, features: FloatArray) -> NDArray[np.float32]:
        """How much each feature looks like each prompt.

        With c the cosine, c_a those of the others and t the temperature:

        * softmax: of the prompt among itself and the others, ``exp(c / t) / (exp(c / t) + sum_a exp(c_a / t))``
        * relevancy: ``min_a exp(c / t) / (exp(c / t) + exp(c_a / t))`` (LERF, Kerr et al. 2023, section 3.3)
        * sigmoid: ``1 / (1 + exp(-c / t - bias))`` (SigLIP, Zhai et al. 2023, section 3.2)

        Args:
            features: (N, C), finite, of any length.

        Returns:
            (N, P) float32, of cosine in [-1, 1], else in [0, 1]. A feature of zeros has cosine 0.
        """
        found = np.empty((len(features), len(self.names)), np.float32)
        for rows in _slices(len(features)):
            directions = unit_directions(features[rows])
            found[rows] = self.of_cosines(directions @ self.vectors.T, directions @ self.others.T)
        return found

    def of_cosines(self, cosines: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
        """As ``scores``, of features whose cosines with the prompts (N, P) and with the others (N, A) are known."""
        if self.score == "cosine":
            return np.clip(cosines, -1.0, 1.0)
        logits = cosines.astype(np.float64) / self.temperature - self._threshold(others)
        # Beyond 700 the exponential would be inf, and the score is 0 all the same.
        return np.asarray(1.0 / (1.0 + np.exp(np.minimum(-logits, 700.0))), np.float32)

    def _threshold(self, others: NDArray[np.float32]) -> NDArray[np.float64] | float:
        """The logit, of each of N features or of all, at which a prompt's score is one half."""
        if self.score == "sigmoid":
            return -self.bias
        logits = others.astype(np.float64) / self.temperature
        largest: NDArray[np.float64] = logits.max(axis=1, keepdims=True)
        if self.score == "relevancy":  # the least of the softmaxes is that against the largest
            return largest
        return largest + np.log(np.exp(logits - largest).sum(axis=1, keepdims=True))


def _slices(count: int) -> Iterator[slice]:
    return (slice(begin, begin + _ROWS) for begin in range(0, count, _ROWS))


def best_mean(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """(P,) mean of the best ``TOP_SHARE`` of the (N, P) scores, of one of them at least; N is 1 or more."""
    count = len(scores)
    best = max(1, round(TOP_SHARE * count))
    return np.partition(scores, count - best, axis=0)[count - best :].mean(axis=0, dtype=np.float64)
