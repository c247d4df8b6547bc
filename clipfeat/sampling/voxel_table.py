"""Which row of some arrays belongs to which voxel: a hash table that grows, and that can be told to forget."""

import numpy as np
from numpy.typing import NDArray

from clipfeat.system.compiled import compiled


class VoxelTable:
    """Rows of voxels, from 0 on, in the order in which the voxels are first met.

    Attributes:
        cell: (capacity, 3) int32 the voxel of each row; of rows that no voxel has yet, anything.
        count: how many rows have a voxel.
        rows: the hash table of ``place_of``.
    """

    def __init__(self) -> None:
        self.cell = np.empty((0, 3), np.int32)
        self.count = 0
        self.make_room(1024)

    def make_room(self, voxels: int) -> None:
        """Makes room for so many voxels, which are no fewer than before."""
        self.cell = np.concatenate((self.cell, np.empty((voxels - len(self.cell), 3), np.int32)))
        self._enter_all()

    def find(self, cells: NDArray[np.int32]) -> NDArray[np.int64]:
        """The rows (M,) of voxels (M, 3); -1 of those that have none."""
        found = np.empty(len(cells), np.int64)
        _find(cells, self.rows, self.cell, found)
        return found

    def add(self, cells: NDArray[np.int32]) -> NDArray[np.int64]:
        """Gives new rows (M,) to voxels (M, 3), each of which comes once and has none."""
        new = np.arange(self.count, self.count + len(cells))
        if new.size and new[-1] >= len(self.cell):
            self.make_room(max(2 * len(self.cell), self.count + len(cells)))
        self.cell[new] = cells
        _enter(self.count, self.count + len(cells), self.rows, self.cell)
        self.count += len(cells)
        return new

    def replace(self, rows: NDArray[np.int64], cells: NDArray[np.int32]) -> None:
        """Gives rows (M,) that others have to voxels (M, 3) that have none; the others are forgotten."""
        self.cell[rows] = cells
        self._enter_all()

    def _enter_all(self) -> None:
        size = 1 << (4 * len(self.cell) - 1).bit_length()
        self.rows = np.full(size, -1, np.int32)
        _enter(0, self.count, self.rows, self.cell)


@compiled(error_model="numpy")
def place_of(
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
def _enter(
    begin: int, end: int, rows: NDArray[np.int32], cell: NDArray[np.int32]
) -> None:  # pragma: no cover - compiled
    """Enters known voxels into a table that does not have them."""
    for row in range(begin, end):
        rows[place_of(cell[row, 0], cell[row, 1], cell[row, 2], rows, cell)] = row


@compiled(error_model="numpy")
def _find(
    cells: NDArray[np.int32], rows: NDArray[np.int32], cell: NDArray[np.int32], found: NDArray[np.int64]
) -> None:  # pragma: no cover - compiled
    for i in range(len(cells)):
        found[i] = rows[place_of(cells[i, 0], cells[i, 1], cells[i, 2], rows, cell)]
