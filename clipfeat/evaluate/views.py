"""Encoders that look at pictures in one way each; those that can share weights do."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from clipfeat.model.base import Model
from clipfeat.model.clip_model import ClipModel
from clipfeat.model.config import ModelConfig
from clipfeat.model.encoder import Encoder
from clipfeat.model.kept_texts import open_texts
from clipfeat.model.load import load_model
from clipfeat.model.published import with_input_size
from clipfeat.model.text import Texts


class View(Protocol):
    """An encoder that looks at pictures in one way."""

    @property
    def model(self) -> Model:
        """Pictures to tokens: a model with the head none."""

    @property
    def width(self) -> int:
        """Channels of a token."""

    @property
    def text_width(self) -> int:
        """Channels of a token in text space."""

    def project(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, D, h, w) tokens to text space."""

    def texts(self, cache: str | None) -> Texts:
        """The text tower, in the space of ``project``; ``cache`` is ``text_cache`` of the configuration."""


@dataclass(frozen=True, eq=False)
class ClipView:
    """A view of a CLIP model.

    Attributes:
        cfg: what it was made of.
        model: pictures to tokens.
        seed: of random weights.
    """

    cfg: ModelConfig
    model: ClipModel
    seed: int

    @property
    def width(self) -> int:
        """See ``View``."""
        return self.model.encoder.width

    @cached_property
    def text_width(self) -> int:
        """See ``View``."""
        return self.project(torch.zeros(1, self.width, 1, 1, device=self.model.device)).shape[1]

    @torch.inference_mode()
    def project(self, tokens: torch.Tensor) -> torch.Tensor:
        """See ``View``."""
        return self.model.encoder.project(tokens.to(self.model.device, self.model.dtype)).float()

    def texts(self, cache: str | None) -> Texts:
        """See ``View``."""
        return open_texts(self.cfg.encoder, self.cfg.pretrained, self.model.describe(), seed=self.seed, cache=cache)


def build_views(cfgs: Sequence[ModelConfig], device: torch.device, seed: int) -> list[View]:
    """Loads the encoders; those of one input size are one encoder, whatever their last block does.

    Raises:
        WeightsError: If weights can't be had or don't fit, or the last block can't attend so.
        ConfigError: If an input size does not fit the model's patches.
    """
    encoders: dict[int, Encoder] = {}
    views: list[View] = []
    for cfg in cfgs:
        cfg = with_input_size(cfg)
        model = load_model(cfg, device, seed, encoders.get(cfg.network_size))
        encoders.setdefault(cfg.network_size, model.encoder)
        views.append(ClipView(cfg, model, seed))
    return views
