"""From the configuration to a model that is loaded: its device, precision, weights and head."""

import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from clipfeat.errors import ConfigError
from clipfeat.model.clip_model import ClipModel
from clipfeat.model.config import ModelConfig
from clipfeat.model.device_jpeg import require_nvjpeg
from clipfeat.model.encoder import Encoder, EncoderCard, attending, load_encoder
from clipfeat.model.heads import build_head, check_head
from clipfeat.model.preprocess import Preprocess
from clipfeat.model.published import interpolation, tell_what_differs, with_input_size
from clipfeat.model.weights import arch_name
from clipfeat.model.windows import Windows
from clipfeat.system.processor import computes_bf16, processor_name

log = logging.getLogger(__name__)

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
    if device.type == "cuda":
        # What is said to be float32 is computed in it: of a convolution TF32 leaves three digits.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    precision = resolve_precision(cfg, device)
    if encoder is not None:
        encoder = attending(encoder, cfg.encoder, cfg.attention)
    else:
        encoder = load_encoder(
            cfg.encoder,
            cfg.pretrained,
            input_size=cfg.network_size,
            precision=precision if cfg.backend == "torch" else "fp32",
            device=device,
            allow_random=cfg.allow_random,
            seed=seed,
            attention=cfg.attention,
        )
    if cfg.resize_mode == "aspect":
        check_aspect(cfg, encoder)
    if cfg.backend == "openvino":
        from clipfeat.model.openvino_blocks import OpenvinoBlocks  # an extra, and its import takes a while

        encoder = replace(encoder, compute=OpenvinoBlocks(encoder, precision))
    weights = Path(cfg.head.weights) if cfg.head.weights else None
    head = build_head(cfg.head.name, encoder.width, weights, seed)
    model = ClipModel(
        arch=arch_name(cfg.encoder),
        encoder=encoder,
        preprocess=build_preprocess(cfg, encoder.card, device),
        head=head.to(device),
        head_name=cfg.head.name,
        device=device,
        precision=precision,
        offload=resolve_offload(cfg.offload, device),
        refine=cfg.refine,
        backend=cfg.backend,
        cfg=given,
        seed=seed,
    )
    if weights is not None:
        check_head(weights, model.describe())
    tell_what_differs(cfg, encoder.card)
    return model


def check_aspect(cfg: ModelConfig, encoder: Encoder) -> None:
    """The key ``model.resize_mode=aspect``.

    Raises:
        ConfigError: If the encoder takes squares alone.
    """
    if not encoder.takes_any_aspect:
        raise ConfigError(
            f"model.resize_mode=aspect: {cfg.arch} takes squares alone; take squash, letterbox or crop, or a NaFlex "
            f"model of timm, such as naflexvit_base_patch16_siglip.v2_webli"
        )
    if cfg.backend != "torch":
        raise ConfigError(
            f"model.resize_mode=aspect model.backend={cfg.backend}: computes squares alone; take model.backend=torch"
        )


def build_preprocess(cfg: ModelConfig, card: EncoderCard, device: torch.device) -> Preprocess:
    """How pictures enter the encoder that the card speaks of, on that device.

    Raises:
        ConfigError: If a size is not one of whole patches, or JPEGs can't be decoded there.
    """
    assert cfg.input_size is not None  # noqa: S101 - for the type checker; see with_input_size
    stride = cfg.stride or (cfg.window and cfg.window // 2)
    for key, size in (("input_size", cfg.input_size), ("window", cfg.window), ("stride", stride)):
        if size and size % card.patch_size:
            raise ConfigError(f"model.{key}={size}: expected a multiple of {cfg.arch}'s patch size {card.patch_size}")
    if cfg.jpeg == "gpu":
        require_nvjpeg(device)
    there = cfg.resize == "pillow" and (cfg.resize_on == "device" or (cfg.resize_on, device.type) == ("auto", "cuda"))
    windows = Windows(cfg.window, stride, card.patch_size) if cfg.window and stride else None
    return Preprocess(
        cfg.input_size,
        "shortest" if windows else cfg.resize_mode,
        card.mean,
        card.std,
        cfg.resize,
        windows,
        interpolation=interpolation(cfg, card),
        patch_size=card.patch_size,
        there=there,
        jpeg_there=cfg.jpeg == "gpu",
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


def resolve_precision(cfg: ModelConfig, device: torch.device) -> str:
    """``auto`` is fp16 on a GPU and fp32 on a CPU; what would be faster there, or is slow, is told in a line.

    Raises:
        ConfigError: If the backend can't compute there, or not so.
    """
    if device.type == "cuda":
        if cfg.backend != "torch":
            raise ConfigError(f"model.backend={cfg.backend}: computes on the CPU, but device={device}; say device=cpu")
        return "fp16" if cfg.precision == "auto" else cfg.precision
    if cfg.backend == "openvino" and cfg.precision == "fp16":
        raise ConfigError("model.backend=openvino model.precision=fp16: expected fp32, bf16 or auto on a CPU")
    if cfg.precision == "fp16" or (cfg.precision == "bf16" and not computes_bf16()):
        log.warning(
            "WARNING model.precision=%s: %s has no instructions for it and takes many times as long; take fp32",
            cfg.precision, processor_name(),
        )  # fmt: skip
    elif cfg.precision == "auto" and (faster := _faster(cfg)):
        log.info("faster on this processor: %s", faster)
    return "fp32" if cfg.precision == "auto" else cfg.precision


def _faster(cfg: ModelConfig) -> str:
    """What a CPU's default leaves unused, and what it costs; empty where nothing does. The factors: docs/speed.md."""
    ways = ["model.precision=bf16 (about twice as fast, features off by a relative 0.01)"] if computes_bf16() else []
    if cfg.backend == "torch" and find_spec("openvino") is not None:
        ways.append("model.backend=openvino (1.1 to 1.3 times as fast, features off by a relative 1e-6)")
    return ", or ".join(ways)
