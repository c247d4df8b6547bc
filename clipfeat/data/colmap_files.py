"""The files of a COLMAP model, as text or binary, and its dense depth maps; pycolmap is not needed.

Source: COLMAP's doc/format.rst, src/colmap/scene/reconstruction_io*.cc and src/colmap/mvs/mat.h. Poses are
world-to-camera; lengths are in units of the model's own. Where a folder has both, binary files win, as in COLMAP.
"""

import mmap
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.images import MAX_PIXELS, read_bytes
from clipfeat.errors import DataError, FrameError

_MODELS = {
    "SIMPLE_PINHOLE": 3, "PINHOLE": 4, "SIMPLE_RADIAL": 4, "RADIAL": 5, "OPENCV": 8, "OPENCV_FISHEYE": 8,
    "FULL_OPENCV": 12, "FOV": 5, "SIMPLE_RADIAL_FISHEYE": 4, "RADIAL_FISHEYE": 5, "THIN_PRISM_FISHEYE": 12,
    "RAD_TAN_THIN_PRISM_FISHEYE": 16, "SIMPLE_DIVISION": 4, "DIVISION": 5, "SIMPLE_FISHEYE": 3, "FISHEYE": 4,
    "EUCM": 6, "EQUIRECTANGULAR": 2,
}  # fmt: skip
"""Camera models in the order of their ids, and how many parameters each has."""

_CAMERA = ("CAMERA", 0)
"""The kind of sensor that takes pictures, in text and in binary."""

_POINT = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("length", "<u8")])
_POINT_2D_BYTES = 24
_HEADER_BYTES = 64

Motion = tuple[float, ...]
"""A rigid motion as files have it: qw qx qy qz tx ty tz."""


@dataclass(frozen=True)
class ListedCamera:
    """A camera as listed: its model, the size of its pictures in pixels, and its parameters."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class ListedImage:
    """A picture as listed: its id, ``cam_from_world`` as written, the camera's id, and its name below the pictures."""

    id: int
    motion: Motion
    camera_id: int
    name: str


@dataclass(frozen=True, eq=False)
class SparsePoints:
    """The P points of a model, and which pictures their tracks name.

    Attributes:
        xyz: (P, 3) in units of the model.
        rgb: (P, 3) uint8.
        image_ids: (T,) ascending: a picture of a track each.
        rows: (T,) the point of that track.
    """

    xyz: NDArray[np.float64]
    rgb: NDArray[np.uint8]
    image_ids: NDArray[np.uint32]
    rows: NDArray[np.int64]

    def of_image(self, image_id: int) -> NDArray[np.int64]:
        """Ascending rows of the points whose tracks name a picture."""
        first, last = np.searchsorted(self.image_ids, (image_id, image_id + 1))
        return np.unique(self.rows[first:last])


def model_file(folder: Path, name: str) -> Path | None:
    """``<name>.bin`` or ``<name>.txt`` of a model; None if there is neither."""
    return next((path for ending in ("bin", "txt") if (path := folder / f"{name}.{ending}").is_file()), None)


_WORDS_OF_CAMERA, _WORDS_OF_IMAGE = 4, 10
"""Of a line of the text files, at least."""


def read_cameras(path: Path) -> dict[int, ListedCamera]:
    """Cameras by id.

    Raises:
        DataError: If the file can't be read, is cut off or damaged.
    """
    with _reading(path):
        if path.suffix == ".txt":
            with _text(path) as lines:
                rows = [line.split() for line in _meant(lines)]
            if short := next((row for row in rows if len(row) < _WORDS_OF_CAMERA), None):
                raise ValueError(f"'{' '.join(short)[:50]}' is no camera: CAMERA_ID MODEL WIDTH HEIGHT PARAMS")
            return {int(i): ListedCamera(m, int(w), int(h), tuple(map(float, rest))) for i, m, w, h, *rest in rows}
        with _binary(path) as file:
            cameras = {}
            for _ in range(file.take("Q")[0]):
                camera_id, model_id, width, height = file.take("IiQQ")
                if not 0 <= model_id < len(_MODELS):
                    raise ValueError(f"camera {camera_id} has a model of the unknown number {model_id}")
                model = list(_MODELS)[model_id]
                cameras[camera_id] = ListedCamera(model, width, height, file.take("d" * _MODELS[model]))
            return cameras


def read_images(path: Path) -> list[ListedImage]:
    """Pictures in the order of the file; their lists of points, nearly all of the file, are passed over.

    Raises:
        DataError: As ``read_cameras``.
    """
    found = []
    with _reading(path):
        if path.suffix == ".txt":
            with _text(path) as lines:
                for line in _meant(lines):
                    words = line.split(maxsplit=9)
                    if len(words) < _WORDS_OF_IMAGE:
                        raise ValueError(f"'{line.strip()[:60]}' is no picture: IMAGE_ID QW … TZ CAMERA_ID NAME")
                    image_id, *motion, camera_id, name = words
                    found.append(ListedImage(int(image_id), _motion(motion), int(camera_id), name))
                    next(lines, None)  # its points: the very next line, also if that is empty
            return found
        with _binary(path) as file:
            for _ in range(file.take("Q")[0]):
                image_id, *numbers, camera_id = file.take("I7dI")
                found.append(ListedImage(image_id, tuple(numbers), camera_id, file.text()))
                file.skip(_POINT_2D_BYTES * file.take("Q")[0])
    return found


def read_points(path: Path) -> SparsePoints:
    """The sparse points and their tracks.

    Raises:
        DataError: As ``read_cameras``.
    """
    with _reading(path):
        if path.suffix == ".txt":
            with _text(path) as lines:
                rows = [line.split() for line in _meant(lines)]
            heads = np.zeros(len(rows), _POINT)
            heads["xyz"] = np.array([row[1:4] for row in rows], np.float64).reshape(-1, 3)
            heads["rgb"] = np.array([row[4:7] for row in rows], np.int64).reshape(-1, 3)
            heads["length"] = [(len(row) - 8) // 2 for row in rows]
            image_ids = np.array([word for row in rows for word in row[8::2]], np.uint32)
        else:
            with _binary(path) as file:
                parts, tracks = [], []
                for _ in range(file.take("Q")[0]):
                    parts.append(file.bytes(_POINT.itemsize))
                    tracks.append(file.bytes(8 * int.from_bytes(parts[-1][-8:], "little")))
            heads = np.frombuffer(b"".join(parts), _POINT)
            image_ids = np.frombuffer(b"".join(tracks), "<u4")[::2]
    order = np.argsort(image_ids, kind="stable")
    rows_of_tracks = np.repeat(np.arange(len(heads)), heads["length"].astype(np.int64))
    return SparsePoints(heads["xyz"].copy(), heads["rgb"].copy(), image_ids[order], rows_of_tracks[order])


def read_rig_poses(frames: Path, rigs: Path) -> dict[int, tuple[Motion, Motion | None]]:
    """Where COLMAP from 3.12 on takes poses from: of each picture, ``rig_from_world`` and ``sensor_from_rig``.

    Args:
        frames: frames.bin or frames.txt.
        rigs: rigs.bin or rigs.txt.

    Returns:
        By the picture's id; the second is None for the sensor that the rig's pose is of. Pictures of sensors whose
        place in the rig is not known are left out.

    Raises:
        DataError: As ``read_cameras``.
    """
    with _reading(rigs):
        sensors = dict(_text_sensors(rigs) if rigs.suffix == ".txt" else _binary_sensors(rigs))
    found: dict[int, tuple[Motion, Motion | None]] = {}
    with _reading(frames):
        for rig_id, motion, data in _text_frames(frames) if frames.suffix == ".txt" else _binary_frames(frames):
            for kind, sensor_id, image_id in data:
                if kind in _CAMERA and (rig_id, sensor_id) in sensors:
                    found[image_id] = motion, sensors[rig_id, sensor_id]
    return found


_Sensor = tuple[tuple[int, int], Motion | None]
_RigFrame = tuple[int, Motion, list[tuple[Any, int, int]]]


def _text_sensors(path: Path) -> Iterator[_Sensor]:
    """(rig, camera) and ``sensor_from_rig``."""
    with _text(path) as lines:
        for line in _meant(lines):
            words = iter(line.split())
            rig_id, count = map(int, _next(words, 2))
            for place in range(count):
                kind, sensor_id = _next(words, 2)
                posed = place > 0 and _next(words, 1) == ["1"]
                motion = _motion(_next(words, 7)) if posed else None
                if kind in _CAMERA and (posed or place == 0):
                    yield (rig_id, int(sensor_id)), motion


def _binary_sensors(path: Path) -> Iterator[_Sensor]:
    with _binary(path) as file:
        for _ in range(file.take("Q")[0]):
            rig_id, count = file.take("II")
            for place in range(count):
                kind, sensor_id = file.take("iI")
                posed = place > 0 and file.take("B")[0] == 1
                motion = file.take("7d") if posed else None
                if kind in _CAMERA and (posed or place == 0):
                    yield (rig_id, sensor_id), motion


def _text_frames(path: Path) -> Iterator[_RigFrame]:
    with _text(path) as lines:
        for line in _meant(lines):
            words = iter(line.split())
            (_, rig_id), motion, (count,) = _next(words, 2), _motion(_next(words, 7)), _next(words, 1)
            data = [_next(words, 3) for _ in range(int(count))]
            yield int(rig_id), motion, [(kind, int(sensor), int(image)) for kind, sensor, image in data]


def _binary_frames(path: Path) -> Iterator[_RigFrame]:
    with _binary(path) as file:
        for _ in range(file.take("Q")[0]):
            _, rig_id, *motion, count = file.take("II7dI")
            yield rig_id, tuple(motion), [file.take("iIQ") for _ in range(count)]


def read_depth_map(path: Path, metres_per_unit: float) -> NDArray[np.float32]:
    """A depth map of COLMAP's dense stage, (h, w) float32 metres along z, 0 where nothing was measured.

    Args:
        path: a file that begins with ``width&height&channels&``, with float32 row by row after it.
        metres_per_unit: metres in a unit of the model.

    Raises:
        FrameError: If it is missing, cut off, or something else.
    """
    encoded = read_bytes(path, "a depth map of COLMAP's")
    header = re.match(rb"(\d{1,9})&(\d{1,9})&(\d{1,9})&", encoded[:_HEADER_BYTES])
    if header is None:
        raise FrameError(f"{path}: doesn't begin with width&height&1&, as depth maps of COLMAP's do")
    width, height, channels = map(int, header.groups())
    if channels != 1 or not 0 < width * height <= MAX_PIXELS:
        raise FrameError(f"{path}: {width}×{height} pixels in {channels} channels, expected depth in one channel")
    if len(encoded) != header.end() + 4 * width * height:
        there = (len(encoded) - header.end()) / 4
        raise FrameError(
            f"{path}: holds {there:g} depths, expected {width * height} of {width}×{height} pixels; copy it again"
        )
    depth = np.frombuffer(encoded, "<f4", offset=header.end()).reshape(height, width)
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
    return (depth * np.float32(metres_per_unit)).astype(np.float32, copy=False)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Makes whatever damage brings about a message that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or error})") from error
    except (ValueError, IndexError, OverflowError) as error:
        raise DataError(f"{path}: no file of a COLMAP model, or a damaged one ({error}); export it again") from error


def _motion(words: Iterable[str]) -> Motion:
    return tuple(map(float, words))


@contextmanager
def _text(path: Path) -> Iterator[Iterator[str]]:
    with path.open(encoding="utf-8-sig") as file:
        yield iter(file)


def _meant(lines: Iterator[str]) -> Iterator[str]:
    """Those that are neither empty nor comments."""
    return (text for line in lines if (text := line.strip()) and not text.startswith("#"))


def _next(words: Iterator[str], count: int) -> list[str]:
    """The next words of a line."""
    found = list(islice(words, count))
    if len(found) < count:
        raise ValueError("a line is cut off")
    return found


class _Binary:
    """A binary file that is read front to back; only what is asked for comes from the disk."""

    def __init__(self, data: mmap.mmap):
        self._data, self._at = data, 0

    def take(self, fields: str) -> tuple[Any, ...]:
        """The next numbers, by ``struct``'s letters, little-endian and unaligned."""
        size = struct.calcsize(f"<{fields}")
        return struct.unpack(f"<{fields}", self.bytes(size))

    def bytes(self, count: int) -> bytes:
        """The next bytes."""
        start = self._at
        self.skip(count)
        return self._data[start : self._at]

    def skip(self, count: int) -> None:
        """Passes over bytes."""
        if self._at + count > len(self._data):
            raise ValueError(f"cut off after {len(self._data)} bytes")
        self._at += count

    def text(self) -> str:
        """The next text, up to the zero that ends it."""
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise ValueError(f"cut off after {len(self._data)} bytes")
        text = self._data[self._at : end].decode("utf-8")
        self._at = end + 1
        return text

    def end(self) -> None:
        """Makes sure that this is the end."""
        if self._at != len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes too many")


@contextmanager
def _binary(path: Path) -> Iterator[_Binary]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _Binary(data)
        yield reader
        reader.end()
