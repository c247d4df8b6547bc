"""The features of a whole scene: the file of its points that ``clipfeat-fuse`` writes, and OpenScene's."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipfeat.errors import DataError
from clipfeat.output.files import read_arrays, write_arrays
from clipfeat.output.packing import Packing, is_packed, unpacked
from clipfeat.system.atomic import atomic_file
from clipfeat.types import FloatArray, Points

_ARRAYS = ("pts_feat", "xyz", "views", "weight", "pts_idx")


@dataclass(frozen=True, eq=False)
class FusedScene:
    """The points of a scene, and what all of its frames together say of them.

    Attributes:
        points: the N points; of a mesh its vertices, in the file's order.
        pts_feat: (N, C) float32 or float16, 0 where no frame sees the point.
        views: (N,) int32 how many frames went into each.
        weight: (N,) float32 sum of their weights.
        faces: (F, 3) int32 rows of the points, of a mesh; or None.
        meta: anything JSON can hold: scene, frames, failures, model, and how it was fused.
    """

    points: Points
    pts_feat: FloatArray
    views: NDArray[np.int32]
    weight: NDArray[np.float32]
    faces: NDArray[np.int32] | None
    meta: dict[str, Any]

    @property
    def seen(self) -> NDArray[np.bool_]:
        """(N,) whether a frame sees the point."""
        return self.views > 0


def seen_counts(views: NDArray[np.int32]) -> dict[str, Any]:
    """What ``meta`` say of how often the points (N,) are seen; some are."""
    seen = views > 0
    return {
        "num_points": len(seen),
        "num_seen": int(seen.sum()),
        "mean_views": round(float(views[seen].mean()), 3),
    }


def seen_in_short(metas: Collection[dict[str, Any]]) -> str:
    """What a run says of the ``seen_counts`` of its scenes together; views are those of a point that is seen."""
    points, seen = sum(meta["num_points"] for meta in metas), sum(meta["num_seen"] for meta in metas)
    views = sum(meta["mean_views"] * meta["num_seen"] for meta in metas) / max(seen, 1)
    return f"{points} points, {100 * seen / max(points, 1):.1f} % seen, in {views:.1f} views on average"


def write_fused(path: Path, fused: FusedScene, packing: Packing | None = None) -> int:
    """Writes ``xyz`` (N, 3) float32 and the other arrays of a ``FusedScene`` as npz, and returns the bytes.

    The points' attributes are arrays of their own. One that has the name of another array is left out. Features that
    are packed stand in ``packed_…`` in place of ``pts_feat``, and ``meta`` tells of it, as ``packed``.

    Raises:
        ConfigError: If the packing needs a package that is not installed.
        OutputError: If it can't be written.
    """
    if packing is None:
        features = {"pts_feat": fused.pts_feat}
    else:
        features, fused.meta["packed"] = packing.pack(fused.pts_feat, fused.seen)
    arrays = (
        fused.points.attributes
        | features
        | {
            "xyz": fused.points.xyz.astype(np.float32),
            "pts_idx": fused.points.idx,
            "views": fused.views,
            "weight": fused.weight,
        }
    )
    arrays.pop("faces", None)
    if fused.faces is not None:
        arrays["faces"] = fused.faces
    return write_arrays(path, "npz", arrays, fused.meta)


def read_fused(path: str | Path) -> FusedScene:
    """Reads what ``write_fused`` wrote; packed features as float32.

    Raises:
        DataError: If it is missing, damaged, of another schema, or no fused scene.
    """
    arrays, meta = read_arrays(Path(path))
    if is_packed(arrays) and "views" in arrays:
        try:
            arrays["pts_feat"] = unpacked(arrays, arrays["views"] > 0)
        except DataError as error:
            raise DataError(f"{path}: {error}; copy it again or fuse the scene again") from error
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise DataError(f"{path}: no fused scene (no {', '.join(missing)}); give a file that clipfeat-fuse wrote")
    pts_feat, xyz, views, weight, pts_idx = (arrays.pop(name) for name in _ARRAYS)
    faces = arrays.pop("faces", None)
    return FusedScene(Points(xyz.astype(np.float64), pts_idx, arrays), pts_feat, views, weight, faces, meta)


def write_openscene(path: Path, features: FloatArray, seen: NDArray[np.bool_]) -> int:
    """Writes a scene as OpenScene reads it, ``{"feat": half (M, C), "mask_full": bool (N,)}``, and returns the bytes.

    Args:
        path: the file.
        features: (N, C) of all points.
        seen: (N,) which M of them have features; the others are left out.

    Raises:
        OutputError: If it can't be written.
    """
    feat = torch.from_numpy(features[seen]).half()
    with atomic_file(path) as file:
        torch.save({"feat": feat, "mask_full": torch.from_numpy(seen)}, file)
    return path.stat().st_size
