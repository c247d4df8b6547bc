"""The CLIP tower inside the encoder: frozen, or but for its last blocks; its maps may be kept in a cache."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import nn

from clipfeat.errors import ConfigError
from clipfeat.fusion.inputs import Maps
from clipfeat.model.cache import MapCache
from clipfeat.model.cache_entry import CacheEntry, as_float16
from clipfeat.model.cached import fingerprint
from clipfeat.model.clip_model import ClipModel
from clipfeat.model.encoder import norm_is_behind_pooling
from clipfeat.types import FeatureMap, Picture

log = logging.getLogger(__name__)


def freeze_clip_except_last_blocks(visual: nn.Module, trainable_blocks: int) -> None:
    """Freezes a tower but for its last blocks, and the norm after them if there are such.

    Args:
        visual: open_clip's VisionTransformer or TimmModel.
        trainable_blocks: how many; 0 freezes all.

    Raises:
        ConfigError: If the tower has not so many.
    """
    tower: Any = visual
    timm = hasattr(tower, "trunk")
    blocks = tower.trunk.blocks if timm else tower.transformer.resblocks
    if not 0 <= trainable_blocks <= len(blocks):
        raise ConfigError(f"freeze_blocks={trainable_blocks}: expected 0 to {len(blocks)}, the blocks of the tower")
    visual.requires_grad_(False)
    if trainable_blocks:
        last_norm = tower.ln_post if not timm else tower.trunk.norm
        if timm and norm_is_behind_pooling(tower.trunk):
            last_norm = tower.trunk.fc_norm
        for part in (*blocks[len(blocks) - trainable_blocks :], last_norm):
            part.requires_grad_(True)


def in_float32(model: ClipModel) -> ClipModel:
    """The same model with a float32 copy of its tower, as training needs it.

    Steps of an optimizer are too small for half precision's digits, and Adam's squares for its range; products run in
    half precision all the same, by autocast.
    """
    log.info("the tower of %s is trained, and so kept in float32", model.arch)
    visual = copy.deepcopy(model.encoder.visual).float()
    return replace(model, encoder=replace(model.encoder, visual=visual), precision="fp32")


class ClipBranch(nn.Module):
    """Pictures to feature maps, as a part of a network that is trained.

    The tower never leaves its eval mode. Pictures are resized by ``resize_torch``'s filter, all of a size at once.

    Args:
        model: whose tower, preprocessing and head are used. Its tower's ``requires_grad`` is set here. A tower in half
            precision that is to be trained is left alone, and a copy in float32 taken.
        freeze: whether the tower is frozen.
        trainable_blocks: how many of its last blocks are not, where it is frozen.
        use_amp: whether the tower runs in autocast on a GPU.
        cache: where maps are looked up and kept; only of a tower that is frozen as a whole, and without windows.

    Raises:
        ConfigError: If ``trainable_blocks`` are too many, there is a cache of a tower that changes, or the model looks
            through windows.
    """

    def __init__(
        self,
        model: ClipModel,
        *,
        freeze: bool = True,
        trainable_blocks: int = 0,
        use_amp: bool = True,
        cache: MapCache | None = None,
    ):
        super().__init__()
        if model.preprocess.windows is not None:
            side = model.preprocess.windows.side
            raise ConfigError(f"model.window={side}: the encoder takes whole pictures; leave it out")
        if model.preprocess.mode == "aspect":
            raise ConfigError("model.resize_mode=aspect: the encoder takes pictures of one size; take squash")
        if model.backend != "torch":
            raise ConfigError(f"model.backend={model.backend}: nothing is trained by it; take model.backend=torch")
        if model.dtype != torch.float32 and (trainable_blocks or not freeze):
            model = in_float32(model)
        self.visual = model.encoder.visual
        self.head = model.head
        self.use_amp = use_amp
        self._model = model
        self._cache = cache
        if freeze:
            freeze_clip_except_last_blocks(self.visual, trainable_blocks)
        else:
            self.visual.requires_grad_(True)
        if cache is not None and self.trains:
            raise ConfigError("a cache keeps maps of a tower that does not change: leave it out, or freeze all blocks")
        # Resized in float32 and not in integers: a value in some thousands is one level off from resize=torch.
        autocast = use_amp and model.device.type == "cuda"
        about = model.describe() | {"resize": "torch, float32", "autocast": autocast}
        self._fingerprint = "" if cache is None else fingerprint(about)

    @property
    def channels(self) -> int:
        """Of a map."""
        encoder = self._model.encoder
        token = torch.zeros(1, encoder.width, 1, 1, device=next(self.visual.parameters()).device)
        return self.head.to_map(encoder.project(token) if self.head.projected else token).shape[1]

    @property
    def trains(self) -> bool:
        """Whether any weight of the tower does."""
        return any(weights.requires_grad for weights in self.visual.parameters())

    def train(self, mode: bool = True) -> "ClipBranch":
        """Leaves the tower in eval mode."""
        super().train(mode)
        self.visual.eval()
        return self

    def forward(
        self, images: torch.Tensor | Sequence[torch.Tensor], keys: Sequence[tuple[str, int]] | None = None
    ) -> Maps:
        """Runs the tower.

        Args:
            images: (B, 3, H, W), or (3, H, W) of uneven sizes: uint8, or float from 0 to 1.
            keys: scene and frame number of each; without them nothing is looked up in the cache.

        Raises:
            OutputError: If the cache can't be used.
        """
        sizes = [(int(image.shape[-1]), int(image.shape[-2])) for image in images]
        if self._cache is None or keys is None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.trains):
                return self._run(images, sizes)
        pictures = [Picture.of(_as_uint8(image).permute(1, 2, 0).cpu().numpy()).digest for image in images]
        found = [
            self._cache.get(scene, frame, self._fingerprint, picture)
            for (scene, frame), picture in zip(keys, pictures, strict=True)
        ]
        missing = [place for place, feature_map in enumerate(found) if feature_map is None]
        if missing:
            with torch.no_grad():
                fresh = self._run([images[place] for place in missing], [sizes[place] for place in missing])
            entries = []
            for row, place in enumerate(missing):
                found[place] = feature_map = _one(fresh, row)
                if feature_map.values.dtype == torch.float16:
                    entries.append(CacheEntry(*keys[place], pictures[place], feature_map))
            self._cache.put(self._fingerprint, entries)
        return Maps.of([feature_map for feature_map in found if feature_map is not None], sizes, images[0].device)

    def _run(self, images: torch.Tensor | Sequence[torch.Tensor], sizes: list[tuple[int, int]]) -> Maps:
        preprocess, encoder = self._model.preprocess, self._model.encoder
        inputs = self._resized(images)
        with torch.autocast(inputs.device.type, enabled=self.use_amp and inputs.device.type == "cuda"):
            tokens, whole = encoder.encode(inputs.to(self._model.dtype))
            tokens = self._model.for_head(tokens)
        values = self.head.to_map(tokens.float())
        cells = (values.shape[2], values.shape[3])
        affines = [torch.from_numpy(preprocess.image_to_map(*size, cells)) for size in sizes]
        return Maps(
            values, torch.stack(affines).to(values.device), torch.tensor(sizes, device=values.device), whole.float()
        )

    def _resized(self, images: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
        """(B, 3, S, S) normalised inputs; one step for pictures of one size."""
        preprocess = self._model.preprocess
        stacks = [images] if isinstance(images, torch.Tensor) else [image[None] for image in images]
        side, made = preprocess.size, []
        for stack in stacks:
            place = preprocess.placement(stack.shape[-1], stack.shape[-2])
            resized = nnf.interpolate(
                _as_uint8(stack).float(),
                place.resized[::-1],
                mode=preprocess.interpolation,
                align_corners=False,
                antialias=True,
            )
            left, top = place.offset
            grey = torch.tensor(preprocess.mean, device=stack.device).mul(255).round().view(3, 1, 1)
            # Negative widths crop.
            bars = (left, side - left - place.resized[0], top, side - top - place.resized[1])
            made.append(nnf.pad(resized.clamp(0, 255).round() - grey, bars) + grey)
        return preprocess.normalize(torch.cat(made).permute(0, 2, 3, 1))


def _as_uint8(images: torch.Tensor) -> torch.Tensor:
    return images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)


def _one(maps: Maps, row: int) -> FeatureMap:
    """A map of a batch, as the cache keeps it: what comes back another time is the same."""
    whole = None if maps.clip_global is None else maps.clip_global[row].cpu()
    values = maps.values[row].cpu()
    half = as_float16(values)
    return FeatureMap(values if half is None else half, maps.image_to_map[row].cpu().numpy(), whole)
