"""Reading npz and npy files that may be damaged, or made by anybody: every way one can be bad ends in a ValueError."""

import math
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

_MOST_OF_A_BYTE = 1032
"""Bytes that deflate can make of one."""

_READ_HEADER = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Reads the arrays of an npz file, or only those of the given names that it has.

    Nothing is allocated for what a header only claims: an array is read when as many bytes as it needs are there.

    Raises:
        OSError: If the file can't be read.
        ValueError: If it is no npz file, damaged, or holds Python objects.
    """
    with path.open("rb") as file, _as_value_error(), zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        wanted = members if names is None else members.keys() & set(names)
        return {name: _read(archive, members[name], path.stat().st_size) for name in members if name in wanted}


def read_npy(path: Path) -> np.ndarray:
    """Reads the array of an npy file, when as many bytes as its header claims are there.

    Raises:
        OSError: If the file can't be read.
        ValueError: If it is no npy file, damaged, or holds Python objects.
    """
    with path.open("rb") as file, _as_value_error():
        _check_header(file, path.stat().st_size, "it")
        file.seek(0)
        return npy.read_array(file, allow_pickle=False)


@contextmanager
def _as_value_error() -> Iterator[None]:
    """Of whatever the parsing of zipfile and NumPy meets: all of it means the file."""
    try:
        yield
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file_size: int) -> np.ndarray:
    name = info.filename
    if info.compress_size > file_size or info.file_size > _MOST_OF_A_BYTE * info.compress_size:
        raise ValueError(f"{name} claims {info.file_size} bytes, more than the file can hold")
    with archive.open(info) as member:
        _check_header(member, info.file_size, name)
    with archive.open(info) as member:
        return npy.read_array(member, allow_pickle=False)


def _check_header(file: IO[bytes], size: int, name: str) -> None:
    """Holds what an npy file of this many bytes claims of itself against them."""
    version = npy.read_magic(file)
    if version not in _READ_HEADER:
        raise ValueError(f"{name} is of version {version} of the npy format, expected one of {list(_READ_HEADER)}")
    shape, _, dtype = _READ_HEADER[version](file)
    left = size - file.tell()
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, expected numbers")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != left:
        raise ValueError(f"{name} claims to be {dtype} of shape {shape}, but {left} bytes of it are there")
