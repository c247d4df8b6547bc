"""The state of a training in one safetensors file: weights, optimizer, and how far it came."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from clipfeat.errors import DamagedFileError, DataError
from clipfeat.output.folders import different_keys
from clipfeat.output.store import FeatureStore
from clipfeat.system.atomic import atomic_file

log = logging.getLogger(__name__)

NAME = "checkpoint.safetensors"


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """What training changes or sets: a frozen tower is no part of it, its own file and hash tell it."""
    frozen = {name for name, weights in model.named_parameters() if not weights.requires_grad}
    return {name: values for name, values in model.state_dict().items() if name not in frozen}


def write_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None, about: dict[str, Any]
) -> None:
    """Writes everything that going on needs, whole or not at all.

    Args:
        path: the file.
        model: its weights are written as ``model/<name>``.
        optimizer: over ``model.parameters()``; its state is written as ``optimizer/<parameter>/<name>``.
        about: anything JSON can hold, such as the step.

    Raises:
        OutputError: If it can't be written.
    """
    tensors = {f"model/{name}": values.detach().cpu().contiguous() for name, values in weights_of(model).items()}
    for name, weights in model.named_parameters():
        for key, value in (optimizer.state.get(weights, {}) if optimizer else {}).items():
            tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value).detach().cpu().contiguous()
    with atomic_file(path) as file:
        file.write(save(tensors, {"about": json.dumps(about, allow_nan=False)}))


def read_about(path: Path) -> dict[str, Any]:
    """What ``write_checkpoint`` was told, without the tensors.

    Raises:
        DataError: If there is no such file, or it is damaged or no checkpoint.
    """
    return _read(path, tensors=False)[1]


def check_features(path: Path, about: dict[str, Any], store: FeatureStore) -> None:
    """Holds the features that a checkpoint was trained on against those of a store.

    A precision alone makes no other features, and a checkpoint of an earlier version does not tell.

    Args:
        path: the checkpoint.
        about: what it says.
        store: the features that it is to take.

    Raises:
        DataError: If they are another model's.
    """
    trained_on = about.get("features")
    if trained_on is None:
        log.warning("WARNING %s: does not say which features it was trained on; %s is taken", path, store.folder)
        return
    keys = trained_on.keys() | store.model.keys()
    before, now = ({key: model.get(key) for key in keys - {"precision"}} for model in (trained_on, store.model))
    differing = different_keys(before, now)
    if differing:
        raise DataError(
            f"{path}: trained on features of another model than those of {store.folder}, which differs in "
            f"{'; '.join(sorted(differing))}; take the store that it was trained on, or train anew"
        )


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """Loads a checkpoint into a model, and into its optimizer, and returns ``about``.

    Raises:
        DataError: If there is no such file, it is damaged, or is of another model.
    """
    tensors, about = _read(path, tensors=True)
    own = weights_of(model)
    stored = {name.removeprefix("model/"): values for name, values in tensors.items() if name.startswith("model/")}
    differing = sorted(own.keys() ^ stored.keys()) or sorted(n for n in own if own[n].shape != stored[n].shape)
    if differing:
        raise DataError(f"{path}: of another model, which differs in {', '.join(differing[:4])}; give its own settings")
    model.load_state_dict(stored, strict=False)
    if optimizer is not None:
        for name, weights in model.named_parameters():
            begin = f"optimizer/{name}/"
            state = {key.removeprefix(begin): value for key, value in tensors.items() if key.startswith(begin)}
            if state:
                # Adam counts its steps on the CPU.
                optimizer.state[weights] = {k: v if k == "step" else v.to(weights.device) for k, v in state.items()}
    return about


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file, a checkpoint of clipfeat-train was expected")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            found = {name: file.get_tensor(name) for name in (file.keys() if tensors else ())}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise DamagedFileError(f"{path}: damaged, or no checkpoint ({why}); remove it, and begin anew") from error
    return found, about
