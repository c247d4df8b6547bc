"""The points of a scene without a mesh: what all frames measured, a point for each small cube that something is in."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.system.compiled import compiled
from clipfeat.types import FloatArray, Points

_FARTHEST = 2**30
"""Voxels that a point may be away from the origin along an axis."""


_NO_COLOR = 128


class VoxelCloud:
    """The voxels that points fall into, each as the mean of its points.

    The mean and not the voxel's centre: it lies on the measured surface, where a frame's depth finds it again. Needs
    memory for the voxels, not for the points. Rows are in the order in which voxels are first met.

    Args:
        size: edge of a voxel in metres.
    """

    def __init__(self, size: float):
        self.size = size
        self._voxels = 0
        self._cell = np.empty((0, 3), np.int32)
        self._sum = np.zeros((0, 3))
        self._count = np.zeros(0, np.int32)
        self._rgb_sum = np.zeros((0, 3))
        self._colored = np.zeros(0, np.int32)
        self._make_room(1024)

    def add(
        self, xyz: FloatArray, rgb: NDArray[np.uint8] | None = None, known: NDArray[np.bool_] | None = None
    ) -> None:
        """Adds points (N, 3) in metres, and their colours (N, 3), of all points or of those (N,) where they are known.

        Raises:
            ValueError: If xyz is not (N, 3), or a point is not finite or more than 2**30 voxels away.
        """
        points = np.ascontiguousarray(xyz, np.float64)
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"points must be (N, 3), got {points.shape}")
        if not (np.abs(points) < _FARTHEST * self.size).all():
            raise ValueError(f"points must lie within {_FARTHEST} voxels of {self.size:g} m around the origin")
        done, of_points = 0, np.empty(len(points), np.int32)
        while True:
            done, self._voxels = _add(
                points, done, 1 / self.size, self._voxels, self._rows, self._cell, self._sum, self._count, of_points
            )
            if done == len(points):
                break
            self._make_room(2 * len(self._cell))
        if rgb is not None:
            voxels = len(self._colored)
            if known is not None:
                of_points, rgb = of_points[known], rgb[known]
            self._colored += np.bincount(of_points, minlength=voxels).astype(np.int32)
            for channel in range(3):
                self._rgb_sum[:, channel] += np.bincount(of_points, rgb[:, channel], voxels)

    def points(self) -> Points:
        """The mean of each voxel's points; their attribute ``points`` (N,) int32 is how many there were.

        Where any has a known colour, ``rgb`` (N, 3) uint8 is the mean of a voxel's known ones; grey where it has none.
        """
        count, colored = self._count[: self._voxels].copy(), self._colored[: self._voxels]
        attributes: dict[str, NDArray[Any]] = {"points": count}
        if colored.any():
            rgb = np.rint(self._rgb_sum[: self._voxels] / np.maximum(colored, 1)[:, None])
            attributes["rgb"] = np.where(colored[:, None] > 0, rgb, _NO_COLOR).astype(np.uint8)
        return Points(self._sum[: self._voxels] / count[:, None], np.arange(self._voxels), attributes)

    def _make_room(self, voxels: int) -> None:
        more = voxels - len(self._cell)
        self._cell = np.concatenate((self._cell, np.empty((more, 3), np.int32)))
        self._sum = np.concatenate((self._sum, np.zeros((more, 3))))
        self._count = np.concatenate((self._count, np.zeros(more, np.int32)))
        self._rgb_sum = np.concatenate((self._rgb_sum, np.zeros((more, 3))))
        self._colored = np.concatenate((self._colored, np.zeros(more, np.int32)))
        self._rows = np.full(4 * voxels, -1, np.int32)
        _enter(self._voxels, self._rows, self._cell)


@compiled(error_model="numpy")
def _place(
    x: np.int64, y: np.int64, z: np.int64, rows: NDArray[np.int32], cell: NDArray[np.int32]
) -> np.int64:  # pragma: no cover - compiled
    """Where in the hash table ``rows`` a voxel is, or would be (open addressing; its length is a power of two)."""
    mask = len(rows) - 1
    # Large primes of Teschner et al., Optimized Spatial Hashing (2003); the shift mixes high bits into the low ones.
    value = (x * 73856093) ^ (y * 19349663) ^ (z * 83492791)
    place = (value ^ (value >> 15)) & mask
    while True:
        row = rows[place]
        if row < 0 or (cell[row, 0] == x and cell[row, 1] == y and cell[row, 2] == z):
            return place
        place = (place + 1) & mask


@compiled(error_model="numpy")
def _enter(voxels: int, rows: NDArray[np.int32], cell: NDArray[np.int32]) -> None:  # pragma: no cover - compiled
    """Enters known voxels into an empty table."""
    for row in range(voxels):
        rows[_place(cell[row, 0], cell[row, 1], cell[row, 2], rows, cell)] = row


@compiled(error_model="numpy")
def _add(
    xyz: NDArray[np.float64],
    begin: int,
    per_metre: float,
    voxels: int,
    rows: NDArray[np.int32],
    cell: NDArray[np.int32],
    total: NDArray[np.float64],
    count: NDArray[np.int32],
    of_points: NDArray[np.int32],
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Adds points from ``begin`` on until there is no room for a new voxel; how many are done, and the voxels.

    ``of_points`` takes the row of each point's voxel.
    """
    for i in range(begin, len(xyz)):
        x = np.int64(np.floor(xyz[i, 0] * per_metre))
        y = np.int64(np.floor(xyz[i, 1] * per_metre))
        z = np.int64(np.floor(xyz[i, 2] * per_metre))
        place = _place(x, y, z, rows, cell)
        row = rows[place]
        if row < 0:
            if voxels == len(cell):
                return i, voxels
            row = voxels
            rows[place] = row
            cell[row, 0], cell[row, 1], cell[row, 2] = x, y, z
            voxels += 1
        for axis in range(3):
            total[row, axis] += xyz[i, axis]
        count[row] += 1
        of_points[i] = row
    return len(xyz), voxels
