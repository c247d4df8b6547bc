"""Checks that the configurations of several rooms share; each says the key, the value and what was expected."""

from collections.abc import Collection
from numbers import Real
from typing import Any

from clipfeat.errors import ConfigError


def one_of(key: str, value: str, choices: Collection[str]) -> None:
    """A word out of several.

    Raises:
        ConfigError: If it is another.
    """
    if value not in choices:
        raise ConfigError(f"{key}={value}: expected one of {', '.join(choices)}")


def at_least(key: str, value: float | None, lowest: float, *, above: bool = False) -> None:
    """A number that is not too small. Accepts None (the key is optional and unset).

    Raises:
        ConfigError: If it is below ``lowest``, or with ``above`` not above it, NaN or no number.
    """
    if value is None or (isinstance(value, Real) and (value > lowest if above else value >= lowest)):
        return
    raise ConfigError(f"{key}={value}: expected a number {'above' if above else 'of at least'} {lowest:g}")


def right_type(name: str, value: object, fits: bool, expected: str) -> None:
    """An argument of a Python call that is easily confused with another, such as the name of a thing with the thing.

    Args:
        name: of the argument.
        value: what was given.
        fits: whether it can be used.
        expected: what was meant, and how to get one.

    Raises:
        TypeError: If it can't.
    """
    if not fits:
        given = f"={value!r}" if isinstance(value, str) else f" of type {type(value).__name__}"
        raise TypeError(f"{name}{given}: expected {expected}")


def must_say(key: str, value: str | None, choices: Collection[str]) -> None:
    """A word out of several that has no default.

    Raises:
        ConfigError: If it is not set, or another.
    """
    if value is None:
        raise ConfigError(f"{key} is not set and has no default: say {' or '.join(choices)}")
    one_of(key, value, choices)


def check_size(key: str, size: list[int] | None) -> None:
    """The size of a picture, [width, height] in pixels, or None.

    Raises:
        ConfigError: If it is something else.
    """
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ConfigError(f"{key}={size}: expected [width,height] in pixels, such as [1296,968]")


def resume_word(value: str) -> str:
    """What ``resume`` means: a boolean, in text (true; in files also yes) or not, and overwrite, as one of two words.

    Raises:
        ConfigError: If it is none of these.
    """
    word = {"false": "overwrite"}.get(str(value).lower(), str(value).lower())
    one_of("resume", word, ("true", "overwrite"))
    return word


def listed(key: str, value: Any, kind: type[Any], expected: str) -> list[Any]:
    """The list that a key means which takes one value, a list of them, or null for none.

    Raises:
        ConfigError: If one of them is not of the kind, or empty.
    """
    values = [] if value is None else value if isinstance(value, list) else [value]
    if any(not isinstance(one, kind) or isinstance(one, bool) or one == "" for one in values):
        raise ConfigError(f"{key}={value}: expected {expected}")
    return values


def check_points_file(key: str, pattern: str | None) -> None:
    """A file of points, or None.

    Raises:
        ConfigError: If its name ends otherwise than the formats that are read.
    """
    if pattern is not None and not pattern.lower().endswith((".ply", ".npz")):
        raise ConfigError(f"{key}={pattern}: expected a .ply or .npz file")
