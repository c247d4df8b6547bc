"""HDF5 feature files: one a frame, or one a scene with a group a frame."""

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
from isal import isal_zlib

from clipfeat.errors import DataError

_VERSION = ("v108", "v108")
"""The format of HDF5 1.8, in which all that leads to the data has checksums. The older one, h5py's default, has none,
and one byte that is wrong in a hundred lets HDF5 search for ever."""


def write_h5(file: BinaryIO, arrays: dict[str, np.ndarray], meta: str) -> None:
    """One dataset an array, contiguous; the meta and a checksum of everything as attributes of the root."""
    with h5py.File(file, "w", libver=_VERSION) as h5:
        _write_group(h5, arrays, meta)


def read_h5(path: Path, *, arrays: bool, group: str = "/") -> tuple[dict[str, np.ndarray], str]:
    """Reads the arrays of a frame, if they are asked for, and its meta.

    Args:
        path: the file.
        arrays: whether they are asked for.
        group: where in a scene's file the frame is.

    Raises:
        DataError: If there is no such group.
        ValueError: If the checksum does not fit, or it holds something else; h5py raises OSError and others for a file
            that it can't read.
    """
    with _open(path) as h5:
        if group not in h5:
            raise DataError(f"{path}: holds no {group}")
        node = h5[group]
        stored = node.attrs["meta"]
        meta = stored.decode() if isinstance(stored, bytes) else str(stored)
        if not arrays:
            return {}, meta
        found = {key: _read_dataset(node, key) for key in node}
        stated = node.attrs.get("crc32")
    # HDF5 notices no change of the data by itself. Files of before had no checksum.
    if stated is not None and stated != checksum(found, meta):
        raise ValueError("its checksum does not fit")
    return found, meta


def group_names(path: Path) -> list[str]:
    """Names of the groups in a scene's file.

    Raises:
        OSError: If it can't be read, as by h5py.
    """
    with _open(path) as h5:
        return list(h5)


def write_scene(file: BinaryIO, parts: Iterable[tuple[str, dict[str, np.ndarray], str]], before: Path | None) -> None:
    """Writes a scene's file.

    Args:
        file: open for writing and reading.
        parts: name, arrays and meta of each frame.
        before: another scene's file, whose frames are copied but for those of the same names; or None.
    """
    with h5py.File(file, "w", libver=_VERSION) as h5:
        for name, arrays, meta in parts:
            _write_group(h5.create_group(name), arrays, meta)
        if before is not None:
            with _open(before) as old:
                for name in old:
                    if name not in h5:
                        old.copy(name, h5)


def _open(path: Path) -> h5py.File:
    # Files take their names whole and never change, so nobody has to be locked out; network disks may have no locks.
    return h5py.File(path, "r", locking=False)


def _write_group(group: h5py.Group, arrays: dict[str, np.ndarray], meta: str) -> None:
    for key, array in arrays.items():
        group.create_dataset(key, data=array)
    group.attrs["meta"] = np.bytes_(meta.encode())  # text of any length would lie apart, and without a checksum
    group.attrs["crc32"] = checksum(arrays, meta)


def _read_dataset(group: h5py.Group, key: str) -> np.ndarray:
    """One array. Nothing is allocated for what is only claimed: arrays lie in the file as they are."""
    dataset = group[key]
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.hasobject:
        raise ValueError(f"{key} is no array of numbers")
    if dataset.nbytes > group.file.id.get_filesize():
        raise ValueError(f"{key} claims {dataset.nbytes} bytes, more than the file can hold")
    array: np.ndarray = dataset[()]
    return array


def checksum(arrays: dict[str, np.ndarray], meta: str) -> int:
    """CRC-32 of the meta and of all arrays, their names, types and shapes."""
    value = isal_zlib.crc32(meta.encode())
    for key, array in sorted(arrays.items()):
        value = isal_zlib.crc32(f"{key} {array.dtype.str} {array.shape}".encode(), value)
        value = isal_zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, value)
    return value
