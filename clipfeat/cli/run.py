"""How a command runs: its process is set up, its configuration composed, and what goes wrong becomes an exit code."""

import argparse
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clipfeat.cli.explain import explain, of_launcher
from clipfeat.cli.flags import FlagError
from clipfeat.cli.keys import command_of
from clipfeat.cli.main import EXIT_USAGE, own_version
from clipfeat.cli.schemas import COMMANDS, register_schemas, store_shared
from clipfeat.cli.typed import for_hydra
from clipfeat.config.folder import config_dir
from clipfeat.config.paths import expand_home, with_home
from clipfeat.errors import CannotTellError, ClipfeatError, ConfigError
from clipfeat.system.collector import no_last_collection

if TYPE_CHECKING:
    from types import FrameType

EXIT_ERROR = 1
EXIT_CANNOT_TELL = 2
EXIT_INTERRUPTED = 130

_READABLE, _OVERRIDE = 130, 48
"""Characters of the readable part of a sweep's folder, and of each override in it: some disks take 143 a name."""


def options(group: str) -> str:
    """The choices of a group, as ``--help`` lists them: the names of its YAML files."""
    return " | ".join(sorted(path.stem for path in (config_dir() / group).glob("*.yaml")))


def run_command(config_name: str, work: Callable[[Any], None]) -> None:
    """Composes ``config_name`` with the command line, calls ``work`` and turns what goes wrong into an exit code."""
    _answer_version()
    register_schemas()
    OmegaConf.register_new_resolver("options", options, replace=True)  # which the help asks
    OmegaConf.register_new_resolver("home", with_home, replace=True)  # which Hydra's own folder asks
    set_up_process()
    # With this set, Hydra hands every exception over as it is instead of printing it its own way.
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"

    def task(cfg: DictConfig) -> None:
        if not issubclass(OmegaConf.get_type(cfg) or dict, COMMANDS[config_name]):
            raise ConfigError(
                f"--config-name={HydraConfig.get().job.config_name}: is not for {command_of(config_name)}"
            )
        expand_home(cfg)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            own: Any = cfg if cfg.output_dir else OmegaConf.to_object(cfg)  # of some commands null stands for a folder
            cfg.output_dir = str(Path(own.output_dir) / sweep_folder(HydraConfig.get().overrides.task))
        work(OmegaConf.to_object(cfg))

    def report(error: Exception) -> None:
        if wants_traceback:
            raise error
        print(f"clipfeat: {explain(error, _asked_for(config_name))}", file=sys.stderr)
        sys.exit(_exit_code(error))

    began = False

    def run_task(cfg: DictConfig) -> None:
        nonlocal began
        began = True
        _show_own_messages()  # a launcher may have brought the task to another process
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            task(cfg)  # Hydra names the failed job of a sweep
            return
        try:
            with _interrupt_kept():
                task(cfg)
        except (ClipfeatError, OmegaConfBaseException) as error:
            report(error)

    try:
        sys.argv = [sys.argv[0], *for_hydra(sys.argv[1:], config_name)]
        with _interrupt_kept(), store_shared(), late_help_accepted():
            hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)(run_task)()
    except KeyboardInterrupt as stop:
        how_far = str(stop) or "what was finished is kept, the same command goes on from there"
        print(f"clipfeat: interrupted; {how_far}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except (ClipfeatError, HydraException, OmegaConfBaseException) as error:
        report(error)
    except (RuntimeError, TypeError, ValueError, yaml.YAMLError) as error:
        # Hydra's and YAML's own, of what it can't compose; what the work raises is a fault of ours.
        if began and not of_launcher(error):
            raise
        report(error)


@contextmanager
def _interrupt_kept() -> Iterator[None]:
    """Ctrl-C stays what it is where it comes in the middle of a thing that then can't be put back, as in OmegaConf."""
    try:
        yield
    except ClipfeatError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while not isinstance(cause, KeyboardInterrupt | None):
            cause = cause.__context__
        if cause is None:
            raise
        raise cause from None


@contextmanager
def late_help_accepted() -> Iterator[None]:
    """Lets Hydra's parser have a help that becomes text only when it is shown; argparse of Python 3.14 wants text."""
    owner = next((c for c in argparse.ArgumentParser.__mro__ if "_check_help" in vars(c)), None)
    if owner is None:  # before Python 3.14 nothing is checked
        yield
        return
    check = vars(owner)["_check_help"]

    def check_texts(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
        if isinstance(action.help, str):
            check(parser, action)

    owner._check_help = check_texts  # type: ignore[attr-defined]
    try:
        yield
    finally:
        owner._check_help = check  # type: ignore[attr-defined]


@contextmanager
def told_in_a_line() -> Iterator[None]:
    """For commands without a configuration: turns what goes wrong into an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except ClipfeatError as error:
        print(f"clipfeat: {error}", file=sys.stderr)
        sys.exit(EXIT_ERROR)


class _Beginning(logging.Formatter):
    """Lets each line begin with the same, for a table is several."""

    def __init__(self, begin: str):
        super().__init__("%(message)s")
        self.begin = begin

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(self.begin + line for line in super().format(record).split("\n"))


def set_up_process(begin: str = "") -> None:
    """Says what is printed, what a signal does, and how it ends; each line begins with ``begin``."""
    no_last_collection()
    _show_own_messages(begin)
    signal.signal(signal.SIGTERM, terminate)


def _show_own_messages(begin: str = "") -> None:
    """Lets only clipfeat speak: what other packages log or warn of is said here once, in short, or is an error."""
    # open_clip and the hub's client log on the root logger.
    logging.basicConfig(level=logging.CRITICAL, format="%(message)s", stream=sys.stderr)
    if begin:
        logging.getLogger().handlers[0].setFormatter(_Beginning(begin))
    logging.getLogger("clipfeat").setLevel(logging.INFO)
    # Pillow's own opinion of pictures that are large or cut off: an error tells it, in a line.
    for words in ("Image size .* could be decompression bomb", "Corrupt EXIF data"):
        warnings.filterwarnings("ignore", message=words)


def terminate(_signum: int, _frame: "FrameType | None") -> None:
    """SIGTERM (what SLURM and ``kill`` send) ends a run as cleanly as Ctrl-C."""
    raise KeyboardInterrupt


def _answer_version() -> None:
    """Ends the process with our version if the command line asks for one: Hydra's parser would tell its own."""
    parser = argparse.ArgumentParser(add_help=False)
    add_version(parser)
    parser.parse_known_args()


def add_version(parser: argparse.ArgumentParser) -> None:
    """Lets a command line ask for the version of clipfeat."""
    parser.add_argument("--version", action="version", version=f"clipfeat {own_version()}")


def _exit_code(error: Exception) -> int:
    if isinstance(error, FlagError):
        return EXIT_USAGE
    return EXIT_CANNOT_TELL if isinstance(error, CannotTellError) else EXIT_ERROR


def _asked_for(config_name: str) -> str:
    """The primary configuration that ``--config-name`` names in place of the command's own, if it is one of ours."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-name", "-cn")
    name: str | None = parser.parse_known_args()[0].config_name
    return name if name in COMMANDS else config_name


def sweep_folder(overrides: list[str]) -> str:
    """Name of a sweep job's own folder inside ``output_dir``.

    It follows from the job's overrides alone, so jobs of one sweep never collide and a repeated sweep resumes. Shards
    of one run share a folder.
    The readable part may be cut and its odd characters replaced; the hash of the exact overrides keeps it unique. Of
    paths it has the last name alone, after all else: they are long, mostly the same in each job, and would leave no
    room for what is swept.
    """
    overrides = [o for o in overrides if not o.lstrip("+").startswith("shard.")]
    own = [o for o in overrides if not o.lstrip("+").startswith("output_dir=")]
    short = [
        f"{key.replace('/', '.')}={Path(value).name}"[:_OVERRIDE] for key, _, value in (o.partition("=") for o in own)
    ]
    of_paths = ["/" in override.partition("=")[2] for override in own]
    shown = [s for last in (False, True) for s, of_path in zip(short, of_paths, strict=True) if of_path == last]
    readable = re.sub(r"[^A-Za-z0-9_.=+-]+", "-", ",".join(shown)).strip("-.")[:_READABLE]
    digest = sha256("\n".join(overrides).encode()).hexdigest()[:8]
    return f"{readable or 'default'}-{digest}"
