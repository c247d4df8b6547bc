"""A map as a file: the npz of a fused scene, with what it needs to go on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.errors import DataError
from clipfeat.mapping.map_points import Arrays, MapPoints
from clipfeat.output.files import wrong_rows
from clipfeat.output.fused import FusedScene, read_fused, seen_counts
from clipfeat.sampling.voxels import VOXEL
from clipfeat.types import Points
from clipfeat.vis.scene_picture import up_of

_STATE = {"weight_sum": (), "xyz_mean": (3,), "rgb_mean": (3,), "seen_last": ()}
"""Arrays of the file that are the map's own, and the shape of their rows: sums and means that are not rounded."""

_SAID = {"scene_id", "frames", "down", "model", "weights_from", "voxel_size", "dropped"}
"""What the meta must say."""


@dataclass(frozen=True, eq=False)
class SavedMap:
    """What a file holds.

    Attributes:
        points: the N points, with their attributes.
        features: (N, C).
        views: (N,).
        state: see ``MapPoints.restore``.
        meta: all that is said of it.
        voxel_size: edge of its voxels in metres; None where its points were given.
    """

    points: Points
    features: NDArray[np.floating]
    views: NDArray[np.int32]
    state: Arrays
    meta: dict[str, Any]
    voxel_size: float | None


def fused_map(points: MapPoints, about: dict[str, Any]) -> FusedScene:
    """A map as a fused scene; ``about`` says what its meta hold beside numbers of points and views.

    Raises:
        DataError: If nothing was added yet.
    """
    if not points.views.any():
        raise DataError(f"{about['scene_id']}: nothing is in the map yet")
    known = points.points()
    attributes = known.attributes | points.state()
    counts = {
        **seen_counts(points.views),
        "dropped": points.dropped,
        "up": up_of(np.array(about["down"])),
    }
    return FusedScene(
        points=Points(known.xyz, known.idx, attributes),
        pts_feat=points.features(),
        views=points.views.copy(),
        weight=points.weight.astype(np.float32),
        faces=None,
        meta={"failed": [], "points": "measured" if VOXEL in attributes else "given"} | about | counts,
    )


def read_map(path: Path) -> SavedMap:
    """Reads what ``write_fused`` wrote of a map.

    Raises:
        DataError: If it is missing, damaged or of something else.
    """
    fused = read_fused(path)
    attributes = dict(fused.points.attributes)
    state = {name: attributes.pop(name) for name in _STATE if name in attributes}
    expected = {name: _STATE[name] for name in ("weight_sum", "xyz_mean")}
    if VOXEL in attributes:
        state[VOXEL] = attributes[VOXEL]
        expected |= {VOXEL: (3,), **{name: shape for name, shape in _STATE.items() if name in ("seen_last", *state)}}
    if missing := (expected.keys() - state.keys()) | (_SAID - fused.meta.keys()):
        raise DataError(f"{path}: no map that could go on (no {', '.join(sorted(missing))}); give one of clipfeat-map")
    arrays = {"pts_feat": fused.pts_feat, "views": fused.views, **state}
    if why := wrong_rows(arrays, {"pts_feat": (None,), "views": (), **expected}):
        raise DataError(f"{path}: no whole map ({why}); delete it and run the same command again")
    points = Points(state["xyz_mean"], fused.points.idx, attributes)
    return SavedMap(points, fused.pts_feat, fused.views, state, fused.meta, fused.meta["voxel_size"])
