"""A ViT of timm as a tower: made, filled strictly, and without its classifier."""

import warnings
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from clipfeat.errors import WeightsError
from clipfeat.model.checkpoints import State, read_state
from clipfeat.model.config import TIMM
from clipfeat.model.packages import import_timm
from clipfeat.model.pretrained import (
    DTYPES,
    Loaded,
    Logits,
    as_triple,
    find_or_random,
    known_interpolation,
    state_hash,
    warn_of_random_weights,
)
from clipfeat.model.weights import Found
from clipfeat.system.messages import root_logger_kept
from clipfeat.system.seeds import seeded


class TimmTower(nn.Module):
    """Holds a model of timm as open_clip's ``TimmModel`` does; there is no projection behind it.

    Attributes:
        trunk: the model of timm.
    """

    def __init__(self, trunk: nn.Module):
        super().__init__()
        self.trunk = trunk


def is_naflex(trunk: Any) -> bool:
    """Whether a model of timm takes pictures of any aspect ratio, and has its patches where no other has them."""
    return type(trunk).__name__ == "NaFlexVit"


def load_timm(
    arch: str,
    pretrained: str | None,
    *,
    input_size: int,
    precision: str,
    device: torch.device | str,
    allow_random: bool,
    seed: int,
) -> Loaded:
    """Loads a ViT of timm, in eval mode; see ``load_encoder`` for the arguments.

    Returns:
        ``Loaded``, whose ``model`` has ``visual`` alone: a ``TimmTower``.

    Raises:
        WeightsError: If there is no such model, or its weights can't be had or don't fit.
    """
    found = find_or_random(arch, pretrained, allow_random=allow_random)
    if found.file is None:
        warn_of_random_weights()
    tower = _filled(found, seed)
    weights_sha256 = state_hash(tower)
    if input_size != found.image_size and not is_naflex(tower.trunk):
        _resize(tower.trunk, input_size, found)
    return Loaded(
        model=SimpleNamespace(visual=tower.to(device, DTYPES[precision]).eval()),
        found=found,
        weights=found.name,
        weights_sha256=weights_sha256,
        mean=as_triple(found.published["mean"]),
        std=as_triple(found.published["std"]),
        interpolation=known_interpolation(found),
        logits=Logits(),
    )


def _filled(found: Found, seed: int) -> TimmTower:
    """A tower of the size that it was published for, in float32 on the host: with a file's weights, or the seed's."""
    name = found.arch.removeprefix(TIMM)
    try:
        return TimmTower(_made(name, {} if found.file is None else read_state(found.file), seed))
    except (RuntimeError, ValueError, KeyError, TypeError, AssertionError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:300]
        what = "can't be made" if found.file is None else f"{found.file.name} can't be loaded into it"
        raise WeightsError(f"model.arch={name}: {what} ({reason})") from error


def _made(name: str, state: State, seed: int) -> Any:
    timm = import_timm()
    from timm.models import get_pretrained_cfg

    # With as many classes as the file has, timm fills all or nothing; with another number it leaves out what it likes.
    named = getattr(get_pretrained_cfg(name), "classifier", None) or ()
    heads = [head for head in ((named,) if isinstance(named, str) else named) if f"{head}.weight" in state]
    classes = len(state[f"{heads[0]}.weight"]) if heads else 0
    overlay = {"state_dict": state, "num_classes": classes} if state else {}
    with seeded(seed), root_logger_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that timm has given up
        trunk: Any = timm.create_model(
            name, pretrained=bool(state), num_classes=classes, pretrained_cfg_overlay=overlay or None
        )
    if classes:
        trunk.reset_classifier(0)
    return trunk


def _resize(trunk: Any, input_size: int, found: Found) -> None:
    """Makes a tower take squares of ``input_size`` pixels; its position embedding is interpolated."""
    try:
        trunk.set_input_size(input_size)
    except (AttributeError, AssertionError, RuntimeError, ValueError, TypeError) as error:
        raise WeightsError(
            f"model.input_size={input_size}: {found.arch.removeprefix(TIMM)} takes {found.image_size} pixels alone; "
            f"leave it out"
        ) from error
