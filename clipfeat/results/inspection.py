"""What is said of a folder that clipfeat has written, and the words for it."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from clipfeat.errors import DataError, OutputError
from clipfeat.output.folders import read_config
from clipfeat.system.atomic import TEMPORARY
from clipfeat.system.shards import usable_cores
from clipfeat.system.streaming import prefetch

Item = TypeVar("Item")

SHOWN = 5
"""Scenes, reasons and the like that are named; of the others only the number is given."""

_BROKEN_SHOWN = 20


@dataclass
class Inspection:
    """What a folder holds.

    Attributes:
        title: the folder, and what it is.
        facts: what is known of it, each under a word, in the order to be shown.
        broken: what is not as it should be.
        verified: whether every file was read to find that; None if that was not the question.
    """

    title: str
    facts: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    verified: bool | None = False

    def text(self) -> str:
        """All of it, to be read."""
        broken = self.broken[:_BROKEN_SHOWN]
        if len(self.broken) > len(broken):
            broken.append(f"… and {len(self.broken) - len(broken)} more")
        if not broken and self.verified is not None:
            broken = ["nothing: all files were read" if self.verified else "nothing seen; --verify reads all files"]
        facts = {**self.facts, "broken": "\n".join(broken)}
        return "\n".join([self.title, *(f"  {name:<11} {_indented(fact)}" for name, fact in facts.items() if fact)])


def _indented(fact: str) -> str:
    return fact.replace("\n", "\n" + 14 * " ")


def config_of(folder: Path, broken: list[str]) -> dict[str, Any]:
    """The configuration whose results a folder holds; empty without one, or with a broken one, which is noted."""
    if not (folder / "config.yaml").is_file():
        return {}
    try:
        return read_config(folder)
    except OutputError as error:
        broken.append(str(error))
        return {}


def model_line(model: dict[str, Any]) -> str:
    """Whose features these are, in a line."""
    names = ("precision", "input_size", "resize_mode", "attention", "refine", "backend")
    options = [f"{name}={model[name]}" for name in names if model.get(name, "none") != "none"]
    return ", ".join([f"{model.get('arch')}, weights={model.get('weights')} ({model.get('weights_sha256')})", *options])


def sampling_line(config: dict[str, Any], visible: Sequence[int]) -> str:
    """How many points were asked for, and how many are visible in a frame."""
    sampling = config.get("sampling") or {}
    asked = [f"sampling={sampling['name']}, {sampling.get('num_points') or 'all'} asked for"] if sampling else []
    found = [f"{least_to_most(visible)} visible in a frame"] if visible else []
    return ", ".join(asked + found)


def temporaries(folder: Path) -> str:
    """The unfinished files in a folder; empty if there are none."""
    paths = [*folder.glob(f".*{TEMPORARY}"), *folder.glob(f"*/.*{TEMPORARY}")]
    return f"{len(paths)} temporary files of a run that goes on or was killed" if paths else ""


def broken_among(items: Sequence[Item], check: Callable[[Item], object]) -> list[str]:
    """What a check raises, of all items; in threads."""

    def told(item: Item) -> str:
        try:
            check(item)
        except DataError as error:
            return str(error)
        return ""

    workers = 2 * usable_cores()
    found = []
    with (
        closing(prefetch(told, items, workers, ahead=2 * workers)) as results,
        tqdm(total=len(items), unit="frame", desc="verify", disable=None) as bar,
    ):
        for why in results:
            found += [why] if why else []
            bar.update()
    return found


def spread(counts: Sequence[int]) -> str:
    """Their sum, and how they are spread over the scenes."""
    if len(counts) < 2:
        return str(sum(counts))
    return f"{sum(counts)}; a scene has {least_to_most(counts)}"


def least_to_most(counts: Sequence[int]) -> str:
    """From the least to the most, with the median."""
    least, most = min(counts), max(counts)
    return str(least) if least == most else f"{least} to {most}, {statistics.median(counts):g} in the median"


def named(names: Sequence[str]) -> str:
    """Their number, and the first few of them."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} ({', '.join(names[:SHOWN])}{more})" if names else "0"


def megabytes(size: float) -> str:
    """Bytes, to be read."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"
