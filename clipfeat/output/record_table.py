"""The latest line of each frame, out of all records of a run, in some sixty bytes a line."""

import dataclasses
from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.output.records import DoneLine, FailedLine, Line, read_lines

_FAILED, _WITHOUT_DEPTH, _WITH_DEPTH = range(3)
_SCENE = -1
"""Stands for the frame of a scene that could not be read."""


@dataclass(frozen=True)
class SceneRecord:
    """The latest lines of the frames of one scene.

    A place says where a frame stands among those of all scenes: that of its first line, in the order of time.

    Attributes:
        scene_id: the scene.
        frames: numbers of its N frames that are done.
        places: of these, (N,), ascending.
        sizes: bytes of each, (N,).
        points: by the name of their status, (N,) each.
        has_depth: whether each had a depth file, (N,).
        failed: place, and number or None for the scene as a whole, and why, of what failed.
        unlisted: feature files of the scene that no line calls done, where somebody has looked (``among``).
    """

    scene_id: str
    frames: list[int]
    places: NDArray[np.int64]
    sizes: NDArray[np.int64]
    points: dict[str, NDArray[np.int32]]
    has_depth: NDArray[np.bool_]
    failed: list[tuple[int, int | None, str]]
    unlisted: int = 0

    def among(self, there: set[int]) -> "SceneRecord":
        """Without the frames whose files are gone.

        Args:
            there: numbers of the frames of the scene that have files.
        """
        kept = [frame_id in there for frame_id in self.frames]
        unlisted = len(there.difference(self.frames))
        if all(kept):
            return dataclasses.replace(self, unlisted=unlisted)
        rows = np.flatnonzero(kept)
        return SceneRecord(
            scene_id=self.scene_id,
            frames=[self.frames[row] for row in rows],
            places=self.places[rows],
            sizes=self.sizes[rows],
            points={name: counts[rows] for name, counts in self.points.items()},
            has_depth=self.has_depth[rows],
            failed=self.failed,
            unlisted=unlisted,
        )


def latest_lines(files: Collection[Path], scenes: Collection[str] | None = None) -> Iterator[SceneRecord]:
    """The latest line of each frame, and of each scene that could not be read, scene by scene.

    Of several records that is by the clock. Within one file the order stands, whatever its clock did.

    Args:
        files: the records.
        scenes: those that are asked for; all of them without it.
    """
    return _read(files, scenes).latest(by_clock=len(files) > 1)


def scenes_told(files: Collection[Path]) -> list[str]:
    """The scenes of which some records tell anything."""
    return list(dict.fromkeys(line.scene_id for lines in chain.from_iterable(map(read_lines, files)) for line in lines))


def _read(files: Collection[Path], scenes: Collection[str] | None) -> "_Table":
    table = _Table()
    for lines in chain.from_iterable(map(read_lines, files)):
        table.add(lines if scenes is None else [line for line in lines if line.scene_id in scenes])
    return table


class _Table:
    """All lines in columns, in the order in which they are read."""

    def __init__(self) -> None:
        self._scenes: dict[str, int] = {}
        self._unusual: dict[int, int] = {}
        self._failed: dict[int, FailedLine] = {}
        self._scene, self._frame, self._kind = array("i"), array("q"), array("b")
        self._time, self._size = array("d"), array("q")
        self._points: dict[str, array[int]] = {}

    def add(self, lines: list[Line]) -> None:
        before = len(self._scene)
        for scene_id in dict.fromkeys(line.scene_id for line in lines):
            self._scenes.setdefault(scene_id, len(self._scenes))
        points, sizes, kinds = [], [], []
        for row, line in enumerate(lines, before):
            if isinstance(line, DoneLine):
                points.append(line.points)
                sizes.append(line.bytes)
                kinds.append(_WITH_DEPTH if line.depth else _WITHOUT_DEPTH)
            else:
                points.append({})
                sizes.append(0)
                kinds.append(_FAILED)
                self._failed[row] = line
        self._scene.fromlist([self._scenes[line.scene_id] for line in lines])
        self._frame.extend(self._numbers([line.frame_id for line in lines]))
        self._time.fromlist([line.time for line in lines])
        self._size.fromlist(sizes)
        self._kind.fromlist(kinds)
        for name in dict.fromkeys(chain.from_iterable(points)):
            if name not in self._points:
                self._points[name] = array("i", bytes(4 * before))
        for name, column in self._points.items():
            column.fromlist([counts.get(name, 0) for counts in points])

    def _numbers(self, frame_ids: list[Any]) -> "array[int]":
        try:
            numbers = array("q", frame_ids)
        except (TypeError, OverflowError):
            return array("q", map(self._number, frame_ids))
        return numbers if min(numbers, default=0) >= 0 else array("q", map(self._number, frame_ids))

    def _number(self, frame_id: int | None) -> int:
        """Its own, or a negative one where 64 bits don't hold it, as in runs of early versions."""
        if frame_id is None:
            return _SCENE
        if 0 <= frame_id < 1 << 63:
            return frame_id
        return _SCENE - 1 - self._unusual.setdefault(frame_id, len(self._unusual))

    def latest(self, *, by_clock: bool) -> Iterator[SceneRecord]:
        """See ``latest_lines``. To be called once: a column goes when it is not needed any more."""
        scene, in_time = np.asarray(self._scene), None
        if by_clock:
            in_time = np.argsort(np.asarray(self._time), kind="stable").astype(np.uint32)
            scene = scene[in_time]
        self._time, self._scene = array("d"), array("i")
        by_scene = np.argsort(scene, kind="stable")
        ends = np.bincount(scene, minlength=len(self._scenes)).cumsum().tolist()
        columns = [np.asarray(column) for column in (self._frame, self._kind, self._size)]
        points = {name: np.asarray(column) for name, column in self._points.items()}
        unusual = list(self._unusual)
        for scene_id, begin, end in zip(self._scenes, [0, *ends], ends, strict=False):
            places = by_scene[begin:end]
            rows = places if in_time is None else in_time[places]
            first, last = _first_and_last(columns[0][rows])
            rows, places = rows[last], places[first]
            frame, kind, size = (column[rows] for column in columns)
            done = kind != _FAILED
            frames = frame[done].tolist()
            if unusual:
                frames = [unusual[_SCENE - 1 - number] if number < 0 else number for number in frames]
            failed = [
                (place, self._failed[row].frame_id, self._failed[row].why)
                for place, row in zip(places[~done].tolist(), rows[~done].tolist(), strict=True)
            ]
            rows = rows[done]
            counts = {name: column[rows] for name, column in points.items()}
            yield SceneRecord(scene_id, frames, places[done], size[done], counts, kind[done] == _WITH_DEPTH, failed)


def _first_and_last(frame: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each frame of a scene is told of first and last, in the order of the first.

    That a scene could not be read counts if nothing is told of it after; it is as if it had not been said before.
    """
    numbers, first = np.unique(frame, return_index=True)
    if len(numbers) == len(frame) and numbers[0] >= 0:
        return (every := np.arange(len(frame))), every
    last = len(frame) - 1 - np.unique(frame[::-1], return_index=True)[1]
    of_scene = numbers == _SCENE
    first = np.where(of_scene, last, first)
    kept = np.flatnonzero(~of_scene | (last == len(frame) - 1))
    kept = kept[np.argsort(first[kept])]
    return first[kept], last[kept]
