"""Where an open_clip model's weights come from, without a long wait for a hub that does not answer."""

import logging
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clipfeat.errors import WeightsError
from clipfeat.system.messages import root_logger_kept

log = logging.getLogger(__name__)

HUB_TIMEOUT_S = 5.0
"""Longest wait for a first answer from the hub; its own client would retry for most of a minute."""


def load_clip(
    arch: str,
    pretrained: str | None,
    *,
    input_size: int,
    precision: str,
    device: torch.device | str,
    allow_random: bool,
    seed: int,
) -> tuple[Any, str]:
    """Loads an open_clip model with both of its towers, in eval mode; see ``load_encoder``.

    Returns:
        The model, and where its weights come from: a tag, a file's name, or "random".

    Raises:
        WeightsError: If there is no such model, or its weights can't be had or don't fit.
    """
    import open_clip

    source = "random" if pretrained is None and not arch.startswith("hf-hub:") else _where(arch, pretrained)
    if source != "random":
        try:
            extra = _resolve(arch, pretrained)
        except WeightsError as error:
            if not allow_random:
                raise
            log.warning("WARNING: %s", error)
            source = "random"
    if source == "random":
        warn_of_random_weights()
        _check_arch(arch)
        extra = {"pretrained": None}
    with torch.random.fork_rng(devices=[]), root_logger_kept():
        torch.manual_seed(seed)
        try:
            model = open_clip.create_model(
                arch, precision=precision, device=device, force_image_size=input_size, **extra
            )
        except (RuntimeError, ValueError, OSError, KeyError, TypeError, EOFError) as error:
            reason = " ".join(str(error).split())[:300]
            raise WeightsError(f"model.pretrained={pretrained}: can't be loaded into {arch} ({reason})") from error
        except Exception as error:  # unpickling errors have no common base
            if type(error).__name__ not in ("UnpicklingError", "SafetensorError"):
                raise
            raise WeightsError(f"model.pretrained={pretrained}: not a checkpoint of {arch} ({error})") from error
    return model.eval(), source


def why_not_to_be_had(arch: str, pretrained: str | None) -> str:
    """Why these weights can't be had; empty if they can. Loads nothing, and waits for a hub no longer than seconds."""
    try:
        _resolve(arch, pretrained)
    except WeightsError as error:
        return str(error)
    return ""


def warn_of_random_weights() -> None:
    """Says so, loudly."""
    log.warning("WARNING: weights=random: the arithmetic is right, the features mean nothing")


def _where(arch: str, pretrained: str | None) -> str:
    """What is written as the weights' source: a tag or a file's name, never a path of this machine."""
    if pretrained is None:
        return arch
    return Path(pretrained).name if Path(pretrained).exists() else pretrained


def _check_arch(arch: str) -> None:
    import open_clip

    if arch.startswith("hf-hub:"):
        raise WeightsError(f"model.arch={arch}: a model of the hub has no random weights; name an open_clip model")
    if arch not in open_clip.list_models():
        near = [m for m in open_clip.list_models() if m.lower().startswith(arch.lower()[:5])][:6]
        raise WeightsError(f"model.arch={arch}: open_clip knows no such model; near it: {', '.join(near) or 'none'}")


def _resolve(arch: str, pretrained: str | None) -> dict[str, Any]:
    """What ``create_model`` needs to load these weights without waiting for a hub that does not answer."""
    import open_clip

    how_else = "; give a checkpoint file, or model.pretrained=null for random weights"
    if arch.startswith("hf-hub:"):
        if not hub_answers():
            raise WeightsError(f"model.arch={arch}: the model hub does not answer{how_else}")
        return {"pretrained": None}
    _check_arch(arch)
    assert pretrained is not None  # noqa: S101 - for the type checker; None means random and never comes here
    if Path(pretrained).is_file():
        return {"pretrained": pretrained, "force_preprocess_cfg": _usual_normalisation(arch)}
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if pretrained not in tags:
        kind = (
            "no such file"
            if _looks_like_path(pretrained)
            else f"no tag of {arch} (it has: {', '.join(tags) or 'none'})"
        )
        raise WeightsError(f"model.pretrained={pretrained}: {kind}{how_else}")
    cfg = open_clip.get_pretrained_cfg(arch, pretrained)
    if cfg.get("quick_gelu", False) and not (open_clip.get_model_config(arch) or {}).get("quick_gelu", False):
        raise WeightsError(
            f"model.pretrained={pretrained}: these weights were trained with QuickGELU, which {arch} has not; "
            f"take model.arch={arch}-quickgelu"
        )
    cached = _cached_file(cfg)
    if cached is not None:
        # Given as a file, so that a hub that does not answer is not waited for; the tag's own normalisation goes along.
        return {
            "pretrained": str(cached),
            "force_preprocess_cfg": {key: cfg[key] for key in ("mean", "std") if key in cfg},
        }
    if cfg.get("hf_hub") and not hub_answers():
        raise WeightsError(
            f"model.pretrained={pretrained}: not in the local cache, and the hub does not answer{how_else}"
        )
    return {"pretrained": pretrained}


def _usual_normalisation(arch: str) -> dict[str, Any]:
    """Mean and std of the model's published weights: a file does not tell its own, and SigLIP's are not CLIP's."""
    import open_clip

    cfgs = [open_clip.get_pretrained_cfg(arch, tag) for tag in open_clip.list_pretrained_tags_by_model(arch)]
    found = {(cfg["mean"], cfg["std"]) for cfg in cfgs if "mean" in cfg and "std" in cfg}
    if len(found) > 1:
        log.warning(
            "WARNING: model.arch=%s: its published weights differ in mean and std, and CLIP's own are taken; "
            "give a tag of open_clip if yours are of another", arch,
        )  # fmt: skip
    return dict(zip(("mean", "std"), found.pop(), strict=True)) if len(found) == 1 else {}


def _looks_like_path(name: str) -> bool:
    return "/" in name or "\\" in name or Path(name).suffix in (".pt", ".pth", ".bin", ".safetensors", ".ckpt")


def _cached_file(cfg: dict[str, Any]) -> Path | None:
    """The tag's file in the hub's local cache, if it was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    repo, _, name = (cfg.get("hf_hub") or "").rpartition("/")
    if not repo:
        return None
    names = [name] if name else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    for candidate in names:
        found = try_to_load_from_cache(repo, candidate)
        if isinstance(found, str):
            return Path(found)
    return None


def hub_answers(timeout_s: float = HUB_TIMEOUT_S) -> bool:
    """Whether the model hub answers at all, within seconds."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=timeout_s)
    except Exception:  # noqa: BLE001 - the client's library and its errors change from version to version
        return False
    return True


def state_hash(module: nn.Module) -> str:
    """First 16 digits of the SHA-256 over a module's weights, by name; independent of their precision's storage."""
    digest = sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).data)
    return digest.hexdigest()[:16]
