"""Frames to what they say of a map's points: read ahead and computed in lanes, as an extraction does it."""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from threading import local

import torch

from clipfeat.data.selection import FrameKey
from clipfeat.errors import FrameError
from clipfeat.extraction.lane import MAX_LANES, default_lanes
from clipfeat.extraction.prepare import Failed, FramePreparer, FrameSource, Prepared
from clipfeat.mapping.config import MapConfig
from clipfeat.mapping.frame_view import View
from clipfeat.mapping.map3d import FeatureMap3D
from clipfeat.model.base import Model
from clipfeat.output.summary import Stopwatch
from clipfeat.system.direct import reuse_memory
from clipfeat.system.streaming import in_order, shares
from clipfeat.types import FeatureMap, Frame


@dataclass(frozen=True, eq=False)
class Seen:
    """A frame that can be added.

    Attributes:
        frame: the frame.
        view: what it says.
    """

    frame: Frame
    view: View

    @property
    def key(self) -> FrameKey:
        """Scene and frame number."""
        return self.frame.scene_id, self.frame.frame_id


class Pipeline:
    """Looks at frames, several at once.

    Args:
        cfg: how many.
        model: the network; closed with this object.
        frames: where they come from.
        look: a map without frames, by whose rules they are looked at.
        stopwatch: of the run.

    Attributes:
        stopwatch: see above.
    """

    def __init__(self, cfg: MapConfig, model: Model, frames: FrameSource, look: FeatureMap3D, stopwatch: Stopwatch):
        reuse_memory()
        self._model = model
        self._look = look
        self._threads = cfg.num_workers or default_lanes()
        self._lanes = min(self._threads, model.most_lanes or self._threads)
        self._cores = max(1, min(default_lanes(), MAX_LANES) // self._lanes)
        self._batch_size = cfg.batch_size or model.default_batch
        self._prepare = FramePreparer(
            frames, look.locate, model.preprocess, model.network_input, stopwatch, colored=True
        )
        self._of_thread = local()
        # They stay from one portion of frames to the next: on a GPU each lane has a stream, which takes memory.
        self._readers = ThreadPoolExecutor(self._threads, thread_name_prefix="clipfeat-prepare")
        self._seers = ThreadPoolExecutor(self._lanes, thread_name_prefix="clipfeat-lane")
        self.stopwatch = stopwatch

    def work(self, keys: Sequence[FrameKey]) -> Generator[Seen | Failed, None, None]:
        """What became of each frame, in order."""
        batches = shares(keys, self._batch_size, self._lanes)
        prepared = in_order(
            self._readers, lambda batch: [self._prepare(k) for k in batch], batches, self._threads + 1, keep=True
        )
        done = in_order(self._seers, self._see, prepared, self._lanes + 1, keep=True)
        with closing(prepared), closing(done):
            yield from chain.from_iterable(done)

    def close(self) -> None:
        """Ends the threads, and closes the model."""
        self._readers.shutdown()
        self._seers.shutdown()
        self._model.close()

    def _see(self, frames: Sequence[Prepared | Failed]) -> list[Seen | Failed]:
        if not hasattr(self._of_thread, "ready"):
            torch.set_num_threads(self._cores)  # OpenMP keeps this number a thread
            self._of_thread.ready = True
        ready = [frame for frame in frames if isinstance(frame, Prepared)]
        with self._model.stream():
            with self.stopwatch.stage("model"):
                maps = iter(self._model.feature_maps([f.network_input for f in ready], [f.image_size for f in ready]))
            return [self._one(frame, next(maps)) if isinstance(frame, Prepared) else frame for frame in frames]

    def _one(self, frame: Prepared, feature_map: FeatureMap) -> Seen | Failed:
        try:
            return Seen(frame.frame, self._look.see(frame.located, feature_map))
        except FrameError as error:
            return Failed(frame.key, FrameError(f"{frame.key[0]} frame {frame.key[1]}: {error}"))
