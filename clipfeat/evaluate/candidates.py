"""What is compared: a way to look at pictures, a head, and how its map is sampled, each told by a few words."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import nn

from clipfeat.errors import ConfigError
from clipfeat.fusion.tiny_sa import TinySA2D
from clipfeat.model.config import ATTENTIONS, HeadConfig, ModelConfig
from clipfeat.model.config import HEADS as MODEL_HEADS
from clipfeat.model.heads import Head, build_head
from clipfeat.system.seeds import seeded


class UpsampledHead(Head):
    """The tokens bilinearly on a finer grid: what a larger map without new knowledge is worth."""

    def __init__(self, scale: int):
        super().__init__()
        self.scale = scale

    def to_map(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, D, h, w) to (B, D, scale·h, scale·w)."""
        return nnf.interpolate(tokens, scale_factor=self.scale, mode="bilinear", align_corners=False)


class QuarterHead(Head):
    """Every fourth channel, at all places the same: those that PixelShuffle puts into the upper left sub-cell.

    It has as many channels as PixelShuffle's map and no sub-cells, so it tells what fewer channels cost from what it
    costs that neighbouring sub-cells hold different ones.
    """

    def to_map(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, 4·C, h, w) to (B, C, h, w)."""
        return tokens[:, ::4]


class Conv256Head(Head):
    """The tokens through a 1×1 convolution to 256 channels, and perhaps ``TinySA2D``: as ``BiFusionEncoder`` has it.

    Fitted with and without the attention it tells what that brings.
    """

    def __init__(self, width: int, *, attends: bool):
        super().__init__()
        self.conv = nn.Conv2d(width, 256, 1)
        self.neck = TinySA2D(256) if attends else nn.Identity()

    def to_map(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, D, h, w) to (B, 256, h, w)."""
        return self.neck(self.conv(tokens))


HeadBuilder = Callable[[int, HeadConfig, int], Head]


def _of_model(name: str) -> HeadBuilder:
    def build(width: int, cfg: HeadConfig, seed: int) -> Head:
        weights = Path(cfg.weights) if cfg.weights and cfg.name == name else None
        return build_head(name, width, weights, seed)

    return build


def _conv256(*, attends: bool) -> HeadBuilder:
    def build(width: int, _cfg: HeadConfig, seed: int) -> Head:
        with seeded(seed):
            return Conv256Head(width, attends=attends).eval().requires_grad_(False)

    return build


def _to_fit(width: int, _cfg: HeadConfig, seed: int) -> Head:
    return build_head("proj128", width, None, seed)


HEADS: dict[str, HeadBuilder] = {
    "none": _of_model("none"),
    "pixelshuffle": _of_model("pixelshuffle"),
    "quarter": lambda _width, _cfg, _seed: QuarterHead(),
    "bilinear2x": lambda _width, _cfg, _seed: UpsampledHead(2),
    "bilinear4x": lambda _width, _cfg, _seed: UpsampledHead(4),
    "proj128": _of_model("proj128"),
    "pca128": _to_fit,
    "cons128": _to_fit,
    "conv256": _conv256(attends=False),
    "tinysa256": _conv256(attends=True),
    "text": _of_model("text"),
}
"""The heads of the extraction, and such as only serve to compare."""

FITTED = {"pca128": "pca", "cons128": "clip_cons", "conv256": "clip_cons", "tinysa256": "clip_cons"}
"""Heads whose weights are fitted here, and how (one of ``FIT_METHODS``): to scenes that are not held out."""

_OFFERED = (*MODEL_HEADS, "pca128", "cons128")
"""Heads of the extraction, and proj128 with the weights that clipfeat-fit-head makes."""


def head_builder(name: str) -> HeadBuilder:
    """What makes a head that only serves to compare, or one of the extraction."""
    return HEADS.get(name) or _of_model(name)


_NUMBERED = re.compile(r"(input|window)(\d+)")
_WORDS = (
    *dict.fromkeys([*HEADS, *MODEL_HEADS]),
    "nearest",
    *ATTENTIONS,
    "self_similarity",
    "squash",
    "letterbox",
    "input<pixels>",
    "window<pixels>",
)


@dataclass(frozen=True)
class Candidate:
    """One of the things that are compared.

    Attributes:
        name: its words as they were given.
        head: of ``HEADS``, or of the extraction's.
        nearest: whether a point takes the cell that it lies in, and not the mean of the four around it.
        view: how the encoder looks at pictures; candidates with equal ones share the forward pass.
    """

    name: str
    head: str
    nearest: bool
    view: ModelConfig

    @property
    def offered(self) -> bool:
        """Whether clipfeat-extract makes such features, too; others only serve to compare."""
        return self.head in _OFFERED and not self.nearest


def parse_candidate(words: str, model: ModelConfig) -> Candidate:
    """A candidate from its words, such as ``pixelshuffle+nearest`` or ``none+naclip+input336``.

    Args:
        words: of ``HEADS``, the attention variants, self_similarity, squash, letterbox, input<pixels>, window<pixels>
            and nearest, with + between them; what none of them says is as in ``model``.
        model: the model, with its head.

    Raises:
        ConfigError: If a word is unknown, two say the same thing, or they don't go together.
    """
    said: dict[str, Any] = {}
    for word in words.replace(" ", "").split("+"):
        key, value = _meaning(word, words)
        if key in said:
            raise ConfigError(f"candidates={words}: says {key} twice")
        said[key] = value
    head, nearest = said.pop("head", model.head.name), said.pop("nearest", False)
    try:
        view = replace(model, **said, head=HeadConfig("none"))
    except ConfigError as error:
        raise ConfigError(f"candidates={words}: {error}") from error
    if view.resize_mode == "crop":
        raise ConfigError(f"candidates={words}: a crop leaves points without features, and all must have the same ones")
    return Candidate(words, head, nearest, view)


def _meaning(word: str, words: str) -> tuple[str, Any]:
    if word in HEADS or word in MODEL_HEADS:
        return "head", word
    if word == "nearest":
        return word, True
    if word in ATTENTIONS:
        return "attention", word
    if word == "self_similarity":
        return "refine", word
    if word in ("squash", "letterbox"):
        return "resize_mode", word
    if match := _NUMBERED.fullmatch(word):
        return {"input": "input_size", "window": "window"}[match[1]], int(match[2])
    raise ConfigError(f"candidates={words}: '{word}' is not known, expected {', '.join(_WORDS)}, with + between them")


def parse_candidates(listed: Sequence[str], model: ModelConfig) -> list[Candidate]:
    """The candidates of a list, each once.

    Raises:
        ConfigError: As for ``parse_candidate``, or if there is none.
    """
    if not listed:
        raise ConfigError("candidates is empty: expected a list such as [none,pixelshuffle,none+naclip]")
    return [parse_candidate(words, model) for words in dict.fromkeys(listed)]


def views_of(candidates: Sequence[Candidate]) -> list[ModelConfig]:
    """The different ways in which the candidates look at pictures."""
    views: list[ModelConfig] = []
    for candidate in candidates:
        if candidate.view not in views:
            views.append(candidate.view)
    return views
