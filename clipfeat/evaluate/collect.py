"""Features of all candidates at the same points: every picture is decoded once, every forward pass is made once."""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipfeat.config import HeadConfig, ModelConfig
from clipfeat.errors import OutputError
from clipfeat.evaluate.candidates import HEADS, Candidate, head_map
from clipfeat.evaluate.frames import Labelled
from clipfeat.evaluate.metrics import cosines
from clipfeat.evaluate.views import View
from clipfeat.fit_head import Moments, pca_weights
from clipfeat.model.heads import Head, PixelShuffleHead, map_values, point_channels
from clipfeat.sampling import sample_img_feat
from clipfeat.sampling.bilinear import map_positions
from clipfeat.types import FeatureMap, FloatArray


@dataclass(frozen=True, eq=False)
class ReadyCandidate:
    """A candidate with its head.

    Attributes:
        candidate: what it is.
        view: how the encoder looks.
        head: what is made of the tokens.
        from_file: whether the head's weights come from a file of the user's.
    """

    candidate: Candidate
    view: View
    head: Head
    from_file: bool = False

    def feature_map(self, tokens: FeatureMap) -> FeatureMap:
        """The map of one picture."""
        if not self.head.projected:
            return head_map(self.head, tokens)
        with torch.inference_mode():
            values = self.view.project(tokens.values[None])[0]
        return head_map(self.head, FeatureMap(values, tokens.image_to_map))

    def features(self, feature_map: FeatureMap, uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, C) at the pixels (N, 2)."""
        sampled = sample_nearest(feature_map, uv) if self.candidate.nearest else sample_img_feat(feature_map, uv)
        with torch.inference_mode():
            return np.asarray(self.head.to_points(sampled).cpu().numpy(), np.float32)

    @property
    def channels(self) -> int:
        """Numbers of a point's feature."""
        return point_channels(self.head, self._width)

    def map_values(self, grid: int) -> int:
        """Numbers of the map of a square picture of ``grid`` × ``grid`` tokens."""
        return map_values(self.head, self._width, grid)

    @property
    def _width(self) -> int:
        return self.view.text_width if self.head.projected else self.view.width


def sample_nearest(feature_map: FeatureMap, uv: NDArray[np.floating]) -> torch.Tensor:
    """The value (N, C) of the cell whose centre is nearest to each position; arguments as of ``sample_img_feat``."""
    values = feature_map.values
    height, width = values.shape[1:]
    position = map_positions(torch.as_tensor(uv, device=values.device), feature_map.image_to_map)
    u, v = (position + 0.5).floor().long().unbind(1)
    return values[:, v.clamp(0, height - 1), u.clamp(0, width - 1)].T.float()


def build_candidates(
    candidates: Sequence[Candidate],
    views: Sequence[tuple[ModelConfig, View]],
    head: HeadConfig,
    device: torch.device,
    seed: int,
) -> list[ReadyCandidate]:
    """Puts heads on the views.

    Raises:
        WeightsError: If a head's weights can't be had, or it can't work on the encoder's width.
    """
    ready = []
    for candidate in candidates:
        view = next(view for cfg, view in views if cfg == candidate.view)
        built = HEADS[candidate.head](view.width, head, seed)
        from_file = bool(head.weights) and head.name == candidate.head
        ready.append(ReadyCandidate(candidate, view, built.to(device), from_file))
    return ready


@dataclass(eq=False)
class Store:
    """Features of one candidate, in a file without a name that goes when the process does.

    Attributes:
        values: (N, C) float32.
        cost: seconds of a stage, for all frames.
        same: cosines of points in two frames.
        random: cosines of random pairs.
        map_values: numbers of all frames' maps.
    """

    values: Any
    cost: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    same: list[FloatArray] = field(default_factory=list)
    random: list[FloatArray] = field(default_factory=list)
    map_values: int = 0
    last: NDArray[np.float32] | None = None


def new_store(folder: Path, rows: int, channels: int) -> Store:
    """Room for (rows, channels), on the disk that ``folder`` is on: a ScanNet of candidates is more than memory.

    Raises:
        OutputError: If there is none.
    """
    try:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as the array
        return Store(np.memmap(file, np.float32, "w+", shape=(rows, channels)))
    except OSError as error:
        raise OutputError(f"output_dir={folder}: no room for {rows}×{channels} features ({error})") from error


class Collector:
    """Runs batches of frames through all candidates and keeps what they give at the chosen points.

    Args:
        ready: the candidates.
        folder: where features are kept meanwhile.
        rows: points of all frames, at most.
        device: where the encoders are.

    Attributes:
        stores: of each candidate.
        rows: points so far.
        frames: so far.
    """

    def __init__(self, ready: Sequence[ReadyCandidate], folder: Path, rows: int, device: torch.device):
        self.ready = ready
        self.stores = [new_store(folder, rows, one.channels) for one in ready]
        self.rows = 0
        self.frames = 0
        self._device = device

    def add(self, batch: Sequence[Labelled]) -> None:
        """Takes the next frames; those of a scene come one after another."""
        sizes = [one.image_size for one in batch]
        views = list(dict.fromkeys(one.view for one in self.ready))
        for view in views:
            shared: dict[str, float] = defaultdict(float)
            with self._timed(shared, "preprocess"):
                inputs = [view.model.network_input(one.frame) for one in batch]
            with self._timed(shared, "forward"):
                tokens = view.model.feature_maps(inputs, sizes)
            for ready, store in zip(self.ready, self.stores, strict=True):
                if ready.view is view:
                    for stage, seconds in shared.items():
                        store.cost[stage] += seconds
                    self._sample(ready, store, batch, tokens)
        self.rows += sum(len(one.rows) for one in batch)
        self.frames += len(batch)

    def _sample(
        self, ready: ReadyCandidate, store: Store, batch: Sequence[Labelled], tokens: Sequence[FeatureMap]
    ) -> None:
        begin = self.rows
        for one, of_one in zip(batch, tokens, strict=True):
            with self._timed(store.cost, "head and sampling"):
                feature_map = ready.feature_map(of_one)
                features = ready.features(feature_map, one.located.uv_idx)
            chosen = features[one.rows]
            store.values[begin : begin + len(chosen)] = chosen
            begin += len(chosen)
            store.map_values += feature_map.values.numel()
            if len(one.before) and store.last is not None:
                again = ready.features(feature_map, one.uv_again)
                store.same.append(cosines(store.last[one.before], again))
                store.random.append(cosines(store.last[one.before], again[one.other]))
            store.last = chosen

    @contextmanager
    def _timed(self, seconds: dict[str, float], stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds[stage] += time.perf_counter() - begin


def fit_pca(ready: Sequence[ReadyCandidate], frames: Callable[[], Iterator[Labelled]]) -> None:
    """Fits the heads of the ``pca128`` candidates to the given frames' cells. No label is looked at.

    Args:
        ready: the candidates.
        frames: gives the frames, once for each view that has such a candidate.
    """
    to_fit = [one for one in ready if one.candidate.head == "pca128"]
    for view in dict.fromkeys(one.view for one in to_fit):
        shuffle, moments = PixelShuffleHead(view.width), Moments(view.width // 4)
        for frame in frames():
            tokens = view.model.feature_maps([view.model.network_input(frame.frame)], [frame.image_size])[0]
            moments.add(head_map(shuffle, tokens).values.flatten(1).T.cpu().numpy())
        for one in to_fit:
            if one.view is view:
                one.head.load_state_dict(pca_weights(moments))
