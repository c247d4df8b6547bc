"""Keys that are paths: each is marked where it is declared, and ``~`` at its beginning is the home folder."""

import os
import re
from collections.abc import Iterator
from dataclasses import Field, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

_MARK = {"path": True}


def path_key(default: str | None = MISSING) -> Any:
    """The declaration of a key that is a path, or a pattern of paths, or may be one: ``root: str = …``.

    Args:
        default: of the key; by default it has none and must be said.
    """
    return field(default=default, metadata=_MARK)


def is_path(declared: "Field[Any]") -> bool:
    """Whether a key was declared by ``path_key``."""
    return bool(declared.metadata.get("path"))


def with_home(value: str) -> str:
    """A path whose ``~`` is the home folder, as in a shell; also that of ``local-dir:~/…``."""
    kind = "local-dir:" if value.startswith("local-dir:") else ""
    # Path's own raises where there is no home, and takes a / from the end.
    return kind + os.path.expanduser(value.removeprefix(kind))  # noqa: PTH111


def literal(value: Any) -> Any:
    """A value that OmegaConf takes as it is, where it would look for the key that ``${…}`` names."""
    if isinstance(value, dict):
        return {key: literal(one) for key, one in value.items()}
    if isinstance(value, list):
        return [literal(one) for one in value]
    return re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + r"\${", value) if isinstance(value, str) else value


def expand_home(cfg: DictConfig) -> None:
    """Puts the home folder where a path of a composed configuration begins with ``~``, wherever that was said."""
    plain = OmegaConf.to_container(cfg, resolve=False)
    for key, value in _paths(cfg, plain, ""):
        if (expanded := with_home(value)) != value:
            OmegaConf.update(cfg, key, expanded)


def _paths(cfg: DictConfig, plain: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """The paths of a node and of those in it, by dotted key, before interpolation."""
    declared = OmegaConf.get_type(cfg)
    if not is_dataclass(declared):
        return
    for one in fields(declared):
        value = plain.get(one.name)
        if isinstance(value, dict):
            yield from _paths(cfg[one.name], value, f"{prefix}{one.name}.")
        elif isinstance(value, str) and is_path(one):
            yield f"{prefix}{one.name}", value


def user_cache() -> Path | None:
    """Where programs keep what they can make again: ``$XDG_CACHE_HOME`` or ``~/.cache``; None without a home."""
    folder = os.environ.get("XDG_CACHE_HOME") or with_home("~/.cache")
    return None if folder.startswith("~") else Path(folder)
