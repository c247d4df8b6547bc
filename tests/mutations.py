"""Damaged inputs of every kind, at random, and what comes of a run on each: cases, and the processes that they run in.

Behind test_mutate.py and scripts/mutate.py.

A case damages one file of a small data set, a cache or a former run, does the work of clipfeat-extract on it and looks:
bad input may fail, but by one of clipfeat's errors, in one clear line that names the file, soon, and without memory for
what a header only claims; and all frames that do not depend on the file come out as before, to the bit.

Cases run in a child process whose memory is limited: a crash of a library ends the child, and not the others.
"""

import logging
import multiprocessing
import os
import resource
import tempfile
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import mutators
import numpy as np
import torch
from mutation_judge import Judge
from mutation_kinds import KINDS

MEMORY = 1 << 30
"""Bytes that a child may ask for beyond what it has when it is ready."""

DAMAGES = (*mutators.BLIND, "numbers", "swap", "gone", "folder")
GOOD = ("done", "failed")
BAD = ("TRACEBACK", "CRASH", "HANG", "MEMORY", "WRONG", "UNCLEAR", "NOISE")


@dataclass(frozen=True)
class Case:
    """One damaged file.

    Attributes:
        number: of the case; with the seed and the kinds it says all the rest.
        kind: name of the kind of input.
        damage: what was done to the file.
        file: its path in the world.
        data: its content now; None where it is gone or a folder.
    """

    number: int
    kind: str
    damage: str
    file: str
    data: bytes | None


@dataclass(frozen=True)
class Result:
    """What came of a case.

    Attributes:
        case: what was damaged.
        outcome: one of ``GOOD`` or ``BAD``.
        detail: what was said, or what is wrong.
        seconds: that it took.
    """

    case: Case
    outcome: str
    detail: str
    seconds: float


def draw_case(worlds, number, seed, kinds):
    """The case of a number: the kinds take turns, all else is drawn."""
    rng = np.random.default_rng([seed, number])
    kind = KINDS[kinds[number % len(kinds)]]
    world = worlds / kind.world
    path = _one_of(sorted(p for pattern in kind.files for p in world.glob(pattern)), rng)
    damage = _one_of(DAMAGES, rng)
    data = path.read_bytes()
    if damage == "numbers":
        data = mutators.numbers(data, rng, path.suffix)
    elif damage == "swap":  # half of them with a file of the same format
        suffix = path.suffix if rng.random() < 0.5 else ""
        others = sorted(p for p in worlds.rglob(f"*{suffix}") if p.is_file() and p != path)
        data = _one_of(others, rng).read_bytes()
    else:
        data = mutators.BLIND[damage](data, rng) if damage in mutators.BLIND else None
    return Case(number, kinds[number % len(kinds)], damage, path.relative_to(world).as_posix(), data)


def _one_of(choices, rng):
    return choices[rng.integers(len(choices))]


def _child(pipe, worlds, scratch, seed, kinds):
    """Judges the cases whose numbers come through the pipe."""
    os.dup2(os.open(scratch / "stderr", os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
    os.chdir(scratch)
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.CRITICAL)  # as the command line does, less what it says itself
    warnings.simplefilter("always")
    warnings.simplefilter("ignore", ResourceWarning)  # as Python does
    warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")  # as the command line does
    judge = Judge(worlds, scratch / "stderr", kinds)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    pipe.send("ready")
    while (number := pipe.recv()) is not None:
        pipe.send(judge(draw_case(worlds, number, seed, kinds)))


def run_cases(worlds, numbers, seed, kinds, limit_s=10.0):
    """Yields the ``Result`` of each case. A child that hangs or crashes is followed by another.

    Args:
        worlds: what ``make_worlds`` wrote.
        numbers: of the cases.
        seed: of all cases.
        kinds: names of kinds, which take turns.
        limit_s: seconds that a case may take.
    """
    context = multiprocessing.get_context("spawn")
    child = pipe = None
    with tempfile.TemporaryDirectory(prefix="clipfeat-mutate-") as scratch:
        try:
            for number in numbers:
                if child is None:
                    pipe, theirs = context.Pipe()
                    child = context.Process(target=_child, args=(theirs, worlds, Path(scratch), seed, kinds))
                    child.start()
                    theirs.close()
                    try:
                        pipe.recv()
                    except EOFError:
                        raise RuntimeError((Path(scratch) / "stderr").read_text()) from None
                begin = monotonic()
                pipe.send(number)
                try:
                    outcome, detail = pipe.recv() if pipe.poll(limit_s) else ("HANG", f"more than {limit_s:g} s")
                except EOFError:
                    child.join()
                    outcome, detail = "CRASH", f"exit code {child.exitcode}"
                if outcome in ("HANG", "CRASH"):
                    child.kill()
                    child.join()
                    child = None
                yield Result(draw_case(worlds, number, seed, kinds), outcome, detail, monotonic() - begin)
        finally:
            if child is not None:
                with suppress(OSError):
                    pipe.send(None)
                child.join(limit_s)
                child.kill()
                child.join()
