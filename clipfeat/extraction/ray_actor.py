"""What runs in a process of a Ray cluster: an actor with one model, which does a scene at a time.

It never takes the record of another: its number is its own.
"""

import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clipfeat.data.selection import FrameKey
from clipfeat.errors import ClipfeatError, EngineError
from clipfeat.extraction.config import ExtractConfig
from clipfeat.extraction.worker import Outcome, Worker, open_job
from clipfeat.model.base import ModelCard
from clipfeat.model.build import build_model
from clipfeat.model.cache import build_cache
from clipfeat.model.load import resolve_device
from clipfeat.output.summary import machine, peak_memory
from clipfeat.system.messages import KeptWarnings
from clipfeat.system.shards import Shard

_TELL_EVERY_S = 0.5


@dataclass(frozen=True)
class Started:
    """What an actor says of itself when its model is loaded.

    Attributes:
        card: of the model.
        machine: what it runs on.
        node: the machine's name.
        warnings: that were given on the way.
    """

    card: ModelCard
    machine: dict[str, Any]
    node: str
    warnings: list[str]


@dataclass(frozen=True)
class Told:
    """What an actor has to tell from time to time.

    Attributes:
        outcomes: what became of frames.
        seconds: spent since it told last, by stage.
        memory: its peak, see ``peak_memory``.
        warnings: that were given on the way.
    """

    outcomes: list[Outcome]
    seconds: dict[str, float]
    memory: dict[str, int]
    warnings: list[str]


class SceneActor:
    """Lives in a process of Ray's. ``close`` may be called while it works.

    Args:
        cfg: what to run.
        number: of the actor; no two of a run have the same.
        cores: that its lanes share.
        device: cpu or cuda, which is the GPU that Ray has given it.
        working_dir: of the command: relative paths begin there.
    """

    def __init__(self, cfg: ExtractConfig, number: int, cores: int, device: str, working_dir: str):
        self._cfg = cfg
        self._number = number
        self._cores = cores
        self._device = device
        self._working_dir = working_dir
        self._stopping = threading.Event()
        self._busy = threading.Lock()
        self._warnings = KeptWarnings()

    def load(self) -> Started:
        """Loads the model.

        Raises:
            ClipfeatError: If that can't be, or the node lacks what the run needs.
        """
        cfg, node = self._cfg, os.uname().nodename
        with suppress(OSError):
            os.chdir(self._working_dir)
        for key, path in (("output_dir", cfg.output_dir), ("data.root", cfg.data.root)):
            if not Path(path).is_dir():  # or results would stay on that node, and every frame of it fail
                raise EngineError(
                    f"{key}={path}: no such folder on the node {node}; engine=ray needs folders that all nodes share, "
                    f"with whole paths where {self._working_dir} is not one of them"
                )
        torch.set_num_threads(self._cores)
        # A share of several: frames.jsonl itself is the driver's.
        self._job = open_job(cfg, Shard(self._number, self._number + 2))
        model = build_model(cfg.model, resolve_device(self._device), cfg.seed, build_cache(cfg.cache))
        self._job.folder.expect(dataclasses.asdict(cfg))  # which the driver claims it for, before there is work
        self._worker = Worker(self._job, model, self._cores)
        return Started(ModelCard.of(model), machine(), node, self._warnings.take())

    def work(self, frames: list[FrameKey], drawn: dict[str, list[int]]) -> Iterator[Told]:
        """Does frames of one scene, see ``Worker.work``, and tells of them twice a second."""
        outcomes: list[Outcome] = []
        due = time.monotonic() + _TELL_EVERY_S
        with self._busy:
            try:
                with closing(self._worker.work(frames, drawn)) as found:
                    for outcome in found:
                        outcomes.append(outcome)
                        if self._stopping.is_set():
                            break
                        if time.monotonic() > due:
                            yield self._tell(outcomes)
                            outcomes, due = [], time.monotonic() + _TELL_EVERY_S
            except ClipfeatError:
                yield self._tell(outcomes)
                raise
            yield self._tell(outcomes)

    def _tell(self, outcomes: list[Outcome]) -> Told:
        return Told(outcomes, self._job.stopwatch.take(), peak_memory(), self._warnings.take())

    def close(self) -> None:
        """Ends the work; what has begun is still written."""
        self._stopping.set()
        with self._busy:
            self._worker.close()
