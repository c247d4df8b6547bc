"""Stops clipfeat-extract, or -map, at random moments, resumes it, and compares the end with a run left in peace.

    python scripts/kill_test.py                         kill -9, 50 times, in rendered rooms with a small random model
    python scripts/kill_test.py --how int               Ctrl-C; or term, as kill and SLURM send it
    python scripts/kill_test.py --how full              the disk fills up (a tmpfs in a namespace of its own; Linux)
    python scripts/kill_test.py output=h5 vis=tsne      overrides as for clipfeat-extract
    python scripts/kill_test.py --true-every 0 devices=2 model.arch=ViT-S-32-alt    several processes
    python scripts/kill_test.py --command map           clipfeat-map, which writes its map after every frame here

Processes that a run starts know only open_clip's own models, and not the small one of this script.

After each stop every file under its final name must load whole, and no process may be left. Whenever a run comes to
its end, its folder must hold what the run in peace wrote, array for array, and the record must count right; then the
next begins in an empty folder. Exits with 1 at the first thing that is wrong.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from kills.checks import WrongError, check_equal, check_equal_maps, check_whole, check_whole_maps

# What is slow to import is imported in warm_up: processes that draw import this file too.

ARCH = "clipfeat-kill-ViT"
SMALL = (
    "data=demo", "data.num_scenes=3", "data.num_frames=12", "data.lost_poses=1", "data.mesh_spacing=0.2",
    "data.color_size=[648,484]", "data.depth_size=[320,240]", f"model.arch={ARCH}", "model.pretrained=null",
    "model/head=proj128", "num_workers=2",
    "batch_size=1",  # or the last digit of a feature depends on which frames shared its batch
)  # fmt: skip
SIGNALS = {"kill": signal.SIGKILL, "int": signal.SIGINT, "term": signal.SIGTERM}
TRUE_COMMAND = (
    "import sys, open_clip; open_clip.add_model_config(sys.argv.pop(1)); "
    "from clipfeat.cli import commands; getattr(commands, sys.argv.pop(1))()"
)


@dataclass(frozen=True)
class Command:
    """What is stopped.

    Attributes:
        main: its entry point in clipfeat.cli.commands.
        small: overrides that make it short, beside ``SMALL``.
        whole: looks whether its folder is whole, see ``check_whole``.
        equal: compares two of its folders, see ``check_equal``.
    """

    main: str
    small: tuple[str, ...]
    whole: Callable[..., tuple[int, int]]
    equal: Callable[[Path, Path], None]


COMMANDS = {
    "extract": Command(
        "extract_main",
        ("sampling.num_points=4000", "vis=pca", "vis.max_frames=4", "vis.dpi=60"),
        check_whole,
        check_equal,
    ),
    "map": Command("map_main", ("save_every_s=0", "voxel_size=0.1"), check_whole_maps, check_equal_maps),
}

PATIENCE_S = 120.0


@dataclass
class Ended:
    """How a run ended.

    Attributes:
        seconds: that it took.
        code: its exit code; negative for a signal.
        text: what it printed.
        stopped: whether it was stopped on purpose.
    """

    seconds: float
    code: int
    text: str
    stopped: bool


@dataclass
class Bench:
    """Starts runs and stops them.

    Attributes:
        work: folder for everything; the architecture is in arch/ below it.
        command: what is run.
        arguments: overrides of every run.
    """

    work: Path
    command: Command
    arguments: list[str]

    def run(self, folder: Path, *, forked: bool, stop_after: float | None = None, stop: Callable[[int], None]) -> Ended:
        """Runs the command into a folder, calls ``stop`` with its process id after some seconds, and waits.

        Forked runs start in milliseconds: all that they import is here already. The others are the true command, whose
        first seconds are Python's and torch's.

        Raises:
            WrongError: If it does not end, or leaves processes behind.
        """
        log = self.work / "log.txt"
        log.write_bytes(b"")  # or what an earlier run said would be taken for this one's
        begin = time.monotonic()
        process = self._start(folder, log, forked=forked)
        code, stopped = None, False
        while code is None:
            if not stopped and stop_after is not None and time.monotonic() - begin >= stop_after:
                stop(process)
                stopped = True
            code = _exit_code(process)
            if time.monotonic() - begin > PATIENCE_S:
                os.killpg(process, signal.SIGKILL)
                raise WrongError(f"the run did not end in {PATIENCE_S:.0f} s: {log.read_text()}")
            time.sleep(0.002)
        seconds = time.monotonic() - begin
        _wait_for_group(process)
        return Ended(seconds, code, log.read_text(encoding="utf-8", errors="replace"), stopped)

    def _start(self, folder: Path, log: Path, *, forked: bool) -> int:
        arguments = [*self.arguments, f"output_dir={folder}"]
        process = os.fork()
        if process:
            return process
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where this script runs in the background
            with log.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            if not forked:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                program = [sys.executable, "-c", TRUE_COMMAND, str(self.work / "arch"), self.command.main]
                os.execv(sys.executable, [*program, *arguments])  # noqa: S606
            _run_here(self.command.main, arguments)
        except KeyboardInterrupt:
            os._exit(130)  # before clipfeat began
        except BaseException:  # noqa: BLE001 - whatever it is, it must not go on as a second kill_test
            traceback.print_exc()
            os._exit(70)


def warm_up(work: Path) -> None:
    """Imports what the commands import, and makes the small architecture known.

    Nothing is computed here: torch's threads do not survive a fork.
    """
    import open_clip

    import clipfeat.cli.commands
    import clipfeat.extraction.extract
    import clipfeat.mapping.run  # noqa: F401 - for the runs that are forked

    (work / "arch").mkdir()
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 192, "head_width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }
    (work / "arch" / f"{ARCH}.json").write_text(json.dumps(config))
    open_clip.add_model_config(work / "arch")


def _run_here(main: str, arguments: list[str]) -> NoReturn:
    from clipfeat.cli import commands

    sys.argv = [f"clipfeat-{main.removesuffix('_main')}", *arguments]
    code: Any = 0
    try:
        getattr(commands, main)()
        sys.stderr.flush()
    except SystemExit as end:
        code = end.code
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _exit_code(process: int) -> int | None:
    ended, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _wait_for_group(group: int) -> None:
    """Until the last of a run's processes has ended, such as those that draw."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        except PermissionError:
            pass
        time.sleep(0.01)
    os.killpg(group, signal.SIGKILL)
    raise WrongError("processes of the run were left behind")


def check_stop(ended: Ended, how: str) -> None:
    """Looks whether a run that was stopped said so in one line, with how far it came.

    Raises:
        WrongError: If not.
    """
    expected = {"kill": -signal.SIGKILL, "int": 130, "term": 130, "full": 1}[how]
    outside = not ended.text or "seconds a stage" in ended.text
    if how in ("int", "term") and ended.code == -SIGNALS[how] and outside:
        return  # while Python starts or ends: nothing was begun, or all is done
    if ended.code != expected:
        raise WrongError(f"exit code {ended.code}, expected {expected}: {ended.text}")
    if how == "kill":
        return
    said = [line for line in ended.text.splitlines() if line.startswith("clipfeat: ")]
    if "Traceback" in ended.text or len(said) != 1:
        raise WrongError(f"expected one line that says why: {ended.text}")
    if how == "full" and "No space left" not in said[0] and "that can't fit" not in said[0]:
        raise WrongError(f"expected a line about the disk: {said[0]}")
    began, summed_up = " to do, " in ended.text, "seconds a stage" in ended.text
    if began and not summed_up and "frames are done in" not in said[0]:
        raise WrongError(f"expected how many frames are done: {said[0]}")


def stop_by(how: str, rng: random.Random, disk: Path) -> Callable[[int], None]:
    """What stops a run: a signal to its process or, from a terminal or SLURM, to all of them; or a full disk."""
    if how == "full":
        return lambda _process: fill(disk, spare=rng.randrange(300_000))
    to_all = how == "int" or (how == "term" and rng.random() < 0.5)
    return lambda process: (os.killpg if to_all else os.kill)(process, SIGNALS[how])


def fill(disk: Path, spare: int) -> None:
    """Writes a file that leaves no more than ``spare`` bytes free."""
    with (disk / "ballast").open("wb") as file:
        for _ in range(100):
            with suppress(OSError):  # the run has written in between
                os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(disk).free - spare))
                return
    raise WrongError(f"{disk} can't be filled")


def stop_and_resume(bench: Bench, how: str, kills: int, seed: int, true_every: int, disk: Path) -> None:
    """Stops runs until there were ``kills`` stops, and one more run comes to its end.

    Raises:
        WrongError: At the first thing that is wrong.
    """
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    peaceful, folder = bench.work / "peaceful", disk / "out"
    seconds = {}
    for forked in (True, True, False) if true_every else (True, True):  # the first renders the rooms
        again = bench.work / "again"
        shutil.rmtree(again, ignore_errors=True)
        ended = bench.run(again if peaceful.exists() else peaceful, forked=forked, stop=lambda _process: None)
        if ended.code:
            raise WrongError(f"a run in peace ended with {ended.code}: {ended.text}")
        seconds[forked] = ended.seconds
        if again.exists():
            bench.command.equal(again, peaceful)
    print(", ".join(f"{'forked' if forked else 'true command'} {s:.1f} s" for forked, s in seconds.items()), flush=True)
    if how == "full":
        size = 2 * sum(path.stat().st_size for path in peaceful.rglob("*"))
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "clipfeat", disk], check=True)  # noqa: S603, S607
    stops = finished = runs = 0
    while stops < kills or folder.exists():
        runs += 1
        forked = not true_every or runs % true_every != 0
        moment = rng.uniform(0, seconds[forked]) if stops < kills else None
        if how in ("int", "term") and moment is not None and not forked:
            moment += 1.5  # before that Python itself is starting, and says what it likes
        from_nothing = not folder.exists()
        ended = bench.run(folder, forked=forked, stop_after=moment, stop=stop_by(how, rng, disk))
        (disk / "ballast").unlink(missing_ok=True)
        if ended.code == 0:
            bench.command.whole(folder, temporaries=False)
            bench.command.equal(folder, peaceful)
            shutil.rmtree(folder)
            finished += 1
            if from_nothing:
                seconds[forked] = ended.seconds  # others may use this machine too, now more and now less
            print(f"run {runs}: came to its end after {ended.seconds:.1f} s and equals the run in peace", flush=True)
            continue
        if not ended.stopped:
            raise WrongError(f"exit code {ended.code}: {ended.text}")
        check_stop(ended, how)
        stops += 1
        temporaries = how in ("kill", "term")
        features, pictures = bench.command.whole(folder, temporaries=temporaries) if folder.exists() else (0, 0)
        what = "forked" if forked else "true command"
        print(f"stop {stops}: {what}, after {moment:.2f} s; {features} frames and {pictures} pictures, all whole")
        if how != "kill":
            print(f"    {(ended.text.splitlines() or ['(not a word)'])[-1]}", flush=True)
    print(f"{stops} stops ({how}), {finished} folders came to their end and equal that of the run in peace", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Parses the command line and runs the test."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--command", choices=COMMANDS, default="extract")
    parser.add_argument("--how", choices=("kill", "int", "term", "full"), default="kill")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--true-every", type=int, default=5, help="every how many-th run is the true command, 0 for none"
    )
    parser.add_argument("--work", type=Path, help="folder to work in; a temporary one by default")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args(arguments)
    if options.how == "full" and os.environ.get("CLIPFEAT_OWN_MOUNTS") != "1":
        environment = {**os.environ, "CLIPFEAT_OWN_MOUNTS": "1"}
        command = ["unshare", "--map-root-user", "--mount", sys.executable, __file__, *arguments]
        return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603
    work = Path(tempfile.mkdtemp(prefix="clipfeat-kill-", dir=options.work))
    disk = work / "disk"
    disk.mkdir()
    warm_up(work)
    stopped = COMMANDS[options.command]
    bench = Bench(work, stopped, [*SMALL, *stopped.small, f"data.root={work / 'scans'}", *options.overrides])
    try:
        stop_and_resume(bench, options.how, options.kills, options.seed, options.true_every, disk)
    except WrongError as error:
        print(f"WRONG: {error}\n(everything is kept in {work})", file=sys.stderr)
        return 1
    finally:
        if options.how == "full":
            subprocess.run(["umount", "--quiet", disk], check=False)  # noqa: S603, S607
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
