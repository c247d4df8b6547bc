"""What the documentation is held against: the commands, the configuration's groups and keys, and their defaults.

All of it is asked of ``conf/`` and Hydra, and of pyproject.toml; nothing is listed here.
"""

import copy
import os
import pkgutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any
from unittest.mock import patch

from conftest import CHECKOUT
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, OmegaConfBaseException

from clipfeat.cli.schemas import register_schemas
from clipfeat.cli.typed import as_meant
from clipfeat.config.folder import config_dir
from clipfeat.errors import ClipfeatError, ConfigError

register_schemas()

PYPROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
SCRIPTS: dict[str, str] = PYPROJECT["project"]["scripts"]
"""Command to the function that it calls, as ``module:function``."""

EXTRAS = set(PYPROJECT["project"]["optional-dependencies"])
CONFIGS = sorted(path.stem for path in config_dir().glob("*.yaml"))
"""The primary configurations: extract, composer, fuse, …"""

PROGRAMS = sorted(name.removeprefix("clipfeat-") for name in SCRIPTS if name != "clipfeat")
"""What may stand after ``clipfeat``: extract, inspect, …"""

_GIVEN = {
    "extract": ["data.root=x"],
    "composer": ["data.root=x"],
    "evaluate": ["data.root=x"],
    "fit-head": ["data.root=x"],
    "map": ["data.root=x"],
    "export": ["store=x", "format=openscene"],
    "protocol": ["store=x", "protocol=scannet20"],
}
"""What must be said where nothing else is looked at; of the other configurations the store."""


def choices(group: str) -> set[str]:
    """The choices of a configuration group, such as model/head; none if there is no such group."""
    folder = config_dir() / group
    found = {path.stem for path in folder.glob("*.yaml")} if folder.is_dir() else set()
    return found | ({"submitit_local", "submitit_slurm"} if group == "hydra/launcher" else set())


def composed(config: str, overrides: list[str] | tuple[str, ...]) -> Any:
    """The checked configuration that a command line means; raises whatever is wrong with it."""
    named = {override.lstrip("+~").split("=")[0] for override in overrides}
    given = [] if "experiment=demo" in overrides or "data=demo" in overrides else _GIVEN.get(config, ["store=x"])
    missing = [one for one in given if one.split("=")[0] not in named]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return OmegaConf.to_object(compose(config, as_meant([*missing, *overrides], config)))


def swept(override: str) -> list[str]:
    """The override of each job of a sweep that this one makes; of one that makes none, itself."""
    parsed = OverridesParser.create().parse_override(override)
    if not parsed.is_sweep_override():
        return [override]
    return [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()]


def some_jobs(overrides: list[str]) -> list[list[str]]:
    """So many jobs of a sweep that each of its values is in one."""
    axes = [swept(override) for override in overrides]
    return [[axis[min(i, len(axis) - 1)] for axis in axes] for i in range(max(map(len, axes), default=1))]


def shortened(override: str) -> str:
    """The same sweep over its first value; of shards, over two."""
    values = swept(override)
    few = values[: 2 if override.startswith("shard.index=") else 1]
    return ",".join([few[0], *(value.split("=", 1)[1] for value in few[1:])])


@lru_cache(maxsize=1)
def keys() -> dict[str, dict[str, Any]]:
    """Each configuration's keys and their defaults, ``???`` where there is none; also those of all data sets."""
    found = {}
    for config in CONFIGS:
        found[config] = _walk(_schema(config))
        for group in ("data", "sampling"):
            for name in _groups()[group] if group in found[config] else ():
                other = {f"{group}.{key}": value for key, value in _walk(_schema(name, group)).items()}
                found[config] = other | found[config]
    return found


def all_keys() -> set[str]:
    """The keys of all configurations."""
    return {key for of_config in keys().values() for key in of_config}


def check_values(assignments: dict[str, str]) -> None:
    """Raises if no configuration takes these keys and values together; one that does is enough.

    Of several data sets and kinds of points any may have them.
    """
    configs = [config for config in CONFIGS if assignments.keys() <= keys()[config].keys()]
    if not configs:
        raise ConfigError(f"{', '.join(assignments)}: no configuration has these keys, or not all of them")
    error: Exception | None = None
    for schema in (schema for config in configs for schema in _complete(config, set(assignments))):
        try:
            for key, text in assignments.items():
                value = OverridesParser.create().parse_override(f"{key}={text}").value()
                OmegaConf.update(schema, key, value)
            OmegaConf.to_object(schema)
        except (ClipfeatError, HydraException, OmegaConfBaseException) as one:
            of_other_choice = isinstance(one, ConfigAttributeError)
            error = one if error is None or not of_other_choice else error
        else:
            return
    raise error or ConfigError("there is no configuration")


def _complete(config: str, assigned: set[str]) -> Iterator[DictConfig]:
    """The configuration with what must be said: once, or for each choice of the group that a key is of."""
    for group in {key.split(".")[0] for key in assigned if "." in key}:
        if f"{group}.name" in keys()[config]:
            for choice in sorted(choices(group)):
                yield _filled(config, {"data": "scannet"} | {group: choice})
            return
    yield _filled(config, {"data": "scannet"})


def _filled(config: str, chosen: dict[str, str]) -> DictConfig:
    schema = _schema(config)
    for group, choice in chosen.items():
        if f"{group}.name" not in keys()[config]:
            continue
        layers = list(_layers(group, choice))
        if OmegaConf.get_type(layers[0]) is dict:
            layers.insert(0, schema[group])
        schema[group] = OmegaConf.merge(*layers)
    for key, value in (
        ("data.root", "x"),
        ("store", "x"),
        ("fuse.store", "x"),
        ("format", "scene_npz"),
        ("protocol", "replica"),
    ):
        if key in keys()[config]:
            OmegaConf.update(schema, key, value)
    return schema


def _layers(group: str, choice: str) -> Iterator[DictConfig]:
    """What a choice is merged of: its schema if it has one, the choice that it changes if there is one, its YAML."""
    plain = OmegaConf.load(config_dir() / group / f"{choice}.yaml")
    for name in plain.pop("defaults", []):
        if str(name).endswith("_schema"):
            yield _schema(name, group)
        elif (config_dir() / group / f"{name}.yaml").is_file():
            yield from _layers(group, name)
    yield plain


def _groups() -> dict[str, list[str]]:
    repo = ConfigStore.instance().repo
    return {group: [name.removesuffix(".yaml") for name in repo[group]] for group in ("data", "sampling")}


def _schema(name: str, group: str | None = None) -> DictConfig:
    repo = ConfigStore.instance().repo
    node = repo[group][f"{name}.yaml"].node if group else repo[f"{name}_schema.yaml"].node
    return copy.deepcopy(node)


def _walk(node: DictConfig, prefix: str = "") -> dict[str, Any]:
    """Dotted name and value of everything below a node; of a node of its own, None."""
    found: dict[str, Any] = {}
    for name in node:
        key = f"{prefix}{name}"
        value = "???" if OmegaConf.is_missing(node, name) else node._get_node(name)
        if isinstance(value, DictConfig):
            found |= {key: None} | _walk(value, f"{key}.")
        else:
            found[key] = value if isinstance(value, str) else OmegaConf.to_container(node, resolve=False)[name]
    return found


def entry(command: str) -> Callable[[], None]:
    """The function behind a command of pyproject.toml."""
    return pkgutil.resolve_name(SCRIPTS[command])


def run_entry(command: str, arguments: list[str]) -> None:
    """Runs a command in this process and is content with nothing but its success."""
    code = 0
    with patch.object(sys, "argv", [command, *arguments]), patch.dict(os.environ):
        try:
            entry(command)()
        except SystemExit as stop:
            code = stop.code
    assert not code, f"{command} {' '.join(arguments)}: exit code {code}"
