"""The commands: compose the configuration, check it, call the work. No work is done here.

Only what composing needs is imported at the top, so that ``--help`` and ``--cfg job`` answer at once.
"""

import argparse
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from clipfeat.cli.config import ComposerConfig
from clipfeat.cli.schemas import COMMANDS, register_schemas
from clipfeat.config.folder import config_dir
from clipfeat.data.config import LAYOUTS
from clipfeat.errors import ClipfeatError, ConfigError, one_line
from clipfeat.evaluate.config import EvaluateConfig
from clipfeat.extraction.config import ExtractConfig
from clipfeat.fusion.config import FitHeadConfig, TrainConfig
from clipfeat.queries.config import QueryConfig
from clipfeat.results.config import EXPORT_FORMATS, ExportConfig, FuseConfig, PicturesConfig
from clipfeat.system.shards import begun_file

if TYPE_CHECKING:
    from types import FrameType

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130

_MANDATORY = {
    "data.root": "the folder that holds one folder a scene",
    "store": "the output_dir of clipfeat-extract",
    "format": " or ".join(EXPORT_FORMATS),
}
"""What the keys are that have no default."""

_NO_SLURM = 'Could not detect "srun"'
"""What submitit says where there is no SLURM."""


def extract_main() -> None:
    """Entry point of ``clipfeat-extract``."""
    run_command("extract", _extract)


def _extract(cfg: ExtractConfig) -> None:
    if cfg.check == "only":
        from clipfeat.extraction.extract import check_only

        check_only(cfg)
        return
    if cfg.devices is not None:
        from clipfeat.extraction.launch import launch, process_count

        count = process_count(cfg.devices, cfg.device)
        if count > 1:
            launch(cfg, count, _extract_here, _set_up_process)
            return
    _extract_here(cfg)


def _extract_here(cfg: ExtractConfig) -> None:
    begun = begun_file(cfg.output_dir)
    if begun is not None and begun.is_file():
        _go_on(cfg)
    if isinstance(cfg, ComposerConfig):
        # A line a step: of what the steps say themselves, only the warnings.
        logging.getLogger("clipfeat").setLevel(logging.WARNING)
        logging.getLogger("clipfeat.cli.compose").setLevel(logging.INFO)
        from clipfeat.cli.compose import compose

        compose(cfg)
        return
    from clipfeat.extraction.extract import extract

    extract(cfg)


def _go_on(cfg: ExtractConfig) -> None:
    """A process that takes the place of one that died goes on, where ``resume=overwrite`` would begin anew."""
    cfg.resume = "true"
    if isinstance(cfg, ComposerConfig):
        cfg.fuse.resume = "true"


def export_main() -> None:
    """Entry point of ``clipfeat-export``."""
    run_command("export", _export)


def _export(cfg: ExportConfig) -> None:
    from clipfeat.results.export import export

    export(cfg)


def report_main() -> None:
    """Entry point of ``clipfeat-report``."""
    parser = argparse.ArgumentParser(
        prog="clipfeat-report", description="Writes report.html into the folder of a run of clipfeat-extract."
    )
    parser.add_argument("path", metavar="PATH", type=Path, help="the run's output_dir")
    path = parser.parse_args().path
    from clipfeat.output.report import open_run, write_report

    with _told_in_a_line():
        print(write_report(open_run(path)))


def fuse_main() -> None:
    """Entry point of ``clipfeat-fuse``."""
    run_command("fuse", _fuse)


def _fuse(cfg: FuseConfig) -> None:
    from clipfeat.results.fuse import fuse

    fuse(cfg)


def train_main() -> None:
    """Entry point of ``clipfeat-train``."""
    run_command("train", _train)


def _train(cfg: TrainConfig) -> None:
    from clipfeat.fusion.train import train

    train(cfg)


def inspect_main() -> None:
    """Entry point of ``clipfeat-inspect``, which has no configuration."""
    parser = argparse.ArgumentParser(
        prog="clipfeat-inspect",
        description="Tells what is in a folder: a run, scenes of clipfeat-fuse, a cache of maps, or a uv index.",
        epilog="Ends with code 1 if something is broken. Changes nothing.",
    )
    parser.add_argument("path", type=Path, help="the folder")
    parser.add_argument("--verify", action="store_true", help="read every file, and list those that are damaged")
    arguments = parser.parse_args()
    from clipfeat.results.inspect import inspect_folder

    with _told_in_a_line():
        found = inspect_folder(arguments.path, verify=arguments.verify)
    print(found.text())
    sys.exit(EXIT_ERROR if found.broken else 0)


def query_main() -> None:
    """Entry point of ``clipfeat-query``."""
    run_command("query", _query)


def _query(cfg: QueryConfig) -> None:
    from clipfeat.queries.ask import query

    query(cfg)


def vis_main() -> None:
    """Entry point of ``clipfeat-vis``."""
    run_command("vis", _draw)


def _draw(cfg: PicturesConfig) -> None:
    from clipfeat.results.draw import draw

    draw(cfg)


def evaluate_main() -> None:
    """Entry point of ``clipfeat-evaluate``."""
    run_command("evaluate", _evaluate)


def _evaluate(cfg: EvaluateConfig) -> None:
    from clipfeat.evaluate.run import evaluate

    evaluate(cfg)


def fit_head_main() -> None:
    """Entry point of ``clipfeat-fit-head``."""
    run_command("fit-head", _fit_head)


def _fit_head(cfg: FitHeadConfig) -> None:
    from clipfeat.fusion.fit_head import fit_head

    fit_head(cfg)


def view_main() -> None:
    """Entry point of ``clipfeat-view``, which has no configuration."""
    parser = argparse.ArgumentParser(
        prog="clipfeat-view",
        description="Shows fused scenes in a browser: points, cameras, and a box to colour the points by a text.",
        epilog="Ctrl-C ends it.",
    )
    parser.add_argument("path", type=Path, help="folder of clipfeat-fuse, a file of it, or a run that was fused")
    parser.add_argument("--port", type=int, default=8080, help="if it is taken, the next free one (default 8080)")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines look (default 127.0.0.1)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _terminate)
    with _told_in_a_line():
        from clipfeat.results.view import Viewer

        viewer = Viewer(arguments.path, arguments.host, arguments.port)
        try:
            print(f"clipfeat: {arguments.path} is shown at {viewer.url} until Ctrl-C", flush=True)
            threading.Event().wait()
        except KeyboardInterrupt:
            print("clipfeat: the viewer has ended")
        finally:
            viewer.close()


@contextmanager
def _told_in_a_line() -> Iterator[None]:
    """For commands without a configuration: turns what goes wrong into an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except ClipfeatError as error:
        print(f"clipfeat: {error}", file=sys.stderr)
        sys.exit(EXIT_ERROR)


def run_command(config_name: str, work: Callable[[Any], None]) -> None:
    """Composes ``config_name`` with the command line, calls ``work`` and turns what goes wrong into an exit code."""
    register_schemas()
    _set_up_process()
    # With this set, Hydra hands every exception over as it is instead of printing it its own way.
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"

    def task(cfg: DictConfig) -> None:
        if not issubclass(OmegaConf.get_type(cfg) or dict, COMMANDS[config_name]):
            raise ConfigError(f"--config-name={HydraConfig.get().job.config_name}: is not for clipfeat-{config_name}")
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            cfg.output_dir = str(Path(cfg.output_dir) / sweep_folder(HydraConfig.get().overrides.task))
        work(OmegaConf.to_object(cfg))

    def report(error: Exception) -> None:
        if wants_traceback:
            raise error
        print(f"clipfeat: {explain(error, _asked_for(config_name))}", file=sys.stderr)
        sys.exit(EXIT_ERROR)

    def run_task(cfg: DictConfig) -> None:
        _show_own_messages()  # a launcher may have brought the task to another process
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            task(cfg)  # Hydra names the failed job of a sweep
            return
        try:
            task(cfg)
        except (ClipfeatError, OmegaConfBaseException) as error:
            report(error)

    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)(run_task)()
    except KeyboardInterrupt as stop:
        how_far = str(stop) or "what was finished is kept, the same command goes on from there"
        print(f"clipfeat: interrupted; {how_far}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except (ClipfeatError, HydraException, OmegaConfBaseException) as error:
        report(error)
    except RuntimeError as error:
        if not _of_launcher(error):
            raise
        report(error)


class _Beginning(logging.Formatter):
    """Lets each line begin with the same, for a table is several."""

    def __init__(self, begin: str):
        super().__init__("%(message)s")
        self.begin = begin

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(self.begin + line for line in super().format(record).split("\n"))


def _set_up_process(begin: str = "") -> None:
    """Says what is printed, and what a signal does; each line begins with ``begin``."""
    _show_own_messages(begin)
    signal.signal(signal.SIGTERM, _terminate)


def _show_own_messages(begin: str = "") -> None:
    """Lets only clipfeat speak: what other packages log or warn of is said here once, in short, or is an error."""
    # open_clip and the hub's client log on the root logger.
    logging.basicConfig(level=logging.CRITICAL, format="%(message)s", stream=sys.stderr)
    if begin:
        logging.getLogger().handlers[0].setFormatter(_Beginning(begin))
    logging.getLogger("clipfeat").setLevel(logging.INFO)
    # Pillow's own opinion of large pictures: those that are too large are told by an error.
    warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")


def _asked_for(config_name: str) -> str:
    """The primary configuration that ``--config-name`` names in place of the command's own, if it is one of ours."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-name", "-cn")
    name: str | None = parser.parse_known_args()[0].config_name
    return name if name in COMMANDS else config_name


def _terminate(_signum: int, _frame: "FrameType | None") -> None:
    """SIGTERM (what SLURM and ``kill`` send) ends a run as cleanly as Ctrl-C."""
    raise KeyboardInterrupt


def sweep_folder(overrides: list[str]) -> str:
    """Name of a sweep job's own folder inside ``output_dir``.

    It follows from the job's overrides alone, so jobs of one sweep never collide and a repeated sweep resumes. Shards
    of one run share a folder.
    The readable part may be cut and its odd characters replaced; the hash of the exact overrides keeps it unique.
    """
    overrides = [o for o in overrides if not o.lstrip("+").startswith("shard.")]
    own = [o for o in overrides if not o.lstrip("+").startswith("output_dir=")]
    readable = re.sub(r"[^A-Za-z0-9_.=+-]+", "-", ",".join(own)).strip("-.")[:80]
    digest = sha256("\n".join(overrides).encode()).hexdigest()[:8]
    return f"{readable or 'default'}-{digest}"


def explain(error: Exception, config_name: str) -> str:
    """One line of what is wrong with the input and what to do; Hydra's and OmegaConf's own messages are rewritten.

    Args:
        error: what was raised.
        config_name: of the primary configuration: extract, composer, …
    """
    if isinstance(error, ClipfeatError):
        return str(error)
    if _of_launcher(error):
        return _launcher_says(str(error))
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(cause, OmegaConfBaseException) and cause is not error:
        lines += [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = " ".join(lines)
    if isinstance(cause, MissingMandatoryValue) or "Missing mandatory value" in text:
        match = re.search(r"Missing mandatory value: (\S+)", text)
        key = match[1] if match else getattr(cause, "full_key", None) or "a key"
        hint = f": give {_MANDATORY[key]}" if key in _MANDATORY else ""
        return f"{key} is not set{hint}, as {key}=…"
    if match := re.search(r"In '([^']+)/([^']+)': \w+ raised while composing config: .*full_key: (\S+)", text):
        group, choice, key = match.groups()
        return f"{group}={choice} sets {key}, which the chosen {key.split('.')[0]} has not, or has of another type"
    if match := re.search(r"Error parsing override '([^']*)'", text):
        return f"cannot read the override '{match.group(1)}': expected key=value"
    if match := re.search(r"Ambiguous value for argument '([^=]*)=(.*?)' 1\.", text):
        key, value = match.groups()
        return f"{key}={value}: a list is written {key}=[…,…], and a text with a comma \"{key}='{value}'\""
    if match := re.search(r"Could not override '([^']+)'.*?(?:is not in struct|not in '|not a)", text):
        return _unknown_key(match.group(1), config_name)
    if match := re.search(r"Could not (?:find|load) 'hydra/launcher/(submitit_local|submitit_slurm)'", text):
        return f'hydra/launcher={match[1]}: needs packages of its own: pip install "clipfeat[slurm]"'
    if match := re.search(
        r"Could not find '([^']+)/([^'/]+)' Available options in '([^']+)': (.*?)(?: Config search|$)", text
    ):
        group, choice, _, options = match.groups()
        valid = [o for o in options.split() if not o.endswith("_schema")]
        return f"{group}={choice}: no such choice, expected one of {', '.join(valid)}"
    if isinstance(cause, OmegaConfBaseException) and getattr(cause, "full_key", None):
        reason = str(getattr(cause, "msg", None) or cause).splitlines()[0]
        return f"{cause.full_key}: {reason}"
    return text


def _of_launcher(error: Exception) -> bool:
    """Whether it is about the jobs of a sweep and not of what they do."""
    return type(error).__module__.startswith("submitit.") or _NO_SLURM in str(error)


def _launcher_says(text: str) -> str:
    if _NO_SLURM in text:
        return "hydra/launcher: there is no srun here; go to a machine of the cluster, or take submitit_local"
    # What happened, the job's own words, where its logs are.
    parts = re.split(r"\n?-{5,}\n?", text)
    last = parts[1].strip().splitlines()[-1:] if len(parts) > 1 else []
    what = " ".join([*parts[0].split(), *last])
    return one_line(f"a job of the sweep could not be started or was lost, the same command goes on: {what}")


def _unknown_key(key: str, config_name: str) -> str:
    names = _known_keys(config_name)
    if key in names:
        return f"{key}: not a key of the chosen {key.split('.')[0]}; it belongs to another choice of that group"
    near = get_close_matches(key, names, n=3, cutoff=0.6) or [n for n in names if n.rsplit(".", 1)[-1] == key]
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; {_command(config_name)} --help lists the keys"
    return f"{key}: no such key{hint}"


def _command(config_name: str) -> str:
    return "clipfeat-extract --config-name composer" if config_name == "composer" else f"clipfeat-{config_name}"


def _known_keys(config_name: str) -> list[str]:
    """Dotted names of all keys of all choices of a command."""

    def walk(node: dict[str, Any], prefix: str) -> list[str]:
        found = []
        for name, child in node.items():
            found.append(f"{prefix}{name}")
            if isinstance(child, dict):
                found += walk(child, f"{prefix}{name}.")
        return found

    every = asdict(COMMANDS[config_name]())
    if "data" not in every:
        return walk(every, "")
    layouts = dict.fromkeys(f"data.{f.name}" for layout, _ in LAYOUTS.values() for f in fields(layout))
    return walk(every | {"data": {}}, "") + list(layouts)
