"""The command line as it was typed, before Hydra sees it: what has one meaning gets it, all else is told in a line.

Hydra reads a value by a grammar in which braces, commas, quotes, ``=``, ``~`` and most other signs mean something, and
letters beyond ASCII nothing. A path is no text of that grammar: it is taken as it stands, by quoting it for Hydra.
"""

import re
import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString, Sweep
from hydra.errors import HydraException
from omegaconf import OmegaConf

from clipfeat.cli.flags import choice_of, sort_line
from clipfeat.cli.keys import Keys, keys_of
from clipfeat.config.paths import with_home
from clipfeat.errors import ConfigError
from clipfeat.system.patterns import PLACEHOLDERS

_WORD = re.compile(
    r"(?P<sign>~|\+{0,2})(?P<key>[a-z_$][\w$-]*([./][\w$-]+)*(@[\w./:]+)?) ?(=(?P<value>.*))?",
    re.ASCII | re.DOTALL | re.IGNORECASE,
)
_HYDRA = re.compile(r"hydra[./]|hydra$")
_PLACEHOLDER = re.compile("|".join(rf"\{{{name}\}}" for name in PLACEHOLDERS))
_UNREAD = object()
"""What stands for a value that Hydra's grammar can't read."""


def for_hydra(arguments: Sequence[str], config_name: str) -> list[str]:
    """A command line that Hydra reads as it was meant: flags first, and values quoted that need it.

    Args:
        arguments: as they were typed.
        config_name: of the command's primary configuration: extract, fuse, …

    Raises:
        ConfigError: If something in it has no meaning, or more than one.
    """
    line = sort_line(arguments, config_name)
    if "--shell-completion" in line.flags:
        return list(arguments)
    return [*line.flags, *as_meant(line.words, line.config_name, sweeps=line.sweeps, own="--config-dir" in line.flags)]


def as_meant(words: Sequence[str], config_name: str, *, sweeps: bool = False, own: bool = False) -> list[str]:
    """Overrides that Hydra reads as they were meant. What is read so anyhow is not touched.

    Args:
        words: the overrides, as they were typed.
        config_name: of the primary configuration.
        sweeps: whether a key may have several values.
        own: whether there may be groups that are not clipfeat's.

    Raises:
        ConfigError: If one has no meaning, or more than one.
    """
    keys = keys_of(config_name)
    return [_override(word, keys, sweeps, own, words[max(i - 1, 0) : i + 2]) for i, word in enumerate(words)]


def _override(word: str, keys: Keys, sweeps: bool, own: bool, around: Sequence[str]) -> str:
    match = _WORD.fullmatch(word)
    if match is None or (match["value"] is None and match["sign"] != "~"):
        raise ConfigError(f"cannot read the override '{word}': expected key=value{_hint(word, keys, around)}")
    sign, key, value = match["sign"], match["key"], match["value"]
    if _HYDRA.match(key):
        if key in ("hydra.launcher", "hydra.sweeper"):
            raise ConfigError(f"{word}: a choice is written with a slash: {key.replace('.', '/')}={value}")
        return word if value is None or _read(value) is not _UNREAD else f"{sign}{key}={_quoted(value)}"
    if "@" in key:
        raise ConfigError(f"{word}: each group has its own place here, leave out the @ and what follows it")
    if sign == "~":
        if key not in keys.groups:
            raise ConfigError(f"{word}: a key can't be taken away; {key}=null unsets one that may be unset")
        return word
    assert value is not None  # noqa: S101 - for the type checker: only ~key goes without
    if sign and not value.startswith("{"):
        if key in keys.names or key in keys.groups:
            sign = ""  # there is nothing to add where all keys are there
        elif not own:
            raise ConfigError(unknown_key(key, keys))
    if key in keys.dotted or (key not in keys.names and "/" in key and key.replace("/", ".") in keys.names):
        _check_separator(key, value, keys)
    if key not in keys.names and (near := keys.near(key)) and near[0] in keys.groups and key not in keys.groups:
        raise ConfigError(f"{key}={value}: no such key; did you mean {near[0]}={value}?")
    if key in keys.groups:
        return f"{sign}{key}={_choice(key, value, keys, sweeps)}"
    if key in keys.paths:
        return f"{sign}{key}={_path(key, value, keys, sweeps)}"
    return f"{sign}{key}={_other(key, value, keys, sweeps)}"


def _check_separator(key: str, value: str, keys: Keys) -> None:
    """Tells of a group that is written with a dot, or of a key with a slash."""
    if key in keys.dotted and not value.startswith("{"):
        raise ConfigError(f"{key}={value}: a choice is written with a slash: {keys.dotted[key]}={value}")
    if key not in keys.dotted and key not in keys.groups:
        dotted = key.replace("/", ".")
        raise ConfigError(f"{key}={value}: a key is written with dots: {dotted}={value}")


def _choice(group: str, value: str, keys: Keys, sweeps: bool) -> str:
    read = _read(value)
    if _is_sweep(read) and not sweeps:
        raise ConfigError(f"{group}={value}: {_needs_m(group, value, keys)}")
    if isinstance(read, dict):
        return value  # keys of the group, several at once
    names = read.list if isinstance(read, ChoiceSweep) else read if isinstance(read, list) else [read]
    if value.lower() in ("", "on", "off", "yes", "no") or any(
        isinstance(one, bool | int | float | None) for one in names
    ):
        raise ConfigError(no_such_choice(group, value, keys))
    return _quoted(value) if read is _UNREAD else value


def no_such_choice(group: str, value: str, keys: Keys, choices: Sequence[str] = ()) -> str:
    """What to say of a choice that a group has not.

    Args:
        group: such as vis.
        value: that was typed.
        keys: of the command.
        choices: that there are; by default those that come with clipfeat.
    """
    choices = list(choices or keys.groups.get(group, ()))
    wrong = f"{group}={value}: no such choice, expected one of {', '.join(choices)}"
    if meant := choice_of(group, value, keys) if group in keys.groups else None:
        return f"{wrong}; say {group}={meant}" + (f", or {group}=none" if meant != "none" else "")
    if "/" in value or value.startswith("~") or (value and Path(value).is_dir()):
        for key in (f"{group}.root", f"{group}_dir", f"{group}.pretrained", f"{group}.points_file"):
            if key in keys.paths:
                return f"{wrong}; a path is {shlex.quote(f'{key}={value}')}"
    near = get_close_matches(_plain(value), map(_plain, choices), n=1)
    if near:
        return f"{wrong}; did you mean {next(one for one in choices if _plain(one) == near[0])}?"
    return f"{wrong}; a folder is {shlex.quote(f'data.root={value}')}" if group == "data" and value else wrong


def _plain(name: str) -> str:
    """A choice's name as it is compared: ViT-B/16 is near vit_b16."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _path(key: str, value: str, keys: Keys, sweeps: bool) -> str:
    """A path as Hydra reads it; one that it reads as it stands is not touched."""
    read = _read(value)
    if not value or value in ("null", "???") or isinstance(read, QuotedString):
        return value
    if isinstance(read, list) and key in keys.lists:
        return value
    there = _is_there(value)
    if sweeps and not there:
        if _is_sweep(read) and not any(one.startswith("~") for one in value.split(",")):
            return value
        return ",".join(_literal(one, keys) for one in value.split(","))
    if isinstance(read, str) and "\\" in value and read != value and not there:
        return value  # Hydra's own way of writing odd characters
    if "," in value and not there and not _PLACEHOLDER.search(value):
        raise ConfigError(f"{key}={value}: {_needs_m(key, value, keys)}")
    return _literal(value if there else value.strip(), keys)


def _literal(value: str, keys: Keys) -> str:
    """One path as Hydra reads it."""
    text = re.sub(r"(\\*)\$\{", lambda match: _dollar(match, keys), with_home(value))
    return text if _read(text) == text == with_home(value) else _quoted(text)


def _dollar(match: "re.Match[str]", keys: Keys) -> str:
    """``${`` as it stands where it names a key or a resolver, and else as two characters of a path."""
    inner = re.match(r"([^{}:]*)(:?)[^{}]*\}", match.string[match.end() :])
    if inner and (OmegaConf.has_resolver(inner[1]) if inner[2] else inner[1] in keys.names):
        return match[0]
    return 2 * match[1] + r"\${"


def _is_there(value: str) -> bool:
    """Whether a path with a comma in it exists, as far as the folder of the last comma."""
    end = value.find("/", value.rfind(",") + 1)
    try:
        return Path(with_home(value if end < 0 else value[:end])).exists()
    except (OSError, ValueError):  # a name that is too long, or has a NUL
        return False


def _other(key: str, value: str, keys: Keys, sweeps: bool) -> str:
    """The value of a key that is no path: a number, a word, a text, a list."""
    read = _read(value)
    below = [name for name in keys.names if name.startswith(f"{key}.")]
    if below and not isinstance(read, dict):
        raise ConfigError(f"{key}={value}: is no key itself, expected one of {', '.join(below)}")
    if _is_sweep(read) and not sweeps:
        raise ConfigError(f"{key}={value}: {_needs_m(key, value, keys)}")
    if key in keys.only_lists and value and not value.startswith(("[", "${")) and not (read is None or sweeps):
        return f"[{_quoted(value) if read is _UNREAD else value}]"  # a list of one
    if read is not _UNREAD:
        return value
    if key not in keys.lists or not value.startswith("["):
        return _quoted(value)
    inner = value[1:-1]
    if not value.endswith("]") or set(inner) & set("[]{}\"'") - {"'"} or re.search(r"(^|,)\s*'", inner):
        raise ConfigError(f"{key}={value}: cannot be read as a list; it is written {_list_in_bash(key)}")
    return f"[{','.join(one if _read(one) is not _UNREAD else _quoted(one.strip()) for one in inner.split(','))}]"


def _needs_m(key: str, value: str, keys: Keys) -> str:
    """What to say of several values that were given to a command that runs once."""
    sweep = f"several values, each a run of its own, need -m: {keys.command} -m {shlex.quote(f'{key}={value}')} …"
    if key in keys.lists:
        as_list = shlex.quote(f"{key}=[{value}]")
        return f"a list is written {as_list}, and one text with a comma {in_bash(key, value)}; {sweep}"
    return f"{sweep}; one path with a comma is written {in_bash(key, value)}" if key in keys.paths else sweep


def unknown_key(key: str, keys: Keys) -> str:
    """What to say of a key that a command has not."""
    if key in keys.names:
        return f"{key}: not a key of the chosen {key.split('.')[0]}; it belongs to another choice of that group"
    near = keys.near(key)
    hint = f"did you mean {' or '.join(near)}?" if near else f"{keys.command} --help lists the keys"
    return f"{key}: no such key; {hint}"


def _hint(word: str, keys: Keys, around: Sequence[str]) -> str:
    """What to add where a word is no key=value."""
    before = around[0].partition("=") if around[0] is not word else ("", "", "")
    if word.endswith("=") or "=" in around or (before[1] and not before[2]):
        return ", without spaces around the ="
    if word in keys.names or word in keys.groups:
        return f", such as {word}=…"
    if word.startswith(("–", "—")):
        return "; a flag begins with two hyphens"
    if (colon := re.match(r"([\w.]+):(.+)", word)) and colon[1] in keys.names:
        return f"; it is written {shlex.quote(f'{colon[1]}={colon[2]}')}"
    if "/" in word or "=" in word or (word and Path(word).exists()):
        return f"; a folder is told by its key, as {shlex.quote(f'{_first_path(keys)}={word}')}"
    if before[0] in keys.paths | keys.lists:
        return f"; several words are one value in quotes, as {shlex.quote(f'{around[0]} {word}')}"
    return ""


def _first_path(keys: Keys) -> str:
    return "data.root" if "data.root" in keys.paths else "store"


def in_bash(key: str, value: str) -> str:
    """``key=value`` as it is pasted into a shell, quoted for Hydra too."""
    word = f"{key}={QuotedString(value, Quote.single).with_quotes()}"
    if not re.search(r'["$`\\!]', word):
        return f'"{word}"'
    return shlex.quote(f"{key}={QuotedString(value, Quote.double).with_quotes()}")


def _list_in_bash(key: str) -> str:
    return f"\"{key}=['…','…']\""


def _quoted(text: str) -> str:
    return str(QuotedString(text, Quote.single).with_quotes())


def _read(value: str) -> Any:
    """What Hydra makes of a value; ``_UNREAD`` where it can't read it."""
    try:
        override = _parser().parse_rule(f"key={value}", "override")
    except HydraException:
        return _UNREAD
    assert isinstance(override, Override)  # noqa: S101 - for the type checker
    return override._value


def _is_sweep(read: Any) -> bool:
    return isinstance(read, Sweep)


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()
