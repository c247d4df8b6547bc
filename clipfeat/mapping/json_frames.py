"""Frames that a program tells of while it records: a line of JSON each, on standard input or any other pipe."""

import json
import os
import select
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.base import check_scene_name
from clipfeat.data.images import read_picture
from clipfeat.data.matrices import Calibration, check_pose, pinhole
from clipfeat.data.rasters import read_depth
from clipfeat.data.registered import camera_of, depth_camera_of
from clipfeat.data.selection import FrameKey
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Frame

_LARGEST = (1 << 63) - 1
_BLOCK = 1 << 16

NEEDED = ("color", "depth", "intrinsics", "pose")
OPTIONAL = ("scene", "frame", "depth_intrinsics", "depth_scale")


class JsonFrames:
    """Frames by lines of JSON.

    A line is an object: ``color`` and ``depth``, paths of the two pictures; ``intrinsics`` of the colour picture as it
    is stored, [fx, fy, cx, cy] or 3×3; ``pose``, 4×4 cam_to_world in OpenCV's axes, in rows or as 16 numbers. It may
    have ``scene`` (else it is stream), ``frame``, its number (else the next one of its scene), ``depth_intrinsics``
    (else those of the colour picture, brought to the depth's size) and ``depth_scale``, units in a metre (else 1000).

    Args:
        descriptor: of the open file that the lines come from.
        root: where relative paths begin.
        known: gives the numbers of a scene's frames that are known already.
        most: lines that are taken at a time; the others wait in the pipe.

    Attributes:
        ended: whether the file has come to its end.
        bad: lines that are none, as what is wrong with them; whoever takes one removes it.
    """

    def __init__(self, descriptor: int, root: Path, known: Callable[[str], Iterable[int]], most: int):
        self.ended = False
        self.bad: list[str] = []
        self._descriptor, self._root, self._known, self._most = descriptor, root, known, most
        self._rest = b""
        self._number = 0
        self._told: dict[FrameKey, dict[str, Any]] = {}
        self._last: dict[str, int] = {}

    @property
    def waiting(self) -> bool:
        """See ``LiveFrames``: what waits in the pipe is no frame yet."""
        return False

    def new(self) -> list[FrameKey]:
        """See ``LiveFrames``."""
        keys: list[FrameKey] = []
        while len(keys) < self._most and (line := self._line()) is not None:
            self._number += 1
            if not line.strip():
                continue
            try:
                keys.append(self._key_of(line))
            except DataError as error:
                self.bad.append(str(error))
        return keys

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """See ``Dataset``."""
        told, where = self._told[scene_id, frame_id], f"{scene_id} frame {frame_id}"
        picture = read_picture(self._path(told["color"]))
        name = f"{where}: intrinsics"
        color_camera = camera_of(_calibration(told["intrinsics"], name), picture, name)
        depth_m = read_depth(self._path(told["depth"]), told.get("depth_scale", 1000.0))
        own, name = told.get("depth_intrinsics"), f"{where}: depth_intrinsics"
        depth_camera = depth_camera_of(None if own is None else _calibration(own, name), color_camera, depth_m, name)
        pose = check_pose(_matrix(told["pose"], (4, 4), f"{where}: pose"), f"{where}: pose")
        return Frame(scene_id, frame_id, picture, depth_m, color_camera, depth_camera, pose)

    def forget(self, key: FrameKey) -> None:
        """See ``LiveFrames``."""
        self._told.pop(key, None)

    def _path(self, text: str) -> Path:
        return self._root / text

    def _line(self) -> bytes | None:
        """The next line that is there whole, or that the end has cut off; None if there is none now."""
        while b"\n" not in self._rest and not self.ended and select.select([self._descriptor], [], [], 0)[0]:
            block = os.read(self._descriptor, _BLOCK)
            self.ended = not block
            self._rest += block
        line, newline, rest = self._rest.partition(b"\n")
        if not newline and not (self.ended and line):
            return None
        self._rest = rest
        return line

    def _key_of(self, line: bytes) -> FrameKey:
        """Keeps what a line tells.

        Raises:
            DataError: If it is no such line.
        """
        where = f"line {self._number} of standard input"
        try:
            told = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: no JSON ({error}); expected an object a line") from error
        if not isinstance(told, dict):
            raise DataError(f"{where}: expected an object, {{{', '.join(NEEDED)}}}")
        if missing := [name for name in NEEDED if name not in told]:
            raise DataError(f"{where}: no {', '.join(missing)}; expected {', '.join(NEEDED)}")
        if unknown := sorted(told.keys() - {*NEEDED, *OPTIONAL}):
            raise DataError(f"{where}: {unknown[0]} has no meaning; there may be {', '.join(OPTIONAL)}")
        for name in ("color", "depth"):
            if not isinstance(told[name], str) or not _is_path(told[name]):
                raise DataError(f"{where}: {name} is {str(told[name])[:60]!r}, expected a path")
        scale = told.get("depth_scale", 1000.0)
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < 1e9:
            raise DataError(f"{where}: depth_scale is {str(scale)[:60]}, expected a number above 0")
        scene = told.get("scene", "stream")
        if not isinstance(scene, str):
            raise DataError(f"{where}: scene is {str(scene)[:60]}, expected a name in quotes")
        scene_id = check_scene_name(scene, where)
        if scene_id not in self._last:
            self._last[scene_id] = max(self._known(scene_id), default=-1)
        number = told.get("frame", self._last[scene_id] + 1)
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _LARGEST:
            raise DataError(f"{where}: frame is {str(number)[:60]}, expected a whole number of 0 or more")
        if (scene_id, number) in self._told:
            raise DataError(f"{where}: tells of frame {number} of {scene_id} once more, before it was added")
        self._last[scene_id] = max(self._last[scene_id], number)
        self._told[scene_id, number] = told
        return scene_id, number


def _is_path(text: str) -> bool:
    """Whether a text can be a file's name: half a surrogate pair, which JSON can hold, can't."""
    try:
        return bool(text) and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _calibration(told: Any, where: str) -> Calibration:
    """K of the numbers that a line has for it.

    Raises:
        FrameError: If these are no numbers of one.
    """
    four = isinstance(told, list) and len(told) == 4 and not any(isinstance(value, list) for value in told)
    return Calibration(pinhole(*_matrix(told, (4,), where).tolist()) if four else _matrix(told, (3, 3), where))


def _matrix(told: Any, shape: tuple[int, ...], where: str) -> NDArray[np.float64]:
    try:
        return np.array(told, np.float64).reshape(shape)
    except (TypeError, ValueError, OverflowError) as error:
        expected = "×".join(map(str, shape))
        raise FrameError(f"{where} is {str(told)[:60]}, expected {expected} numbers") from error
