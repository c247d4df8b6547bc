"""``output=grid``: a frame's feature map and the places of its points, as one safetensors file.

A map is some 40 times smaller than the features of 20,000 points, and they all follow from it. The file holds ``map``
(h, w, C) float16, ``uv_idx`` (N, 2) and ``depth_m`` (N,) float32, ``conf_2d`` (N,) float16, the attributes of the
points, ``clip_global`` (D,) float32, and ``pts_idx``: ascending ones as ``pts_idx_start`` and ``pts_idx_steps`` in the
smallest unsigned type, so that ``pts_idx = start + cumsum(steps)``, others as they are. Its metadata are ``crc32``, of
all bytes of the file that come after it, and ``meta``, the JSON that all formats have.

Source of the format: the description in safetensors' README.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from isal import isal_zlib

from clipfeat.errors import DataError, OutputError
from clipfeat.output.placed import PlacedPoints, placed
from clipfeat.types import FeatureMap

_TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "I64": np.dtype("<i8"), "U64": np.dtype("<u8"),
    "F32": np.dtype("<f4"), "I32": np.dtype("<i4"), "U32": np.dtype("<u4"),
    "F16": np.dtype("<f2"), "I16": np.dtype("<i2"), "U16": np.dtype("<u2"),
    "I8": np.dtype("i1"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _TYPES.items()}

_BEGIN = b'{"__metadata__":{"crc32":"'
"""Of every header; the eight hexadecimal digits of the checksum follow."""

_SUMMED_FROM = len(_BEGIN) + 8


@dataclass(frozen=True, eq=False)
class GridFrame(PlacedPoints):
    """A frame's feature map, and where its visible points lie in it.

    Attributes:
        feature_map: (C, h, w) float16 on the host, channels-last in memory.
    """

    feature_map: FeatureMap


def grid_arrays(path: Path, grid: GridFrame) -> dict[str, np.ndarray]:
    """The arrays of a file, see the module; ``path`` is its.

    Raises:
        OutputError: If the format has no type for an attribute.
    """
    check_attributes(path, grid)
    arrays: dict[str, np.ndarray] = {
        "map": grid.feature_map.values.permute(1, 2, 0).half().numpy(),
        **grid.arrays(),
    }
    if grid.feature_map.clip_global is not None:
        arrays["clip_global"] = grid.feature_map.clip_global.numpy()
    return arrays


def grid_frame(path: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> GridFrame:
    """What the arrays and the meta of one file stand for; ``path`` is its.

    Raises:
        DataError: If something is missing.
    """
    left = dict(arrays)
    try:
        clip_global = left.pop("clip_global", None)
        feature_map = FeatureMap(
            torch.from_numpy(left.pop("map")).permute(2, 0, 1),
            np.array(meta["image_to_map"], np.float64),
            None if clip_global is None else torch.from_numpy(clip_global),
        )
        return GridFrame(
            feature_map=feature_map,
            **placed(left, meta),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a whole feature file ({error!r}); delete it and run the command again") from error


def check_attributes(path: Path, points: PlacedPoints) -> None:
    """Looks whether the file can hold what the points carry along.

    Raises:
        OutputError: If the format has no type for an attribute.
    """
    for name, values in points.attributes.items():
        if values.dtype.newbyteorder("<") not in _NAMES:
            raise OutputError(
                f"{path}: the points' attribute {name} is of type {values.dtype}, which {path.suffix} files can't hold"
                f"; leave it out of the points' file, or take output=npz"
            )


def write_grid(file: Any, arrays: dict[str, np.ndarray], meta: str) -> None:
    """Writes arrays and meta as safetensors.

    Args:
        file: open for writing, at its start; only its ``write`` is used.
        arrays: by name; of numbers.
        meta: the JSON.
    """
    # The largest items first: each tensor then begins at a multiple of its item's size.
    ordered = sorted(arrays.items(), key=lambda item: -item[1].itemsize)
    entries, blocks, end = {}, [], 0
    for name, array in ordered:
        dtype = array.dtype.newbyteorder("<")
        block = np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8)
        begin, end = end, end + block.nbytes
        entries[name] = {"dtype": _NAMES[dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
        blocks.append(block)
    rest = f'","meta":{json.dumps(meta)}}},{json.dumps(entries, separators=(",", ":"))[1:]}'.encode()
    rest += b" " * (-(_SUMMED_FROM + len(rest)) % 8)
    value = isal_zlib.crc32(rest)
    for block in blocks:
        value = isal_zlib.crc32(block.data, value)
    file.write((_SUMMED_FROM + len(rest)).to_bytes(8, "little") + _BEGIN + f"{value:08x}".encode() + rest)
    for block in blocks:
        file.write(block.data)


def read_grid(path: Path, *, arrays: bool) -> tuple[dict[str, np.ndarray], str]:
    """Reads the arrays, if they are asked for, and the meta.

    Raises:
        OSError: If it can't be read.
        ValueError: If it is cut off, damaged or of another writer.
        KeyError: The same.
    """
    with path.open("rb") as file:
        size, length = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
        if not _SUMMED_FROM < length <= size - 8:
            raise ValueError("its header is cut off")
        header = file.read(length)
        if not header.startswith(_BEGIN):
            raise ValueError("its header is not clipfeat's")
        entries = json.loads(header)
        meta: str = entries.pop("__metadata__")["meta"]
        end = 8 + length + max(entry["data_offsets"][1] for entry in entries.values())
        if size != end:
            raise ValueError(f"{size} bytes, expected {end}: it was cut off")
        if not arrays:
            return {}, meta
        data = np.empty(size - 8 - length, np.uint8)
        file.readinto(data.data)
    value = isal_zlib.crc32(data.data, isal_zlib.crc32(header[_SUMMED_FROM:]))
    if value != int(header[len(_BEGIN) : _SUMMED_FROM], 16):
        raise ValueError("its checksum does not fit")
    found = {}
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        found[name] = data[begin:end].view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
    return found, meta
