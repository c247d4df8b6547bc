"""What the benchmarks share: the configuration of a run, and candidates that take turns."""

import logging
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

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


class Costs:
    """Milliseconds of a core that a frame of each candidate took.

    Attributes:
        own: of this process.
        host: that the host of a virtual machine took from its cores while they had work (Linux, "steal" of proc(5)).
            It has to carry what such a machine writes, and may do so on the same cores.
    """

    def __init__(self) -> None:
        self.own: dict[str, list[float]] = defaultdict(list)
        self.host: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def of(self, name: str, frames: int) -> Iterator[None]:
        """Counts the block as one round of a candidate."""
        own, host = time.process_time(), host_seconds()
        yield
        self.own[name].append(1e3 * (time.process_time() - own) / frames)
        self.host[name].append(1e3 * (host_seconds() - host) / frames)


def median_of(rounds: list[float]) -> float:
    """The median of all rounds but the first, which warms up."""
    return statistics.median(rounds[1:] or rounds)


def host_seconds(path: Path = Path("/proc/stat")) -> float:
    """Seconds of all cores that a virtual machine's host has taken since it started; 0 where nothing is known of it."""
    if not path.exists():
        return 0.0
    counts = path.read_text(encoding="ascii").split("\n", 1)[0].split()
    return int(counts[8]) / os.sysconf("SC_CLK_TCK")


def measure(
    candidates: Mapping[str, Callable[[], object]],
    clean: Callable[[], None],
    frames: int,
    rounds: int,
    costs: Costs | None = None,
) -> dict[str, list[float]]:
    """Frames a second of each candidate in each round; they take turns, so that a busy moment hits all alike.

    ``clean`` runs before each, untimed. ``costs`` takes what each round, the first one too, cost beside its time.
    """
    costs = costs or Costs()
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            clean()
            begin = time.perf_counter()
            with costs.of(name, frames):
                run()
            seconds = time.perf_counter() - begin
            if number:  # the first round warms up
                rates[name].append(frames / seconds)
            log.info("round %d of %d, %-16s %6.2f frames/s", number, rounds, name, frames / seconds)
    return rates
