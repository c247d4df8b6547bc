"""The visible points of a frame where their features are looked up: pixels and depths, in few bytes.

``uv_idx`` (N, 2) and ``depth_m`` (N,) are float32, ``conf_2d`` (N,) float16; ascending ``pts_idx`` are kept as
``pts_idx_start`` and ``pts_idx_steps`` in the smallest unsigned type, so that ``pts_idx = start + cumsum(steps)``,
others as they are. Coordinates follow from pixels, depths, K and pose.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.projection import unproject_pixels
from clipfeat.types import Camera


@dataclass(frozen=True, eq=False, kw_only=True)
class PlacedPoints:
    """The N visible points of a frame.

    Attributes:
        camera: of the original colour picture.
        cam_to_world: (4, 4) float64.
        uv_idx: (N, 2) float32 pixels of the original colour picture.
        depth_m: (N,) float32 z of the points in the camera, in metres.
        conf_2d: (N,) float32 in [0, 1], kept to float16.
        pts_idx: (N,) int64 row of the point in its source, see ``Points.idx``.
        attributes: (N, ...) arrays carried along from the source by name, such as rgb, label and instance.
    """

    camera: Camera
    cam_to_world: NDArray[np.float64]
    uv_idx: NDArray[np.float32]
    depth_m: NDArray[np.float32]
    conf_2d: NDArray[np.float32]
    pts_idx: NDArray[np.int64]
    attributes: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def xyz(self) -> NDArray[np.float32]:
        """(N, 3) world metres: the pixels, lifted by their z."""
        u, v = self.uv_idx.astype(np.float64).T
        camera = self.camera
        xyz = unproject_pixels(u, v, self.depth_m, camera.intrinsics, self.cam_to_world, distortion=camera.distortion)
        return xyz.astype(np.float32)

    def take(self, rows: NDArray[np.integer]) -> Self:
        """Some of the points."""
        of_points = {name: getattr(self, name)[rows] for name in ("uv_idx", "depth_m", "conf_2d", "pts_idx")}
        return dataclasses.replace(self, **of_points, attributes={k: v[rows] for k, v in self.attributes.items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """What a file holds of the points."""
        return {
            **self.attributes,
            "uv_idx": self.uv_idx,
            "depth_m": self.depth_m,
            "conf_2d": self.conf_2d.astype(np.float16),
            **_pack_index(self.pts_idx),
        }


def placed(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> dict[str, Any]:
    """The attributes of ``PlacedPoints`` that a file's arrays and meta stand for; what is left are the points' own.

    Args:
        arrays: what ``PlacedPoints.arrays`` gave; all are taken out of it.
        meta: of the frame.

    Raises:
        KeyError: If something is missing; TypeError or ValueError if something is no such number.
    """
    found = {
        "camera": Camera.of_meta(meta["camera"]),
        "cam_to_world": np.array(meta["cam_to_world"], np.float64),
        "uv_idx": arrays.pop("uv_idx"),
        "depth_m": arrays.pop("depth_m"),
        "conf_2d": arrays.pop("conf_2d").astype(np.float32),
        "pts_idx": _unpack_index(arrays),
    }
    return found | {"attributes": arrays}


def _pack_index(idx: NDArray[np.int64]) -> dict[str, np.ndarray]:
    steps = np.diff(idx, prepend=idx[:1])
    if (steps < 0).any():
        return {"pts_idx": idx}
    smallest = np.min_scalar_type(steps.max(initial=0))
    return {"pts_idx_start": idx[:1], "pts_idx_steps": steps.astype(smallest)}


def _unpack_index(arrays: dict[str, np.ndarray]) -> NDArray[np.int64]:
    """Takes it out of the arrays."""
    if "pts_idx" in arrays:
        return arrays.pop("pts_idx")
    start, steps = arrays.pop("pts_idx_start"), arrays.pop("pts_idx_steps")
    return np.cumsum(steps, dtype=np.int64) + (start if len(steps) else 0)
