"""Runs the commands of a ``bash`` block, or checks as much of them as can be without a GPU, a cluster or weights.

A command that can be run is run, in this process, on small inputs and with a small model: ``SMALL`` says what is added,
``FOLDERS`` and ``READ`` what stands in for the paths of the documentation. ``Checker`` looks at the others: that the
scripts, extras, flags, keys and values exist. A kind of command that it does not know is an error, never passed over.
"""

import argparse
import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
from conftest import CHECKOUT
from doc_inputs import SMALL_DEMO, Inputs
from doc_schema import CONFIGS, EXTRAS, PROGRAMS, PYPROJECT, SCRIPTS, composed, entry, shortened, some_jobs

FOLDERS = {
    "/data/scans": "scans",
    "/data/sens": "sens",
    "/data/scannet200-mv": "scannet200_mv",
    "/data/7scenes": "sevenscenes",
    "/data/tum": "tum",
    "/data/replica": "replica",
    "/data/open3d": "open3d",
    "/data/mine": "mine",
    "/path/to/checkpoint.pt": "checkpoint.pt",
}
"""Absolute paths of the documentation, and the inputs (``doc_inputs.MAKERS``) that stand in for them."""

READ = {
    "out": "run",
    "out/fused": "fused",
    "outputs/demo": "demo/run",
    "outputs/demo_scans": "demo_scans",
    "outputs/train": "trained",
    "h5": "h5",
    "scenes": "exported",
    "scenes.txt": "both.txt",
    "train.txt": "first.txt",
    "val.txt": "second.txt",
}
"""Relative paths that a block may read without having made them, and what is put there then."""

PLACES = {"example.uv": "[108,81]", "example.box": "[90,70,130,110]"}
"""Keys whose values are pixels of a large picture, and pixels of the small ones."""

_READING_KEYS = ("store", "run", "scenes_file", "test_scenes_file", "train_scenes_file", "val_scenes_file")

SMALL = {
    "extract": ["model.arch={arch}", "model.pretrained=null", "num_workers=1", "device=cpu"],
    "composer": ["model.arch={arch}", "model.pretrained=null", "num_workers=1", "device=cpu"],
    "evaluate": [
        "model.arch={arch}", "model.pretrained=null", "device=cpu", "frames_per_scene=2", "points_per_frame=40",
        "resamples=10", "folds=2", "sampling.num_points=200",
    ],
    "fit-head": ["model.arch={arch}", "model.pretrained=null", "device=cpu", "steps=1", "frames_per_scene=2"],
    "train": ["steps=1", "num_points=30", "batch_size=1", "device=cpu"],
    "fuse": ["num_workers=1"],
    "export": ["num_workers=1"],
    "query": ["num_workers=1", "dpi=30"],
    "vis": ["num_workers=1", "vis.dpi=30"],
}  # fmt: skip
"""What is said beside a command, whatever it says itself."""

UNLESS_SAID = {
    "extract": ["vis=none", "sampling.num_points=300", "frames_per_scene=1"],
    "composer": ["vis=none", "sampling.num_points=300", "frames_per_scene=1"],
    "evaluate": ["candidates=[none,text]"],
    "query": ["top=1"],
}
"""What is said beside a command that says nothing of the key."""

COMPOSED_ONLY = {
    "hydra/launcher=": "starts jobs, tests/test_launchers.py does",
    "engine=ray": "Ray may not be there, tests of its own run it",
    "devices=": "starts processes, which do not know the small model; tests/test_launch.py does",
}
"""Overrides whose command is not run here but composed, and why."""

PARSED_ONLY = {
    "benchmark.py": "takes minutes",
    "kill_test.py": "takes minutes, and is a test itself",
    "mutate.py": "takes minutes, and is a test itself",
}
"""Scripts that are not run here, and why: their arguments are parsed, and their overrides composed."""

SCRIPT_ENDS = {
    "simulate_shards.py": ["--workers", "10", "--scenes", "50", "--seeds", "1"],
    "build_uv_index.py": ["num_workers=1", "frames_per_scene=2"],
    "export_sens.py": [],
    "vis_clip_feat.py": [],
    "stream_demo.py": [],
}
"""Scripts that are run, and what is said beside their arguments."""


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


def as_own_command(command: Command) -> Command:
    """``clipfeat fuse …`` as ``clipfeat-fuse …`` where the one command is not there; else as it is."""
    if command.program != "clipfeat":
        return command
    if "clipfeat" in SCRIPTS:
        return command
    if not command.arguments or command.arguments[0] not in PROGRAMS:
        pytest.skip(f"{command}: the command clipfeat is not in this tree yet")
    return Command(f"clipfeat-{command.arguments[0]}", command.arguments[1:], command.environment)


def config_of(command: Command) -> str | None:
    """The primary configuration that a command composes; None for those that have none."""
    name = command.program.removeprefix("clipfeat-")
    if name == "clipfeat" and command.arguments:
        name = command.arguments[0]
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
        command = as_own_command(command)
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
        found = parsed(lambda: runpy.run_path(str(script), run_name="__main__"), arguments)
        self.compose("extract", list(getattr(found, "overrides", [])))

    def check_pip(self, command: Command) -> None:
        """That the extras exist, and that it is this checkout which is installed."""
        assert command.arguments[0] == "install", f"{command}: only pip install is known"
        wanted = [word for word in command.arguments[1:] if not word.startswith("-")]
        assert len(wanted) == 1, f"{command}: expected one thing to install"
        match = re.fullmatch(r"(?:\.|clipfeat)(?:\[([a-z,]+)\])?", wanted[0])
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
                if words[0] == "slow" and "slow" not in markers:
                    pytest.skip("the marker slow is not in this tree yet")
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


class Runner(Checker):
    """Runs what can be run, in the folder of the test.

    Args:
        run_main: the fixture of that name.
        inputs: what stands in for the documentation's data.
        folder: of the test, where the blocks of a page find what they read.
    """

    def __init__(self, run_main: Callable[..., tuple[int, str]], inputs: Inputs, folder: Path):
        self.run_main = run_main
        self.inputs = inputs
        self.folder = folder

    def check_clipfeat(self, command: Command) -> None:
        """Runs it, unless ``COMPOSED_ONLY`` says why not."""
        if any(word.startswith(tuple(COMPOSED_ONLY)) for word in command.arguments):
            super().check_clipfeat(command)
            return
        command = as_own_command(command)
        self.place(command.arguments)
        arguments = [self.replaced(word) for word in command.arguments]
        config = config_of(command)
        if config is not None:
            if "-m" in arguments:
                self.compose(config, overrides_of(arguments))
                arguments = [shortened(word) if "=" in word else word for word in arguments]
            arguments = self.with_small(config, arguments)
        if command.program == "clipfeat-view" or command.arguments[:1] == ["view"]:
            if importlib.util.find_spec("viser") is None:
                super().check_clipfeat(command)
                return
            self.put("out/fused")
            with _stopped_at_once():
                self.run(entry(command.program), arguments)
            return
        self.run(entry(command.program), arguments)
        if config in ("extract", "composer") and not {"--help", "--cfg"} & set(arguments):
            self.look_at_results(arguments)

    def look_at_results(self, arguments: list[str]) -> None:
        """An extraction that only checks has written what it found, any other its summary."""
        said = dict(word.split("=", 1) for word in overrides_of(arguments))
        name = "check.json" if said.get("check") == "only" else "summary*.json"  # a shard has its own
        out = self.folder / said.get("output_dir", "outputs")
        assert list(out.rglob(name)), f"{' '.join(arguments)}: has left no {name} in {out}"

    def check_python(self, command: Command) -> None:
        """Runs a script, unless ``PARSED_ONLY`` says why not."""
        script = Path(command.arguments[0])
        if command.arguments[:1] == ["-m"] or script.name in PARSED_ONLY:
            super().check_python(command)
            return
        assert (CHECKOUT / script).is_file(), f"{command}: there is no {script}"
        assert script.name in SCRIPT_ENDS, (
            f"{command}: no test knows this script. Name it in SCRIPT_ENDS of tests/docs/doc_commands.py with what "
            f"makes it small, or in PARSED_ONLY with why it is not run"
        )
        self.place(command.arguments)
        if "--plot" in command.arguments:
            (self.folder / command.arguments[command.arguments.index("--plot") + 1]).parent.mkdir(exist_ok=True)
        arguments = [self.replaced(word) for word in command.arguments[1:]]
        ends = SCRIPT_ENDS[script.name]
        self.run(lambda: runpy.run_path(str(CHECKOUT / script), run_name="__main__"), [*arguments, *ends])

    def run(self, main: Callable[[], object], arguments: list[str]) -> None:
        """Runs it, and fails with what it says if it does."""
        code, err = self.run_main(main, *arguments)
        assert not code, f"{' '.join(map(str, arguments))}: exit code {code}\n{err}"

    def replaced(self, word: str) -> str:
        """A word with the paths of the documentation replaced by those of this machine."""
        for path, name in FOLDERS.items():
            if re.search(rf"{re.escape(path)}(?![\w-])", word):
                word = re.sub(rf"{re.escape(path)}(?![\w-])", str(self.inputs.get(name)), word)
        key = word.split("=")[0]
        return f"{key}={PLACES[key]}" if key in PLACES else word

    def place(self, arguments: list[str]) -> None:
        """Puts there what the command reads and no command before it has made."""
        for word in arguments:
            key, _, value = word.rpartition("=")
            if word in ("data=demo", "experiment=demo"):
                self.put("outputs/demo_scans")
            elif key in _READING_KEYS or (not key and not word.startswith("-")):
                self.put(value)

    def put(self, path: str) -> None:
        """Puts there what stands for a path, if anything does, and nothing is there."""
        if path in READ and not (self.folder / path).exists():
            source, target = self.inputs.get(READ[path]), self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)

    def with_small(self, config: str, arguments: list[str]) -> list[str]:
        """The arguments, and what makes the command small after the last override, where a user would go on typing."""
        said = {word.lstrip("+").split("=")[0] for word in overrides_of(arguments)}
        more = [one.format(arch=self.inputs.arch) for one in SMALL.get(config, [])]
        more += [one for one in UNLESS_SAID.get(config, []) if one.split("=")[0] not in said]
        if "sampling" in said:
            more = [one for one in more if not one.startswith("sampling.num_points")]
        if "vis" in said and config != "vis":
            more += ["vis.dpi=30", "vis.max_frames=1"]
        if any(word in ("data=demo", "experiment=demo") for word in arguments):
            more += SMALL_DEMO if "data.root" not in said else [*SMALL_DEMO, "data.num_scenes=1", "data.num_frames=2"]
        if any(word.startswith("model.pretrained=/") for word in arguments):
            more.remove("model.pretrained=null")
        places = [i for i, word in enumerate(arguments) if word in overrides_of(arguments)]
        end = places[-1] + 1 if places else len(arguments)
        return [*arguments[:end], *more, *arguments[end:]]


def _stopped_at_once():
    """A command that would wait for ever is told Ctrl-C."""
    wait = threading.Event.wait

    def stop(self, timeout=None):
        if timeout is None and sys._getframe(1).f_globals["__name__"].startswith("clipfeat."):
            raise KeyboardInterrupt
        return wait(self, timeout)

    return patch.object(threading.Event, "wait", stop)
