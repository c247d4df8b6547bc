"""Which entries of two clocks belong together: pictures, and depth, poses or cameras with times of their own."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

from clipfeat.errors import DataError

_DECIMALS = 6
"""Of a gap in seconds: float64 keeps times since 1970 to a quarter of a microsecond."""

_NAMED = 5
"""Frames that a message names at most."""


class ClocksError(DataError):
    """Two clocks that never meet."""


@dataclass(frozen=True, eq=False)
class Matched:
    """The pictures of a scene and what belongs to them by time, one to one.

    Attributes:
        what: it is, a word for messages.
        where: it comes from, for messages.
        times_s: when each picture was taken, by frame number.
        others_s: (M,) ascending seconds, when it was.
        max_dt: how many seconds they may be apart.
        rows: the row of ``others_s`` that belongs to a frame; a frame without one is left out.
        ties: frames for whose row something else was equally near: another row, or another frame.
    """

    what: str
    where: str
    times_s: Mapping[int, float]
    others_s: NDArray[np.float64]
    max_dt: float
    rows: dict[int, int]
    ties: list[int]

    def why_none(self, frame_id: int) -> str:
        """Why a frame has no row, in a line."""
        time_s = self.times_s[frame_id]
        row = nearest(self.others_s, time_s)
        gap_s = _gap(self.others_s[row], time_s)
        none = f"{self.where}: no {self.what} for frame {frame_id} at {time_s:.6f} s, the nearest"
        if gap_s > self.max_dt:
            return f"{none} is {gap_s:.3f} s away and data.max_dt={self.max_dt:g}"
        owner = next((frame for frame, taken in self.rows.items() if taken == row), None)
        return f"{none}, {gap_s:.3f} s away, is that of frame {owner}, and each goes with one picture only"

    def told(self) -> str:
        """Which frames have none, and which had several, in a line; empty if there is nothing to tell."""
        without = [frame_id for frame_id in self.times_s if frame_id not in self.rows]
        said = []
        if without:
            said.append(
                f"{len(without)} of {len(self.times_s)} pictures have no {self.what} of their own within "
                f"data.max_dt={self.max_dt:g} s: {named(without)}"
            )
        if self.ties:
            said.append(f"of equally near ones the earlier went with the earlier: {named(self.ties)}")
        return f"{self.where}: {'; '.join(said)}" if said else ""


def match_times(
    what: str, where: str, times_s: Mapping[int, float], others_s: NDArray[np.float64], max_dt: float
) -> Matched:
    """Pairs two clocks greedily: of all pairs that are left, the nearest goes first, and each entry is in one pair.

    As the tool of TUM's benchmark does it (associate.py). Of pairs that are equally near, the earlier picture goes
    first, and gets the earlier row.

    Args:
        what: see ``Matched``; and so the others.
        where: see ``Matched``.
        times_s: by frame number.
        others_s: ascending, not empty.
        max_dt: in seconds.

    Raises:
        ClocksError: If there are pictures, and none has a row.
    """
    free = list(range(len(others_s)))
    taken: dict[int, float] = {}
    ties: dict[int, None] = {}

    def nearest_free(frame_id: int) -> tuple[float, int, int] | None:
        time_s = times_s[frame_id]
        at = bisect_left(free, time_s, key=others_s.__getitem__)
        around = free[at : at + 1]
        if at > 0:  # of rows with one time the first
            around.insert(0, free[bisect_left(free, others_s[free[at - 1]], key=others_s.__getitem__)])
        near = [(_gap(others_s[row], time_s), frame_id, row) for row in around]
        if len(near) == 2 and near[0][0] == near[1][0] <= max_dt:
            ties[frame_id] = None
        return min(near, default=None)

    heap = [pair for frame_id in times_s if (pair := nearest_free(frame_id)) is not None]
    heapify(heap)
    rows: dict[int, int] = {}
    while heap and heap[0][0] <= max_dt:
        gap_s, frame_id, row = heappop(heap)
        if row not in taken:
            rows[frame_id], taken[row] = row, gap_s
            del free[bisect_left(free, row)]
            continue
        if taken[row] == gap_s:
            ties[frame_id] = None
        if (pair := nearest_free(frame_id)) is not None:
            heappush(heap, pair)
    if times_s and not rows:
        first, last = min(times_s.values()), max(times_s.values())
        raise ClocksError(
            f"{where}: no {what} is within data.max_dt={max_dt:g} s of a picture; pictures are from {first:.3f} to "
            f"{last:.3f} s, these from {others_s[0]:.3f} to {others_s[-1]:.3f} s: another clock, or another unit?"
        )
    return Matched(what, where, times_s, others_s, max_dt, rows, sorted(ties))


def nearest(times_s: NDArray[np.float64], time_s: float) -> int:
    """Index of the entry of ascending, non-empty times that is nearest; the earlier of two that are equally near."""
    right = int(np.searchsorted(times_s, time_s))
    if right == 0:
        return 0
    if right == len(times_s) or time_s - times_s[right - 1] <= times_s[right] - time_s:
        return right - 1
    return right


def named(frame_ids: Sequence[int]) -> str:
    """The first of some frames, for messages."""
    more = ", …" if len(frame_ids) > _NAMED else ""
    return f"frame{'' if len(frame_ids) == 1 else 's'} {', '.join(map(str, frame_ids[:_NAMED]))}{more}"


def _gap(a_s: float, b_s: float) -> float:
    return round(abs(float(a_s) - float(b_s)), _DECIMALS)
