"""JSON files of cameras: read, and held against what they should hold."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.errors import FrameError
from clipfeat.system.patterns import PathPattern

_ROWS = [[f"t_{row}{column}" for column in range(4)] for row in range(3)]
"""Names of a 3×4 pose's numbers, row by row, in Polycam's files."""


def json_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it can't be read, or holds something else; the message says what.
    """
    try:
        return object_of(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"not JSON, or cut off ({error})") from error


def object_of(encoded: bytes) -> dict[str, Any]:
    """The same of a file's content.

    Raises:
        ValueError: If it is something else; the message says what.
    """
    try:
        found = json.loads(encoded.decode("utf-8-sig"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"not JSON, or cut off ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"is a {type(found).__name__} and not an object")
    return found


def number_of(node: Mapping[str, Any], name: str) -> float | None:
    """The finite number of that name; None where there is none, or null.

    Raises:
        ValueError: If it is something else.
    """
    value = node.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e300:
        raise ValueError(f"{name} is {str(value)[:40]!r}, a number was expected")
    return float(value)


def names_in(node: Mapping[str, Any]) -> str:
    """The first names of an object, for messages about another schema."""
    return ", ".join(str(name)[:30] for name in list(node)[:8]) or "nothing"


def field_of(found: Mapping[str, Any], field: str, values: Mapping[str, str]) -> tuple[str, Any]:
    """What an object holds at a field such as ``frame_{frame}/pose``: names of objects in objects, with placeholders.

    Args:
        found: the object.
        field: names, "/" between them.
        values: what the placeholders stand for.

    Returns:
        The field with its placeholders replaced, and what is there.

    Raises:
        ValueError: If there is no such field; the message says what there is instead.
    """
    name, node = PathPattern(field).fill(values), found
    for part in name.split("/"):
        if not isinstance(node, Mapping) or part not in node:
            inside = names_in(node) if isinstance(node, Mapping) else f"a {type(node).__name__}"
            raise ValueError(f"has no {name}, where there is {inside}")
        node = node[part]
    return name, node


def matrix_of(value: Any) -> NDArray[np.float64]:
    """A 4×4 matrix, or its upper 3×4, of nested lists or of 16 or 12 numbers, as (4, 4).

    Raises:
        ValueError: If it is none.
    """
    try:
        flat = np.array(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError("not a matrix of numbers") from error
    if flat.shape not in ((4, 4), (3, 4), (16,), (12,)):
        raise ValueError(f"of shape {flat.shape}, expected 4×4 or 3×4")
    matrix = np.eye(4)
    rows = flat.reshape(-1, 4)
    matrix[: len(rows)] = rows
    return matrix


def read_json_pose(path: Path, direction: str) -> NDArray[np.float64]:
    """The (4, 4) pose as written: t_00 … t_23, a 3×4 matrix row by row (Polycam), or a ``transform_matrix``.

    Args:
        path: the file.
        direction: which way was expected, for messages.

    Raises:
        FrameError: If the file is missing or holds none.
    """
    expected = f"a {direction} pose was expected: t_00 to t_23, or transform_matrix"
    try:
        found = json_object(path)
        if "transform_matrix" in found:
            return matrix_of(found["transform_matrix"])
        numbers = [[number_of(found, name) for name in row] for row in _ROWS]
    except FileNotFoundError as error:
        raise FrameError(f"{path}: no such file, {expected}") from error
    except ValueError as error:
        raise FrameError(f"{path}: {error}; {expected}") from error
    missing = [
        name for names, row in zip(_ROWS, numbers, strict=True) for name, n in zip(names, row, strict=True) if n is None
    ]
    if missing:
        raise FrameError(f"{path}: has no {missing[0]}, but {names_in(found)}; {expected}")
    return matrix_of(numbers)
