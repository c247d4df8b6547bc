"""What can be typed after a command: its keys, which of them are paths or lists, its groups and their choices."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, get_type_hints

import yaml

from clipfeat.cli.main import program
from clipfeat.cli.schemas import COMMANDS, schemas_of
from clipfeat.config.folder import config_dir
from clipfeat.config.paths import is_path


@dataclass(frozen=True)
class Keys:
    """The vocabulary of a command.

    Attributes:
        config_name: of the primary configuration.
        names: dotted names of all keys of all choices, nodes too: data, data.root, …
        paths: those that are paths, or may be.
        lists: those that may be lists.
        only_lists: those that can be nothing else.
        groups: by name (model/head) the choices that come with clipfeat.
    """

    config_name: str
    names: tuple[str, ...]
    paths: frozenset[str]
    lists: frozenset[str]
    only_lists: frozenset[str]
    groups: dict[str, list[str]]

    def near(self, key: str) -> list[str]:
        """The names that a misspelt one may mean, the likeliest first."""
        dotted = key.replace("/", ".").replace("-", "_")
        every = [*self.groups, *self.names]
        if same := [name for name in every if name.replace("/", ".") == dotted or name.replace(".", "_") == dotted]:
            return same[:1]
        ends = [name for name in every if name.replace("/", ".").endswith(f".{dotted}") and name not in self.dotted]
        return ends[:3] or get_close_matches(dotted, every, n=3, cutoff=0.6)

    @property
    def command(self) -> str:
        """What the command is called by, as it was typed: ``clipfeat-extract`` or ``clipfeat extract``."""
        return command_of(self.config_name)

    @property
    def dotted(self) -> dict[str, str]:
        """Groups by the names of their nodes: model/head by model.head."""
        return {group.replace("/", "."): group for group in self.groups if "/" in group}


def command_of(config_name: str) -> str:
    """What the command of a primary configuration is called by."""
    others = {
        "composer": f"{program('extract')} --config-name composer",
        "protocol": f"{program('evaluate')} protocol=…",
    }
    return others.get(config_name) or program(config_name)


@cache
def keys_of(config_name: str) -> Keys:
    """The vocabulary of a primary configuration, such as extract, composer or fuse."""
    found = list(dict.fromkeys(_walk(COMMANDS[config_name], "")))
    found += [key for key in _of_choices(found) if key not in found]
    return Keys(
        config_name=config_name,
        names=tuple(dict.fromkeys(name for name, _, _ in found)),
        paths=frozenset(name for name, path, _ in found if path),
        lists=frozenset(name for name, _, kind in found if kind != "one"),
        only_lists=frozenset(name for name, _, kind in found if kind == "several")
        - {name for name, _, kind in found if kind != "several"},
        groups=_groups(config_name),
    )


_Found = tuple[str, bool, str]
"""Dotted name of a key, whether it is a path, and whether it is one value, several in a list, or any."""


def _walk(schema: type[Any], prefix: str) -> Iterator[_Found]:
    hints = get_type_hints(schema)
    for one in fields(schema):
        name, kind = f"{prefix}{one.name}", hints[one.name]
        yield name, is_path(one), "any" if kind is Any else "several" if "list[" in str(kind) else "one"
        if is_dataclass(kind) and isinstance(kind, type):
            yield from _walk(kind, f"{name}.")


def _of_choices(found: list[_Found]) -> Iterator[_Found]:
    """The keys that only some choices of a group have."""
    names = {name for name, _, _ in found}
    for group, schema in schemas_of():
        if group in names:
            yield from _walk(schema, f"{group}.")


def _groups(config_name: str) -> dict[str, list[str]]:
    """The groups that a primary configuration has a default of, and those that lie in them."""
    defaults = yaml.safe_load((config_dir() / f"{config_name}.yaml").read_text(encoding="utf-8"))["defaults"]
    own = [group for one in defaults if isinstance(one, dict) for group in one if not group.startswith("override ")]
    found = {}
    for group in own:
        folder = config_dir() / group
        for each in (folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())):
            found[str(each.relative_to(config_dir()))] = sorted(path.stem for path in each.glob("*.yaml"))
    return found
