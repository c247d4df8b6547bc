"""The feature files of one frame: npz, h5 and grid, written whole or not at all, read back without pickle."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipfeat.errors import DamagedFileError, DataError
from clipfeat.output.grid import GridFrame, grid_arrays, read_grid, write_grid
from clipfeat.output.h5 import read_h5, write_h5
from clipfeat.output.npz import read_npz, write_npz
from clipfeat.output.segments import SegmentFrame, segment_arrays, segment_frame
from clipfeat.system.atomic import atomic_file
from clipfeat.system.direct import direct_file
from clipfeat.types import PointFeatures

AnyFeatures = PointFeatures | GridFrame | SegmentFrame
"""What a file holds of a frame."""

SCHEMA_VERSION = 1
_ARRAYS = {"pts_feat": (None,), "uv_idx": (2,), "conf_2d": (), "xyz": (3,), "pts_idx": ()}
"""The arrays of every file, and the shape of their rows; None for any number."""


@dataclass(frozen=True)
class FrameSize:
    """What the bytes of a frame's file depend on.

    Attributes:
        points: in it.
        channels: of a point's feature.
        dtype: of pts_feat on disk.
        attribute_bytes: of what a point carries along (colour, label, …).
        map_values: numbers of a feature map.
    """

    points: float
    channels: int
    dtype: str
    attribute_bytes: float
    map_values: int


def arrays_bytes(size: FrameSize) -> float:
    """Bytes of a file that holds a frame's arrays as they are; header and meta take some 8 kB."""
    features = size.channels * np.dtype(size.dtype).itemsize
    uv_conf_xyz_idx = 8 + 4 + 12 + 8
    return size.points * (features + uv_conf_xyz_idx + size.attribute_bytes) + 8192


def map_bytes(size: FrameSize) -> float:
    """Bytes of a file that holds a frame's map in float16, and the places of its points."""
    uv_z_conf_idx = 8 + 4 + 2 + 2
    return 2 * size.map_values + size.points * (uv_z_conf_idx + size.attribute_bytes) + 8192


def segment_bytes(size: FrameSize) -> float:
    """Bytes of a file that holds the vectors of some 60 segments, their pixels, and the places of the points."""
    uv_z_conf_idx = 8 + 4 + 2 + 2
    of_segments = 60 * size.channels * np.dtype(size.dtype).itemsize + 20_000
    return of_segments + size.points * (uv_z_conf_idx + size.attribute_bytes) + 8192


@dataclass(frozen=True)
class FrameFormat:
    """A file format for the features of one frame.

    Attributes:
        suffix: of the file's name.
        write: arrays and meta into an open file.
        read: the arrays, or none of them, and the meta, from a path.
        sequential: whether it is written from front to back, without looking back.
        bytes_of: about how large a frame's file becomes.
        holds: of a frame: points (``PointFeatures``), map (``GridFrame``) or segments (``SegmentFrame``).
        by_scene: whether the files of a scene's frames become one when all of them are done.
    """

    suffix: str
    write: Callable[[Any, dict[str, np.ndarray], str], None]
    read: Callable[..., tuple[dict[str, np.ndarray], str]]
    sequential: bool
    bytes_of: Callable[[FrameSize], float]
    holds: str = "points"
    by_scene: bool = False


FORMATS = {
    "npz": FrameFormat(".npz", write_npz, read_npz, sequential=True, bytes_of=arrays_bytes),
    "h5": FrameFormat(".h5", write_h5, read_h5, sequential=False, bytes_of=arrays_bytes),
    "grid": FrameFormat(".safetensors", write_grid, read_grid, sequential=True, bytes_of=map_bytes, holds="map"),
    "segments": FrameFormat(
        ".segments", write_grid, read_grid, sequential=True, bytes_of=segment_bytes, holds="segments"
    ),
    "h5_scene": FrameFormat(".h5", write_h5, read_h5, sequential=False, bytes_of=arrays_bytes, by_scene=True),
}


def write_features(path: Path, name: str, features: AnyFeatures, meta: dict[str, Any], dtype: str = "float32") -> int:
    """Writes the features of one frame; ``sync_to_disk`` makes the names of many frames last.

    Args:
        path: the file.
        name: one of ``FORMATS``.
        features: what is written; of the kind that the format holds.
        meta: anything JSON can hold; the schema version is added.
        dtype: of pts_feat on disk; a map is float16 always.

    Returns:
        Bytes written.

    Raises:
        OutputError: If it can't be written.
    """
    if isinstance(features, GridFrame):
        arrays = grid_arrays(path, features)
    elif isinstance(features, SegmentFrame):
        arrays = segment_arrays(path, features, dtype)
    else:
        arrays = _point_arrays(features, dtype)
    return write_arrays(path, name, arrays, meta, one_of_many=True)


def _point_arrays(features: PointFeatures, dtype: str) -> dict[str, np.ndarray]:
    arrays = {key: getattr(features, key) for key in _ARRAYS} | features.attributes
    if features.clip_global is not None:
        arrays["clip_global"] = features.clip_global
    arrays["pts_feat"] = arrays["pts_feat"].astype(dtype, copy=False)
    return arrays


def write_arrays(
    path: Path, name: str, arrays: dict[str, np.ndarray], meta: dict[str, Any], *, one_of_many: bool = False
) -> int:
    """Writes arrays and their meta, whole or not at all, and returns the bytes.

    Args:
        path: the file.
        name: one of ``FORMATS``.
        arrays: by name.
        meta: anything JSON can hold; the schema version is added.
        one_of_many: see ``atomic_file``.

    Raises:
        OutputError: If it can't be written.
    """
    text = json.dumps({"schema_version": SCHEMA_VERSION, **meta}, allow_nan=False)
    fmt = FORMATS[name]
    open_file = direct_file if fmt.sequential else atomic_file
    with open_file(path, one_of_many=one_of_many) as file:
        fmt.write(file, arrays, text)
    return path.stat().st_size


def read_features(path: Path) -> tuple[PointFeatures, dict[str, Any]]:
    """Reads one frame's file and its meta; the suffix tells the format.

    Raises:
        DataError: If it is missing, damaged or of a newer schema, or holds a map.
    """
    if path.suffix == FORMATS["grid"].suffix:
        raise DataError(f"{path}: holds a map and no features; clipfeat.FeatureStore samples them")
    arrays, meta = read_arrays(path)
    return point_features(path, arrays, meta), meta


def point_features(path: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> PointFeatures:
    """The arrays and the meta of one frame as what they are, with segments' features at the points; ``path`` is theirs.

    Raises:
        DataError: If some are missing, or of another shape than they should be.
    """
    if path.suffix == FORMATS["segments"].suffix:
        return segment_frame(path, arrays, meta).features()
    if why := wrong_rows(arrays, _ARRAYS):
        raise DataError(f"{path}: not a whole feature file ({why}); delete it and run the same command again")
    attributes = {key: array for key, array in arrays.items() if key not in (*_ARRAYS, "clip_global")}
    return PointFeatures(
        **{key: arrays[key] for key in _ARRAYS}, attributes=attributes, clip_global=arrays.get("clip_global")
    )


def wrong_rows(arrays: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int | None, ...]]) -> str:
    """What keeps arrays from holding a row of numbers for each of the same N points; empty if nothing does.

    Args:
        arrays: by name.
        expected: names of those that must be there, and the shape of their rows; None for any number.
    """
    missing = [key for key in expected if key not in arrays]
    if missing:
        return f"no {', '.join(missing)}"
    count = next((len(arrays[key]) for key in expected if arrays[key].ndim), 0)
    for key, shape in expected.items():
        array = arrays[key]
        fits = len(array.shape) == 1 + len(shape) and len(array) == count
        if not fits or any(n not in (None, m) for n, m in zip(shape, array.shape[1:], strict=True)):
            return f"{key} has the shape {array.shape}"
        if array.dtype.kind not in "iuf":
            return f"{key} is of {array.dtype}, not of numbers"
    return ""


def read_meta(path: Path) -> dict[str, Any]:
    """Reads only the meta of one frame's file.

    Raises:
        DataError: If it is missing, damaged or of a newer schema.
    """
    return read_arrays(path, only_meta=True)[1]


def read_arrays(path: Path, *, only_meta: bool = False) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads what ``write_arrays`` wrote; the suffix tells the format.

    Raises:
        DataError: If it is missing, damaged or of a newer schema.
    """
    readers = {fmt.suffix: fmt.read for fmt in FORMATS.values()}
    if path.suffix not in readers:
        raise DataError(f"{path}: not a feature file, expected one of {', '.join(readers)}")
    return read_checked(path, lambda: readers[path.suffix](path, arrays=not only_meta))


def read_checked(
    path: Path, read: Callable[[], tuple[dict[str, np.ndarray], str]]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and meta of what ``read`` finds in the file at ``path``.

    Raises:
        DataError: If it is missing, damaged or of a newer schema.
    """
    with damage_named(path):
        found, text = read()
        meta = json.loads(text)
        if not isinstance(meta, dict):
            raise ValueError("its meta is no dictionary")
    if meta.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{path}: written with schema {meta.get('schema_version')}, this clipfeat reads {SCHEMA_VERSION}; update it"
        )
    return found, meta


@contextmanager
def damage_named(path: Path, what: str = "feature file") -> Iterator[None]:
    """Turns what is raised over a missing or damaged file into one line that names it, and what it should be.

    Raises:
        DamagedFileError: That line.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedFileError(f"{path}: no such file") from error
    except MemoryError:  # sizes are checked before anything is read: the file is whole and the memory too small
        raise
    except Exception as error:  # readers raise whatever their parsing meets; all of it means the file
        raise DamagedFileError(
            f"{path}: not a whole {what} ({error}); delete it and run the same command again"
        ) from error
