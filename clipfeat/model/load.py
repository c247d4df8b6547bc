"""From the configuration to a model that is loaded: its device, precision, weights and head."""

from pathlib import Path

import torch

from clipfeat.errors import ConfigError
from clipfeat.model.clip_model import ClipModel
from clipfeat.model.config import ModelConfig
from clipfeat.model.encoder import Encoder, EncoderCard, attending, load_encoder
from clipfeat.model.heads import build_head, check_head
from clipfeat.model.preprocess import Preprocess
from clipfeat.model.pretrained import DTYPES
from clipfeat.model.published import interpolation, tell_what_differs, with_input_size
from clipfeat.model.weights import arch_name
from clipfeat.model.windows import Windows

SMALL_GPU_BYTES = 8 * 2**30


def load_model(cfg: ModelConfig, device: torch.device, seed: int, encoder: Encoder | None = None) -> ClipModel:
    """Loads the encoder and the head that ``model=…`` and ``model/head=…`` name.

    Args:
        cfg: the model.
        device: where it runs.
        seed: of random weights.
        encoder: the same one, but for its attention, if it is loaded already.

    Raises:
        WeightsError: If the weights can't be had or don't fit.
        ConfigError: If the input's size does not fit the model's patches.
    """
    given, cfg = cfg, with_input_size(cfg)
    precision = resolve_precision(cfg.precision, device)
    if encoder is not None:
        encoder = attending(encoder, cfg.encoder, cfg.attention)
    else:
        encoder = load_encoder(
            cfg.encoder,
            cfg.pretrained,
            input_size=cfg.network_size,
            precision=precision,
            device=device,
            allow_random=cfg.allow_random,
            seed=seed,
            attention=cfg.attention,
        )
    weights = Path(cfg.head.weights) if cfg.head.weights else None
    head = build_head(cfg.head.name, encoder.width, weights, seed)
    model = ClipModel(
        arch=arch_name(cfg.encoder),
        encoder=encoder,
        preprocess=build_preprocess(cfg, encoder.card),
        head=head.to(device),
        head_name=cfg.head.name,
        device=device,
        dtype=DTYPES[precision],
        offload=resolve_offload(cfg.offload, device),
        refine=cfg.refine,
        cfg=given,
        seed=seed,
    )
    if weights is not None:
        check_head(weights, model.describe())
    tell_what_differs(cfg, encoder.card)
    return model


def build_preprocess(cfg: ModelConfig, card: EncoderCard) -> Preprocess:
    """How pictures enter the encoder that the card speaks of.

    Raises:
        ConfigError: If a size is not one of whole patches.
    """
    assert cfg.input_size is not None  # noqa: S101 - for the type checker; see with_input_size
    stride = cfg.stride or (cfg.window and cfg.window // 2)
    for key, size in (("input_size", cfg.input_size), ("window", cfg.window), ("stride", stride)):
        if size and size % card.patch_size:
            raise ConfigError(f"model.{key}={size}: expected a multiple of {cfg.arch}'s patch size {card.patch_size}")
    if not cfg.window or not stride:
        return Preprocess(
            cfg.input_size, cfg.resize_mode, card.mean, card.std, cfg.resize, interpolation=interpolation(cfg, card)
        )
    windows = Windows(cfg.window, stride, card.patch_size)
    return Preprocess(
        cfg.input_size, "shortest", card.mean, card.std, cfg.resize, windows, interpolation=interpolation(cfg, card)
    )


def resolve_device(name: str, local_rank: int | None = None) -> torch.device:
    """The torch device that ``device=…`` means.

    Args:
        name: auto, cpu, cuda or cuda:<n>.
        local_rank: which of several processes of this machine this one is: each takes the next GPU, if ``name`` names
            none. If there are more processes than GPUs, they share them.

    Raises:
        ConfigError: If there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local_rank is not None and torch.cuda.device_count():
        name = f"cuda:{local_rank % torch.cuda.device_count()}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name}: expected auto, cpu, cuda or cuda:<n>") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device={name}: this machine shows {torch.cuda.device_count()} CUDA devices; take device=cpu"
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device={name}: expected auto, cpu, cuda or cuda:<n>")
    return device


def resolve_offload(name: str, device: torch.device) -> bool:
    """``auto`` moves maps to the host where the GPU has under 8 GB."""
    if device.type != "cuda" or name == "none":
        return False
    return name == "cpu" or torch.cuda.get_device_properties(device).total_memory < SMALL_GPU_BYTES


def resolve_precision(name: str, device: torch.device) -> str:
    """``auto`` is fp16 on a GPU and fp32 on a CPU, where half precision is many times slower."""
    return ("fp16" if device.type == "cuda" else "fp32") if name == "auto" else name
