"""What is made of the encoder's tokens: a dense map, and perhaps something at the sampled points."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
import torch.nn.functional as nnf
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn

from clipfeat.errors import WeightsError
from clipfeat.model.config import HEADS
from clipfeat.system.pinned import wait
from clipfeat.system.seeds import seeded
from clipfeat.types import FeatureMap, FloatArray, compose_affine, resize_affine

log = logging.getLogger(__name__)

_SAME = ("arch_sha256", "weights_sha256", "attention")
"""Of ``describe()``: what makes tokens those of another encoder, to which a head means nothing."""

_ALIKE = ("input_size", "resize_mode", "window", "stride", "interpolation", "mean", "std", "refine")
"""Of ``describe()``: how the same encoder is used. Its precision, backend and device make no other tokens."""

_LARGEST_WEIGHT = 1e6
"""Far above any of a trained head; with these, no feature can become infinite."""


HostMemory = Callable[[int, int], FloatArray]
"""Gives an array of so many rows and columns."""


class Head(nn.Module):
    """Tokens as a map (B, D, h, w) to a feature map, and sampled features to point features. This one does nothing.

    Args:
        width: channels of the tokens; what does not look at it may leave it at 0.

    Attributes:
        scale: cells of the feature map along one side of a token.
        projected: whether it takes tokens in text space (``Encoder.project``) and not in the encoder's own.
        affine: whether ``to_points`` is affine: weighted means may then be taken before it.
    """

    scale = 1
    projected = False
    affine = True

    def __init__(self, width: int = 0):
        super().__init__()
        self.width = width

    @property
    def ends_at_map(self) -> bool:
        """Whether ``to_points`` gives back what it takes: a sampled feature is a point's feature."""
        return type(self).to_points is Head.to_points

    def to_map(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, D, h, w) to (B, C, scale·h, scale·w)."""
        return tokens

    def to_points(self, sampled: torch.Tensor) -> torch.Tensor:
        """(N, C) sampled float32 to the (N, C') that is written."""
        return sampled


class PixelShuffleHead(Head):
    """Four channels become four sub-cells: 768×14×14 to 192×28×28. No weights.

    Raises:
        ValueError: If the width is not a multiple of 4.
    """

    scale = 2

    def __init__(self, width: int):
        super().__init__(width)
        if width % 4:
            raise ValueError(f"head pixelshuffle needs a width that is a multiple of 4, this encoder's is {width}")

    def to_map(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, 4·C, h, w) to (B, C, 2·h, 2·w)."""
        return nnf.pixel_shuffle(tokens, 2)


class Proj128Head(Head):
    """PixelShuffle, 1×1 convolution to 256, bilinear ×2 (256×56×56); ``Linear(256, 128)`` at the points, in float32."""

    scale = 4

    def __init__(self, width: int):
        super().__init__(width)
        self.shuffle = PixelShuffleHead(width)
        self.conv = nn.Conv2d(width // 4, 256, 1)
        self.linear = nn.Linear(256, 128)

    def to_map(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, 768, 14, 14) to (B, 256, 56, 56)."""
        shuffled = self.shuffle.to_map(tokens)
        # align_corners=False keeps the edges of the cells where they were, as image_to_map assumes.
        return nnf.interpolate(self.conv(shuffled), scale_factor=2, mode="bilinear", align_corners=False)

    def to_points(self, sampled: torch.Tensor) -> torch.Tensor:
        """(N, 256) to (N, 128) float32."""
        return self.linear(sampled)


class TextHead(Head):
    """Tokens in text space, 512×14×14 for a ViT-B/16; unit vectors at the points. No weights of its own.

    The projection is the encoder's: it comes with the checkpoint, and the hash of the encoder's weights covers it. The
    map is not normalised, so that sampling it is still linear: between two cells lies what the projection gives for
    the token between them. Points are, so that a dot product with a text's unit vector is the cosine, and the mean of
    several views is not that of the longest.
    """

    projected = True
    affine = False

    def to_points(self, sampled: torch.Tensor) -> torch.Tensor:
        """(N, D) to (N, D) of length 1."""
        return nnf.normalize(sampled, dim=-1)


def build_head(name: str, width: int, weights: Path | None, seed: int) -> Head:
    """A frozen head for tokens of ``width`` channels; weights come from a file or from the seed.

    Raises:
        WeightsError: If the file can't be read or is not this head's, or the head can't work on this width, or a file
            is given to a head without weights.
    """
    with seeded(seed):
        try:
            head: Head = resolve_name(HEADS[name])(width)
        except ValueError as error:
            raise WeightsError(f"model/head={name}: {error}") from error
    if weights is not None:
        if not head.state_dict():
            raise WeightsError(f"model.head.weights={weights}: head {name} has no weights; leave it out")
        load_head(head, weights)
    return head.eval().requires_grad_(False)


def head_map(head: Head, tokens: FeatureMap) -> FeatureMap:
    """What a head makes of the tokens (D, h, w) of one picture, float32; differentiable in the head's weights."""
    values = head.to_map(tokens.values[None].float())[0]
    (height, width), (new_height, new_width) = tokens.values.shape[1:], values.shape[1:]
    to_cells = resize_affine((width, height), (new_width, new_height))
    # Channels last is how maps are sampled; it belongs to the head's work, as it does in an extraction.
    values = values.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return FeatureMap(values, compose_affine(to_cells, tokens.image_to_map))


@torch.inference_mode()
def point_channels(head: Head, width: int) -> int:
    """Numbers of a point's feature, for tokens of ``width`` channels."""
    device = next((p.device for p in head.parameters()), None)
    feature_map = head.to_map(torch.zeros(1, width, 1, 1, device=device))
    return head.to_points(feature_map[0, :, 0, :1].T).shape[1]


def map_size(head: Head, input_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Cells (h, w) of the map of an input of (width, height) pixels."""
    width, height = (length // patch_size * head.scale for length in input_size)
    return height, width


@torch.inference_mode()
def map_values(head: Head, width: int, grid: int) -> int:
    """Numbers of the feature map of a square picture of ``grid`` × ``grid`` tokens of ``width`` channels."""
    device = next((p.device for p in head.parameters()), None)
    return head.to_map(torch.zeros(1, width, grid, grid, device=device)).numel()


@torch.inference_mode()
def point_features(head: Head, sampled: torch.Tensor, memory: HostMemory | None = None) -> FloatArray:
    """What is written for sampled features (N, C): the head's last step (N, C'), in float32, on the host.

    Args:
        head: on any device.
        sampled: there or not.
        memory: gives an (N, C') array for what was made on a GPU, of the type that it is to be written in.
    """
    weights = next(head.parameters(), sampled)
    features = head.to_points(sampled.float().to(weights.device))
    if memory is None or features.device.type == "cpu":
        return features.cpu().numpy()
    out = memory(*features.shape)
    there = torch.from_numpy(out)
    there.copy_(features.to(there.dtype), non_blocking=True)
    wait(features.device)
    return out


def load_head(head: Head, path: Path) -> None:
    """Loads a safetensors file into a head.

    Raises:
        WeightsError: If it can't be read, does not fit, or holds what is no weight.
    """
    try:
        head.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        raise WeightsError(f"model.head.weights={path}: no such file") from error
    except Exception as error:  # safetensors raises its own type, torch RuntimeError; both mean the file
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise WeightsError(f"model.head.weights={path}: not a safetensors file of this head ({reason})") from error
    if not all(bool((weights.abs() <= _LARGEST_WEIGHT).all()) for weights in head.state_dict().values()):
        raise WeightsError(
            f"model.head.weights={path}: holds inf, NaN or weights above {_LARGEST_WEIGHT:g}: damaged; copy it again"
        )


def head_file(weights: Mapping[str, torch.Tensor], model: Mapping[str, Any]) -> bytes:
    """A safetensors file of a head's weights, which says whose tokens they are for.

    Args:
        weights: the head's ``state_dict``.
        model: ``describe()`` of the model whose tokens it takes.
    """
    encoder = {key: model.get(key) for key in ("arch", "weights", *_SAME, *_ALIKE)}
    tensors = {name: values.detach().cpu().contiguous() for name, values in weights.items()}
    return save(tensors, {"encoder": json.dumps(encoder)})


def check_head(path: Path, model: Mapping[str, Any]) -> None:
    """Holds a head's file against the encoder whose tokens it is to take.

    What can't be proven, and another way to look at pictures, is told in a line.

    Args:
        path: the file, as ``head_file`` makes it, or one without its encoder's name.
        model: ``describe()`` of the model.

    Raises:
        WeightsError: If the head is another encoder's.
    """
    start = f"model.head.weights={path}"
    try:
        with safe_open(path, "pt") as file:
            encoder = json.loads((file.metadata() or {}).get("encoder", "null"))
    except Exception as error:  # safetensors has errors of its own
        raise WeightsError(f"{start}: can't be read ({error}); copy it again") from error
    if not isinstance(encoder, dict):
        log.warning(
            "WARNING %s: does not say which encoder it was fitted to, so nobody can tell whether it is %s "
            "weights=%s; clipfeat-fit-head writes heads that do", start, model["arch"], model["weights"],
        )  # fmt: skip
        return
    if any(encoder.get(key) != model[key] for key in _SAME):
        named = [f"{said.get('arch')} weights={said.get('weights')} ({said.get('weights_sha256')}) "
                 f"attention={said.get('attention')}" for said in (encoder, model)]  # fmt: skip
        raise WeightsError(
            f"{start}: fitted to another encoder, {named[0]}, and this is {named[1]}; take that encoder, or fit a head "
            f"to this one with clipfeat-fit-head"
        )
    encoder = {"refine": "none"} | encoder  # of heads from before there was a choice
    differing = [
        f"{key} {encoder.get(key)} there, {model[key]} here" for key in _ALIKE if encoder.get(key) != model[key]
    ]
    if differing:
        log.warning(
            "WARNING %s: fitted to the same encoder, used otherwise: %s",
            start,
            "; ".join(differing),
        )
