"""Where the work is done: in this process, or on the actors of a Ray cluster."""

import os
from collections.abc import Generator
from typing import Any, Protocol

from clipfeat.errors import ConfigError
from clipfeat.extraction.config import ExtractConfig
from clipfeat.extraction.local import LocalEngine
from clipfeat.extraction.plan import Plan
from clipfeat.extraction.worker import Job, Outcome, open_job
from clipfeat.model.base import Model, ModelCard

__all__ = ["Engine", "Job", "LocalEngine", "Outcome", "build_engine", "open_job"]


class Engine(Protocol):
    """What the run knows of where its frames are done."""

    def start(self, job: Job, plan: Plan) -> ModelCard:
        """Loads the model, wherever it is to run, and says what it is. Nothing is written before ``work``.

        Raises:
            ClipfeatError: If that can't be.
        """

    def work(self) -> Generator[Outcome, None, None]:
        """Does the frames that the plan leaves and yields what became of each, as they come.

        Raises:
            ClipfeatError: On anything that stops the run.
        """

    def facts(self) -> dict[str, Any]:
        """What is said of it in parts of ``summary.json``, such as in ``run``."""

    def close(self) -> None:
        """Writes what is on its way and ends all that was started; may be called again."""


def build_engine(cfg: ExtractConfig, model: Model | None = None) -> Engine:
    """The engine that ``engine=…`` names.

    Args:
        cfg: what to run.
        model: that ``cfg.model`` describes, if it is loaded already.

    Raises:
        ConfigError: If it can't be had, or is at odds with another key.
    """
    if cfg.engine.name == "local":
        return LocalEngine(cfg, model)
    if model is not None:
        raise ConfigError("engine=ray: each actor loads its own model, none can be given")
    # Read when Ray is imported. It sends figures of its use away, and tells at length of each actor that dies.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        from clipfeat.extraction.ray import RayEngine
    except ModuleNotFoundError as error:
        raise ConfigError('engine=ray needs the package ray: pip install "clipfeat[ray]"') from error
    return RayEngine(cfg)
