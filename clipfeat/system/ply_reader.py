"""Reading PLY files, whoever wrote them: every way one can be bad ends in a ValueError.

The vertices and the faces are those of the file, in its order. trimesh does not promise that: it makes vertices double
at the seams of a texture, drops such as no face uses, and then numbers the faces anew. Of other readers with a free
licence, some know only some columns (no labels), and some sort faces by the number of their corners.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "int64": "i8", "uint64": "u8", "float32": "f4", "float64": "f8",
}  # fmt: skip
"""Both sets of names that are in use."""

_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}

_Column = tuple[str, int]
"""A type, and how many numbers of it a row holds."""

_CORNERS = ("vertex_indices", "vertex_index")
"""How the list of a face's corners is called."""


@dataclass(frozen=True)
class Lists:
    """What a list property holds: a list a row.

    Attributes:
        counts: (rows,) how long each list is.
        values: all of them, one list after another.
    """

    counts: NDArray[np.int64]
    values: np.ndarray


@dataclass(frozen=True)
class _Property:
    """A column: a number a row or, where ``count`` is the type of its length, a list a row."""

    name: str
    type: str
    count: str | None = None


@dataclass
class _Element:
    name: str
    rows: int
    properties: list[_Property] = field(default_factory=list)


def read_ply(path: Path) -> dict[str, dict[str, Any]]:
    """Reads the elements of a PLY by name (vertex, face, …): each a dict of columns (rows,), or ``Lists``.

    Raises:
        OSError: If the file can't be read.
        ValueError: If it is no PLY file, or damaged.
    """
    content = path.read_bytes()
    order, elements, begin = _header(content)
    body = _Binary(content, begin, order) if order else _Text(content, begin)
    return {element.name: _read_element(body, element) for element in elements}


def num_rows(columns: dict[str, Any]) -> int:
    """How many rows an element has; none where it has no columns."""
    return next((len(c.counts if isinstance(c, Lists) else c) for c in columns.values()), 0)


def coordinates(elements: dict[str, dict[str, Any]]) -> np.ndarray:
    """The vertices (N, 3), of the type that the file has.

    Raises:
        ValueError: If there are none, or they have no x, y and z.
    """
    vertex = elements.get("vertex", {})
    if not num_rows(vertex):
        raise ValueError("holds no vertices")
    missing = [name for name in "xyz" if not isinstance(vertex.get(name), np.ndarray)]
    if missing:
        raise ValueError(f"its vertices have no {', '.join(missing)}")
    return np.stack([vertex[name] for name in "xyz"], 1)


def triangles(elements: dict[str, dict[str, Any]]) -> NDArray[np.int64]:
    """The triangles (F, 3) of the faces in the file's order; a face of more corners becomes a fan.

    Raises:
        ValueError: If faces are there and have no corners, or name vertices that are not there.
    """
    if "face" in elements:
        columns, split = elements["face"], _fans
    elif "tristrips" in elements:
        columns, split = elements["tristrips"], _strips
    else:
        return np.zeros((0, 3), np.int64)
    corners = next((columns[name] for name in _CORNERS if isinstance(columns.get(name), Lists)), None)
    if corners is None:
        if not num_rows(columns):
            return np.zeros((0, 3), np.int64)
        raise ValueError(f"its faces have no list {' or '.join(_CORNERS)}, but {', '.join(columns)}")
    if corners.values.dtype.kind not in "iu":
        raise ValueError(f"the corners of its faces are of {corners.values.dtype}, expected whole numbers")
    found = split(Lists(corners.counts, corners.values.astype(np.int64)))
    if len(found) and not (found.min() >= 0 and found.max() < num_rows(elements.get("vertex", {}))):
        raise ValueError("a face names a vertex that is not there")
    return found


def _fans(corners: Lists) -> NDArray[np.int64]:
    first = np.cumsum(corners.counts) - corners.counts
    each = np.maximum(corners.counts - 2, 0)
    face = np.repeat(np.arange(len(each)), each)
    second = first[face] + 1 + np.arange(len(face)) - np.repeat(np.cumsum(each) - each, each)
    return np.stack([corners.values[at] for at in (first[face], second, second + 1)], 1)


def _strips(corners: Lists) -> NDArray[np.int64]:
    """A triangle a corner from the third on, every other one turned round; -1 ends a strip."""
    found = []
    for strip in np.split(corners.values, np.cumsum(corners.counts)[:-1]):
        for part in np.split(strip, np.flatnonzero(strip == -1)):
            part = part[part != -1]
            rows = np.stack([part[:-2], part[1:-1], part[2:]], 1) if len(part) > 2 else np.zeros((0, 3), np.int64)
            rows[1::2] = rows[1::2, [1, 0, 2]]
            found.append(rows)
    return np.concatenate(found) if found else np.zeros((0, 3), np.int64)


def _header(content: bytes) -> tuple[str, list[_Element], int]:
    """The byte order ("" for text), the elements, and where the body begins."""
    end = next((e for e in (b"\r\n", b"\n", b"\r") if content.startswith(b"ply" + e)), None)
    if end is None:
        raise ValueError("not a PLY file")
    stop = content.find(end + b"end_header" + end)
    if stop < 0:
        raise ValueError("its header has no end")
    order, elements = None, []
    for line in content[:stop].decode("ascii", "replace").split(end.decode())[1:]:
        words = line.split()
        match words:
            case [] | ["comment" | "obj_info", *_]:
                continue
            case ["format", name, *_] if name in _ORDERS:
                order = _ORDERS[name]
            case ["element", name, number] if number.isdecimal() and number.isascii():
                elements.append(_Element(name, _rows(name, number, len(content))))
            case ["property", "list", count, kind, name] if (
                elements and {count, kind} <= _TYPES.keys() and _TYPES[count][0] != "f"
            ):
                elements[-1].properties.append(_Property(name, _TYPES[kind], _TYPES[count]))
            case ["property", kind, name] if elements and kind in _TYPES:
                elements[-1].properties.append(_Property(name, _TYPES[kind]))
            case _:
                raise ValueError(f"its header says {' '.join(line.split())[:60]!r}, which means nothing")
    for element in elements:
        names = [p.name for p in element.properties]
        if len(set(names)) < len(names) or [e.name for e in elements].count(element.name) > 1:
            raise ValueError(f"its header names something of {element.name} twice")
    if order is None:
        raise ValueError(f"its header has no format, expected one of {', '.join(_ORDERS)}")
    return order, elements, stop + len(end + b"end_header" + end)


def _rows(name: str, number: str, size: int) -> int:
    # A row takes a byte or more: a count beyond that is a lie, and nothing is allocated for it.
    number = number.lstrip("0") or "0"
    if len(number) > len(str(size)) or int(number) > size:
        number = number if len(number) < 20 else f"{number[:17]}…"
        what = f"{number} {'vertices' if name == 'vertex' else f'elements {name}'}"
        raise ValueError(f"declares {what}, more than its {size} bytes can hold")
    return int(number)


class _Binary:
    """The body of a binary file; places and sizes are bytes."""

    def __init__(self, content: bytes, begin: int, order: str):
        self.at = begin
        self.end = len(content)
        self._content = content
        self._bytes = np.frombuffer(content, np.uint8)
        self._order = order

    def size(self, kind: str) -> int:
        return int(kind[1])

    def integer(self, at: int, kind: str) -> int:
        if kind == "u1":
            return self._content[at]
        part = self._content[at : at + self.size(kind)]
        return int.from_bytes(part, "little" if self._order == "<" else "big", signed=kind[0] == "i")

    def table(self, at: int, rows: int, columns: Sequence[_Column]) -> list[np.ndarray]:
        """Columns (rows, length) of rows that begin at ``at`` and follow on one another."""
        layout = np.dtype([(str(n), self._order + kind, (length,)) for n, (kind, length) in enumerate(columns)])
        found = np.frombuffer(self._content, layout, rows, at)
        return [found[str(n)].astype(kind) for n, (kind, _) in enumerate(columns)]

    def gather(self, places: NDArray[np.int64], kind: str) -> np.ndarray:
        """The numbers that lie at these places."""
        found = self._bytes[places[:, None] + np.arange(self.size(kind))]
        return found.view(self._order + kind).reshape(len(places)).astype(kind)


class _Text:
    """The body of an ASCII file; places and sizes are words."""

    def __init__(self, content: bytes, begin: int):
        self.at = 0
        try:
            self._words = np.fromstring(content[begin:], np.float64, sep=" ")
        except (ValueError, DeprecationWarning) as error:
            raise ValueError("a word of it is not a number") from error
        self.end = len(self._words)

    def size(self, _kind: str) -> int:
        return 1

    def integer(self, at: int, kind: str) -> int:
        return int(_cast(self._words[at : at + 1], kind)[0])

    def table(self, at: int, rows: int, columns: Sequence[_Column]) -> list[np.ndarray]:
        ends = np.cumsum([length for _, length in columns])
        words = self._words[at : at + rows * int(ends[-1])].reshape(rows, -1)
        return [_cast(words[:, end - n : end], kind) for (kind, n), end in zip(columns, ends, strict=True)]

    def gather(self, places: NDArray[np.int64], kind: str) -> np.ndarray:
        return _cast(self._words[places], kind)


def _cast(words: NDArray[np.float64], kind: str) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        found = words.astype(kind)
    if kind[0] != "f" and not np.array_equal(found, words):
        raise ValueError("a number of it is not of the type that its header says")
    return found


def _read_element(body: _Binary | _Text, element: _Element) -> dict[str, Any]:
    """The columns of an element; the body then stands at the next one."""
    if element.rows == 0 or not element.properties:
        return {p.name: _nothing(p) for p in element.properties}
    columns = _columns_if_even(body, element)
    if columns is None:
        return _read_uneven(body, element)
    tables = iter(body.table(body.at, element.rows, columns))
    found: dict[str, Any] = {}
    for p in element.properties:
        column = next(tables)[:, 0]
        found[p.name] = column if p.count is None else Lists(column.astype(np.int64), next(tables).reshape(-1))
    body.at += element.rows * _width(body, columns)
    return found


def _nothing(p: _Property) -> np.ndarray | Lists:
    values = np.zeros(0, p.type)
    return values if p.count is None else Lists(np.zeros(0, np.int64), values)


def _columns_if_even(body: _Binary | _Text, element: _Element) -> list[_Column] | None:
    """The columns of an element whose lists are as long in all rows as in the first; None if they are not."""
    columns: list[_Column] = []
    counts = []
    for p in element.properties:
        if p.count is not None:
            length = _length(body, body.at + _width(body, columns), p)
            counts.append(len(columns))
            columns += [(p.count, 1), (p.type, length)]
        else:
            columns.append((p.type, 1))
    end = body.at + element.rows * _width(body, columns)
    if counts and end > body.end:
        return None  # the other lists may be shorter
    _check_end(body, end, element)
    tables = body.table(body.at, element.rows, columns) if counts else []
    return columns if all((tables[n] == tables[n][0]).all() for n in counts) else None


def _width(body: _Binary | _Text, columns: Sequence[_Column]) -> int:
    return sum(body.size(kind) * length for kind, length in columns)


def _read_uneven(body: _Binary | _Text, element: _Element) -> dict[str, Any]:
    """Where lists are of different lengths, each row is where the one before it ends."""
    places: list[list[int]] = [[] for _ in element.properties]
    lengths: list[list[int]] = [[] for _ in element.properties]
    steps = [
        (p.count, body.size(p.count or p.type), body.size(p.type), place.append, of_place.append)
        for p, place, of_place in zip(element.properties, places, lengths, strict=True)
    ]
    at, end, integer = body.at, body.end, body.integer
    for _ in range(element.rows):  # the one loop over rows: it is kept short
        for count_kind, count_size, size, put_place, put_length in steps:
            length = 1
            if count_kind is not None:
                length = integer(at, count_kind) if at + count_size <= end else -1
                at += count_size
            put_place(at)
            put_length(length)
            at += length * size
            if length < 0 or at > end:
                raise ValueError(f"it is cut off: it declares {element.rows} rows of {element.name}, or lists too long")
    begins, counts = np.array(places, np.int64), np.array(lengths, np.int64)
    body.at = at
    found: dict[str, Any] = {}
    for p, first, count in zip(element.properties, begins, counts, strict=True):
        number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        values = body.gather(np.repeat(first, count) + number * body.size(p.type), p.type)
        found[p.name] = values if p.count is None else Lists(count, values)
    return found


def _length(body: _Binary | _Text, at: int, p: _Property) -> int:
    """How long the list is whose length stands at a place; no longer than what is left of the file."""
    count = p.count or ""
    if at + body.size(count) > body.end:
        raise ValueError("it is cut off")
    length = body.integer(at, count)
    if not 0 <= length * body.size(p.type) <= body.end - at - body.size(count):
        raise ValueError(f"it is cut off, or a list {p.name} of it says that it is {length} long")
    return length


def _check_end(body: _Binary | _Text, at: int, element: _Element) -> None:
    if at > body.end:
        raise ValueError(f"it is cut off: it declares {element.rows} rows of {element.name}, and not all are there")
