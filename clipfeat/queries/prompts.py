"""What features are compared to: texts, or an example, as directions; and how much they look like it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.types import FloatArray
from clipfeat.vis.directions import unit_directions

TOP_SHARE = 0.01
"""Share of a frame's points, the best ones, whose mean score says whether it shows what is asked for: a chair may cover
little of a picture, and a single point may be best by chance."""

_ROWS = 16_384
"""Features that are compared at a time: those of a whole scene would be copied in float32 at once."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Directions that are asked for, and how features are scored against them.

    A prompt's score does not depend on the other prompts: it competes with ``others`` alone.

    Attributes:
        names: of the P prompts.
        vectors: (P, C) float32 of length 1.
        others: (A, C) float32 of length 1, what every prompt competes with; A may be 0.
        other_names: of these.
        temperature: cosines are divided by it before the softmax.
    """

    names: tuple[str, ...]
    vectors: NDArray[np.float32]
    others: NDArray[np.float32]
    other_names: tuple[str, ...] = ()
    temperature: float = 0.01

    @property
    def kind(self) -> str:
        """What a score is: cosine or softmax."""
        return "softmax" if len(self.others) else "cosine"

    def describe(self) -> dict[str, Any]:
        """How scores are made, for a file that holds some."""
        against = list(self.other_names)
        return {"score": self.kind, "against": against, "temperature": self.temperature if against else None}

    def scores(self, features: FloatArray) -> NDArray[np.float32]:
        """How much each feature looks like each prompt.

        Without ``others`` the cosine. With them the softmax of the prompt among itself and the others,
        ``exp(c / t) / (exp(c / t) + sum_a exp(c_a / t))``, c being cosines and t the temperature.

        Args:
            features: (N, C), finite, of any length.

        Returns:
            (N, P) float32, in [-1, 1] or, with ``others``, in [0, 1]. A feature of zeros has cosine 0.
        """
        found = np.empty((len(features), len(self.names)), np.float32)
        for rows in _slices(len(features)):
            directions = unit_directions(features[rows])
            cosines = directions @ self.vectors.T
            if len(self.others):
                found[rows] = _softmax_of_one(cosines, directions @ self.others.T, self.temperature)
            else:
                found[rows] = np.clip(cosines, -1.0, 1.0)
        return found


def _slices(count: int) -> Iterator[slice]:
    return (slice(begin, begin + _ROWS) for begin in range(0, count, _ROWS))


def _softmax_of_one(
    cosines: NDArray[np.float32], others: NDArray[np.float32], temperature: float
) -> NDArray[np.float64]:
    """The (N, P) softmax of each of the cosines (N, P) among itself and all others (N, A)."""
    scaled, rest = cosines.astype(np.float64) / temperature, others.astype(np.float64) / temperature
    largest = rest.max(axis=1, keepdims=True)
    rest_sum = largest + np.log(np.exp(rest - largest).sum(axis=1, keepdims=True))
    # Beyond 700 the exponential would be inf, and the score is 0 all the same.
    return 1.0 / (1.0 + np.exp(np.minimum(rest_sum - scaled, 700.0)))


def best_mean(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """(P,) mean of the best ``TOP_SHARE`` of the (N, P) scores, of one of them at least; N is 1 or more."""
    count = len(scores)
    best = max(1, round(TOP_SHARE * count))
    return np.partition(scores, count - best, axis=0)[count - best :].mean(axis=0, dtype=np.float64)
