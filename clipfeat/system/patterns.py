"""Paths with placeholders: how a configuration describes where a data set keeps its files.

``"{scene}/color/{frame}.jpg"`` is a path below the data set's root in which ``{scene}`` and ``{sequence}`` stand for
(parts of) names, ``{frame}`` for a frame's number, padded or not, and ``{stamp}`` for a time, with decimals or without.
Everything else is meant literally.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from clipfeat.errors import ConfigError, DataError

PLACEHOLDERS = {
    "scene": r"[^./][^/]*", "sequence": r"[^./][^/]*", "frame": r"[0-9]+", "stamp": r"[0-9]+(?:\.[0-9]+)?",
}  # fmt: skip
"""What each placeholder stands for. Names that begin with a dot are hidden, and never a scene."""

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def check_pattern(key: str, pattern: str, required: Collection[str] = (), forbidden: Collection[str] = ()) -> None:
    """Refuses a pattern that could leave the root, or that has a wrong placeholder.

    Args:
        key: configuration key that holds it, for messages.
        pattern: the path with placeholders.
        required: placeholders that must be in it.
        forbidden: placeholders that must not.

    Raises:
        ConfigError: If it is empty, absolute, climbs by ``..``, has an unknown, a missing or a forbidden placeholder.
    """
    named = f"{key}={pattern}"
    if pattern.startswith(("/", "~")) or "\\" in pattern or re.match(r"[A-Za-z]:", pattern):
        raise ConfigError(f"{named}: expected a path below data.root, with '/' between folders")
    if ".." in pattern.split("/"):
        raise ConfigError(f"{named}: '..' leaves data.root, expected a path below it")
    if not all(part and part != "." for part in pattern.split("/")):
        raise ConfigError(f"{named}: expected a path such as {{scene}}/color/{{frame}}.jpg, without empty parts")
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    names = _PLACEHOLDER.findall(pattern)
    for name in names:
        if name not in PLACEHOLDERS:
            raise ConfigError(f"{named}: no such placeholder {{{name}}}, expected one of {known}")
    if set("{}") & set(_PLACEHOLDER.sub("", pattern)):
        raise ConfigError(f"{named}: a brace that belongs to no placeholder; these exist: {known}")
    for name in required:
        if name not in names:
            raise ConfigError(f"{named}: has no {{{name}}}, so all {name}s would share one file")
    for name in forbidden:
        if name in names:
            raise ConfigError(f"{named}: {{{name}}} has no meaning here, this file is not one of many a {name}")


class PathPattern:
    """A checked pattern, to be filled in or to be looked for on disk.

    Args:
        text: the pattern; see ``check_pattern``.
    """

    def __init__(self, text: str):
        self.text = text
        self.parts = text.split("/")

    def names(self) -> list[str]:
        """Its placeholders in order of appearance, each once."""
        return list(dict.fromkeys(_PLACEHOLDER.findall(self.text)))

    def fill(self, values: Mapping[str, str]) -> str:
        """The path with its placeholders replaced; those without a value stay as they are."""
        return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), self.text)

    def depth_of(self, names: Collection[str]) -> int:
        """How many leading parts of the path it takes to know all of these placeholders."""
        return max((i + 1 for i, part in enumerate(self.parts) for n in _PLACEHOLDER.findall(part) if n in names))

    def walk(
        self, root: Path, values: Mapping[str, str], first: int = 0, last: int | None = None
    ) -> Iterator[tuple[dict[str, str], Path]]:
        """Everything on disk that fits the parts ``first`` to ``last`` of the pattern, in no order.

        Args:
            root: folder that part ``first`` is looked for in.
            values: placeholders that are known already.
            first: number of the first part.
            last: number of the part after the last; None for all.

        Yields:
            All known placeholders, as they are spelt on disk, and the path.

        Raises:
            DataError: If a folder can't be listed.
        """
        stop = len(self.parts) if last is None else last
        if first == stop:
            yield dict(values), root
            return
        for found, path in _fitting(root, self.parts[first], values):
            yield from self.walk(path, found, first + 1, stop)


def _fitting(folder: Path, part: str, values: Mapping[str, str]) -> Iterator[tuple[dict[str, str], Path]]:
    """The entries of a folder that fit one part of a pattern, and what its placeholders then stand for."""
    unknown = [name for name in _PLACEHOLDER.findall(part) if name not in values]
    if not unknown:
        path = folder / _PLACEHOLDER.sub(lambda match: values[match[1]], part)
        if path.exists():
            yield dict(values), path
        return
    expression, seen = "", set()
    for index, piece in enumerate(_PLACEHOLDER.split(part)):  # literal, name, literal, name, ..., literal
        if index % 2 == 0:
            expression += re.escape(piece)
        elif piece in values:
            expression += re.escape(values[piece])
        else:
            expression += f"(?P={piece})" if piece in seen else f"(?P<{piece}>{PLACEHOLDERS[piece]})"
            seen.add(piece)
    try:
        names = os.listdir(folder)  # noqa: PTH208 - a Path for each of thousands of files takes longer than listing them
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise DataError(f"{folder}: can't be listed ({error})") from error
    fits = re.compile(expression).fullmatch
    for name in names:
        if match := fits(name):
            yield {**values, **match.groupdict()}, folder / name
