"""Encoders that look at pictures in one way each; those that can share weights do."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from numpy.typing import NDArray

from clipfeat.errors import WeightsError
from clipfeat.model.base import Model
from clipfeat.model.clip_model import ClipModel
from clipfeat.model.config import ModelConfig
from clipfeat.model.encoder import Encoder
from clipfeat.model.load import load_model
from clipfeat.model.published import with_input_size
from clipfeat.model.text import load_text_encoder
from clipfeat.types import FloatArray


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

    def encode_text(self, prompts: Sequence[str], templates: Sequence[str]) -> FloatArray:
        """(P, C) vectors of length 1, in the space of ``project``."""


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

    def encode_text(self, prompts: Sequence[str], templates: Sequence[str]) -> NDArray[Any]:
        """See ``View``.

        Raises:
            WeightsError: If the text tower can't be had, or is not this encoder's.
        """
        encoder, about = self.model.encoder, self.model.describe()
        texts = load_text_encoder(
            self.cfg.encoder,
            None if encoder.weights == "random" else self.cfg.pretrained,
            input_size=self.cfg.network_size,
            precision=about["precision"],
            seed=self.seed,
        )
        if texts.weights_sha256 != encoder.weights_sha256:
            raise WeightsError(f"model.arch={self.cfg.arch}: its two towers are of different weights")
        return texts.encode_text(prompts, templates)


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
