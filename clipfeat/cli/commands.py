"""The commands: an entry point each, which lets the configuration be composed and calls the work. No work is done here.

Only what composing needs is imported at the top, so that ``--help`` and ``--cfg job`` answer at once.
"""

import argparse
import logging
import re
import signal
import sys
import time
from pathlib import Path

from clipfeat.cli.config import ComposerConfig
from clipfeat.cli.main import pipe_may_close, program
from clipfeat.cli.run import EXIT_ERROR, add_version, run_command, set_up_process, terminate, told_in_a_line
from clipfeat.evaluate.config import EvaluateConfig
from clipfeat.extraction.config import ExtractConfig
from clipfeat.fusion.config import FitHeadConfig, TrainConfig
from clipfeat.mapping.config import MapConfig
from clipfeat.protocols.config import ProtocolConfig
from clipfeat.queries.config import QueryConfig
from clipfeat.results.config import ExportConfig, FuseConfig, PicturesConfig
from clipfeat.system.collector import uncollected
from clipfeat.system.shards import begun_file


@pipe_may_close()
def extract_main() -> None:
    """Entry point of ``clipfeat-extract``."""
    run_command("extract", _extract)


def _extract(cfg: ExtractConfig) -> None:
    if cfg.check == "only":
        from clipfeat.extraction.checked import check_only

        check_only(cfg)
        return
    if cfg.devices is not None:
        from clipfeat.extraction.launch import launch, process_count

        count = process_count(cfg.devices, cfg.device)
        if count > 1:
            launch(cfg, count, _extract_here, set_up_process)
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
    with uncollected():
        from clipfeat.extraction.extract import extract

    extract(cfg)


def _go_on(cfg: ExtractConfig) -> None:
    """A process that takes the place of one that died goes on, where ``resume=overwrite`` would begin anew."""
    cfg.resume = "true"
    if isinstance(cfg, ComposerConfig):
        cfg.fuse.resume = "true"


@pipe_may_close()
def export_main() -> None:
    """Entry point of ``clipfeat-export``."""
    run_command("export", _export)


def _export(cfg: ExportConfig) -> None:
    from clipfeat.results.export import export

    export(cfg)


@pipe_may_close()
def report_main() -> None:
    """Entry point of ``clipfeat-report``."""
    parser = _parser("report", "Writes report.html into the folder of a run of clipfeat-extract.")
    parser.add_argument("path", metavar="PATH", type=Path, help="the run's output_dir")
    path = parser.parse_args().path
    from clipfeat.output.report import open_run, write_report

    with told_in_a_line():
        print(write_report(open_run(path)))


@pipe_may_close()
def fuse_main() -> None:
    """Entry point of ``clipfeat-fuse``."""
    run_command("fuse", _fuse)


def _fuse(cfg: FuseConfig) -> None:
    from clipfeat.results.fuse import fuse

    fuse(cfg)


@pipe_may_close()
def map_main() -> None:
    """Entry point of ``clipfeat-map``."""
    run_command("map", _map)


def _map(cfg: MapConfig) -> None:
    from clipfeat.mapping.run import make_maps

    make_maps(cfg)


@pipe_may_close()
def train_main() -> None:
    """Entry point of ``clipfeat-train``."""
    run_command("train", _train)


def _train(cfg: TrainConfig) -> None:
    from clipfeat.fusion.train import train

    train(cfg)


@pipe_may_close()
def inspect_main() -> None:
    """Entry point of ``clipfeat-inspect``, which has no configuration."""
    parser = _parser(
        "inspect",
        "Tells what is in a folder: a run, scenes of clipfeat-fuse, a cache of maps, or a uv index; or a recording, "
        "and which layout reads it.",
        "Ends with code 1 if something is broken. Changes nothing.",
    )
    parser.add_argument("path", type=Path, help="the folder, or a file that is a recording")
    parser.add_argument("--verify", action="store_true", help="read every file, and list those that are damaged")
    arguments = parser.parse_args()
    from clipfeat.data.layouts import layouts
    from clipfeat.errors import NoResultsError
    from clipfeat.results.inspect import inspect_folder
    from clipfeat.results.inspect_recording import inspect_recording

    with told_in_a_line():
        try:
            found = [inspect_folder(arguments.path, verify=arguments.verify)]
        except NoResultsError:
            found = inspect_recording(arguments.path, layouts())
    print("\n\n".join(one.text() for one in found))
    sys.exit(EXIT_ERROR if any(one.broken for one in found) else 0)


@pipe_may_close()
def query_main() -> None:
    """Entry point of ``clipfeat-query``."""
    run_command("query", _query)


def _query(cfg: QueryConfig) -> None:
    from clipfeat.queries.ask import query, ranking

    print(ranking(query(cfg), cfg.top))


@pipe_may_close()
def vis_main() -> None:
    """Entry point of ``clipfeat-vis``."""
    run_command("vis", _draw)


def _draw(cfg: PicturesConfig) -> None:
    from clipfeat.results.draw import draw

    draw(cfg)


@pipe_may_close()
def evaluate_main() -> None:
    """Entry point of ``clipfeat-evaluate``: of features of frames, or with ``protocol=…`` of fused scenes."""
    if any(re.match(r"\+{0,2}protocol=", word) for word in sys.argv[1:]):
        run_command("protocol", _evaluate_protocol)
    else:
        run_command("evaluate", _evaluate)


def _evaluate(cfg: EvaluateConfig) -> None:
    from clipfeat.evaluate.run import evaluate
    from clipfeat.evaluate.table import brief

    print(brief(evaluate(cfg)["rows"]))


def _evaluate_protocol(cfg: ProtocolConfig) -> None:
    from clipfeat.protocols.run import evaluate_protocol
    from clipfeat.protocols.tell import numbers_table

    print(numbers_table(evaluate_protocol(cfg)))


@pipe_may_close()
def fit_head_main() -> None:
    """Entry point of ``clipfeat-fit-head``."""
    run_command("fit-head", _fit_head)


def _fit_head(cfg: FitHeadConfig) -> None:
    from clipfeat.fusion.fit_head import fit_head

    fit_head(cfg)


@pipe_may_close()
def view_main() -> None:
    """Entry point of ``clipfeat-view``, which has no configuration."""
    parser = _parser(
        "view",
        "Shows fused scenes in a browser: points, cameras, and a box to colour the points by a text.",
        "Ctrl-C ends it.",
    )
    parser.add_argument("path", type=Path, help="folder of clipfeat-fuse, a file of it, or a run that was fused")
    parser.add_argument("--port", type=int, default=8080, help="if it is taken, the next free one (default 8080)")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines look (default 127.0.0.1)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, terminate)
    with told_in_a_line():
        from clipfeat.results.view import Viewer

        viewer = Viewer(arguments.path, arguments.host, arguments.port)
        try:
            print(f"clipfeat: {arguments.path} is shown at {viewer.url} until Ctrl-C", flush=True)
            while True:  # what comes right before a wait without an end would not be noticed in it
                time.sleep(1)
                viewer.refresh()
        except KeyboardInterrupt:
            print("clipfeat: the viewer has ended")
        finally:
            viewer.close()


def _parser(name: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """Of a command without a configuration, which Hydra does not read the command line of."""
    parser = argparse.ArgumentParser(prog=program(name), description=description, epilog=epilog)
    add_version(parser)
    return parser
