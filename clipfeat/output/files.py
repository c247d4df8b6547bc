"""The feature files of one frame: npz and h5, written whole or not at all, read back without pickle."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipfeat import arrays as array_files
from clipfeat.atomic import atomic_file
from clipfeat.direct import direct_file
from clipfeat.errors import DataError, SchemaError
from clipfeat.output.h5 import read_h5, write_h5
from clipfeat.output.npz import write_npz
from clipfeat.types import PointFeatures

SCHEMA_VERSION = 1
_ARRAYS = {"pts_feat": (None,), "uv_idx": (2,), "conf_2d": (), "xyz": (3,), "pts_idx": ()}
"""The arrays of every file, and the shape of their rows; None for any number."""


def read_npz(path: Path, *, arrays: bool) -> tuple[dict[str, np.ndarray], str]:
    """Reads the arrays, if they are asked for, and the meta."""
    found = array_files.read_npz(path, None if arrays else ["meta"])
    meta = str(found.pop("meta"))
    return found, meta


@dataclass(frozen=True)
class FrameFormat:
    """A file format for the features of one frame.

    Attributes:
        suffix: of the file's name.
        write: arrays and meta into an open file.
        read: the arrays, or none of them, and the meta, from a path.
        sequential: whether it is written from front to back, without looking back.
    """

    suffix: str
    write: Callable[[Any, dict[str, np.ndarray], str], None]
    read: Callable[..., tuple[dict[str, np.ndarray], str]]
    sequential: bool


FORMATS = {
    "npz": FrameFormat(".npz", write_npz, read_npz, sequential=True),
    "h5": FrameFormat(".h5", write_h5, read_h5, sequential=False),
}


def write_features(path: Path, name: str, features: PointFeatures, meta: dict[str, Any], dtype: str = "float32") -> int:
    """Writes the features of one frame.

    Args:
        path: the file.
        name: npz or h5.
        features: what is written.
        meta: anything JSON can hold; the schema version is added.
        dtype: of pts_feat on disk.

    Returns:
        Bytes written.

    Raises:
        OutputError: If it can't be written.
    """
    arrays = {key: getattr(features, key) for key in _ARRAYS} | features.attributes
    if features.clip_global is not None:
        arrays["clip_global"] = features.clip_global
    if dtype == "float16" and arrays["pts_feat"].dtype == np.float32:
        # The same rounding as NumPy's, in a tenth of its time.
        arrays["pts_feat"] = torch.from_numpy(arrays["pts_feat"]).half().numpy()
    arrays["pts_feat"] = arrays["pts_feat"].astype(dtype, copy=False)
    return write_arrays(path, name, arrays, meta)


def write_arrays(path: Path, name: str, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> int:
    """Writes arrays and their meta, whole or not at all, and returns the bytes.

    Raises:
        OutputError: If it can't be written.
    """
    text = json.dumps({"schema_version": SCHEMA_VERSION, **meta}, allow_nan=False)
    fmt = FORMATS[name]
    with (direct_file if fmt.sequential else atomic_file)(path) as file:
        fmt.write(file, arrays, text)
    return path.stat().st_size


def read_features(path: Path) -> tuple[PointFeatures, dict[str, Any]]:
    """Reads one frame's file and its meta; the suffix tells the format.

    Raises:
        DataError: If it is missing, damaged or of a newer schema.
    """
    arrays, meta = read_arrays(path)
    return point_features(path, arrays), meta


def point_features(path: Path, arrays: dict[str, np.ndarray]) -> PointFeatures:
    """The arrays of one frame as what they are; ``path`` is their file's.

    Raises:
        DataError: If some are missing, or of another shape than they should be.
    """
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
    try:
        found, text = read()
        meta = json.loads(text)
        if not isinstance(meta, dict):
            raise ValueError("its meta is no dictionary")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except MemoryError:  # sizes are checked before anything is read: the file is whole and the memory too small
        raise
    except Exception as error:  # readers raise whatever their parsing meets; all of it means the file
        raise DataError(
            f"{path}: not a whole feature file ({error}); delete it and run the same command again"
        ) from error
    if meta.get("schema_version") != SCHEMA_VERSION:
        raise SchemaError(
            f"{path}: written with schema {meta.get('schema_version')}, this clipfeat reads {SCHEMA_VERSION}; update it"
        )
    return found, meta
