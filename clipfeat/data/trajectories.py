"""Reading files that hold the poses, or the names, of many frames: one pass, each bad line named by its number."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.matrices import PARTING
from clipfeat.errors import DataError, FrameError

_UNIT_TOLERANCE = 1e-2
"""Allowed | |q| - 1 |. Files print four to seven digits; a quaternion further off is another kind of number."""

_WHOLE_TURN = 2 * math.pi + 1e-3
"""A longer rotation vector is in degrees, or another kind of number."""

TIMED_COLUMNS = {7: "timestamp tx ty tz qx qy qz qw", 6: "timestamp rx ry rz tx ty tz"}
"""Of TUM's lines, and of ARKitScenes', by how many numbers follow the time."""


@dataclass(frozen=True, eq=False)
class NumberedPoses:
    """The poses of a file in its order.

    Attributes:
        numbers: the number that the file gives each pose, or its place in the file.
        matrices: (P, 4, 4) float64 as written: camera-to-world or world-to-camera, perhaps inf or NaN.
    """

    numbers: list[int]
    matrices: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TimedPoses:
    """Poses with times, as TUM's RGB-D benchmark and ARKitScenes write them.

    Attributes:
        times_s: (P,) float64, ascending.
        translations: (P, 3) float64 metres.
        rotations: float64 as written: (P, 4) quaternions x y z w, or (P, 3) rotation vectors in radians.
        lines: the line of the file that each stands in.
    """

    times_s: NDArray[np.float64]
    translations: NDArray[np.float64]
    rotations: NDArray[np.float64]
    lines: list[int]

    def matrix(self, index: int, where: str) -> NDArray[np.float64]:
        """The (4, 4) pose of a row; ``where`` names the file in messages.

        Raises:
            FrameError: If its quaternion is zero, not finite or not of unit length, or its rotation vector no angle.
        """
        of_numbers = rotation_from_quaternion if self.rotations.shape[1] == 4 else rotation_from_vector
        pose = np.eye(4)
        pose[:3, :3] = of_numbers(self.rotations[index], f"{where}, line {self.lines[index]}")
        pose[:3, 3] = self.translations[index]
        return pose


@dataclass(frozen=True, eq=False)
class TimedFiles:
    """File names with times.

    Attributes:
        times_s: (P,) float64, ascending.
        names: relative paths, none of which leaves the folder of the list.
    """

    times_s: NDArray[np.float64]
    names: list[str]


def rotation_from_quaternion(
    xyzw: NDArray[np.float64], where: str, columns: str = "timestamp tx ty tz qx qy qz qw"
) -> NDArray[np.float64]:
    """The (3, 3) rotation of a unit quaternion (4,) with its scalar last.

    What is off from unit length by the digits of the file is scaled to it.
    Source: Shoemake, Animating Rotation with Quaternion Curves (1985), appendix I.

    Args:
        xyzw: (4,) scalar last.
        where: its source, for messages.
        columns: what was expected there, for messages.

    Raises:
        FrameError: If it is not finite, zero, or off from unit length by more than 0.01.
    """
    length = math.hypot(*xyzw.tolist())  # which does not overflow in between
    if not np.isfinite(length):
        raise FrameError(f"{where}: the quaternion holds inf or NaN, so tracking was lost in this frame")
    if length == 0:
        raise FrameError(f"{where}: the quaternion is zero, so tracking was lost in this frame")
    if abs(length - 1) > _UNIT_TOLERANCE:
        raise FrameError(f"{where}: the quaternion has length {length:.4g}, expected 1 (columns: {columns})")
    x, y, z, w = xyzw / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotation_from_vector(vector: NDArray[np.float64], where: str) -> NDArray[np.float64]:
    """The (3, 3) rotation about an axis by an angle (axis-angle): the vector's direction, and its length in radians.

    Source: Rodrigues' formula, R = I + sin(a) X + (1 - cos(a)) X².

    Args:
        vector: (3,).
        where: its source, for messages.

    Raises:
        FrameError: If it is not finite, or longer than a whole turn.
    """
    angle = math.hypot(*vector.tolist())
    if not np.isfinite(angle):
        raise FrameError(f"{where}: the rotation holds inf or NaN, so tracking was lost in this frame")
    if angle > _WHOLE_TURN:
        raise FrameError(
            f"{where}: a rotation by {angle:.4g}, expected radians, 2π at most (columns: {TIMED_COLUMNS[6]}); degrees?"
        )
    if angle == 0:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation: NDArray[np.float64] = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return rotation


def read_matrix_lines(path: Path) -> NumberedPoses:
    """Reads a 4×4 matrix (16 numbers) or its upper 3×4 (12 numbers) a line.

    Raises:
        DataError: If the file is missing, holds no pose, or a line is no such matrix.
    """
    matrices = []
    for line, words in _lines(path, "a pose a line"):
        if len(words) not in (12, 16):
            raise DataError(f"{path}, line {line}: {len(words)} values, expected the 16 (or 12) of a pose")
        matrix = np.eye(4)
        matrix[: len(words) // 4] = np.reshape(_numbers(path, line, words), (-1, 4))
        matrices.append(matrix)
    return NumberedPoses(list(range(len(matrices))), np.stack(matrices))


QUATERNION_COLUMNS = {"xyzw": "tx ty tz qx qy qz qw", "wxyz": "tx ty tz qw qx qy qz"}
"""The seven numbers of a pose, by the order of its quaternion. Nothing in the numbers tells the two apart."""


def read_quaternion_lines(path: Path, order: str) -> NumberedPoses:
    """Reads a translation in metres and a unit quaternion a line; a quaternion of 0, inf or NaN is a lost track, NaN.

    Args:
        path: the file.
        order: of the quaternion's numbers, xyzw or wxyz.

    Raises:
        DataError: If the file is missing, holds no pose, a line has other columns, or a quaternion is of another length
            than 1.
    """
    columns = QUATERNION_COLUMNS[order]
    matrices = []
    for line, words in _lines(path, f"'{columns}' a line"):
        if len(words) != 7:
            raise DataError(f"{path}, line {line}: {len(words)} values, expected '{columns}'")
        numbers = _numbers(path, line, words)
        length = math.hypot(*numbers[3:])
        if length == 0 or not math.isfinite(length):
            matrices.append(np.full((4, 4), np.nan))
            continue
        try:
            matrices.append(_of_seven(numbers, order, f"{path}, line {line}"))
        except FrameError as error:  # another kind of number, and so are all others of the file
            raise DataError(str(error)) from error
    return NumberedPoses(list(range(len(matrices))), np.stack(matrices))


def read_quaternion_pose(path: Path, order: str, direction: str) -> NDArray[np.float64]:
    """Reads a file of one pose, a translation in metres and a unit quaternion, as (4, 4).

    Args:
        path: the file.
        order: of the quaternion's numbers, xyzw or wxyz.
        direction: which way was expected, for messages.

    Raises:
        FrameError: If the file is missing, has other numbers, or the quaternion is not of unit length.
    """
    columns = QUATERNION_COLUMNS[order]
    try:
        numbers = [number for line, words in _lines(path, f"'{columns}'") for number in _numbers(path, line, words)]
    except DataError as error:
        raise FrameError(f"{error}, a {direction} pose") from error
    if len(numbers) != 7:
        raise FrameError(f"{path}: {len(numbers)} values, expected the '{columns}' of a {direction} pose")
    return _of_seven(numbers, order, str(path))


def _of_seven(numbers: list[float], order: str, where: str) -> NDArray[np.float64]:
    quaternion = np.array(numbers[3:])
    xyzw = quaternion if order == "xyzw" else np.roll(quaternion, -1)
    pose = np.eye(4)
    pose[:3, :3] = rotation_from_quaternion(xyzw, where, QUATERNION_COLUMNS[order])
    pose[:3, 3] = numbers[:3]
    return pose


def read_log(path: Path) -> NumberedPoses:
    """Reads Open3D's and Redwood's ``.log``: for each pose a line ``i i i+1``, then the four rows of a 4×4 matrix.

    Raises:
        DataError: If the file is missing, holds no pose, is cut off, or is a log of pairs; or if a number comes twice.
    """
    lines = list(_lines(path, "Open3D's log: 'i i i+1', then a 4×4 pose"))
    numbers: list[int] = []
    matrices = []
    for start in range(0, len(lines), 5):
        line, head = lines[start]
        if len(head) != 3 or not head[0].isdecimal():
            raise DataError(f"{path}, line {line}: '{' '.join(head)[:60]}', expected a pose's head 'i i i+1'")
        if head[0] != head[1]:
            raise DataError(
                f"{path}, line {line}: '{' '.join(head)}' heads the pose of a pair of fragments, expected 'i i i+1'"
            )
        rows = lines[start + 1 : start + 5]
        if len(rows) < 4:
            raise DataError(f"{path}, line {line}: the pose has {len(rows)} rows, expected 4: the file is cut off")
        for row_line, row in rows:
            if len(row) != 4:
                raise DataError(f"{path}, line {row_line}: {len(row)} values, expected the 4 of a pose's row")
        numbers.append(int(head[0]))
        matrices.append([_numbers(path, row_line, row) for row_line, row in rows])
    if len(set(numbers)) < len(numbers):
        twice = next(n for i, n in enumerate(numbers) if n in numbers[:i])
        raise DataError(f"{path}: pose {twice} comes twice")
    return NumberedPoses(numbers, np.array(matrices))


def read_tum_poses(path: Path) -> TimedPoses:
    """Reads ``timestamp tx ty tz qx qy qz qw`` lines, times in seconds.

    Raises:
        DataError: If the file is missing, holds no pose, a line has other columns, or the times are not ascending.
    """
    times_s, table, lines = _timed_lines(path, TIMED_COLUMNS[7])
    return TimedPoses(times_s, table[:, :3], table[:, 3:], lines)


def read_axis_angle_poses(path: Path) -> TimedPoses:
    """Reads ``timestamp rx ry rz tx ty tz`` lines (ARKitScenes): seconds, a rotation vector in radians, metres.

    Raises:
        DataError: See ``read_tum_poses``.
    """
    times_s, table, lines = _timed_lines(path, TIMED_COLUMNS[6])
    return TimedPoses(times_s, table[:, 3:], table[:, :3], lines)


def _timed_lines(path: Path, columns: str) -> tuple[NDArray[np.float64], NDArray[np.float64], list[int]]:
    """The times (P,), the other numbers (P, 6 or 7), and the line of each."""
    lines, rows = [], []
    for line, words in _lines(path, f"'{columns}' a line", matrices=False):
        if len(words) != len(columns.split()):
            raise DataError(f"{path}, line {line}: {len(words)} values, expected '{columns}'")
        rows.append(_numbers(path, line, words))
        lines.append(line)
    table = np.array(rows)
    return _ascending(path, lines, table[:, 0]), table[:, 1:], lines


def read_tum_list(path: Path) -> TimedFiles:
    """Reads ``timestamp filename`` lines, times in seconds.

    Raises:
        DataError: If the file is missing, names no file, a line has other columns or a path that leaves the folder,
            or the times are not ascending.
    """
    lines, times, names = [], [], []
    for line, words in _lines(path, "'timestamp filename' a line", matrices=False):
        if len(words) != 2:
            raise DataError(f"{path}, line {line}: {len(words)} values, expected 'timestamp filename'")
        name = PurePosixPath(words[1])
        if name.is_absolute() or ".." in name.parts or "\\" in words[1]:
            raise DataError(f"{path}, line {line}: '{words[1]}' leaves the folder of the list, which is not allowed")
        times.append(_numbers(path, line, words[:1])[0])
        names.append(words[1])
        lines.append(line)
    return TimedFiles(_ascending(path, lines, np.array(times)), names)


def _lines(path: Path, expected: str, *, matrices: bool = True) -> Iterator[tuple[int, list[str]]]:
    """The words of each line that is not empty and no comment, with the line's number from 1.

    Between the numbers of matrices, commas, semicolons and brackets part words as spaces do.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file, expected {expected}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read as text ({error}), expected {expected}") from error
    empty = True
    text = text.translate(PARTING) if matrices else text
    for line, content in enumerate(text.splitlines(), 1):
        words = content.split("#", 1)[0].split()
        if words:
            empty = False
            yield line, words
    if empty:
        raise DataError(f"{path}: is empty, expected {expected}")


def _numbers(path: Path, line: int, words: list[str]) -> list[float]:
    """Infinite values and NaN pass: they mark a lost track, which is one frame's trouble."""
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise DataError(f"{path}, line {line}: {error}, a number was expected") from error


def _ascending(path: Path, lines: list[int], times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    bad = np.flatnonzero(~np.isfinite(times_s))
    if len(bad):
        raise DataError(f"{path}, line {lines[bad[0]]}: the timestamp is {times_s[bad[0]]}, expected seconds")
    back = np.flatnonzero(np.diff(times_s) < 0)
    if len(back):
        before, after = times_s[back[0]], times_s[back[0] + 1]
        raise DataError(
            f"{path}, line {lines[back[0] + 1]}: time {after:.6f} comes after {before:.6f}, expected ascending times; "
            "two recordings in one file? If not, sort its lines"
        )
    return times_s
