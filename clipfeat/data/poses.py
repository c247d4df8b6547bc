"""The poses of a scene of folders that patterns tell, in whichever form they are stored."""

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.json_files import field_of, matrix_of, read_json_pose
from clipfeat.data.listing import Listing, PatternFiles
from clipfeat.data.matrices import check_pose, read_pose
from clipfeat.data.pose_rows import rows_of_pictures
from clipfeat.data.trajectories import (
    NumberedPoses,
    TimedPoses,
    read_axis_angle_poses,
    read_log,
    read_matrix_lines,
    read_quaternion_lines,
    read_quaternion_pose,
    read_tum_poses,
)
from clipfeat.errors import FrameError

_QUATERNIONS = {way: order for order in ("xyzw", "wxyz") for way in (f"{order}_per_frame", f"trajectory_{order}")}
"""Pose formats of a translation and a quaternion, and the order of its numbers."""

_TIMED: dict[str, Callable[[Path], TimedPoses]] = {"tum": read_tum_poses, "timed_axis_angle": read_axis_angle_poses}
"""Pose formats whose lines begin with a time."""


@dataclass(frozen=True, eq=False)
class Poses:
    """The poses of a scene.

    Attributes:
        of: from a frame's number to its (4, 4) pose as written, a rigid motion; raises FrameError.
        frames: those that there is a pose for, be it damaged.
    """

    of: Callable[[int], NDArray[np.float64]]
    frames: Collection[int]


def open_poses(files: PatternFiles, scene_id: str) -> Poses:
    """Opens the poses of a scene.

    Args:
        files: finds its files, as its configuration tells.
        scene_id: the scene.

    Raises:
        DataError: If a file of many poses can't be read, or its poses can't be these pictures'.
    """
    form = files.cfg.pose_format or ""
    scene = _Scene(files, scene_id)
    if form.endswith("_per_frame"):
        return scene.from_files(form)
    if form == "json_per_scene":
        return scene.from_json()
    if form in _TIMED:
        return scene.by_time(_TIMED[form](scene.path))
    if form in _QUATERNIONS:
        return scene.by_number(read_quaternion_lines(scene.path, _QUATERNIONS[form]))
    return scene.by_number(read_log(scene.path) if form == "trajectory_log" else read_matrix_lines(scene.path))


class _Scene:
    """What finding the pose of a frame takes, whatever the form."""

    def __init__(self, files: PatternFiles, scene_id: str):
        self.cfg, self.files, self.scene_id = files.cfg, files, scene_id
        self.listing: Listing = files.listing(scene_id)
        self.values = files.values(scene_id)
        self.path = files.path(self.cfg.pose or "", self.values)
        self.direction = (self.cfg.pose_direction or "").replace("_", "-")

    def from_files(self, form: str) -> Poses:
        """A file a frame."""
        found = self.files.of_frames(self.scene_id, "pose", self.cfg.pose or "", self.listing)

        def from_file(frame_id: int) -> NDArray[np.float64]:
            file = found.of(frame_id)
            if form == "json_per_frame":
                return self._checked(read_json_pose(file, self.direction), str(file))
            if form in _QUATERNIONS:
                return self._checked(read_quaternion_pose(file, _QUATERNIONS[form], self.direction), str(file))
            return read_pose(file, self.direction)

        return Poses(from_file, found.found)

    def from_json(self) -> Poses:
        """A JSON file of all frames, by name."""
        found = self.files.json_of(self.path)

        def look_up(frame_id: int) -> tuple[str, Any]:
            return field_of(found, self.cfg.pose_field or "", self.values | self.listing.placeholders(frame_id))

        def is_there(frame_id: int) -> bool:
            with suppress(ValueError):
                look_up(frame_id)
                return True
            return False

        def from_field(frame_id: int) -> NDArray[np.float64]:
            try:
                name, value = look_up(frame_id)
                pose = matrix_of(value)
            except ValueError as error:
                expected = f"a {self.direction} pose was expected at data.pose_field={self.cfg.pose_field}"
                raise FrameError(f"{self.path}: {error}; {expected}") from error
            return self._checked(pose, f"{self.path}, {name}")

        return Poses(from_field, {frame_id for frame_id in self.listing.color if is_there(frame_id)})

    def by_time(self, poses: TimedPoses) -> Poses:
        """A trajectory with times."""
        matched = self.files.by_time(self.scene_id, "pose", str(self.path), self.listing.times_s, poses.times_s)

        def from_time(frame_id: int) -> NDArray[np.float64]:
            row = matched.rows.get(frame_id)
            if row is None:
                raise FrameError(matched.why_none(frame_id))
            return self._checked(poses.matrix(row, str(self.path)), f"{self.path}, line {poses.lines[row]}")

        return Poses(from_time, matched.rows)

    def by_number(self, poses: NumberedPoses) -> Poses:
        """A trajectory without times."""
        frame_ids, by_order = list(self.listing.color), self.cfg.pose_rows == "picture_order"
        rows = rows_of_pictures(
            poses.numbers, frame_ids, by_order=by_order, first=self.cfg.pose_first, where=str(self.path)
        )
        counts = f"{self.path}: holds {len(poses.numbers)} poses for {len(frame_ids)} pictures"
        rule = "the k-th pose goes with the k-th picture" if by_order else "pose k goes with the picture of number k"
        rule += f" (data.pose_rows={self.cfg.pose_rows})"
        if len(poses.numbers) > len(frame_ids):
            self.files.tell(self.scene_id, "pose", f"{counts}; {rule}")

        def from_row(frame_id: int) -> NDArray[np.float64]:
            row = rows.get(frame_id)
            if row is None:
                raise FrameError(f"{counts}, and none for frame {frame_id}: {rule}")
            return self._checked(poses.matrices[row], f"{self.path}, pose {row}")

        return Poses(from_row, rows)

    def _checked(self, pose: NDArray[np.float64], where: str) -> NDArray[np.float64]:
        return check_pose(pose, where, self.direction)
