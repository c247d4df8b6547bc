"""What is compared: a way to look at pictures, a head, and how its map is sampled, each told by a few words."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf

from clipfeat.config import ATTENTIONS, HeadConfig, ModelConfig
from clipfeat.errors import ConfigError
from clipfeat.model.heads import Head, build_head
from clipfeat.types import FeatureMap, compose_affine, resize_affine


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


HeadBuilder = Callable[[int, HeadConfig, int], Head]


def _of_model(name: str) -> HeadBuilder:
    def build(width: int, cfg: HeadConfig, seed: int) -> Head:
        weights = Path(cfg.weights) if cfg.weights and cfg.name == name else None
        return build_head(name, width, weights, seed)

    return build


HEADS: dict[str, HeadBuilder] = {
    "none": _of_model("none"),
    "pixelshuffle": _of_model("pixelshuffle"),
    "quarter": lambda _width, _cfg, _seed: QuarterHead(),
    "bilinear2x": lambda _width, _cfg, _seed: UpsampledHead(2),
    "bilinear4x": lambda _width, _cfg, _seed: UpsampledHead(4),
    "proj128": _of_model("proj128"),
    "pca128": lambda width, _cfg, seed: build_head("proj128", width, None, seed),
    "text": _of_model("text"),
}
"""The heads of the extraction, and such as only serve to compare. ``pca128`` is proj128 with weights fitted here."""

_NUMBERED = re.compile(r"(input|window)(\d+)")
_WORDS = (*HEADS, "nearest", *ATTENTIONS, "squash", "letterbox", "input<pixels>", "window<pixels>")


@dataclass(frozen=True)
class Candidate:
    """One of the things that are compared.

    Attributes:
        name: its words as they were given.
        head: of ``HEADS``.
        nearest: whether a point takes the cell that it lies in, and not the mean of the four around it.
        view: how the encoder looks at pictures; candidates with equal ones share the forward pass.
    """

    name: str
    head: str
    nearest: bool
    view: ModelConfig


def parse_candidate(words: str, model: ModelConfig) -> Candidate:
    """A candidate from its words, such as ``pixelshuffle+nearest`` or ``none+naclip+input336``.

    Args:
        words: of ``HEADS``, the attention variants, squash, letterbox, input<pixels>, window<pixels> and nearest, with
            + between them; what none of them says is as in ``model``.
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
    if word in HEADS:
        return "head", word
    if word == "nearest":
        return word, True
    if word in ATTENTIONS:
        return "attention", word
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


@torch.inference_mode()
def head_map(head: Head, tokens: FeatureMap) -> FeatureMap:
    """What a head makes of the tokens (D, h, w) of one picture."""
    values = head.to_map(tokens.values[None].float())[0]
    (height, width), (new_height, new_width) = tokens.values.shape[1:], values.shape[1:]
    to_cells = resize_affine((width, height), (new_width, new_height))
    # Channels last is how maps are sampled; it belongs to the head's work, as it does in an extraction.
    values = values.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return FeatureMap(values, compose_affine(to_cells, tokens.image_to_map))
