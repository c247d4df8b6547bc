"""What the benchmarks share: the configuration of a run, and candidates that take turns."""

import logging
import time
from collections.abc import Callable

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from clipfeat.cli.schemas import register_schemas
from clipfeat.config.folder import config_dir
from clipfeat.errors import ConfigError
from clipfeat.extraction.config import ExtractConfig

log = logging.getLogger("clipfeat.benchmark")


def compose_config(overrides: list[str]) -> ExtractConfig:
    """The configuration of the run: the demo with random weights where nothing else is said."""
    register_schemas()
    base = ["vis=none"]
    if not any(o.startswith(("data", "experiment")) for o in overrides):
        base += ["experiment=demo", "data.num_scenes=4", "data.num_frames=10", "model.pretrained=null"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = OmegaConf.to_object(compose("extract", base + overrides))
    if not isinstance(cfg, ExtractConfig):
        raise TypeError("the configuration is not that of clipfeat-extract")
    if cfg.model.window is not None:
        raise ConfigError(f"model.window={cfg.model.window}: the plain loop knows no windows; leave it out")
    return cfg


def measure(
    candidates: dict[str, Callable[[], object]], clean: Callable[[], None], frames: int, rounds: int
) -> dict[str, list[float]]:
    """Frames a second of each candidate in each round; they take turns, so that a busy moment hits all alike.

    ``clean`` runs before each, untimed.
    """
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            clean()
            begin = time.perf_counter()
            run()
            seconds = time.perf_counter() - begin
            if number:  # the first round warms up
                rates[name].append(frames / seconds)
            log.info("round %d of %d, %-16s %6.2f frames/s", number, rounds, name, frames / seconds)
    return rates
