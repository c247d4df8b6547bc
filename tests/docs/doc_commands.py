"""Reads the commands of a ``bash`` block, and checks as much of them as can be without running them.

That the scripts, extras, flags, keys and values exist, and fit together. A kind of command that ``Checker`` does not
know is an error, never passed over.
"""

import argparse
import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
from conftest import CHECKOUT
from doc_schema import CONFIGS, EXTRAS, PYPROJECT, SCRIPTS, composed, entry, some_jobs


@dataclass
class Command:
    """One command of a block: what stands before it, the program and its arguments."""

    program: str
    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    def __str__(self):
        return shlex.join([self.program, *self.arguments])


def commands_of(text: str) -> list[Command]:
    """The commands of a block: a line each, or joined by &&; comments and continued lines as in a shell."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            found.append(_command(words[:end]))
            words = words[end + 1 :]
    return found


def _command(words: list[str]) -> Command:
    environment = {}
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        name, value = words.pop(0).split("=", 1)
        environment[name] = value
    assert words, "a line that sets variables and runs nothing"
    for word in words:
        assert word not in ("|", ";", ">", "||", "&"), f"{' '.join(words)}: write each command on a line of its own"
    program = words[0].removeprefix(".venv/bin/")
    return Command("python" if program == "python3" else program, words[1:], environment)


def config_of(command: Command) -> str | None:
    """The primary configuration that a command composes; None for those that have none."""
    name = command.program.removeprefix("clipfeat-")
    if name == "clipfeat" and command.arguments:
        name = command.arguments[0]
    if name == "evaluate" and any(word.startswith("protocol=") for word in command.arguments):
        name = "protocol"
    if "--config-name" in command.arguments:
        name = command.arguments[command.arguments.index("--config-name") + 1]
    return name if name in CONFIGS else None


def overrides_of(arguments: list[str]) -> list[str]:
    """The key=value among the arguments of a command that composes."""
    return [word for word in arguments if "=" in word and not word.startswith("--")]


class Checker:
    """Checks a command as far as that goes without running it."""

    def check(self, command: Command) -> None:
        """Fails if something of it does not exist, or if nobody knows what it is."""
        kinds: dict[str, Callable[[Command], None]] = {
            "python": self.check_python,
            "pip": self.check_pip,
            "pytest": self.check_pytest,
            "ruff": self.check_tool,
            "mypy": self.check_tool,
            ".ci/run": self.check_ci,
            "torchrun": self.check_torchrun,
            "srun": self.check_srun,
            "sbatch": self.check_sbatch,
        }
        if command.program in kinds:
            kinds[command.program](command)
        elif command.program == "clipfeat" or command.program in SCRIPTS:
            self.check_clipfeat(command)
        else:
            pytest.fail(
                f"'{command}': no test knows this kind of command. Teach tests/docs/doc_commands.py to run it on small "
                f"inputs, or to check that all it names exists; or leave it out of the documentation"
            )

    def check_clipfeat(self, command: Command) -> None:
        """Composes a command with a configuration, of a sweep each job; parses the arguments of the others."""
        config = config_of(command)
        if config is None:
            parsed(entry(command.program), command.arguments)
            return
        self.compose(config, overrides_of(command.arguments))

    def compose(self, config: str, overrides: list[str]) -> None:
        """Composes the jobs that these overrides mean."""
        if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None:
            overrides = [one for one in overrides if not one.startswith(("hydra/launcher=", "hydra.launcher."))]
        for job in some_jobs(overrides):
            composed(config, job)

    def check_python(self, command: Command) -> None:
        """``-m venv``, or a script of the repository."""
        if command.arguments[:2] == ["-m", "venv"]:
            assert command.arguments[2:] == [".venv"], f"{command}: environments are .venv, which git ignores"
            return
        script = CHECKOUT / command.arguments[0]
        assert script.is_file(), f"{command}: there is no {command.arguments[0]}"
        arguments = command.arguments[1:]
        if script.name == "build_uv_index.py":
            self.compose("extract", overrides_of(arguments))
            return
        found = parsed(lambda: run_script(script), arguments)
        self.compose("extract", list(getattr(found, "overrides", [])))

    def check_pip(self, command: Command) -> None:
        """That the extras exist, and that it is this checkout which is installed."""
        assert command.arguments[0] == "install", f"{command}: only pip install is known"
        wanted = [word for word in command.arguments[1:] if not word.startswith("-")]
        assert len(wanted) == 1, f"{command}: expected one thing to install"
        match = re.fullmatch(r"(?:\.|clipfeat)(?:\[([a-z0-9,]+)\])?", wanted[0])
        assert match, f"{command}: expected this checkout or clipfeat, with extras or without"
        for extra in (match[1] or "").split(",") if match[1] else []:
            assert extra in EXTRAS, f"{command}: pyproject.toml has no extra {extra}, but {', '.join(sorted(EXTRAS))}"

    def check_pytest(self, command: Command) -> None:
        """That its paths and markers exist."""
        words = list(command.arguments)
        markers = [marker.split(":")[0] for marker in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]]
        while words:
            word = words.pop(0)
            if word == "-m":
                assert words.pop(0) in markers, f"{command}: pyproject.toml has the markers {', '.join(markers)}"
            else:
                assert (CHECKOUT / word).exists(), f"{command}: there is no {word}"

    def check_tool(self, command: Command) -> None:
        """That ``.ci/run`` says the same."""
        line = f".venv/bin/{command}"
        assert line in (CHECKOUT / ".ci" / "run").read_text().splitlines(), f"{line}: .ci/run does not say so"

    def check_ci(self, command: Command) -> None:
        """That it can be run."""
        assert os.access(CHECKOUT / ".ci" / "run", os.X_OK), f"{command}: can't be run"
        assert not command.arguments

    def check_torchrun(self, command: Command) -> None:
        """By torchrun's own parser."""
        from torch.distributed.run import get_args_parser

        found = get_args_parser().parse_args(command.arguments)
        assert found.no_python, f"{command}: a command is no Python script, say --no-python"
        self.check(Command(found.training_script, found.training_script_args))

    def check_srun(self, command: Command) -> None:
        """What comes after its flags; of those only that they look like some."""
        words = list(command.arguments)
        while words and words[0].startswith("--"):
            flag = words.pop(0)
            if "=" not in flag:
                words.pop(0)
        self.check(Command(words[0], words[1:]))

    def check_sbatch(self, command: Command) -> None:
        """Runs its script as SLURM would, with a program in place of the command, and looks at what that was given."""
        [place, *_] = [i for i, word in enumerate(command.arguments) if not word.startswith("-")]
        script = CHECKOUT / command.arguments[place]
        assert script.is_file(), f"{command}: there is no {command.arguments[place]}"
        array = [word.removeprefix("--array=") for word in command.arguments[:place] if word.startswith("--array=")]
        task = array[0].split("-")[0] if array else "0"
        given = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": "8", **command.environment}
        written = 'clipfeat-extract() { printf "%s\\n" "$@"; }; exec() { "$@"; }; . "$0"'
        arguments = command.arguments[place + 1 :]
        done = subprocess.run(
            ["bash", "-c", written, str(script), *arguments], env=os.environ | given, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        self.check(Command("clipfeat-extract", done.stdout.splitlines()))


def run_script(script: Path) -> None:
    """Runs a script in this process as Python does: modules beside it can be imported."""
    with patch.object(sys, "path", [str(script.parent), *sys.path]):
        runpy.run_path(str(script), run_name="__main__")


class _ParsedError(Exception):
    """Ends a program that has read its arguments."""

    def __init__(self, found: argparse.Namespace):
        self.found = found


def parsed(main: Callable[[], object], arguments: list[str]) -> argparse.Namespace:
    """What a program that uses argparse makes of its arguments; it gets no further."""
    parse = argparse.ArgumentParser.parse_args

    def stop(self, args=None, namespace=None):
        raise _ParsedError(parse(self, args, namespace))

    with patch.object(argparse.ArgumentParser, "parse_args", stop), patch.object(sys, "argv", ["x", *arguments]):
        try:
            main()
        except _ParsedError as end:
            return end.found
        except SystemExit as end:
            code = end.code
        else:
            code = 0
    assert not code, f"{arguments}: can't be parsed"
    return argparse.Namespace()
