"""Features of all candidates at the same points: every picture is decoded once, every forward pass is made once."""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipfeat.errors import OutputError
from clipfeat.evaluate.candidates import FITTED, Candidate, head_builder
from clipfeat.evaluate.frames import Labelled
from clipfeat.evaluate.metrics import cosines
from clipfeat.evaluate.views import View
from clipfeat.fusion.fit_head import Fit
from clipfeat.model.config import HeadConfig, ModelConfig
from clipfeat.model.heads import Head, check_head, head_map, map_values, point_channels
from clipfeat.sampling.bilinear import map_positions, sample_img_feat
from clipfeat.types import FeatureMap, FloatArray


@dataclass(frozen=True, eq=False)
class ReadyCandidate:
    """A candidate with its head.

    Attributes:
        candidate: what it is.
        view: how the encoder looks.
        heads: what is made of the tokens; of a head that is fitted here one a fold, which has not seen the scenes that
            are held out there.
        from_file: whether the head's weights come from a file of the user's.
    """

    candidate: Candidate
    view: View
    heads: tuple[Head, ...]
    from_file: bool = False

    @property
    def head(self) -> Head:
        """The only head, or that of the first fold."""
        return self.heads[0]

    @property
    def method(self) -> str | None:
        """How the heads are fitted; None for heads that are not."""
        return FITTED.get(self.candidate.head)

    @torch.inference_mode()
    def feature_map(self, tokens: FeatureMap, head: Head) -> FeatureMap:
        """The map of one picture; where the head is, wherever tokens wait."""
        if not head.projected:
            device = next((weights.device for weights in head.parameters()), tokens.values.device)
            return head_map(head, replace(tokens, values=tokens.values.to(device)))
        return head_map(head, FeatureMap(self.view.project(tokens.values[None])[0], tokens.image_to_map))

    @torch.inference_mode()
    def features(self, feature_map: FeatureMap, head: Head, uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, C) at the pixels (N, 2)."""
        sampled = sample_nearest(feature_map, uv) if self.candidate.nearest else sample_img_feat(feature_map, uv)
        return np.asarray(head.to_points(sampled).cpu().numpy(), np.float32)

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
    folds: int,
) -> list[ReadyCandidate]:
    """Puts heads on the views; those that are to be fitted have random weights yet.

    Raises:
        WeightsError: If a head's weights can't be had, or it can't work on the encoder's width.
    """
    ready = []
    for candidate in candidates:
        view = next(view for cfg, view in views if cfg == candidate.view)
        count = folds if candidate.head in FITTED else 1
        heads = tuple(head_builder(candidate.head)(view.width, head, seed).to(device) for _ in range(count))
        from_file = bool(head.weights) and head.name == candidate.head
        if from_file and head.weights:
            check_head(Path(head.weights), view.model.describe())
        ready.append(ReadyCandidate(candidate, view, heads, from_file))
    return ready


@dataclass(eq=False)
class Store:
    """Features of one candidate, in a file without a name that goes when the process does.

    Attributes:
        values: (H, N, C) float32, of each of its heads.
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


def new_store(folder: Path, heads: int, rows: int, channels: int) -> Store:
    """Room for (heads, rows, channels), on the disk that ``folder`` is on: a ScanNet of candidates is more than memory.

    Raises:
        OutputError: If there is none.
    """
    try:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as the array
        return Store(np.memmap(file, np.float32, "w+", shape=(heads, rows, channels)))
    except OSError as error:
        raise OutputError(f"output_dir={folder}: no room for {heads * rows}×{channels} features ({error})") from error


class Collector:
    """Runs batches of frames through all candidates and keeps what they give at the chosen points.

    Args:
        ready: the candidates.
        folder: where features are kept meanwhile.
        rows: points of all frames, at most.
        held_out: the fold in which each scene is held out, or a negative number.
        device: where the encoders are.

    Attributes:
        stores: of each candidate.
        rows: points so far.
        frames: so far.
    """

    def __init__(
        self,
        ready: Sequence[ReadyCandidate],
        folder: Path,
        rows: int,
        held_out: Mapping[str, int],
        device: torch.device,
    ):
        self.ready = ready
        self.stores = [new_store(folder, len(one.heads), rows, one.channels) for one in ready]
        self.rows = 0
        self.frames = 0
        self._held_out = held_out
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
            end = begin + len(one.rows)
            # The scene's own fold decides: that head has not seen it. The others' features are learnt from.
            own = self._held_out[one.frame.scene_id] % len(ready.heads)
            for place, head in enumerate(ready.heads):
                with self._timed(store.cost if place == own else defaultdict(float), "head and sampling"):
                    feature_map = ready.feature_map(of_one, head)
                    chosen = ready.features(feature_map, head, one.located.uv_idx)[one.rows]
                store.values[place, begin:end] = chosen
                if place == own:
                    self._compare(ready, store, feature_map, head, one)
                    store.map_values += feature_map.values.numel()
                    store.last = chosen
            begin = end

    def _compare(self, ready: ReadyCandidate, store: Store, feature_map: FeatureMap, head: Head, one: Labelled) -> None:
        """Points that the frame before saw too, against what they were there."""
        if len(one.before) and store.last is not None:
            again = ready.features(feature_map, head, one.uv_again)
            store.same.append(cosines(store.last[one.before], again))
            store.random.append(cosines(store.last[one.before], again[one.other]))

    @contextmanager
    def _timed(self, seconds: dict[str, float], stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds[stage] += time.perf_counter() - begin


def fit_heads(
    ready: Sequence[ReadyCandidate],
    frames: Callable[[], Iterator[Labelled]],
    held_out: Mapping[str, int],
    build: Callable[[str], Fit],
) -> None:
    """Fits the heads that are to be, each to the scenes that are not held out in its fold. No label is looked at.

    Args:
        ready: the candidates.
        frames: gives the frames, once for each view that has such a candidate.
        held_out: the fold in which each scene is held out.
        build: begins a fit of a method.

    Raises:
        DataError: If there is no frame for a fold.
    """
    to_fit = [(one, one.method) for one in ready if one.method is not None]
    for view in dict.fromkeys(one.view for one, _ in to_fit):
        here = [(one, method) for one, method in to_fit if one.view is view]
        folds = range(len(here[0][0].heads))
        fits = {method: [build(method) for _ in folds] for method in dict.fromkeys(method for _, method in here)}
        for frame in frames():
            tokens = view.model.feature_maps([view.model.network_input(frame.frame)], [frame.image_size])[0]
            for of_method in fits.values():
                for fold, fit in enumerate(of_method):
                    if held_out[frame.frame.scene_id] != fold:
                        fit.add(frame.frame, tokens)
        for one, method in here:
            for head, fit in zip(one.heads, fits[method], strict=True):
                fit.fit(head)
