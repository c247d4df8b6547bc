"""Reading meshes and point clouds, PLY and npz."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.errors import DataError
from clipfeat.system.arrays import read_npz
from clipfeat.system.ply_reader import coordinates, num_rows, read_ply, triangles
from clipfeat.types import FARTHEST_M, Points

_PLY_COLORS = tuple(tuple(before + name for name in ("red", "green", "blue")) for before in ("", "diffuse_"))
_PLY_PASSED_OVER = ("x", "y", "z", "alpha", "diffuse_alpha", "nx", "ny", "nz")
_NPZ_COORDINATES = ("xyz", "points", "vertices")


def read_points(path: Path) -> Points:
    """Reads the vertices of a PLY, or the points of an npz, in the file's own order.

    PLY: red, green and blue become ``rgb`` (N, 3) uint8, from 0 to 255 also where the file has fractions; every other
    number a vertex has (label, instance, …) becomes an attribute of its name. Faces, normals and lists are passed over.
    npz: ``xyz`` (N, 3) (or points, vertices); every other array of N rows of numbers becomes an attribute, and
    ``rgb`` (N, 3) is as that of a PLY.

    Raises:
        DataError: If the file is missing or damaged, holds no vertices, or some are not finite or nowhere near.
    """
    readers = {".ply": _read_ply, ".npz": _read_npz}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: points are read from .ply or .npz")
    if not path.is_file():
        raise DataError(f"{path}: no such file, a mesh or point cloud was expected (sampling.points_file)")
    xyz, attributes = readers[path.suffix.lower()](path)
    if xyz.ndim != 2 or xyz.shape[1] != 3 or len(xyz) == 0:
        raise DataError(f"{path}: holds no vertices (shape {xyz.shape}), expected (N, 3) with N above 0")
    if not np.isfinite(xyz).all():
        raise DataError(f"{path}: {int((~np.isfinite(xyz).all(1)).sum())} of {len(xyz)} vertices hold inf or NaN")
    xyz = xyz.astype(np.float64)
    far = int((np.abs(xyz) > FARTHEST_M).any(1).sum())
    if far:
        raise DataError(f"{path}: {far} of {len(xyz)} vertices are farther than {FARTHEST_M:g} m away; damaged?")
    return Points(xyz, np.arange(len(xyz)), attributes)


def read_faces(path: Path) -> NDArray[np.int32] | None:
    """The triangles (F, 3) of a PLY, as rows of the vertices that ``read_points`` gives; None for a cloud, or an npz.

    A face of more corners becomes a fan of triangles.

    Raises:
        DataError: If the file is damaged.
    """
    if path.suffix.lower() != ".ply":
        return None
    elements = _load_ply(path)
    try:
        faces = triangles(elements)
    except ValueError as error:
        raise _damaged_ply(path, error) from error
    return faces.astype(np.int32) if len(faces) else None


def _read_ply(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    elements = _load_ply(path)
    if not num_rows(elements.get("vertex", {})):
        raise DataError(f"{path}: holds no vertices, expected a mesh or a point cloud")
    try:
        xyz = coordinates(elements)
    except ValueError as error:
        raise _damaged_ply(path, error) from error
    columns = {name: c for name, c in elements["vertex"].items() if isinstance(c, np.ndarray)}
    attributes: dict[str, np.ndarray] = {}
    for names in _PLY_COLORS:
        if set(names) <= set(columns):
            colors = np.stack([columns.pop(name) for name in names], 1)
            attributes.setdefault("rgb", _as_bytes(path, colors))
    attributes.update({name: columns[name] for name in sorted(columns) if name not in _PLY_PASSED_OVER})
    return xyz, attributes


def _as_bytes(path: Path, colors: np.ndarray) -> NDArray[np.uint8]:
    """Colours (N, 3) from 0 to 255. Fractions up to 1, and whole numbers up to 65535, are brought there.

    Raises:
        DataError: If they are none of these.
    """
    if colors.dtype == np.uint8:
        return colors
    least, most = (float(colors.min()), float(colors.max())) if len(colors) else (0.0, 0.0)
    real = colors.dtype.kind == "f"
    if not (least >= 0 and most <= (255 if real else 65535)):  # also where one is not a number
        raise DataError(
            f"{path}: colours of {colors.dtype} from {least:g} to {most:g}, expected 0 to 255, or fractions from 0 to 1"
        )
    scale = 255.0 if real and most <= 1 else 1 / 257 if most > 255 else 1.0
    return np.rint(colors * scale).astype(np.uint8)


def _load_ply(path: Path) -> dict[str, dict[str, Any]]:
    try:
        return read_ply(path)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or error})") from error
    except ValueError as error:
        raise _damaged_ply(path, error) from error


def _damaged_ply(path: Path, why: object) -> DataError:
    return DataError(f"{path}: {why}; copy or export it again")


def _read_npz(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    try:
        arrays = read_npz(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable npz file ({error}); copy or make it again") from error
    name = next((n for n in _NPZ_COORDINATES if n in arrays), None)
    if name is None:
        raise DataError(
            f"{path}: holds none of the arrays {', '.join(_NPZ_COORDINATES)}, but {', '.join(arrays) or 'nothing'}"
        )
    xyz = arrays.pop(name)
    attributes = {key: value for key, value in arrays.items() if value.shape[:1] == xyz.shape[:1] != ()}
    for key, values in {name: xyz, **attributes}.items():
        if values.dtype.kind not in "biuf":
            raise DataError(f"{path}: {key} is of {values.dtype}, expected numbers; leave it out or make it again")
    rgb = attributes.get("rgb")
    if rgb is not None and rgb.shape[1:] == (3,):
        attributes["rgb"] = _as_bytes(path, rgb)
    return xyz, attributes
