"""HDF5 feature files."""

from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
from isal import isal_zlib


def write_h5(file: BinaryIO, arrays: dict[str, np.ndarray], meta: str) -> None:
    """One dataset an array, contiguous; the meta and a checksum of everything as attributes of the root."""
    # In the format of HDF5 1.8, all that leads to the data has checksums. The older one, h5py's default, has none, and
    # one byte that is wrong in a hundred lets HDF5 search for ever.
    with h5py.File(file, "w", libver=("v108", "v108")) as h5:
        for key, array in arrays.items():
            h5.create_dataset(key, data=array)
        h5.attrs["meta"] = np.bytes_(meta.encode())  # text of any length would lie apart, and without a checksum
        h5.attrs["crc32"] = checksum(arrays, meta)


def read_h5(path: Path, *, arrays: bool) -> tuple[dict[str, np.ndarray], str]:
    """Reads the arrays, if they are asked for, and the meta.

    Raises:
        ValueError: If the checksum does not fit, or it holds something else; h5py raises OSError and others for a file
            that it can't read.
    """
    # Files take their names whole and never change, so nobody has to be locked out; network disks may have no locks.
    with h5py.File(path, "r", locking=False) as h5:
        return read_group(h5, arrays=arrays)


def read_group(group: h5py.Group, *, arrays: bool) -> tuple[dict[str, np.ndarray], str]:
    """Reads one frame; see ``read_h5``."""
    stored = group.attrs["meta"]
    meta = stored.decode() if isinstance(stored, bytes) else str(stored)
    if not arrays:
        return {}, meta
    found = {key: _read_dataset(group, key) for key in group}
    # HDF5 notices no change of the data by itself. Files of before had no checksum.
    if group.attrs.get("crc32", checksum(found, meta)) != checksum(found, meta):
        raise ValueError("its checksum does not fit")
    return found, meta


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
