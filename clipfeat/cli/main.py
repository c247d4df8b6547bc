"""One command for all of them: ``clipfeat extract …`` is ``clipfeat-extract …``.

Nothing is imported but the command that is asked for, so that ``clipfeat --help`` answers at once.
"""

import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module

SUBCOMMANDS = {
    "extract": ("clipfeat.cli.commands:extract_main", "posed RGB-D scans to per-point CLIP features: begin here"),
    "export": ("clipfeat.cli.commands:export_main", "the features of a run in the files that other projects read"),
    "fuse": ("clipfeat.cli.commands:fuse_main", "all frames of a scene merged onto its mesh, or onto voxels"),
    "map": ("clipfeat.cli.commands:map_main", "a map of a scene that grows frame by frame while it is recorded"),
    "query": ("clipfeat.cli.commands:query_main", "where frames, or fused scenes, look like a text or an example"),
    "vis": ("clipfeat.cli.commands:vis_main", "the pictures of a run, drawn from its features without the model"),
    "inspect": ("clipfeat.cli.commands:inspect_main", "what is in a folder, and whether it is whole"),
    "report": ("clipfeat.cli.commands:report_main", "report.html, a run as one page"),
    "train": ("clipfeat.cli.commands:train_main", "the Bi-Fusion encoder, trained on labelled frames"),
    "view": ("clipfeat.cli.commands:view_main", "fused scenes in a browser"),
    "evaluate": ("clipfeat.cli.commands:evaluate_main", "which features are better, measured on labelled frames"),
    "fit-head": ("clipfeat.cli.commands:fit_head_main", "weights for model/head=proj128, fitted without labels"),
}
"""By name where each command is, and what it is for; pyproject.toml makes a program ``clipfeat-<name>`` of each."""

EXIT_USAGE = 2
"""As argparse ends where a command line can't be understood."""

_HELP = """\
Lifts frozen CLIP features from posed RGB-D frames onto 3D points.

  clipfeat COMMAND …         runs a command; clipfeat-COMMAND … is the same
  clipfeat COMMAND --help    tells what it takes, with examples
  clipfeat --version         tells which clipfeat this is

Commands
{commands}

Try it: clipfeat extract experiment=demo"""

EXIT_PIPE = 141
"""As a shell tells of a program that wrote to one that had ended: 128 and the number of SIGPIPE."""

_one_command = False


@contextmanager
def pipe_may_close() -> Iterator[None]:
    """Lets a command end without a word where nobody reads on, as in ``clipfeat --help | head``.

    Processes talk by pipes among themselves, too: an end of one of those stays an error.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        # Python writes out what is left when it ends, and would tell of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(EXIT_PIPE)


def _nobody_reads() -> bool:
    """Whether standard output or standard error is a pipe whose other end has gone."""
    from select import POLLERR, poll

    asked = poll()
    for number in (1, 2):
        asked.register(number, 0)
    return any(what & POLLERR for _, what in asked.poll(0))


@pipe_may_close()
def main() -> None:
    """Entry point of ``clipfeat``: hands over to the command that its first argument names."""
    name, *arguments = sys.argv[1:] or [""]
    if name in ("--help", "-h"):
        print(_help())
    elif name == "--version":
        print(f"clipfeat {own_version()}")
    elif name in SUBCOMMANDS:
        _call(name, arguments)
    else:
        print(_no_such_command(name) if name else _help(), file=sys.stderr)
        sys.exit(EXIT_USAGE)


def program(name: str) -> str:
    """What a user calls a command by: ``clipfeat extract`` or ``clipfeat-extract``, whichever was typed."""
    return f"clipfeat {name}" if _one_command else f"clipfeat-{name}"


def own_version() -> str:
    """The version of clipfeat."""
    # Not by an import of the name: a room imports no face, but the package itself is always loaded.
    return str(import_module("clipfeat").__version__)


def _call(name: str, arguments: list[str]) -> None:
    global _one_command
    module, function = SUBCOMMANDS[name][0].split(":")
    entry = getattr(import_module(module), function)
    # Hydra reads it, and what starts the same command again has a program of its own there.
    sys.argv = [f"{sys.argv[0]}-{name}", *arguments]
    _one_command = True
    try:
        if {"--help", "-h"} & set(arguments):
            _show_help(entry)
        else:
            entry()
    finally:
        _one_command = False


def _show_help(entry: Callable[[], None]) -> None:
    shown = io.StringIO()
    try:
        with redirect_stdout(shown):
            entry()
    finally:
        print(_as_typed(shown.getvalue()), end="")


def _as_typed(text: str) -> str:
    """A help text, which is written for ``clipfeat-extract``, for those who type ``clipfeat extract``."""
    names = "|".join(SUBCOMMANDS)
    # A line may have been broken after the hyphen.
    return re.sub(rf"(?<![\w./-])clipfeat-(\s*)({names})(?![\w/-])", lambda m: f"clipfeat{m[1] or ' '}{m[2]}", text)


def _help() -> str:
    width = max(map(len, SUBCOMMANDS))
    return _HELP.format(commands="\n".join(f"  {name:<{width}}  {what}" for name, (_, what) in SUBCOMMANDS.items()))


def _no_such_command(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, SUBCOMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "clipfeat --help lists them"
    return f"clipfeat: {name}: no such command; {hint}"
