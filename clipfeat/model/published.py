"""How a model's pictures enter it as it was published, and what differs from that."""

import logging
import re
from dataclasses import replace

from clipfeat.model.config import CLIP_SIZE, ModelConfig
from clipfeat.model.encoder import EncoderCard
from clipfeat.model.weights import Found, arch_name, find_architecture

log = logging.getLogger(__name__)


def with_input_size(cfg: ModelConfig) -> ModelConfig:
    """The same model with ``input_size`` told: the published one, where the configuration leaves it open.

    Raises:
        WeightsError: If there is no such model.
        ConfigError: If a window does not fit in.
    """
    if cfg.input_size is not None:
        return cfg
    return replace(
        cfg, input_size=CLIP_SIZE if cfg.preprocess == "clip" else published_size(find_architecture(cfg.encoder))
    )


def published_size(found: Found) -> int:
    """Side in pixels of the square that a model was published for, in whole patches: what is left over it never saw."""
    name = re.search(r"patch(\d+)", found.model_cfg["vision_cfg"].get("timm_model_name") or "")
    patch_size = int(name[1] if name else found.model_cfg["vision_cfg"].get("patch_size") or 1)
    return found.image_size - found.image_size % patch_size


def interpolation(cfg: ModelConfig, card: EncoderCard) -> str:
    """Bicubic or bilinear: how pictures are resized."""
    return "bicubic" if cfg.preprocess == "clip" else card.interpolation


def tell_what_differs(cfg: ModelConfig, card: EncoderCard) -> None:
    """Says in a line where pictures enter a model otherwise than it was published."""
    pairs = (
        ("input_size", card.published_size, cfg.network_size),
        ("interpolation", card.interpolation, interpolation(cfg, card)),
    )
    differing = [f"{key} {published} published, {here} here" for key, published, here in pairs if published != here]
    if differing:
        log.info("%s: %s", arch_name(cfg.encoder), "; ".join(differing))
