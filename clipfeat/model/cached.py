"""A model that takes feature maps from a cache, and is loaded only for frames that aren't in there.

Three things make a map found again the right one:

* The fingerprint of its key stands for everything that shapes it: the hashes of the encoder's and the head's weights,
  architecture, attention, refinement, backend, input size, resize mode, windows, mean and std, precision. Not the
  device: a GPU's maps serve a CPU too.
* The digest of its picture: a map is used for the very bytes that it was made of, so an edited picture or another data
  set with the same names gets a map of its own. The bytes are hashed, not the network's input: a frame whose map is
  there need not be decoded, and decoding takes longer than all else that is left.
* The encoder's card says which weights a configuration means (their hash, mean, std and width) without loading them. A
  checkpoint file is known by its path, size and time, a tag by its name and open_clip's version, random weights by
  their seed. When the encoder is loaded after all and turns out to be another, that is an error and not a mixture.
"""

import dataclasses
import json
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from clipfeat.errors import WeightsError
from clipfeat.model.batches import fetch
from clipfeat.model.cache import MapCache
from clipfeat.model.cache_entry import CacheEntry
from clipfeat.model.clip_model import ClipModel, Result, default_batch, describe, most_lanes, own_stream
from clipfeat.model.config import ModelConfig
from clipfeat.model.encoder import EncoderCard
from clipfeat.model.heads import (
    HostMemory,
    build_head,
    check_head,
    map_size,
    map_values,
    point_channels,
    point_features,
)
from clipfeat.model.load import build_preprocess, load_model, resolve_offload, resolve_precision
from clipfeat.model.preprocess import NetworkInput
from clipfeat.model.pretrained import warn_of_random_weights
from clipfeat.model.published import tell_what_differs, with_input_size
from clipfeat.model.weights import arch_is_place, arch_name, find_weights, why_not_to_be_had
from clipfeat.types import FeatureMap, FloatArray, Frame

log = logging.getLogger(__name__)

MAP_VERSION = 2
"""Goes up when the same weights and pixels give another map, or more is kept of it: all are then made again."""


@dataclasses.dataclass(frozen=True, eq=False)
class CachedInput:
    """What is known of a frame before the forward pass.

    Attributes:
        scene_id: scene.
        frame_id: frame number.
        picture: digest of its picture.
        stored: its map, or None.
        pixels: what ``ClipModel.network_input`` makes of the frame, where there is no map.
    """

    scene_id: str
    frame_id: int
    picture: str
    stored: FeatureMap | None
    pixels: NetworkInput | None


class CachedModel:
    """Stands in for ``ClipModel`` in the loop.

    Maps are rounded to float16 whether they come from the cache or have just been made, so that a run gives the same
    arrays with a full cache as with an empty one. A map that float16 can't hold is used as it is, and not kept.

    Args:
        cfg: the model.
        device: where it runs and where maps are sampled.
        seed: of random weights.
        cache: where maps are kept; closed with this object.

    Attributes:
        cfg: the model.
        seed: of random weights.

    Raises:
        WeightsError: If the model has to be loaded and can't be, or its head can't be built.
        ConfigError: If the input's size does not fit the model's patches.
        OutputError: If the cache can't be used.
    """

    def __init__(self, cfg: ModelConfig, device: torch.device, seed: int, cache: MapCache):
        cfg = with_input_size(cfg)
        self.arch = arch_name(cfg.encoder)
        self.head_name = cfg.head.name
        self.device = device
        self.cfg = cfg
        self.seed = seed
        self._cache = cache
        self._model: ClipModel | None = None
        self._loading = threading.Lock()
        self._precision = resolve_precision(cfg, device)
        self._card = self._find_card() or self._load().encoder.card
        if self._model is None and self._card.weights == "random":
            warn_of_random_weights()
        self.preprocess = build_preprocess(cfg, self._card, device)
        if self._model is None:
            tell_what_differs(cfg, self._card)
        weights = Path(cfg.head.weights) if cfg.head.weights else None
        self.head = build_head(cfg.head.name, self._card.width, weights, seed).to(device)
        self._description = describe(
            self.arch,
            self._card,
            {"attention": cfg.attention, "refine": cfg.refine, "backend": cfg.backend},
            cfg.head.name,
            self.head,
            self.preprocess,
            self._precision,
        ) | {"map_dtype": "float16"}
        if weights is not None:
            check_head(weights, self._description)
        self.fingerprint = fingerprint(self._description)

    @property
    def channels(self) -> int:
        """See ``Model``."""
        return point_channels(self.head, self._card.width)

    @property
    def map_values(self) -> int:
        """See ``Model``."""
        return map_values(self.head, self._card.width, self.preprocess.size // self._card.patch_size)

    def map_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """See ``Model``."""
        return map_size(self.head, self.preprocess.input_size(*image_size), self._card.patch_size)

    @property
    def default_batch(self) -> int:
        """See ``Model``."""
        return default_batch(self.device)

    @property
    def most_lanes(self) -> int | None:
        """See ``Model``."""
        return most_lanes(self.device)

    def with_memory(self, work: Callable[[], Result]) -> Result:
        """See ``Model``; without a model nothing else takes the memory."""
        return work() if self._model is None else self._model.with_memory(work)

    def stream(self) -> AbstractContextManager[Any]:
        """See ``Model``."""
        return own_stream(self.device)

    def network_input(self, frame: Frame) -> CachedInput:
        """Looks the frame up; its picture is decoded only if its map is not there.

        Raises:
            FrameError: If the picture is damaged.
            OutputError: If the cache can't be read.
        """
        digest = frame.picture.digest
        stored = self._cache.get(frame.scene_id, frame.frame_id, self.fingerprint, digest)
        pixels = None if stored is not None else self.preprocess.network_input(frame.picture)
        return CachedInput(frame.scene_id, frame.frame_id, digest, stored, pixels)

    def feature_maps(self, inputs: Sequence[CachedInput], image_sizes: Sequence[tuple[int, int]]) -> list[FeatureMap]:
        """The maps of a batch; those that aren't in the cache are made, and kept in one transaction.

        Args:
            inputs: as ``network_input`` makes them.
            image_sizes: (width, height) of each original picture.

        Returns:
            A float16 map (C, h, w) for each (float32 where float16 can't hold it).

        Raises:
            WeightsError: If the model has to be loaded and can't be, or is not the one whose maps are in the cache.
            OutputError: If the cache can't be written.
        """
        made = iter(self._make([(i, size) for i, size in zip(inputs, image_sizes, strict=True) if i.stored is None]))
        maps = [entry.stored if entry.stored is not None else next(made) for entry in inputs]
        target = torch.device("cpu") if resolve_offload(self.cfg.offload, self.device) else self.device
        return [dataclasses.replace(m, values=m.values.to(target, non_blocking=True)) for m in maps]

    def point_features(self, sampled: torch.Tensor, memory: HostMemory | None = None) -> FloatArray:
        """See ``Model``."""
        return point_features(self.head, sampled, memory)

    def describe(self) -> dict[str, Any]:
        """What must be the same for features to be comparable; written into every file."""
        return dict(self._description)

    def close(self) -> None:
        """Closes the cache and says what it was good for."""
        counts = self._cache.counts
        damaged = f", {counts.damaged} damaged" if counts.damaged else ""
        log.info(
            "cache: %d maps found, %d made, %d kept%s, in %s",
            counts.found, counts.missing, counts.stored, damaged, self._cache.path,
        )  # fmt: skip
        self._cache.close()

    def _make(self, missing: list[tuple[CachedInput, tuple[int, int]]]) -> list[FeatureMap]:
        if not missing:
            return []
        with self._loading:  # several lanes may miss at once
            model = self._model or self._load()
        pixels = [source.pixels for source, _ in missing if source.pixels is not None]
        fresh_maps = model.feature_maps(pixels, [size for _, size in missing])
        halves = model.with_memory(lambda: fetch(fresh_maps, half=True))
        maps, entries = [], []
        for (source, _), fresh, (half, finite) in zip(missing, fresh_maps, halves, strict=True):
            maps.append(half if finite else fresh)
            if finite:
                entries.append(CacheEntry(source.scene_id, source.frame_id, source.picture, half))
        if entries and not self._cache.readonly:
            self._cache.put(self.fingerprint, entries)
        return maps

    def _find_card(self) -> EncoderCard | None:
        card = self._card_of(self._source())
        if card is None and self.cfg.allow_random and self.cfg.pretrained is not None:
            # The demo may have gone on with random weights before; it does so again only if nothing has changed.
            why = why_not_to_be_had(self.cfg.encoder, self.cfg.pretrained)
            card = self._card_of({"seed": self.seed}) if why else None
            if card is not None:
                log.warning("WARNING: %s", why)
        return card

    def _load(self) -> ClipModel:
        """Loads the model, and keeps its encoder's card.

        Raises:
            WeightsError: Also if it is not the model that the card spoke of.
        """
        model = load_model(self.cfg, self.device, self.seed)
        found = model.encoder.card
        source = {"seed": self.seed} if found.weights == "random" else self._source()
        expected: EncoderCard | None = getattr(self, "_card", None)
        if expected != found and not self._cache.readonly:
            if expected is not None:
                self._cache.put_card(self._card_key(self._source()), {})
            self._cache.put_card(self._card_key(source), dataclasses.asdict(found))
        if expected is not None and expected != found:
            raise WeightsError(
                f"model.pretrained={self.cfg.pretrained}: gives weights={found.weights} ({found.weights_sha256}) now, "
                f"but {expected.weights} ({expected.weights_sha256}) when the cache was filled; the cache knows of it "
                f"now: run the same command again, into another output_dir"
            )
        self._model = model
        return model

    def _source(self) -> dict[str, Any]:
        """What tells these weights from others, as far as it can be known without reading them."""
        pretrained = self.cfg.pretrained
        if pretrained is None and not arch_is_place(self.cfg.encoder):
            return {"seed": self.seed}
        if arch_is_place(self.cfg.encoder) or (pretrained is not None and Path(pretrained).exists()):
            found = find_weights(self.cfg.encoder, pretrained)
            assert found.file is not None  # noqa: S101 - for the type checker: only names of open_clip may have none
            path = found.file.resolve()
            status = path.stat()
            file = {"file": str(path), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
            return file | {"name": found.name, "published": found.published, "arch_sha256": found.arch_sha256}
        return {"tag": pretrained}

    def _card_key(self, source: dict[str, Any]) -> str:
        return _digest(
            source=source,
            arch=self.cfg.encoder,
            input_size=self.cfg.network_size,
            precision=self._precision,
            # No part of the card, but a model that can't attend so is then told before the first frame.
            attention=self.cfg.attention,
            open_clip=version("open_clip_torch"),
            timm=version("timm"),
        )

    def _card_of(self, source: dict[str, Any]) -> EncoderCard | None:
        stored = self._cache.get_card(self._card_key(source))
        try:
            if not stored:
                return None
            mean, std = ((float(r), float(g), float(b)) for r, g, b in (stored["mean"], stored["std"]))
            return EncoderCard(
                width=int(stored["width"]),
                patch_size=int(stored["patch_size"]),
                mean=mean,
                std=std,
                weights=str(stored["weights"]),
                weights_sha256=str(stored["weights_sha256"]),
                arch_sha256=str(stored["arch_sha256"]),
                interpolation=str(stored["interpolation"]),
                published_size=int(stored["published_size"]),
                pooling=str(stored["pooling"]),
            )
        except (KeyError, TypeError, ValueError):
            return None  # of another version of clipfeat


def fingerprint(description: dict[str, Any]) -> str:
    """32 hexadecimal digits that stand for everything that shapes a map, but for the picture.

    Args:
        description: ``describe()`` of a model. Names are left out: the hashes of weights and architecture say it all.
    """
    named = {key: value for key, value in description.items() if key not in ("arch", "weights", "map_dtype")}
    for key, unsaid in (("pooling", "token"), ("refine", "none"), ("backend", "torch")):
        if named.get(key) == unsaid:  # as all were before there was a word for it: their maps are still right
            del named[key]
    return _digest(version=MAP_VERSION, **named)


def _digest(**values: Any) -> str:
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]
