"""The words of a command line that begin with a dash: Hydra's flags, and keys that were written as flags."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from clipfeat.cli.keys import Keys, keys_of
from clipfeat.cli.schemas import COMMANDS
from clipfeat.config.paths import with_home
from clipfeat.errors import ConfigError

_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")

FLAGS: dict[tuple[str, ...], tuple[str, ...] | str | None] = {
    ("--help", "-h"): None,
    ("--hydra-help",): None,
    ("--version",): None,
    ("--run", "-r"): None,
    ("--multirun", "-m"): None,
    ("--resolve",): None,
    ("--shell-completion", "-sc"): None,
    ("--cfg", "-c"): ("job", "hydra", "all"),
    ("--package", "-p"): "the name of a node, such as model",
    ("--config-name", "-cn"): "the name of a configuration, such as composer",
    ("--config-dir", "-cd"): "a folder with YAML files of your own",
    ("--config-path", "-cp"): "a folder of configurations",
    ("--info", "-i"): _INFO,
}
"""Hydra's flags, and what each takes: nothing, a word out of several, or what is described. A test holds it against
Hydra's parser. ``--experimental-rerun``, which would run what is in a pickle, is left out."""

_OF_NAME = {name: names[0] for names in FLAGS for name in names}
_TAKES = {names[0]: takes for names, takes in FLAGS.items()}
_NUMBERS = {"fp16": "float16", "half": "float16", "fp32": "float32"}
"""What others call the dtypes of files."""

_ON, _OFF = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off", "null")
_USUAL = {"vis": "tsne", "cache": "lmdb"}
"""What is meant where one of a group's choices is none, and another is said to be wanted without saying which."""


class FlagError(ConfigError):
    """A flag that doesn't exist, or that misses its value; ends as in argparse."""


@dataclass
class Line:
    """A command line, sorted.

    Attributes:
        config_name: of the primary configuration, which a flag may name.
        flags: with their values, for Hydra.
        words: all others, in their order.
    """

    config_name: str
    flags: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @property
    def sweeps(self) -> bool:
        """Whether a key may have several values."""
        return "--multirun" in self.flags or any(re.fullmatch("hydra.mode=MULTIRUN", word) for word in self.words)


def sort_line(arguments: Sequence[str], config_name: str) -> Line:
    """Sorts a command line into flags and other words, wherever the flags stand.

    Args:
        arguments: as they were typed.
        config_name: of the command's own primary configuration.

    Raises:
        FlagError: If a flag is none of Hydra's, or has not the value that it takes.
    """
    line, strangers = Line(config_name), list[list[str]]()
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word == "--":
            line.words += left
            break
        if not word.startswith("-") or word == "-":
            line.words.append(word)
            continue
        name, equals, value = word.partition("=")
        flag = _flag(name)
        if flag is None:
            strangers.append([word])
            while not equals and left and _is_value(left[0]):
                strangers[-1].append(left.pop(0))
            continue
        line.flags.append(flag)
        if _TAKES[flag] is None:
            if equals:
                raise FlagError(f"{word}: {flag} takes no value")
            continue
        if not equals and flag == "--info" and (not left or left[0] not in _INFO):
            continue  # it alone may go without
        value = value if equals else left.pop(0) if left and not left[0].startswith("-") else ""
        line.flags.append(_checked(flag, value))
        if flag == "--config-name" and value in COMMANDS:
            line.config_name = value
    if strangers:
        raise FlagError(_of_strangers(strangers, keys_of(line.config_name)))
    return line


def _flag(name: str) -> str | None:
    """Hydra's flag of a name, which may be cut short as argparse allows; None if there is none."""
    if name in _OF_NAME:
        return _OF_NAME[name]
    longer = [flag for flag in _TAKES if flag.startswith(name)] if name.startswith("--") else []
    return longer[0] if len(longer) == 1 else None


def _checked(flag: str, value: str) -> str:
    takes = _TAKES[flag]
    if isinstance(takes, tuple) and value not in takes:
        raise FlagError(f"{flag} {value}".strip() + f": expected one of {', '.join(takes)}")
    if not value:
        raise FlagError(f"{flag}: a value is missing, expected {takes}")
    return with_home(value) if flag in ("--config-dir", "--config-path") else value


def _is_value(word: str) -> bool:
    """Whether a word belongs to the unknown flag before it, as in ``--scenes_file x``; a negative number does."""
    return bool(re.match(r"-\.?[0-9]", word)) or not re.match(r"-|[\w./+~-]+=", word)


def _of_strangers(strangers: list[list[str]], keys: Keys) -> str:
    """What to say of flags that Hydra has not: most are keys, as argparse would have them."""
    typed = " ".join(shlex.join(words) for words in strangers)
    if strangers[0][0].startswith("--experimental-rerun"):
        return f"{typed}: is not there, for it runs what a pickle says; give the overrides of that run"
    meant = [_as_key(words, keys) for words in strangers]
    known = [shlex.quote(one) for one in meant if one is not None]
    if not known:
        return f"{typed}: no such flag; keys are written without dashes, as key=value, and --help lists them"
    unknown = [words[0] for words, one in zip(strangers, meant, strict=True) if one is None]
    rest = f", and {', '.join(unknown)} is nothing that is known" if unknown else ""
    return f"{typed}: keys are written without dashes, as {' '.join(known)}{rest}"


def _as_key(words: list[str], keys: Keys) -> str | None:
    """How ``--key value`` is written here; None if there is no such key."""
    name, equals, value = words[0].lstrip("-").partition("=")
    values = [value] if equals else words[1:]
    if len(name) < 2:
        return None
    switch = name.startswith(("no-", "no_"))
    near = keys.near(name[3:] if switch else name)
    if not near:
        return None
    key = near[0]
    said = f"[{','.join(values)}]" if len(values) > 1 else values[0] if values else "false" if switch else "true"
    if key in keys.groups:
        said = choice_of(key, said, keys) or said
    if key.rpartition(".")[2] == "dtype":
        said = _NUMBERS.get(said, said)
    return f"{key}={said}"


def choice_of(group: str, value: str, keys: Keys) -> str | None:
    """The choice of a group that ``1``, ``true``, ``off``, … may mean; None if there is no telling."""
    word = value.lower()
    if word in _OFF and "none" in keys.groups[group]:
        return "none"
    return _USUAL.get(group) if word in _ON else None
