"""Coloured points, or a coloured mesh, as a PLY that any viewer opens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.system.atomic import atomic_file
from clipfeat.types import FloatArray

UNSEEN = 128
"""Grey of the points that no frame sees."""


def write_ply(
    path: Path,
    xyz: FloatArray,
    rgb: NDArray[np.uint8],
    faces: NDArray[np.integer] | None = None,
    comments: Sequence[str] = (),
    values: Mapping[str, FloatArray] | None = None,
) -> int:
    """Writes a binary PLY and returns its bytes.

    Args:
        path: the file.
        xyz: (N, 3) metres; kept as float32.
        rgb: (N, 3).
        faces: (F, 3) rows of xyz; None for a cloud.
        comments: lines for the header; what is not ASCII becomes a question mark.
        values: further numbers (N,) of the points by name, kept as float32.

    Raises:
        OutputError: If it can't be written.
    """
    import trimesh

    if faces is None:
        shape: Any = trimesh.PointCloud(xyz, colors=rgb)
    else:
        shape = trimesh.Trimesh(xyz, faces, vertex_colors=rgb, process=False)
    shape.vertex_attributes = {name: one.astype(np.float32) for name, one in (values or {}).items()}
    # trimesh has no way to hand comments over. They may stand anywhere after the line of the format.
    beginning, rest = shape.export(file_type="ply").split(b"element vertex", 1)
    lines = "".join(f"comment {' '.join(comment.split())}\n" for comment in comments).encode("ascii", "replace")
    with atomic_file(path) as file:
        file.write(beginning + lines + b"element vertex" + rest)
    return path.stat().st_size
