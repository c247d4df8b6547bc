"""Reading meshes and point clouds: PLY by trimesh, and npz."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.errors import DataError
from clipfeat.system.arrays import read_npz
from clipfeat.types import FARTHEST_M, Points

_PLY_COORDINATES = ("x", "y", "z")
_PLY_COLORS = ("red", "green", "blue")
_NPZ_COORDINATES = ("xyz", "points", "vertices")


def read_points(path: Path) -> Points:
    """Reads the vertices of a PLY, or the points of an npz, in the file's own order.

    PLY: red, green and blue become ``rgb`` (N, 3) uint8; every other number a vertex has (label, instance, …) becomes
    an attribute of its name. Faces and normals are passed over. npz: ``xyz`` (N, 3) (or points, vertices); every other
    array of N rows of numbers becomes an attribute.

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

    Raises:
        DataError: If the file is damaged.
    """
    if path.suffix.lower() != ".ply":
        return None
    loaded = _load_ply(path)
    faces = np.asarray(getattr(loaded, "faces", np.zeros((0, 3))), np.int32)
    if len(faces) == 0:
        return None
    if not (faces.min() >= 0 and faces.max() < len(loaded.metadata["_ply_raw"]["vertex"]["data"])):
        raise DataError(f"{path}: a face names a vertex that is not there; copy or export it again")
    return faces


def _read_ply(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    declared = _declared_vertices(path)
    loaded = _load_ply(path)
    try:
        vertex = loaded.metadata["_ply_raw"]["vertex"]["data"]
        names = list(vertex.dtype.names) if hasattr(vertex, "dtype") and vertex.dtype.names else list(vertex)
        columns = {name: np.asarray(vertex[name]).reshape(len(vertex[name]), -1)[:, 0] for name in names}
        xyz = np.stack([columns[name] for name in _PLY_COORDINATES], 1)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise _damaged_ply(path, error) from error
    if len(xyz) != declared:
        raise DataError(f"{path}: declares {declared} vertices, holds {len(xyz)}; the file is cut off")
    attributes = {}
    if set(_PLY_COLORS) <= set(columns):
        attributes["rgb"] = np.stack([columns[name] for name in _PLY_COLORS], 1)
    other = set(columns) - {*_PLY_COORDINATES, *_PLY_COLORS, "alpha", "nx", "ny", "nz"}
    attributes.update({name: columns[name] for name in sorted(other)})
    return xyz, attributes


def _declared_vertices(path: Path) -> int:
    """How many vertices the header declares, above 0; nothing in it is more than the file can hold."""
    try:
        with path.open("rb") as file:
            header = file.read(65536).split(b"end_header")[0].splitlines()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or error})") from error
    if not header or header[0].strip() != b"ply":
        raise DataError(f"{path}: not a PLY file")
    size, vertices = path.stat().st_size, 0
    for line in header:
        words = line.split()
        if len(words) != 3 or words[0] != b"element" or not words[2].isdigit():
            continue
        name, number = words[1].decode(errors="replace"), words[2].lstrip(b"0") or b"0"
        # An element takes a byte or more: a count beyond that is a lie, and nothing is allocated for it.
        if len(number) > len(str(size)) or int(number) > size:
            what = f"{number.decode()} {'vertices' if name == 'vertex' else f'elements {name}'}"
            raise DataError(f"{path}: declares {what}, more than its {size} bytes can hold; copy or export it again")
        vertices = int(number) if name == "vertex" else vertices
    if vertices == 0:
        raise DataError(f"{path}: holds no vertices, expected a mesh or a point cloud")
    return vertices


def _load_ply(path: Path) -> Any:
    import trimesh

    try:
        with np.errstate(invalid="ignore"):  # what is no number is told by whoever reads it
            return trimesh.load(path, process=False, force=None)
    except MemoryError:  # counts were checked: the file is whole and the memory too small
        raise
    except Exception as error:  # trimesh raises whatever its parsing meets; all of it means the file
        raise _damaged_ply(path, error) from error


def _damaged_ply(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: damaged PLY ({' '.join(str(error).split())[:120]}); copy or export it again")


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
    return xyz, attributes
