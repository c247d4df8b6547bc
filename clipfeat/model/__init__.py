"""Frozen CLIP to a dense map: preprocessing, encoder and head, joined."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipfeat.config import ModelConfig
from clipfeat.errors import ConfigError
from clipfeat.model.encoder import Encoder, load_encoder, state_hash
from clipfeat.model.heads import Head, build_head
from clipfeat.model.preprocess import Preprocess
from clipfeat.types import FeatureMap

log = logging.getLogger(__name__)

__all__ = ["ClipModel", "build_model", "resolve_device"]


@dataclass(frozen=True)
class ClipModel:
    """Pictures in, feature maps out.

    Attributes:
        arch: open_clip's name of the model.
        encoder: the frozen visual tower.
        preprocess: how a picture enters it.
        head: what is made of its tokens.
        head_name: the head's name in the configuration.
        device: where the forward pass runs.
        dtype: of the forward pass.
    """

    arch: str
    encoder: Encoder
    preprocess: Preprocess
    head: Head
    head_name: str
    device: torch.device
    dtype: torch.dtype

    @property
    def default_batch(self) -> int:
        """Pictures a forward pass where nothing else is said: more win nothing on a CPU."""
        return 32 if self.device.type == "cuda" else 8

    def stream(self) -> AbstractContextManager[Any]:
        """What a thread that uses the model runs in: on a GPU a stream of its own, so that copies overlap."""
        return torch.cuda.stream(torch.cuda.Stream(self.device)) if self.device.type == "cuda" else nullcontext()

    def feature_maps(
        self, pixels: Sequence[NDArray[np.uint8]], image_sizes: Sequence[tuple[int, int]]
    ) -> list[FeatureMap]:
        """Runs a batch; on a GPU that is too small for it, in halves.

        Args:
            pixels: (S, S, 3) uint8 pictures as ``preprocess.pixels`` makes them.
            image_sizes: (width, height) of each original picture.

        Returns:
            A float32 map (C, h, w) for each.

        Raises:
            ConfigError: If the GPU's memory does not suffice for one picture.
        """
        if not pixels:
            return []
        try:
            return self._forward(pixels, image_sizes)
        except torch.OutOfMemoryError as error:
            if len(pixels) == 1:
                why = "the GPU's memory does not suffice for one picture; take device=cpu or a smaller model.input_size"
                raise ConfigError(f"device={self.device}: {why}") from error
        torch.cuda.empty_cache()
        half = len(pixels) // 2
        _say_once("the GPU's memory does not suffice for %d pictures, going on with %d at a time", len(pixels), half)
        return self.feature_maps(pixels[:half], image_sizes[:half]) + self.feature_maps(
            pixels[half:], image_sizes[half:]
        )

    @torch.inference_mode()
    def _forward(self, pixels: Sequence[NDArray[np.uint8]], image_sizes: Sequence[tuple[int, int]]) -> list[FeatureMap]:
        batch = torch.from_numpy(np.stack(pixels))
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        tokens = self.encoder.tokens(self.preprocess.normalize(batch.to(self.device, non_blocking=True)).to(self.dtype))
        # The head runs in float32: it is cheap, and fp16 products of random or trained weights lose digits for nothing.
        maps = self.head.to_map(tokens.float()).contiguous(memory_format=torch.channels_last)
        size = (maps.shape[2], maps.shape[3])
        return [
            FeatureMap(values, self.preprocess.image_to_map(width, height, size))
            for values, (width, height) in zip(maps, image_sizes, strict=True)
        ]

    @torch.inference_mode()
    def point_features(self, sampled: torch.Tensor) -> NDArray[np.float32]:
        """What is written for sampled features (N, C): the head's last step, in float32, on the host."""
        return self.head.to_points(sampled.float()).cpu().numpy()

    def describe(self) -> dict[str, Any]:
        """What must be the same for features to be comparable; written into every file."""
        return {
            "arch": self.arch,
            "weights": self.encoder.weights,
            "weights_sha256": self.encoder.weights_sha256,
            "head": self.head_name,
            "head_sha256": state_hash(self.head) if self.head.state_dict() else None,
            "input_size": self.preprocess.size,
            "resize_mode": self.preprocess.mode,
            "precision": {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[self.dtype],
        }


@lru_cache(maxsize=1)
def _say_once(message: str, *values: object) -> None:
    log.warning(f"WARNING: {message}", *values)


def resolve_device(name: str) -> torch.device:
    """The torch device that ``device=…`` means.

    Raises:
        ConfigError: If there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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


def resolve_precision(name: str, device: torch.device) -> str:
    """``auto`` is fp16 on a GPU and fp32 on a CPU, where half precision is many times slower."""
    return ("fp16" if device.type == "cuda" else "fp32") if name == "auto" else name


def build_model(cfg: ModelConfig, device: torch.device, seed: int) -> ClipModel:
    """Loads the encoder and the head that ``model=…`` and ``model/head=…`` name.

    Raises:
        WeightsError: If the weights can't be had or don't fit.
    """
    precision = resolve_precision(cfg.precision, device)
    encoder = load_encoder(
        cfg.arch,
        cfg.pretrained,
        input_size=cfg.input_size,
        precision=precision,
        device=device,
        allow_random=cfg.allow_random,
        seed=seed,
    )
    head = build_head(cfg.head.name, encoder.width, Path(cfg.head.weights) if cfg.head.weights else None, seed)
    return ClipModel(
        arch=cfg.arch,
        encoder=encoder,
        preprocess=Preprocess(cfg.input_size, cfg.resize_mode, encoder.mean, encoder.std),
        head=head.to(device),
        head_name=cfg.head.name,
        device=device,
        dtype={"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision],
    )
