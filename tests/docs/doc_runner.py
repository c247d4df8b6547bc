"""Runs the commands of a ``bash`` block in this process, on small inputs and with a small model.

``SMALL`` says what is added, ``FOLDERS`` and ``READ`` what stands in for the paths of the documentation, and
``COMPOSED_ONLY`` and ``PARSED_ONLY`` what is not run and why; ``doc_commands.Checker`` looks at those.
"""

import importlib.util
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from conftest import CHECKOUT
from doc_commands import Checker, Command, config_of, overrides_of, run_script
from doc_inputs import SMALL_DEMO, Inputs
from doc_schema import entry, shortened

FOLDERS = {
    "/data/scans": "scans",
    "/data/sens": "sens",
    "/data/scannet200-mv": "scannet200_mv",
    "/data/7scenes": "sevenscenes",
    "/data/tum": "tum",
    "/data/replica": "replica",
    "/data/open3d": "open3d",
    "/data/mine": "mine",
    "/data/nerf": "nerf",
    "/data/polycam": "polycam",
    "/data/arkitscenes": "arkitscenes",
    "/data/colmap": "colmap",
    "/data/scannetpp/data": "scannetpp",
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
    "map": ["model.arch={arch}", "model.pretrained=null", "device=cpu", "num_workers=1", "idle_s=0", "poll_s=0.01"],
    "train": ["steps=1", "num_points=30", "batch_size=1", "device=cpu"],
    "fuse": ["num_workers=1"],
    "export": ["num_workers=1"],
    "query": ["num_workers=1", "dpi=30"],
    "protocol": ["scenes=all"],
    "vis": ["num_workers=1", "vis.dpi=30"],
}  # fmt: skip
"""What is said beside a command, whatever it says itself."""

UNLESS_SAID = {
    "extract": ["vis=none", "sampling.num_points=300", "frames_per_scene=1"],
    "composer": ["vis=none", "sampling.num_points=300", "frames_per_scene=1"],
    "evaluate": ["candidates=[none,text]"],
    "query": ["top=1"],
    "map": ["voxel_size=0.2", "frames_per_scene=1"],
}
"""What is said beside a command that says nothing of the key."""

COMPOSED_ONLY = {
    "hydra/launcher=": "starts jobs, tests/test_launchers.py does",
    "data=record3d": "its package may not be there, tests/data/test_record3d.py does",
    "data=strayscanner": "the same, tests/data/test_strayscanner.py does",
    "data=scannetpp_raw": "the same, tests/data/test_scannetpp_raw.py does",
    "data=rosbag": "the same, tests/data/test_rosbag.py does",
    "engine=ray": "Ray may not be there, tests of its own run it",
    "protocol=replica": "its labels are not here, tests/protocols/test_protocol_run.py does",
    "protocol=openlex3d": "the same, tests/protocols/test_openlex3d.py does",
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
        self.run(lambda: run_script(CHECKOUT / script), [*arguments, *ends])

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
    sleep = time.sleep

    def stop(seconds):
        if sys._getframe(1).f_globals["__name__"] == "clipfeat.cli.commands":
            raise KeyboardInterrupt
        sleep(seconds)

    return patch.object(time, "sleep", stop)
