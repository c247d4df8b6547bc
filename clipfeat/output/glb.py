"""Coloured points, or a coloured mesh, as glTF 2.0 in one binary file, which browsers, Blender and phones open.

The format: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.system.atomic import atomic_file
from clipfeat.types import FloatArray

_POINTS, _TRIANGLES = 0, 4
_TYPES = {"f4": 5126, "u2": 5123, "u4": 5125}
_VERTICES, _INDICES = 34962, 34963
_SHAPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
_HEAD, _CHUNK = struct.Struct("<4sII"), struct.Struct("<I4s")


def write_glb(
    path: Path,
    xyz: FloatArray,
    rgb: NDArray[np.uint8],
    faces: NDArray[np.integer] | None = None,
    up: Sequence[float] = (0.0, 0.0, 1.0),
    values: Mapping[str, FloatArray] | None = None,
    about: Mapping[str, Any] | None = None,
) -> int:
    """Writes a binary glTF and returns its bytes.

    Colours are shown as they are, without light. glTF has y up: the node turns ``up`` there, positions stay.

    Args:
        path: the file, ``.glb``.
        xyz: (N, 3) metres; kept as float32.
        rgb: (N, 3) sRGB.
        faces: (F, 3) rows of xyz; None for a cloud.
        up: (3,) unit vector, where up is in the world.
        values: further numbers (N,) of the points by name; glTF wants them to begin with an underscore, such as _SCORE.
        about: anything JSON can hold, kept in ``extras``.

    Raises:
        OutputError: If it can't be written.
    """
    body = _Body()
    points = np.asarray(xyz, "<f4")
    attributes = {"POSITION": body.add(points, _VERTICES, bounds=True), "COLOR_0": body.add(_linear(rgb), _VERTICES)}
    attributes |= {name: body.add(np.asarray(one, "<f4"), _VERTICES) for name, one in (values or {}).items()}
    primitive: dict[str, Any] = {"attributes": attributes, "material": 0, "mode": _POINTS}
    if faces is not None and len(faces):
        primitive |= {"indices": body.add(np.asarray(faces, "<u4").reshape(-1), _INDICES), "mode": _TRIANGLES}
    material = {
        "pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1},
        "extensions": {"KHR_materials_unlit": {}},
        "doubleSided": True,
    }
    told = {
        "asset": {"version": "2.0", "generator": "clipfeat", "extras": dict(about or {})},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "matrix": _turned(up)}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [material],
        "buffers": [{"byteLength": len(body.bytes)}],
        "bufferViews": body.views,
        "accessors": body.accessors,
    }
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = b"".join([_CHUNK.pack(len(text), b"JSON"), text, _CHUNK.pack(len(body.bytes), b"BIN\0"), body.bytes])
    with atomic_file(path) as file:
        file.write(_HEAD.pack(b"glTF", 2, _HEAD.size + len(chunks)) + chunks)
    return path.stat().st_size


def read_glb(path: Path) -> tuple[dict[str, Any], bytes]:
    """What a binary glTF of one buffer says of itself, and the buffer.

    Raises:
        OSError: If the file can't be read.
        ValueError: If it is no such file, or cut off.
    """
    content = path.read_bytes()
    if len(content) < _HEAD.size or _HEAD.unpack_from(content)[:2] != (b"glTF", 2):
        raise ValueError("no binary glTF 2.0")
    if (claimed := _HEAD.unpack_from(content)[2]) != len(content):
        raise ValueError(f"it claims {claimed} bytes, {len(content)} are there")
    text, begin = _chunk(content, _HEAD.size, b"JSON")
    buffer, _ = _chunk(content, begin, b"BIN\0")
    told = json.loads(text)
    views = told["bufferViews"]
    if max((view.get("byteOffset", 0) + view["byteLength"] for view in views), default=0) > len(buffer):
        raise ValueError(f"it names more than the {len(buffer)} bytes of its buffer")
    return told, buffer


def _chunk(content: bytes, begin: int, kind: bytes) -> tuple[bytes, int]:
    """A chunk of this kind that begins there, and where the next one does."""
    if len(content) < begin + _CHUNK.size:
        raise ValueError(f"it has no chunk {kind!r}")
    length, found = _CHUNK.unpack_from(content, begin)
    begin += _CHUNK.size
    if found != kind or begin + length > len(content):
        raise ValueError(f"{length} bytes of {found!r} where a chunk {kind!r} was expected")
    return content[begin : begin + length], begin + length


class _Body:
    """The buffer, and where in it each array is. All arrays have rows of whole 4 bytes."""

    def __init__(self) -> None:
        self.bytes = b""
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, array: NDArray[Any], target: int, *, bounds: bool = False) -> int:
        """The number of an accessor of this array (N,) or (N, k)."""
        content = array.tobytes()
        self.views.append({"buffer": 0, "byteOffset": len(self.bytes), "byteLength": len(content), "target": target})
        self.bytes += content
        accessor = {
            "bufferView": len(self.views) - 1,
            "componentType": _TYPES[array.dtype.str[1:]],
            "count": len(array),
            "type": _SHAPES[1 if array.ndim == 1 else array.shape[1]],
        }
        if array.dtype.kind == "u" and target == _VERTICES:
            accessor["normalized"] = True
        if bounds:
            accessor |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def _linear(rgb: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Colours (N, 3) of sRGB as glTF's linear colours (N, 4) of 16 bits, by the transfer function of IEC 61966-2-1."""
    values = rgb.astype(np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return np.concatenate([np.rint(linear * 65535), np.full((len(rgb), 1), 65535)], axis=1).astype("<u2")


def _turned(up: Sequence[float]) -> list[float]:
    """The rotation that brings ``up`` to y, as 16 numbers column by column; x stays as near as can be to itself."""
    upward = np.asarray(up, np.float64) / np.linalg.norm(up)
    sideways = np.eye(3)[int(np.argmin(np.abs(upward)))]
    right = sideways - (sideways @ upward) * upward
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, upward, np.cross(right, upward)])
    return [float(value) for value in matrix.T.reshape(-1)]
