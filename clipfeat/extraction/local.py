"""All frames in this process."""

from collections.abc import Generator
from typing import Any

import torch

from clipfeat.extraction.config import ExtractConfig
from clipfeat.extraction.lane import default_lanes
from clipfeat.extraction.plan import Plan
from clipfeat.extraction.worker import Job, Outcome, Worker
from clipfeat.model.base import Model, ModelCard
from clipfeat.model.build import build_model
from clipfeat.model.cache import build_cache
from clipfeat.model.load import resolve_device
from clipfeat.system.shards import local_count, local_rank


class LocalEngine:
    """See ``Engine``.

    Args:
        cfg: what to run.
        model: that ``cfg.model`` describes, if it is loaded already.

    Raises:
        ConfigError: If there is no such device here.
    """

    def __init__(self, cfg: ExtractConfig, model: Model | None = None):
        self._device = resolve_device(cfg.device, local_rank())
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # whose memory the summary tells
            sharing = -(-local_count() // torch.cuda.device_count())
            if sharing > 1:  # or the first to come would keep what the others need
                torch.cuda.set_per_process_memory_fraction(1 / sharing, self._device)
        self._model = model
        self._worker: Worker | None = None
        self._plan: Plan | None = None

    def start(self, job: Job, plan: Plan) -> ModelCard:
        """See ``Engine``."""
        cfg, self._plan = job.cfg, plan
        with job.stopwatch.stage("load model"):
            model = self._model or build_model(cfg.model, self._device, cfg.seed, build_cache(cfg.cache))
        self._worker = Worker(job, model, default_lanes())
        return ModelCard.of(model)

    def work(self) -> Generator[Outcome, None, None]:
        """See ``Engine``."""
        if self._worker is not None and self._plan is not None:
            yield from self._worker.work(self._plan.todo, self._plan.drawn)

    def facts(self) -> dict[str, Any]:
        """See ``Engine``."""
        return {}

    def close(self) -> None:
        """See ``Engine``."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
