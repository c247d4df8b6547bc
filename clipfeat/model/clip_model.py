"""Frozen CLIP to a dense map: preprocessing, encoder and head, joined."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from clipfeat.errors import ConfigError
from clipfeat.model.batches import Batch, alike, in_order, joined, stacked
from clipfeat.model.config import ModelConfig
from clipfeat.model.device_jpeg import decode_there
from clipfeat.model.encoder import Encoder, EncoderCard
from clipfeat.model.heads import Head, HostMemory, map_size, map_values, point_channels, point_features
from clipfeat.model.preprocess import NetworkInput, Preprocess
from clipfeat.model.pretrained import DTYPES, state_hash
from clipfeat.model.similarity import refined
from clipfeat.model.windows import Windows
from clipfeat.system.pinned import stack_to_device
from clipfeat.system.turns import Turns
from clipfeat.types import FeatureMap, FloatArray, Frame, Picture

log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass
class Room:
    """What a GPU has memory for.

    Attributes:
        pictures: at most at once; None while nothing was too much.
    """

    pictures: int | None = None


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
        precision: of the forward pass: fp32, fp16 or bf16.
        offload: whether maps are moved to the host before they are sampled.
        refine: what becomes of the finished map of tokens: none or self_similarity.
        backend: what computes the tower's blocks: torch or openvino.
        cfg: what it was loaded by, if ``load_model`` did.
        seed: of those of its weights that are random, if ``load_model`` loaded it.
        turns: of the threads that use it.
        room: how many pictures its GPU has turned out to have memory for.
    """

    arch: str
    encoder: Encoder
    preprocess: Preprocess
    head: Head
    head_name: str
    device: torch.device
    precision: str
    offload: bool = False
    refine: str = "none"
    backend: str = "torch"
    cfg: ModelConfig | None = field(default=None, compare=False)
    seed: int | None = field(default=None, compare=False)
    turns: Turns = field(default_factory=Turns, compare=False, repr=False)
    room: Room = field(default_factory=Room, compare=False, repr=False)

    def network_input(self, frame: Frame) -> NetworkInput:
        """(S, S, 3) uint8 pixels of the frame's picture; with windows (h, w, 3). Or what they are made of there.

        Raises:
            FrameError: If the picture is damaged.
        """
        return self.preprocess.network_input(frame.picture)

    @property
    def dtype(self) -> torch.dtype:
        """What the tower takes; OpenVINO makes of float32 what it computes with."""
        return DTYPES[self.precision] if self.backend == "torch" else torch.float32

    @property
    def channels(self) -> int:
        """Numbers of a point's feature."""
        return point_channels(self.head, self.encoder.width)

    @property
    def map_values(self) -> int:
        """Numbers of a feature map; about, where they depend on the picture's size."""
        return map_values(self.head, self.encoder.width, self.preprocess.size // self.encoder.patch_size)

    def map_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """See ``Model``."""
        return map_size(self.head, self.preprocess.input_size(*image_size), self.encoder.patch_size)

    @property
    def default_batch(self) -> int:
        """Pictures a forward pass where nothing else is said: more win nothing on a CPU."""
        return default_batch(self.device)

    @property
    def most_lanes(self) -> int | None:
        """See ``Model``."""
        return most_lanes(self.device)

    def stream(self) -> AbstractContextManager[Any]:
        """What a thread that uses the model runs in."""
        return own_stream(self.device)

    def feature_maps(self, inputs: Sequence[NetworkInput], image_sizes: Sequence[tuple[int, int]]) -> list[FeatureMap]:
        """Runs a batch; on a GPU that is too small for those of all threads, alone; for that as well, in halves.

        Args:
            inputs: (S, S, 3) uint8 pictures as ``network_input`` makes them; with windows (h, w, 3), of any sizes; or
                original pictures, (H, W, 3) or not decoded yet.
            image_sizes: (width, height) of each original picture.

        Returns:
            A float32 map (C, h, w) for each, with its ``clip_global``.

        Raises:
            ConfigError: If the GPU's memory does not suffice for one picture.
            FrameError: If one that is decoded there is damaged.
        """
        found: list[FeatureMap] = []
        while rest := len(inputs) - len(found):
            part = slice(len(found), len(found) + min(rest, self.room.pictures or rest))
            found += self._batch(inputs[part], image_sizes[part])
        return found

    def with_memory(self, work: Callable[[], Result]) -> Result:
        """Does what needs some of the GPU's memory beside the forward pass; alone, if it was not enough.

        Raises:
            ConfigError: If it is not enough even then.
        """
        with suppress(torch.OutOfMemoryError), self.turns.together(), _memory_named():
            return work()
        with self.turns.alone():
            torch.cuda.empty_cache()
            try:
                with _memory_named():
                    return work()
            except torch.OutOfMemoryError as error:
                why = "the GPU's memory does not suffice to sample a map; take model.offload=cpu"
                raise ConfigError(f"device={self.device}: {why}") from error

    def _batch(self, inputs: Sequence[NetworkInput], image_sizes: Sequence[tuple[int, int]]) -> list[FeatureMap]:
        with suppress(torch.OutOfMemoryError), self.turns.together(), _memory_named():
            return self._forward(inputs, image_sizes)
        # Perhaps it is the other threads that have the memory.
        with self.turns.alone():
            return self._in_halves(inputs, image_sizes)

    def _in_halves(self, inputs: Sequence[NetworkInput], image_sizes: Sequence[tuple[int, int]]) -> list[FeatureMap]:
        torch.cuda.empty_cache()
        try:
            with _memory_named():
                return self._forward(inputs, image_sizes)
        except torch.OutOfMemoryError as error:
            if len(inputs) == 1:
                why = "the GPU's memory does not suffice for one picture; take device=cpu or a smaller model.input_size"
                raise ConfigError(f"device={self.device}: {why}") from error
        half = -(-len(inputs) // 2)
        self.room.pictures = min(self.room.pictures or half, half)
        _say_once("the GPU's memory does not suffice for %d pictures, going on with %d at a time", len(inputs), half)
        first = self._in_halves(inputs[:half], image_sizes[:half])
        return first + self._in_halves(inputs[half:], image_sizes[half:])

    @torch.inference_mode()
    def _forward(self, inputs: Sequence[NetworkInput], image_sizes: Sequence[tuple[int, int]]) -> list[FeatureMap]:
        batches = self._on_device(inputs, image_sizes)
        if self.preprocess.windows is None:
            maps, wholes = self._whole(batches)
        else:
            # Pictures may differ in size, and so in their number of windows.
            stitched = list(self._stitched(self.preprocess.windows, in_order(batches)))
            maps = [self._to_maps(tokens[None])[0] for tokens, _ in stitched]
            wholes = [self._off(whole) for _, whole in stitched]
        return [
            FeatureMap(values, self.preprocess.image_to_map(width, height, (values.shape[1], values.shape[2])), whole)
            for values, whole, (width, height) in zip(maps, wholes, image_sizes, strict=True)
        ]

    def _on_device(self, inputs: Sequence[NetworkInput], image_sizes: Sequence[tuple[int, int]]) -> list[Batch]:
        """The network's inputs (B, h, w, 3) there; original pictures are resized there, those of a size at once."""
        stored = {place: one for place, one in enumerate(inputs) if isinstance(one, Picture)}
        decoded = stacked(dict(zip(stored, decode_there(list(stored.values()), self.device), strict=True)))
        batches = [Batch(batch.places, self.preprocess.pixels_there(batch.values)) for batch in decoded]
        arrays = {place: one for place, one in enumerate(inputs) if not isinstance(one, Picture)}
        original = [self.preprocess.is_original(one.shape, image_sizes[place]) for place, one in arrays.items()]
        for group in alike(zip(original, (one.shape for one in arrays.values()), strict=True)):
            places = [list(arrays)[i] for i in group]
            pixels = stack_to_device([arrays[place] for place in places], self.device)
            batches.append(Batch(places, self.preprocess.pixels_there(pixels) if original[group[0]] else pixels))
        return batches

    def _whole(self, batches: Sequence[Batch]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Maps, and what stands for the whole pictures; of one size at once, as all are but of the mode aspect."""
        maps, wholes = [], []
        for batch in joined(batches):
            tokens, whole = self._tokens(batch.values)
            maps.append(Batch(batch.places, self._to_maps(tokens)))
            wholes.append(Batch(batch.places, self._off(whole)))
        return in_order(maps), in_order(wholes)

    def _tokens(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, S, S, 3) to the (B, D, grid, grid) that the head takes, and (B, width) of the whole pictures."""
        tokens, whole = self.encoder.encode(self.preprocess.normalize(pixels).to(self.dtype))
        # What is refined is the map of the whole picture, before it is projected.
        return (tokens if self.refine != "none" else self.for_head(tokens)), whole.float()

    def _stitched(
        self, windows: Windows, pictures: Sequence[torch.Tensor]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The tokens (D, h, w) of each input, and what stands for all of it (D,): the mean over its windows.

        A forward pass takes as many windows as there are inputs.
        """
        cut = [windows.cut(pixels) for pixels in pictures]
        together, counts = [window for part in cut for window in part], [len(part) for part in cut]
        # So that half as many inputs need half the memory, which is what a GPU that is too small relies on.
        step = len(pictures)
        parts = [self._tokens(torch.stack(together[i : i + step])) for i in range(0, len(together), step)]
        tokens, whole = (torch.cat(values).split(counts) for values in zip(*parts, strict=True))
        for of_one, whole_of_one, pixels in zip(tokens, whole, pictures, strict=True):
            yield windows.stitch(of_one, pixels.shape[1], pixels.shape[0]), whole_of_one.mean(0)

    def for_head(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, width, h, w) of whole pictures as the head takes them: refined, projected, both or neither."""
        if self.refine != "none":
            tokens = refined(tokens)
        return self.encoder.project(tokens.to(self.dtype)) if self.head.projected else tokens

    def _to_maps(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, D, h, w) to (B, C, h', w') float32."""
        if self.refine != "none":
            tokens = self.for_head(tokens)
        # The head runs in float32: it is cheap, and fp16 products of random or trained weights lose digits for nothing.
        return self._off(self.head.to_map(tokens.float()).contiguous(memory_format=torch.channels_last))

    def _off(self, values: torch.Tensor) -> torch.Tensor:
        return values.cpu() if self.offload else values

    def point_features(self, sampled: torch.Tensor, memory: HostMemory | None = None) -> FloatArray:
        """See ``Model``."""
        return point_features(self.head, sampled, memory)

    def describe(self) -> dict[str, Any]:
        """What must be the same for features to be comparable; written into every file."""
        how = {"attention": self.encoder.attention, "refine": self.refine, "backend": self.backend}
        return describe(self.arch, self.encoder, how, self.head_name, self.head, self.preprocess, self.precision)

    def close(self) -> None:
        """Nothing is held open."""


def describe(
    arch: str,
    encoder: Encoder | EncoderCard,
    how: dict[str, str],
    head_name: str,
    head: Head,
    preprocess: Preprocess,
    precision: str,
) -> dict[str, Any]:
    """What must be the same for features to be comparable, and in what precision maps are sampled.

    ``how`` says what is made of the tokens of the encoder as it was trained, ``attention`` and ``refine``, and by what,
    ``backend``.
    """
    return {
        "arch": arch,
        "arch_sha256": encoder.arch_sha256,
        "weights": encoder.weights,
        "weights_sha256": encoder.weights_sha256,
        "pooling": encoder.pooling,
        **how,
        "head": head_name,
        "head_sha256": state_hash(head) if head.state_dict() else None,
        "input_size": preprocess.size,
        "resize_mode": preprocess.mode,
        "resize": preprocess.resize,
        "interpolation": preprocess.interpolation,
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "window": preprocess.windows.side if preprocess.windows else None,
        "stride": preprocess.windows.stride if preprocess.windows else None,
        "precision": precision,
        "map_dtype": "float32",
        **({"jpeg": "gpu"} if preprocess.jpeg_there else {}),
    }


@contextmanager
def _memory_named() -> Iterator[None]:
    """A GPU's lack of memory by torch's name for it; cuBLAS and cuDNN have words of their own."""
    try:
        yield
    except RuntimeError as error:
        if "STATUS_ALLOC_FAILED" in str(error):
            raise torch.OutOfMemoryError(str(error)) from error
        raise


def default_batch(device: torch.device) -> int:
    """32 pictures on a GPU; 2 on a CPU: there 2 to 8 cost the same a picture, and the features of more take memory."""
    return 32 if device.type == "cuda" else 2


GPU_LANES = 3
"""Threads that use a GPU at once: one computes while another copies and a third waits. Each keeps memory of its own."""

_of_thread = threading.local()


def own_stream(device: torch.device) -> AbstractContextManager[Any]:
    """On a GPU a stream of the thread's own, so that one lane's copies overlap with another's forward pass.

    It lasts as long as the thread: of each stream torch's allocator and cuBLAS keep memory.
    """
    if device.type != "cuda":
        return nullcontext()
    streams: dict[torch.device, Any] = _of_thread.__dict__.setdefault("streams", {})
    if device not in streams:
        torch.cuda.set_device(device)
        streams[device] = torch.cuda.Stream(device)
    return torch.cuda.stream(streams[device])


def most_lanes(device: torch.device) -> int | None:
    """Threads that should use a model at once; None for as many as there are cores."""
    return GPU_LANES if device.type == "cuda" else None


_said: set[str] = set()


def _say_once(message: str, *values: object) -> None:
    if message not in _said:
        _said.add(message)
        log.warning(f"WARNING: {message}", *values)
