"""Several processes on this machine, by torch's elastic launcher: ``devices=…``."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.multiprocessing.spawn import ProcessExitedException

from clipfeat.data.layouts import build_dataset
from clipfeat.data.selection import frame_keys, list_scenes
from clipfeat.errors import ClipfeatError, ConfigError, tell_how_far
from clipfeat.extraction.config import ExtractConfig
from clipfeat.model.load import resolve_device
from clipfeat.output.run_folder import RunFolder
from clipfeat.system.shards import this_shard, usable_cores
from clipfeat.system.streaming import end_with_parent

if TYPE_CHECKING:
    from types import FrameType

log = logging.getLogger(__name__)

MAX_RESTARTS = 10
"""How often the processes are started again after one of them died."""

_CORES_A_PROCESS = 4

_STOPS = (signal.SIGINT, signal.SIGTERM)

_TRACKER_FILTER = "ignore:resource_tracker"

_PRELOADED = ["open_clip", "clipfeat.extraction.extract"]
"""What takes a process seconds to import: see ``start_method``."""

_LONGEST_FOLDER = 60
"""Of temporary files, where the server of processes listens: a socket's whole path has 108 bytes."""

_TORCH_LOGGERS = ("torch.distributed.elastic", "torch.multiprocessing.spawn")


def process_count(devices: str | None, device: str) -> int:
    """How many processes ``devices=…`` means: auto is one for four cores on each GPU, and one where none is used.

    A GPU waits for one process, whose threads share Python's lock. More processes than GPUs share them, and their
    memory; of a number that is told, for it may be a slip.

    Args:
        devices: auto, a number, or None.
        device: auto, cpu, cuda or cuda:<n>.

    Raises:
        ConfigError: If there is no such device here.
    """
    gpus = torch.cuda.device_count() if resolve_device(device).type == "cuda" else 0
    if devices == "auto":
        return gpus * max(1, usable_cores() // gpus // _CORES_A_PROCESS) if gpus else 1
    count = int(devices or 1)
    if 0 < gpus < count:
        log.warning("WARNING devices=%d: this machine shows %d GPUs, which the processes share", count, gpus)
    return count


def launch(
    cfg: ExtractConfig, count: int, work: Callable[[ExtractConfig], None], set_up: Callable[[str], None]
) -> None:
    """Runs ``work(cfg)`` in several processes, each a shard. When one dies, all are started again and go on.

    Args:
        cfg: what to run.
        count: of processes.
        work: a function that can be imported by its name.
        set_up: called first in each process, with what its messages begin with; can be imported by its name, too.

    Raises:
        ConfigError: If this process is one of several shards itself.
        ClipfeatError: If a process ended with an error, which ends all, or if processes died again and again.
        KeyboardInterrupt: If this process was interrupted; all are ended then. It tells how many frames are done.
    """
    own = this_shard(cfg.shard.index, cfg.shard.count)
    if cfg.shard.count is not None or not own.is_whole:
        raise ConfigError(
            f"devices={cfg.devices} starts {count} shards, but this process is shard {own.index} of {own.count} "
            f"already, as shard.index and shard.count, torchrun or SLURM say; leave out the one or the other"
        )
    log.info("%d processes are started; each says [its number] and takes a share of the scenes", count)
    try:
        _run(count, work, cfg, set_up)
    except (KeyboardInterrupt, SignalException) as error:
        stop = error if isinstance(error, KeyboardInterrupt) else KeyboardInterrupt()
        with suppress(ClipfeatError):
            frames = frame_keys(list_scenes(cfg, build_dataset(cfg.data), {}))
            done = RunFolder(Path(cfg.output_dir), cfg.output.name, cfg.output.dtype).done(frames)
            tell_how_far(stop, len(done), len(frames), Path(cfg.output_dir), overwrite=cfg.resume == "overwrite")
        raise stop from error
    except ChildFailedError as error:
        raise ClipfeatError(
            f"processes died {MAX_RESTARTS + 1} times, the last: {error.get_first_failure()[1].message}; what was "
            f"finished is kept, the same command goes on from there"
        ) from error


def start_method() -> str:
    """How the processes begin: as copies of a server that has imported all they need, where there can be one.

    They begin at once then, also those that are started again, and share that memory. The server computes nothing and
    touches no GPU, so that a copy of it may. What macOS loads may not outlive a fork.
    """
    fits = len(os.fsencode(gettempdir())) <= _LONGEST_FOLDER
    return "forkserver" if sys.platform == "linux" and fits else "spawn"


def _run(count: int, work: Callable[[ExtractConfig], None], cfg: ExtractConfig, set_up: Callable[[str], None]) -> None:
    # Semaphores of a process that was killed are cleared away by Python's own tracker, which need not tell of it. It is
    # started by the first queue, as a process, and hears of this only so.
    filters = [entry for entry in os.environ.get("PYTHONWARNINGS", "").split(",") if entry and entry != _TRACKER_FILTER]
    os.environ["PYTHONWARNINGS"] = ",".join([*filters, _TRACKER_FILTER])
    context = multiprocessing.get_context(start_method())
    context.set_forkserver_preload(_PRELOADED)
    errors: SimpleQueue[str | None] = context.SimpleQueue()
    told: list[str] = []
    watcher = threading.Thread(target=_stop_at_the_first, args=(errors, told), name="clipfeat-launch", daemon=True)
    watcher.start()
    try:
        with _signals_held_back(), _deaths_told(), TemporaryDirectory(prefix="clipfeat-launch-") as folder:
            elastic_launch(_launch_config(count, folder, context.get_start_method()), _work)(work, cfg, set_up, errors)
    except SignalException:
        if not told:
            raise
    finally:
        errors.put(None)
        watcher.join()
    if told:
        raise ClipfeatError(told[0])


def _launch_config(count: int, folder: str, method: str) -> LaunchConfig:
    own: dict[str, Any] = {
        "min_nodes": 1,
        "max_nodes": 1,
        "nproc_per_node": count,
        "run_id": f"clipfeat-{os.getpid()}",
        "rdzv_backend": "c10d",
        "rdzv_endpoint": "localhost:0",
        "local_addr": "localhost",
        "max_restarts": MAX_RESTARTS,
        "start_method": method,
        "logs_specs": DefaultLogsSpecs(log_dir=folder),  # or it leaves a folder of its own behind
        "signals_to_handle": ",".join(number.name for number in _STOPS),  # and not SIGHUP, which nohup ignores
    }
    known = {key.name for key in fields(LaunchConfig)}  # older ones always take all signals
    return LaunchConfig(**{name: value for name, value in own.items() if name in known})


def _work(
    work: Callable[[ExtractConfig], None],
    cfg: ExtractConfig,
    set_up: Callable[[str], None],
    errors: "SimpleQueue[str | None]",
) -> None:
    """Runs in each process."""
    end_with_parent()
    set_up(f"[{os.environ['RANK']}] ")
    for number in _STOPS:
        signal.signal(number, _stop_once)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)  # one that came before is heard now
        work(cfg)
    except ClipfeatError as error:
        # Nothing that starting again would mend: the process that started this one ends them all.
        errors.put(str(error))
        if signal.getsignal(signal.SIGTERM) is _stop_once:
            signal.pause()
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)  # if this process alone was stopped, its scenes are not done
    except Exception:
        log.exception("an error that should not be:")
        sys.exit(1)


def _stop_once(_signum: int, _frame: "FrameType | None") -> None:
    """Ctrl-C reaches all processes, and the first of them signals the others again: that must not disturb the end."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _stop_at_the_first(errors: "SimpleQueue[str | None]", told: list[str]) -> None:
    """Waits for an error of one of the processes and ends them all, as SIGTERM does."""
    while (message := errors.get()) is not None:
        told.append(message)
        if len(told) == 1:
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Holds signals back in the processes that are started, until they are ready for them; they inherit this.

    This process hears them in its other thread. Afterwards the handlers are put back that torch takes for itself.
    """
    handlers = {number: signal.getsignal(number) for number in (*_STOPS, signal.SIGHUP, signal.SIGQUIT)}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Deaths(logging.Handler):
    """Tells in one line of each process that died; the rest of what torch's launcher logs says nothing to a user."""

    def emit(self, record: logging.LogRecord) -> None:
        """Passes on which process it was, and of what it died."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ProcessExitedException):
            log.warning("WARNING %s; all of them are ended and go on from there", error)


@contextmanager
def _deaths_told() -> Iterator[None]:
    deaths, loggers = _Deaths(), [logging.getLogger(name) for name in _TORCH_LOGGERS]
    for logger in loggers:
        logger.addHandler(deaths)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.propagate = True
            logger.removeHandler(deaths)
