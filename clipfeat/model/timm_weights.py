"""Models of timm by their names, ``timm:<architecture>.<tag>``: what belongs to them, and where their weights are."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from clipfeat.errors import WeightsError
from clipfeat.model.config import TIMM, ModelConfig
from clipfeat.model.packages import import_timm
from clipfeat.model.weights import HOW_ELSE, Found, file_in, hub_answers, looks_like_path, of_hub

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def find_timm(arch: str) -> Found:
    """Finds a model of timm without its weights.

    Args:
        arch: ``timm:<name>``, with the tag of its weights or without.

    Raises:
        WeightsError: If timm knows no such name.
    """
    cfg = _registered(arch)
    # As open_clip tells of the towers that it takes from timm; the tag says nothing of the architecture.
    vision = {"timm_model_name": cfg.architecture, "image_size": int(cfg.input_size[-1])}
    published = {"mean": cfg.mean, "std": cfg.std, "interpolation": cfg.interpolation}
    return Found(arch, {"vision_cfg": vision}, "random", published=published)


def find_timm_weights(arch: str, pretrained: str | None) -> Found:
    """Finds a model of timm and its weights; waits for a hub no longer than seconds.

    Args:
        arch: see ``find_timm``.
        pretrained: a checkpoint file, a folder with one, None for random weights, or else those that the name says.

    Raises:
        WeightsError: If there is no such model, or its weights can't be had.
    """
    own, cfg = find_timm(arch), _registered(arch)
    if pretrained is None:
        return own
    given = Path(pretrained)
    if given.is_file() or given.is_dir():
        file = given if given.is_file() else file_in(given)
        name = file.name if given.is_file() else f"{given.resolve().name}/{file.name}"
        return Found(arch, own.model_cfg, name, file, own.published)
    if pretrained not in (cfg.tag, ModelConfig.pretrained):  # the default is there without anybody's saying so
        kind = "no such file" if looks_like_path(pretrained) else f"the tag of timm's weights is part of {own.arch}"
        raise WeightsError(f"model.pretrained={pretrained}: {kind}{HOW_ELSE}")
    if not cfg.hf_hub_id:
        where = f"; timm names {cfg.url}" if cfg.url else ""
        raise WeightsError(f"model.arch={arch.removeprefix(TIMM)}: has no weights on the hub{where}{HOW_ELSE}")
    online, reason = hub_answers(), ""
    for name in [cfg.hf_hub_filename] if cfg.hf_hub_filename else _HUB_FILES:
        try:
            file = of_hub(cfg.hf_hub_id, name, online=online)
        except Exception as error:  # noqa: BLE001 - the client's library and its errors change
            reason = " ".join(str(error).split())[:200]
        else:
            return Found(arch, own.model_cfg, str(cfg.tag or cfg.hf_hub_id), file, own.published)
    why = f"can't be had ({reason})" if online else "the model hub does not answer and the local cache lacks them"
    raise WeightsError(f"model.arch={arch.removeprefix(TIMM)}: its weights: {why}{HOW_ELSE}")


def _registered(arch: str) -> Any:
    """What timm says of a name: its ``PretrainedCfg``.

    Raises:
        WeightsError: If it knows no such name.
    """
    timm = import_timm()
    from timm.models import get_pretrained_cfg

    name = arch.removeprefix(TIMM)
    try:
        cfg = get_pretrained_cfg(name, allow_unregistered=False)
    except (RuntimeError, ValueError):
        cfg = None
    if cfg is None or not timm.is_model(name.split(".")[0]):
        near = get_close_matches(name, timm.list_pretrained(), 4, 0.5)
        raise WeightsError(f"model.arch={name}: timm knows no such model; near it: {', '.join(near) or 'none'}")
    return cfg
