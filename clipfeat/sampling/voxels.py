"""The points of a scene without a mesh: what its frames measured, a point for each small cube that something is in."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.projection import unproject_depth
from clipfeat.errors import FrameError
from clipfeat.sampling.voxel_table import VoxelTable, place_of
from clipfeat.system.compiled import compiled
from clipfeat.types import FloatArray, Frame, Points

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
        self._table = VoxelTable()
        self._sum = np.zeros((0, 3))
        self._count = np.zeros(0, np.int32)
        self._rgb_sum = np.zeros((0, 3))
        self._colored = np.zeros(0, np.int32)
        self._make_room()

    def add(
        self, xyz: FloatArray, rgb: NDArray[np.uint8] | None = None, known: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int32]:
        """Adds points (N, 3) in metres, and their colours (N, 3), of all points or of those (N,) where they are known.

        Returns:
            (N,) the row of each point's voxel.

        Raises:
            ValueError: If xyz is not (N, 3), or a point is not finite or more than 2**30 voxels away.
        """
        points = np.ascontiguousarray(xyz, np.float64)
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"points must be (N, 3), got {points.shape}")
        if not (np.abs(points) < _FARTHEST * self.size).all():
            raise ValueError(f"points must lie within {_FARTHEST} voxels of {self.size:g} m around the origin")
        done, of_points, table = 0, np.empty(len(points), np.int32), self._table
        while True:
            done, table.count = _add(
                points, done, 1 / self.size, table.count, table.rows, table.cell, self._sum, self._count, of_points
            )
            if done == len(points):
                break
            table.make_room(2 * len(table.cell))
            self._make_room()
        if rgb is not None:
            voxels, colored = len(self._colored), of_points
            if known is not None:
                colored, rgb = of_points[known], rgb[known]
            self._colored += np.bincount(colored, minlength=voxels).astype(np.int32)
            for channel in range(3):
                self._rgb_sum[:, channel] += np.bincount(colored, rgb[:, channel], voxels)
        return of_points

    def points(self) -> Points:
        """The mean of each voxel's points; their attribute ``points`` (N,) int32 is how many there were.

        Where any has a known colour, ``rgb`` (N, 3) uint8 is the mean of a voxel's known ones; grey where it has none.
        """
        voxels = self._table.count
        count, colored = self._count[:voxels].copy(), self._colored[:voxels]
        attributes: dict[str, NDArray[Any]] = {"points": count}
        if colored.any():
            rgb = np.rint(self._rgb_sum[:voxels] / np.maximum(colored, 1)[:, None])
            attributes["rgb"] = np.where(colored[:, None] > 0, rgb, _NO_COLOR).astype(np.uint8)
        return Points(self._sum[:voxels] / count[:, None], np.arange(voxels), attributes)

    @property
    def cells(self) -> NDArray[np.int32]:
        """(N, 3) which voxels they are: the point x is in voxel ``floor(x / size)``."""
        return self._table.cell[: self._table.count].copy()

    def _make_room(self) -> None:
        """As much as the table has."""
        more = len(self._table.cell) - len(self._sum)
        self._sum = np.concatenate((self._sum, np.zeros((more, 3))))
        self._count = np.concatenate((self._count, np.zeros(more, np.int32)))
        self._rgb_sum = np.concatenate((self._rgb_sum, np.zeros((more, 3))))
        self._colored = np.concatenate((self._colored, np.zeros(more, np.int32)))


VOXEL = "voxel"
"""Attribute of points that are the mean of a voxel each: which one."""


def in_voxels(
    xyz: FloatArray, size: float, where: str, rgb: NDArray[np.uint8] | None = None
) -> tuple[Points, NDArray[np.int64]]:
    """The voxels that the points of one frame fall into, each as the mean of its points.

    Args:
        xyz: (N, 3) metres.
        size: edge of a voxel in metres.
        where: what the points are of, for messages.
        rgb: (N, 3) colours, if they are known.

    Returns:
        M points, with the attribute ``VOXEL`` and perhaps ``rgb``; and (N,) which of them each given point belongs to.

    Raises:
        FrameError: If a point lies too many voxels away.
    """
    cloud = VoxelCloud(size)
    try:
        rows = cloud.add(xyz, rgb)
    except ValueError as error:
        raise FrameError(f"{where}: {error}; take a larger voxel_size") from error
    found = cloud.points()
    colors = {} if rgb is None or not len(xyz) else {"rgb": found.attributes["rgb"]}
    return Points(found.xyz, found.idx, colors | {VOXEL: cloud.cells}), rows.astype(np.int64)


def frame_voxels(frame: Frame, size: float, near: float, far: float) -> Points:
    """What one frame measured, as one point for each voxel that its depth pixels fall into: the mean of these.

    It depends on this frame alone, so that what is made of several frames' voxels need not depend on their order.

    Args:
        frame: one with depth.
        size: edge of a voxel in metres.
        near: nearest depth in metres that is taken.
        far: farthest.

    Returns:
        N points; their attribute ``VOXEL`` (N, 3) int32 says which voxels they are, see ``VoxelCloud.cells``.

    Raises:
        FrameError: If the frame has no depth, no pixel of it lies between near and far, or one does too far away.
    """
    where, depth_m, lens = f"{frame.scene_id} frame {frame.frame_id}", frame.depth_m, frame.depth_camera
    if depth_m is None or lens is None:
        raise FrameError(f"{where}: no depth, and the voxels of a map are what the depth measures")
    used = np.where((depth_m >= near) & (depth_m <= far), depth_m, 0)
    xyz, _ = unproject_depth(used, lens.intrinsics, frame.cam_to_world, distortion=lens.distortion)
    if len(xyz) == 0:
        raise FrameError(f"{where}: no depth pixel holds a measurement from {near:g} to {far:g} m")
    return in_voxels(xyz, size, where)[0]


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
        place = place_of(x, y, z, rows, cell)
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
