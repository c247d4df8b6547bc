"""A map that is asked for texts: the text tower that belongs to its features, loaded when it is needed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from clipfeat.errors import ConfigError
from clipfeat.model.kept_texts import WeightsFrom
from clipfeat.model.text import Texts
from clipfeat.queries.ask import text_prompts
from clipfeat.queries.config import QueryConfig
from clipfeat.queries.prompts import Prompts
from clipfeat.types import FloatArray
from clipfeat.vis.directions import unit_directions

Question = str | Sequence[str] | FloatArray | Prompts
"""Texts, vectors that were encoded already, or prompts."""


class Asker:
    """Makes prompts of questions.

    Args:
        texts: the text tower, if it is loaded already.

    Attributes:
        weights: where it comes from, if it has to be loaded; None if nobody said it.
    """

    def __init__(self, texts: Texts | None):
        self.weights: WeightsFrom | None = None
        self._texts = texts

    def prompts(
        self, asked: Question, score: str, against: list[str], templates: str, about: dict[str, Any], what: str
    ) -> Prompts:
        """What is asked, as directions.

        Args:
            asked: see ``Question``.
            score: see ``FeatureMap3D.query``.
            against: the same.
            templates: the same.
            about: ``describe()`` of the model that made the features.
            what: whose features they are, for messages.

        Raises:
            ConfigError: If it can't be asked.
            WeightsError: As for ``FeatureMap3D.query``.
        """
        if isinstance(asked, Prompts):
            return asked
        if isinstance(asked, np.ndarray):
            if score != "cosine":
                raise ConfigError(f"score={score}: of vectors there is the cosine alone; give Prompts")
            if asked.ndim not in (1, 2) or not asked.size or not np.isfinite(asked).all():
                raise ConfigError(f"{what}: vectors must be (C,) or (P, C), finite, got {asked.shape} {asked.dtype}")
            vectors = unit_directions(np.atleast_2d(asked).astype(np.float32))
            names = tuple(f"vector {i}" for i in range(len(vectors)))
            return Prompts(names, vectors, np.empty((0, vectors.shape[1]), np.float32))
        if not isinstance(asked, str) and not all(isinstance(one, str) for one in asked):
            raise ConfigError(f"{what}: asked by a {type(asked).__name__}; expected texts, or an array of vectors")
        if not about:
            raise ConfigError(f"{what}: nobody said which model made its features; ask by vectors")
        return text_prompts(
            QueryConfig(store=what, text=asked, score=score, against=against, templates=templates),
            about,
            lambda: self._load(about, what),
        )

    def _load(self, about: dict[str, Any], what: str) -> Texts:
        if self._texts is None:
            if self.weights is None:
                raise ConfigError(f"{what}: nobody said where the weights of its text tower are; give it, as texts=…")
            self._texts = self.weights.texts(about)
        return self._texts
