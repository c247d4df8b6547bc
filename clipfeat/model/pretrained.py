"""A model of open_clip with its weights: made, filled, and proven to be filled."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from clipfeat.errors import WeightsError
from clipfeat.model.checkpoints import Checkpoint, State, read_checkpoint
from clipfeat.model.config import INTERPOLATIONS, TIMM
from clipfeat.model.packages import import_open_clip
from clipfeat.model.weights import (
    FOLDER,
    HUB,
    Found,
    arch_is_place,
    arch_name,
    find_architecture,
    find_weights,
    refuse_other_gelu,
)
from clipfeat.system.messages import root_logger_kept
from clipfeat.system.seeds import seeded

log = logging.getLogger(__name__)

_LOGITS = ("logit_scale", "logit_bias")

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""What the words of ``model.precision`` are to torch, but for auto."""

CLIP_TEMPERATURE = 0.01
"""1 / the largest scale that CLIP's training allows, which its published weights end at (Radford et al. 2021, 2.5)."""

_BIG_VISION = (".npz", ".npy")
"""Files of the program that SigLIP was trained with; open_clip reads them on its own, without pickles."""


class Logits(NamedTuple):
    """What weights learnt to make logits of cosines by, ``scale * cosine + bias``; None for what they don't hold.

    Random weights have learnt neither. A bias have those that were trained with the sigmoid loss alone (SigLIP, Zhai et
    al. 2023, section 3.2).

    Attributes:
        scale: 1 / temperature; open_clip's ``exp(logit_scale)``.
        bias: open_clip's ``logit_bias``.
    """

    scale: float | None = None
    bias: float | None = None

    @property
    def temperature(self) -> float:
        """What cosines are divided by; where the weights don't tell, what CLIP ends its training with."""
        return CLIP_TEMPERATURE if self.scale is None else 1 / self.scale


@dataclass(frozen=True)
class Loaded:
    """A model and what is known of it.

    Attributes:
        model: open_clip's, both towers, in eval mode; of timm's models ``visual`` alone.
        found: what it was made of.
        weights: where they come from: a tag, a file's name, a repository, or "random".
        weights_sha256: of the image tower's weights as they were published, first 16 digits.
        mean: of the input's channels, 0 to 1.
        std: of the input's channels, 0 to 1.
        interpolation: bicubic or bilinear, as the weights were published with.
        logits: what the weights learnt to make logits by.
    """

    model: Any
    found: Found
    weights: str
    weights_sha256: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    logits: Logits


def load_clip(
    arch: str,
    pretrained: str | None,
    *,
    input_size: int,
    precision: str,
    device: torch.device | str,
    allow_random: bool,
    seed: int,
    text: bool,
) -> Loaded:
    """Loads an open_clip model with both of its towers, in eval mode; see ``load_encoder``.

    Args:
        arch: see ``find_weights``.
        pretrained: see ``find_weights``.
        input_size: side of the square input in pixels.
        precision: fp32, fp16 or bf16.
        device: where the model lives.
        allow_random: warn and use random weights where those of a name of open_clip can't be had.
        seed: of random weights.
        text: whether the text tower is needed: without it a file of the image tower alone will do.

    Raises:
        WeightsError: If there is no such model, or its weights can't be had or don't fit.
    """
    open_clip = import_open_clip()

    if arch.startswith(TIMM):
        raise WeightsError(
            f"{arch_name(arch)}: timm's models have no text tower; take a model of open_clip, such as model=siglip2_b16"
        )
    found, logits = find_or_random(arch, pretrained, allow_random=allow_random), Logits()
    if found.file is None:
        warn_of_random_weights()
        model = _create(found, input_size, "fp32", "cpu", seed)
        weights_sha256 = state_hash(model.visual)
        if precision == "fp32":
            model = model.to(device)
        else:
            state = model.state_dict()
            with without_init():
                model = _create(found, input_size, precision, device, seed)
            model.load_state_dict(state)
    else:
        what = f"model.arch={arch}" if found.name.startswith((HUB, FOLDER)) else f"model.pretrained={pretrained}"
        timm = "timm_model_name" in found.model_cfg["vision_cfg"]
        # The position embedding of timm's towers is interpolated after loading, that of open_clip's before.
        with without_init():
            model = _create(found, None if timm else input_size, precision, device, seed)
        try:
            weights_sha256, logits = _fill(model, found, arch, what, text=text)
            if timm and found.image_size != input_size:
                model.visual.set_input_size(input_size)
        except (RuntimeError, ValueError, KeyError, TypeError, AssertionError, AttributeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise WeightsError(f"{what}: can't be loaded into {arch} ({reason})") from error
    _warn_of_unknown_published(found)
    return Loaded(
        model=model.eval(),
        found=found,
        weights=found.name,
        weights_sha256=weights_sha256,
        mean=as_triple(found.published.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        std=as_triple(found.published.get("std", open_clip.OPENAI_DATASET_STD)),
        interpolation=known_interpolation(found),
        logits=logits,
    )


def warn_of_random_weights() -> None:
    """Says so, loudly."""
    log.warning("WARNING: weights=random: the arithmetic is right, the features mean nothing")


def state_hash(weights: nn.Module | Mapping[str, torch.Tensor]) -> str:
    """First 16 digits of the SHA-256 over weights, by name; how they are stored (float16, float32) does not matter."""
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    digest = sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).data)
    return digest.hexdigest()[:16]


def find_or_random(arch: str, pretrained: str | None, *, allow_random: bool) -> Found:
    """``find_weights``; where these can't be had and that is allowed, the model without any, with a warning."""
    try:
        return find_weights(arch, pretrained)
    except WeightsError as error:
        if not allow_random or arch_is_place(arch):
            raise
        log.warning("WARNING: %s", error)
    return find_architecture(arch)


def _create(found: Found, input_size: int | None, precision: str, device: torch.device | str, seed: int) -> Any:
    """A model with weights that follow from the seed; nothing is downloaded for its text tower."""
    open_clip = import_open_clip()

    with seeded(seed), root_logger_kept(), _filled_later():
        try:
            return open_clip.create_model(
                found.arch,
                load_weights=False,
                pretrained_text=False,
                precision=precision,
                device=device,
                force_image_size=input_size,
            )
        except (RuntimeError, ValueError, OSError, KeyError, TypeError, ImportError) as error:
            reason = " ".join(str(error).split())[:300]
            raise WeightsError(f"model.arch={found.arch.removeprefix(FOLDER)}: can't be made ({reason})") from error


_RANDOM = (
    "kaiming_normal_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_", "xavier_normal_", "xavier_uniform_",
)  # fmt: skip


@contextmanager
def without_init() -> Iterator[None]:
    """Leaves out the random numbers of weights that are all filled from a file next, or else refused.

    They take a second of a ViT-B/16's, and touch the memory of a text tower that may never be used.
    """

    def leave(tensor: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return tensor

    kept = {name: getattr(nn.init, name) for name in _RANDOM}
    for name in kept:
        setattr(nn.init, name, leave)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(nn.init, name, function)


@contextmanager
def _filled_later() -> Iterator[None]:
    """Keeps open_clip from saying that a model has no weights: here it gets them next, or that is told."""
    left_out = ("initialized randomly", "no CLIP weights found", "Multiple checkpoints found")

    def wanted(record: logging.LogRecord) -> bool:
        return not any(words in record.getMessage() for words in left_out)

    root = logging.getLogger()
    root.addFilter(wanted)
    try:
        yield
    finally:
        root.removeFilter(wanted)


def _fill(model: Any, found: Found, arch: str, what: str, *, text: bool) -> tuple[str, Logits]:
    """Fills a model, all of it; gives the image tower's hash and the logits, as they are in the file."""
    open_clip = import_open_clip()
    from open_clip.model import resize_pos_embed, resize_text_pos_embed

    assert found.file is not None  # noqa: S101 - for the type checker
    if found.file.suffix in _BIG_VISION:
        open_clip.load_checkpoint(model, str(found.file))
        return state_hash(model.visual), _logits_of(model.state_dict())
    checkpoint = read_checkpoint(found.file)
    quick_gelu = found.quick_gelu if checkpoint.quick_gelu is None else checkpoint.quick_gelu
    refuse_other_gelu(found.model_cfg, arch, quick_gelu, what)
    if quick_gelu is None:
        _warn_of_unknown_gelu(arch, checkpoint, what)
    state = _named_as(model, checkpoint)
    logits = _logits_of(state)
    # Of the loss, and no part of a feature: as the model has them, where the file says nothing.
    state |= {name: values for name, values in model.state_dict().items() if name in _LOGITS and name not in state}
    weights_sha256 = state_hash({k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")})
    # Half precision would round once more where it is interpolated.
    state |= {name: values.float() for name, values in state.items() if name.endswith("positional_embedding")}
    resize_pos_embed(state, model)
    resize_text_pos_embed(state, model)
    own = model.state_dict().keys()
    lacking = [name for name in own if name not in state and (text or name.startswith("visual."))]
    unexpected = [name for name in state if name not in own]
    # What is not needed is not filled: the memory of a text tower is then never touched.
    _take(
        {k: v for k, v in state.items() if k in own and (text or k.startswith("visual."))},
        model,
        owned=not checkpoint.mapped,
    )
    if lacking or unexpected:
        if lacking and all(not name.startswith("visual.") for name in lacking):
            raise WeightsError(f"{what}: holds the image tower alone, and texts need the text tower too")
        raise WeightsError(
            f"{what}: can't be loaded into {arch}: lacks {_listed(lacking)}; holds {_listed(unexpected)} instead"
        )
    return weights_sha256, logits


def _take(state: State, model: nn.Module, *, owned: bool) -> None:
    """Fills a model with weights of its names and shapes; without a copy, where they are ``owned`` and of its kind.

    Parts of a mapped file are copied: it may be written anew while the model is in use.
    """
    own = model.state_dict()
    wrong = [name for name, values in state.items() if values.shape != own[name].shape]
    if wrong:
        name = wrong[0]
        raise RuntimeError(f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}")

    def kept(name: str) -> torch.Tensor:
        values, there = state[name], own[name]
        whole = values.is_contiguous() and values.untyped_storage().nbytes() == values.nbytes
        if owned and whole and (values.dtype, values.device) == (there.dtype, there.device):
            return values
        return there.copy_(values)

    with torch.no_grad():
        model.load_state_dict({name: kept(name) for name in state}, strict=False, assign=True)


def _logits_of(state: State) -> Logits:
    """What weights say of logits, as ``_named_as`` gives them; numbers that are none count as not told."""
    scale, bias = (state[name].double().item() if name in state else math.nan for name in _LOGITS)
    return Logits(math.exp(scale) if abs(scale) < 100 else None, bias if math.isfinite(bias) else None)


def _warn_of_unknown_published(found: Found) -> None:
    """Says where a file's mean, std or interpolation can't be known: its model's published weights differ in them."""
    open_clip = import_open_clip()

    known = {"mean", "std", "interpolation"} <= found.published.keys()
    if found.file is not None and not known and open_clip.list_pretrained_tags_by_model(found.arch):
        log.warning(
            "WARNING model.arch=%s: its published weights differ in mean, std or interpolation, and CLIP's are taken; "
            "give a tag of open_clip if yours are of another", found.arch,
        )  # fmt: skip


def _warn_of_unknown_gelu(arch: str, checkpoint: Checkpoint, what: str) -> None:
    """Says that a file does not tell its activation, where its architecture is there with either."""
    open_clip = import_open_clip()

    if f"{arch}-quickgelu" in open_clip.list_models():
        looks = ", and its numbers look like theirs" if checkpoint.looks_like_openai else ""
        log.warning(
            "WARNING %s: does not tell whether it was trained with QuickGELU, which %s has not; if it comes from "
            "OpenAI's weights%s, take model.arch=%s-quickgelu", what, arch, looks, arch,
        )  # fmt: skip


def _named_as(model: Any, checkpoint: Checkpoint) -> State:
    """A checkpoint's weights by the names that this model has for them; what is no part of a tower is left out."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    state: State = convert_state_dict(model, dict(checkpoint.state))
    if hasattr(model, "text"):
        if "positional_embedding" in state:
            state = convert_to_custom_text_state_dict(state)
    else:
        state = {name.removeprefix("text."): values for name, values in state.items()}
    own = model.state_dict()
    for name in _LOGITS:
        if name in own and name in state:
            state[name] = state[name].reshape(own[name].shape)
        else:
            state.pop(name, None)
    position_ids = "text.transformer.embeddings.position_ids"
    if position_ids not in own:
        state.pop(position_ids, None)
    return state


def known_interpolation(found: Found) -> str:
    """The interpolation that weights were published with; bicubic, with a warning, where it is none of these here."""
    name = str(found.published.get("interpolation", "bicubic"))
    if name not in INTERPOLATIONS:
        log.warning("WARNING weights %s: published with interpolation=%s, bicubic is taken instead", found.name, name)
        return "bicubic"
    return name


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing"


def as_triple(values: Any) -> tuple[float, float, float]:
    """Three numbers for the channels, of three or of one for all."""
    if isinstance(values, int | float):
        return (float(values),) * 3
    red, green, blue = values
    return float(red), float(green), float(blue)
