"""Poses over time, and the tree of frames that ROS's tf makes of them."""

import math
from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.matching import nearest
from clipfeat.data.trajectories import rotation_from_quaternion
from clipfeat.errors import DataError, FrameError

_NUMBERS = 8
"""Of a pose: time, x y z, x y z w."""


def check_clock(times_s: NDArray[np.float64], where: str, what: str) -> None:
    """Makes sure that several messages were not all sent at one time.

    Raises:
        DataError: If they were, as where nobody filled the stamps in.
    """
    if len(times_s) > 1 and times_s[0] == times_s[-1]:
        raise DataError(
            f"{where}: all {len(times_s)} {what} bear the time {times_s[0]:g} s; were the stamps of the messages' "
            f"headers never set?"
        )


class TimedTrack:
    """The poses of one frame in another: looked up at a time, and interpolated between the two around it.

    Args:
        where: where they come from, for messages.
    """

    def __init__(self, where: str):
        self._where = where
        self._flat = array("d")
        self._table: NDArray[np.float64] | None = None

    def add(self, time_s: float, translation: Any, rotation: Any) -> None:
        """One more, by a message's vector and quaternion."""
        self._flat.extend(
            (time_s, translation.x, translation.y, translation.z, rotation.x, rotation.y, rotation.z, rotation.w)
        )
        self._table = None

    def times_s(self) -> NDArray[np.float64]:
        """(N,) ascending."""
        return self._rows()[:, 0]

    def at(self, time_s: float, max_dt: float) -> NDArray[np.float64]:
        """The (4, 4) pose at a time.

        Args:
            time_s: of it.
            max_dt: seconds that the nearest of them may be away.

        Raises:
            FrameError: If none is near enough, or one is no pose.
        """
        rows = self._rows()
        times = rows[:, 0]
        index = nearest(times, time_s)
        gap = abs(times[index] - time_s)
        if gap > max_dt:
            raise FrameError(
                f"{self._where}: the nearest pose is {gap:.3f} s from {time_s:.6f} s, more than data.max_dt={max_dt:g}"
            )
        other = index + (1 if times[index] < time_s else -1)
        if gap == 0 or not 0 <= other < len(rows):
            return self._matrix(rows[index])
        self._matrix(rows[other])  # nothing is interpolated towards a pose that was lost
        share = (time_s - times[index]) / (times[other] - times[index])
        return self._matrix(_between(rows[index], rows[other], share))

    def check_clock(self) -> None:
        """Makes sure that there is one.

        Raises:
            DataError: If several poses have one time, as where nobody filled the stamps in.
        """
        check_clock(self.times_s(), self._where, "poses")

    def never_moves(self) -> bool:
        """Whether all of several are one, as those of ROS 1's static_transform_publisher, which says it again."""
        rows = self._rows()[:, 1:]
        return len(rows) > 1 and bool((rows == rows[0]).all())

    def only(self) -> NDArray[np.float64]:
        """The (4, 4) pose that holds always: the last that was said."""
        return self._matrix(np.array(self._flat[-_NUMBERS:]))

    def _matrix(self, row: NDArray[np.float64]) -> NDArray[np.float64]:
        pose = np.eye(4)
        pose[:3, :3] = rotation_from_quaternion(row[4:], f"{self._where} at {row[0]:.6f} s", "x y z w")
        pose[:3, 3] = row[1:4]
        return pose

    def _rows(self) -> NDArray[np.float64]:
        if self._table is None:
            table = np.frombuffer(self._flat, np.float64).reshape(-1, _NUMBERS)
            self._table = table[np.argsort(table[:, 0], kind="stable")]
        return self._table


def _between(one: NDArray[np.float64], other: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """A row between two: along the line, and along the great circle (Shoemake, 1985)."""
    row = (1 - share) * one + share * other
    q, r = one[4:], other[4:]
    cosine = float(q @ r)
    r, cosine = (r, cosine) if cosine >= 0 else (-r, -cosine)  # either sign is the same rotation
    angle = math.acos(min(cosine, 1.0))
    if angle < 1e-6:
        row[4:] = (1 - share) * q + share * r
    else:
        row[4:] = (math.sin((1 - share) * angle) * q + math.sin(share * angle) * r) / math.sin(angle)
    return row


class FrameTree:
    """Who hangs on whom, by /tf and /tf_static.

    Args:
        where: the bag, for messages.
        messages: TFMessages, and whether they hold always.
    """

    def __init__(self, where: str, messages: Iterable[tuple[bool, Any]]):
        self._where = where
        self._parents: dict[str, tuple[str, bool, TimedTrack]] = {}
        self._torn: dict[str, set[str]] = {}
        """Who hangs on several."""
        for static, message in messages:
            for one in message.transforms:
                parent, child = one.header.frame_id.strip("/"), one.child_frame_id.strip("/")
                known = self._parents.get(child)
                if known is not None and known[0] != parent:
                    self._torn.setdefault(child, {known[0]}).add(parent)
                if known is None or known[0] != parent:
                    known = parent, static, TimedTrack(f"{where}, tf from {parent} to {child}")
                    self._parents[child] = known
                stamp = one.header.stamp
                seconds = getattr(stamp, "sec", 0) + getattr(stamp, "nanosec", 0) / 1e9
                known[2].add(seconds, one.transform.translation, one.transform.rotation)
        for child, (parent, static, track) in self._parents.items():
            self._parents[child] = parent, static or track.never_moves(), track
            if not self._parents[child][1]:
                track.check_clock()

    def pose(self, of: str, in_frame: str, time_s: float, max_dt: float) -> NDArray[np.float64]:
        """The (4, 4) pose of one frame in another, wherever both hang in the tree.

        Raises:
            DataError: If they do not hang together.
            FrameError: If a transform between them is not known at that time.
        """
        mine, theirs = self._way_up(of), self._way_up(in_frame)
        shared = next((name for name in mine if name in theirs), None)
        if shared is None:
            names = sorted({*self._parents, *(parent for parent, _, _ in self._parents.values())})
            raise DataError(
                f"{self._where}: tf has no way from {in_frame} to {of}, but the frames "
                f"{', '.join(names[:20]) or '(none at all)'}"
            )
        return np.linalg.inv(self._up_to(shared, theirs, time_s, max_dt)) @ self._up_to(shared, mine, time_s, max_dt)

    def _way_up(self, frame: str) -> list[str]:
        way = [frame.strip("/")]
        while way[-1] in self._parents and len(way) <= len(self._parents):
            if several := self._torn.get(way[-1]):
                raise DataError(
                    f"{self._where}: tf hangs {way[-1]} on {' and on '.join(sorted(several))} in turn; "
                    f"take data.pose_topic, or record it without one of them"
                )
            way.append(self._parents[way[-1]][0])
        return way

    def _up_to(self, shared: str, way: list[str], time_s: float, max_dt: float) -> NDArray[np.float64]:
        pose = np.eye(4)
        for frame in way[: way.index(shared)]:
            _, static, track = self._parents[frame]
            pose = (track.only() if static else track.at(time_s, max_dt)) @ pose
        return pose
