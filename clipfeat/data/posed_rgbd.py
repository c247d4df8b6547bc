"""Posed RGB-D folders of any layout: where their files are, and what is in them, is told by the configuration.

Paths are patterns below ``data.root`` (``clipfeat.system.patterns``): ``{scene}`` and ``{sequence}`` make up the
scene's id, ``{frame}`` is the frame's number. A new layout is one YAML file. What it has to say::

    color: "{scene}/color/{frame}.jpg"      # 8-bit pictures; or color_list
    depth: "{scene}/depth/{frame}.png"      # 16 bits, registered to colour; or depth_list; or null
    depth_scale: 1000                       # units a metre
    depth_float_scale: 1                    # the same where files hold floats, which are refused without it
    depth_invalid: [0, 65535]               # raw values that mean: nothing measured
    pose: "{scene}/pose/{frame}.txt"        # a file a frame, or one trajectory file a scene
    pose_format: matrix_per_frame           # or json_per_frame, xyzw_per_frame, trajectory_log, tum, …
    pose_direction: camera_to_world         # or world_to_camera: nobody guesses this
    pose_axes: opencv                       # or opengl: nor this
    intrinsics: [525, 525, 319.5, 239.5]    # fx, fy, cx, cy; or intrinsics_file

``conf/data/{sevenscenes,tum,replica,open3d}.yaml`` are examples, and all there is of these layouts.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.distortion import without_blind_pixels
from clipfeat.data.base import check_scene_name, frame_number, start_of_patterns
from clipfeat.data.config import PosedRgbdConfig
from clipfeat.data.conventions import cam_to_world_of, centred_on_integers, z_of_ray_lengths
from clipfeat.data.images import read_picture
from clipfeat.data.json_files import read_json_pose
from clipfeat.data.lenses import lens_said
from clipfeat.data.matrices import Calibration, camera_for, check_pose, pinhole, read_calibration, read_pose
from clipfeat.data.pose_rows import PoseRowsError, rows_of_pictures
from clipfeat.data.rasters import read_depth
from clipfeat.data.trajectories import (
    NumberedPoses,
    TimedFiles,
    nearest,
    read_log,
    read_matrix_lines,
    read_quaternion_lines,
    read_quaternion_pose,
    read_tum_list,
    read_tum_poses,
)
from clipfeat.data.turned import check_turn
from clipfeat.data.two_cameras import color_from_depth_matrix, seen_from_color
from clipfeat.errors import DataError, FrameError
from clipfeat.system.patterns import PathPattern
from clipfeat.types import Camera, Frame, Picture

log = logging.getLogger(__name__)

_QUATERNIONS = {way: order for order in ("xyzw", "wxyz") for way in (f"{order}_per_frame", f"trajectory_{order}")}
"""Pose formats of a translation and a quaternion, and the order of its numbers."""


@dataclass(frozen=True, eq=False)
class _Listing:
    """The frames of a scene.

    Attributes:
        color: picture of each frame, ascending by number.
        depth: depth of each frame that has one.
        digits: how the picture's name spells the number.
        times_s: when each picture was taken, where the layout knows.
    """

    color: dict[int, Path]
    depth: dict[int, Path]
    digits: dict[int, str]
    times_s: dict[int, float]


_PoseOf = Callable[[int], NDArray[np.float64]]
"""From a frame's number to its pose as written; raises FrameError."""


class PosedRgbdDataset:
    """See the module. Frames are numbered by the number in the picture's name, or by their place in ``color_list``.

    A frame without a depth file, or without one near enough in time, is a frame without depth. A frame without a pose
    can't be used. A scene's id is its folder's name; where ``{sequence}`` tells recordings of it apart, it is both
    names joined by "-".

    Args:
        cfg: the layout; its checks have been made.

    Raises:
        DataError: If ``root`` is no folder.
        ConfigError: If ``color_from_depth`` is no transform, or a distortion is none.
    """

    def __init__(self, cfg: PosedRgbdConfig):
        self.cfg = cfg
        self.root = Path(cfg.root)
        if not self.root.is_dir():
            raise DataError(
                f"data.root={self.root}: no such folder, expected one that holds {cfg.color or cfg.color_list}"
            )
        self._color_from_depth = color_from_depth_matrix(cfg.color_from_depth)
        if self._color_from_depth is not None:
            log.info(
                "depth has a camera of its own: colour K %s, depth K %s, colour from depth %s, poses of the %s camera",
                cfg.intrinsics or cfg.intrinsics_file, cfg.depth_intrinsics or cfg.depth_intrinsics_file or "the same",
                cfg.color_from_depth, cfg.pose_camera,
            )  # fmt: skip
        self._lenses = {
            "intrinsics": lens_said("distortion", cfg.distortion),
            "depth_intrinsics": lens_said("depth_distortion", cfg.depth_distortion),
        }
        self._frames_pattern = PathPattern(cfg.color or cfg.color_list or "")
        self._lock = Lock()
        # Methods are cached an instance, so that two data sets never share an entry.
        self._found = lru_cache(maxsize=1)(lambda: self._find_scenes(root_is_scene=cfg.root_is_scene))
        self._listing = lru_cache(maxsize=8)(self._list_frames)
        self._poses = lru_cache(maxsize=8)(self._open_poses)
        self._intrinsics = lru_cache(maxsize=64)(self._read_intrinsics)
        self._k_files = lru_cache(maxsize=8)(self._list_k_files)
        self._warned: set[str] = set()
        self._told_turned: set[str] = set()

    def scenes(self) -> list[str]:
        """All folders that hold at least one picture where the pattern says, sorted by name.

        Raises:
            DataError: If there is none, or a name of theirs is not allowed, or two would share an id.
        """
        found = sorted(self._found())
        if not found:
            raise DataError(f"data.root={self.root}: holds no {self._frames_pattern.text}{self._hint()}")
        return found

    def frame_ids(self, scene_id: str) -> list[int]:
        """See ``Dataset``. Poses that can't be these pictures' are told here, before anything runs."""
        frame_ids = list(self._listing_of(scene_id).color)
        if (self.cfg.pose_format or "").startswith("trajectory_") and frame_ids:
            try:
                self._poses_of(scene_id)
            except PoseRowsError:
                raise
            except DataError:  # a file that is damaged or not there is told when its poses are needed
                pass
        return frame_ids

    def names_of(self, scene_id: str, frame_id: int) -> dict[str, str]:
        """What the placeholders stand for in a frame's own names."""
        digits = self._listing_of(scene_id).digits.get(frame_id, str(frame_id))
        return {**self._values(scene_id), "frame": digits}

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """See ``Dataset``."""
        listing = self._listing_of(scene_id)
        if frame_id not in listing.color:
            raise FrameError(f"{self.root}: scene {scene_id} has no frame {frame_id}")
        cam_to_world = self._cam_to_world(scene_id, frame_id)
        picture = read_picture(listing.color[frame_id], self.cfg.rotate or 0)
        depth_m = None
        if frame_id in listing.depth:
            cfg = self.cfg
            depth_m = read_depth(listing.depth[frame_id], cfg.depth_scale, cfg.depth_invalid, cfg.depth_float_scale)
        color_size = (picture.width, picture.height)
        color_camera = self._color_camera(scene_id, frame_id, color_size)
        self._check_turn(scene_id, listing.color[frame_id], picture, color_camera, depth_m)
        depth_camera = None if depth_m is None else self._depth_camera(scene_id, frame_id, color_size, depth_m.shape)
        if depth_m is not None and depth_camera is not None and self.cfg.depth_along == "ray":
            depth_m = z_of_ray_lengths(depth_m, depth_camera)
        if depth_m is not None and depth_camera is not None:
            depth_m = without_blind_pixels(depth_m, depth_camera)
        if self._color_from_depth is not None:
            if self.cfg.pose_camera == "depth":
                cam_to_world = cam_to_world @ np.linalg.inv(self._color_from_depth)
            if depth_m is not None and depth_camera is not None:
                depth_m, depth_camera = seen_from_color(depth_m, depth_camera, color_camera, self._color_from_depth)
        return Frame(
            scene_id=scene_id,
            frame_id=frame_id,
            picture=picture,
            depth_m=depth_m,
            color_camera=color_camera,
            depth_camera=depth_camera,
            cam_to_world=cam_to_world,
        )

    # One thread at a time, so that nothing is read, and no warning given, twice.

    def _listing_of(self, scene_id: str) -> _Listing:
        with self._lock:
            return self._listing(scene_id)

    def _poses_of(self, scene_id: str) -> _PoseOf:
        with self._lock:
            return self._poses(scene_id)

    def _check_turn(
        self, scene_id: str, path: Path, picture: Picture, camera: Camera, depth_m: NDArray[np.float32] | None
    ) -> None:
        own = self.cfg.depth_intrinsics is not None or self.cfg.depth_intrinsics_file is not None
        shape = None if depth_m is None else depth_m.shape
        note = check_turn(str(path), picture, camera.intrinsics, shape, said=self.cfg.rotate, own_depth_k=own)
        if note is not None and scene_id not in self._told_turned:
            self._told_turned.add(scene_id)
            log.warning("WARNING %s", note)

    # Scenes and frames

    def _find_scenes(self, *, root_is_scene: bool) -> dict[str, dict[str, str]]:
        """Scene id to what its placeholders stand for."""
        root, values = start_of_patterns(self.root, root_is_scene=root_is_scene)
        pattern = self._frames_pattern
        keys = [name for name in pattern.names() if name != "frame"]
        prefix = pattern.depth_of(keys)
        # A placeholder may share its part of the path with {frame}: then each file names its scene.
        found: dict[str, dict[str, str]] = {}
        for part_values, path in pattern.walk(root, values, last=prefix):
            scene_values = {key: part_values[key] for key in keys}
            scene_id = "-".join(scene_values.values())
            if found.get(scene_id) == scene_values or next(pattern.walk(path, part_values, first=prefix), None) is None:
                continue
            check_scene_name(scene_id, str(path))
            if scene_id in found:
                both = " and ".join(sorted("/".join(v.values()) for v in (found[scene_id], scene_values)))
                raise DataError(f"{root}: {both} would both be scene {scene_id}; rename one of them")
            found[scene_id] = scene_values
        return found

    def _hint(self) -> str:
        other = not self.cfg.root_is_scene
        if self._find_scenes(root_is_scene=other):
            return f"; the files are there for data.root_is_scene={str(other).lower()}"
        return " (for {scene} the name of the folder itself, by data.root_is_scene=true)" if not other else ""

    def _values(self, scene_id: str) -> dict[str, str]:
        check_scene_name(scene_id, "scene")
        values = self._found().get(scene_id)
        if values is None:
            raise DataError(
                f"{self.root}: no such scene {scene_id}, expected {self._frames_pattern.text}{self._hint()}"
            )
        return values

    def _path(self, pattern: str, values: dict[str, str]) -> Path:
        return start_of_patterns(self.root, root_is_scene=self.cfg.root_is_scene)[0] / PathPattern(pattern).fill(values)

    def _list_frames(self, scene_id: str) -> _Listing:
        cfg, values = self.cfg, self._values(scene_id)
        if cfg.color_list is not None:
            return self._list_timed(self._path(cfg.color_list, values), values)
        color = self._numbered(cfg.color or "", values)
        depth = self._numbered(cfg.depth, values) if cfg.depth else {}
        return _Listing(
            color={number: path for number, (_, path) in color.items()},
            depth={number: path for number, (_, path) in depth.items()},
            digits={number: digits for number, (digits, _) in color.items()},
            times_s={},
        )

    def _numbered(self, pattern: str, values: dict[str, str]) -> dict[int, tuple[str, Path]]:
        """Frame number to its digits and its file, ascending by number: "9" comes before "10"."""
        found: dict[int, tuple[str, Path]] = {}
        root = start_of_patterns(self.root, root_is_scene=self.cfg.root_is_scene)[0]
        for frame_values, path in PathPattern(pattern).walk(root, values):
            number = frame_number(frame_values["frame"], path)
            if number in found:
                raise DataError(f"{path} and {found[number][1].name} are both frame {number}; remove one of them")
            found[number] = frame_values["frame"], path
        return dict(sorted(found.items()))

    def _list_timed(self, color_list: Path, values: dict[str, str]) -> _Listing:
        """Frames are numbered by their place in the list; depth goes with the colour that is nearest in time."""
        colors = read_tum_list(color_list)
        depths: TimedFiles | None = None
        if self.cfg.depth_list is not None:
            depth_list = self._path(self.cfg.depth_list, values)
            depths = read_tum_list(depth_list)
        depth: dict[int, Path] = {}
        for number, time_s in enumerate(colors.times_s):
            if depths is None:
                continue
            index = nearest(depths.times_s, time_s)
            if abs(depths.times_s[index] - time_s) <= self.cfg.max_dt:
                depth[number] = depth_list.parent / depths.names[index]
        return _Listing(
            color={number: color_list.parent / name for number, name in enumerate(colors.names)},
            depth=depth,
            digits={},
            times_s=dict(enumerate(colors.times_s.tolist())),
        )

    # Poses

    def _cam_to_world(self, scene_id: str, frame_id: int) -> NDArray[np.float64]:
        pose = self._poses_of(scene_id)(frame_id)
        return cam_to_world_of(pose, self.cfg.pose_direction or "", self.cfg.pose_axes or "")

    def _open_poses(self, scene_id: str) -> _PoseOf:
        cfg, values = self.cfg, self._values(scene_id)
        listing = self._listing(scene_id)
        path = self._path(cfg.pose or "", values)
        direction = (cfg.pose_direction or "").replace("_", "-")
        if (cfg.pose_format or "").endswith("_per_frame"):
            files = {number: file for number, (_, file) in self._numbered(cfg.pose or "", values).items()}

            def from_file(frame_id: int) -> NDArray[np.float64]:
                expected = PathPattern(str(path)).fill({"frame": listing.digits[frame_id]})
                file = files.get(frame_id, Path(expected))
                if cfg.pose_format == "json_per_frame":
                    return check_pose(read_json_pose(file, direction), str(file), direction)
                if cfg.pose_format in _QUATERNIONS:
                    pose = read_quaternion_pose(file, _QUATERNIONS[cfg.pose_format], direction)
                    return check_pose(pose, str(file), direction)
                return read_pose(file, direction)

            return from_file
        if cfg.pose_format == "tum":
            return self._timed_poses(path, listing, direction)
        if cfg.pose_format in _QUATERNIONS:
            poses = read_quaternion_lines(path, _QUATERNIONS[cfg.pose_format])
        else:
            poses = read_log(path) if cfg.pose_format == "trajectory_log" else read_matrix_lines(path)
        return self._numbered_poses(path, poses, scene_id, direction)

    def _numbered_poses(self, path: Path, poses: NumberedPoses, scene_id: str, direction: str) -> _PoseOf:
        cfg, frame_ids = self.cfg, list(self._listing(scene_id).color)
        by_order = cfg.pose_rows == "picture_order"
        rows = rows_of_pictures(poses.numbers, frame_ids, by_order=by_order, first=cfg.pose_first, where=str(path))
        counts = f"{path}: holds {len(poses.numbers)} poses for {len(frame_ids)} pictures"
        rule = "the k-th pose goes with the k-th picture" if by_order else "pose k goes with the picture of number k"
        if len(poses.numbers) > len(frame_ids) and scene_id not in self._warned:
            self._warned.add(scene_id)
            log.warning("WARNING %s; %s (data.pose_rows=%s)", counts, rule, self.cfg.pose_rows)

        def from_row(frame_id: int) -> NDArray[np.float64]:
            row = rows.get(frame_id)
            if row is None:
                raise FrameError(
                    f"{counts}, and none for frame {frame_id}: {rule} (data.pose_rows={self.cfg.pose_rows})"
                )
            return check_pose(poses.matrices[row], f"{path}, pose {row}", direction)

        return from_row

    def _timed_poses(self, path: Path, listing: _Listing, direction: str) -> _PoseOf:
        poses = read_tum_poses(path)

        def from_time(frame_id: int) -> NDArray[np.float64]:
            time_s = listing.times_s[frame_id]
            row = nearest(poses.times_s, time_s)
            gap_s = abs(float(poses.times_s[row]) - time_s)
            if gap_s > self.cfg.max_dt:
                raise FrameError(
                    f"{path}: no pose for frame {frame_id} at {time_s:.6f} s, the nearest is {gap_s:.3f} s away and "
                    f"data.max_dt={self.cfg.max_dt:g}"
                )
            return check_pose(poses.matrix(row, str(path)), f"{path}, line {poses.lines[row]}", direction)

        return from_time

    # Cameras

    def _color_camera(self, scene_id: str, frame_id: int, size: tuple[int, int]) -> Camera:
        with self._own_trouble("intrinsics"):
            calibration, where = self._calibration(scene_id, frame_id, "intrinsics")
            lens = calibration.distortion
            return camera_for(calibration.intrinsics, calibration.size, size, where, "data.intrinsics_size", lens)

    def _depth_camera(
        self, scene_id: str, frame_id: int, color_size: tuple[int, int], shape: tuple[int, ...]
    ) -> Camera:
        """Without a K of its own, depth has the colour camera's, resized to its pictures."""
        cfg, size = self.cfg, (shape[1], shape[0])
        if cfg.depth_intrinsics is None and cfg.depth_intrinsics_file is None:
            return self._color_camera(scene_id, frame_id, color_size).resized(*size)
        with self._own_trouble("depth_intrinsics"):
            calibration, where = self._calibration(scene_id, frame_id, "depth_intrinsics")
            lens = calibration.distortion
            return camera_for(calibration.intrinsics, calibration.size, size, where, "data.depth_intrinsics_size", lens)

    @contextmanager
    def _own_trouble(self, key: str) -> Iterator[None]:
        """Where each frame has a K of its own, a bad one is that frame's trouble and not the scene's."""
        try:
            yield
        except DataError as error:
            if not self._is_k_a_frame(key):
                raise
            raise FrameError(str(error)) from error

    def _is_k_a_frame(self, key: str) -> bool:
        return "{frame}" in (getattr(self.cfg, f"{key}_file") or "")

    def _calibration(self, scene_id: str, frame_id: int, key: str) -> tuple[Calibration, str]:
        return self._intrinsics(scene_id, key, frame_id if self._is_k_a_frame(key) else None)

    def _list_k_files(self, scene_id: str, key: str) -> dict[int, Path]:
        found = self._numbered(getattr(self.cfg, f"{key}_file"), self._values(scene_id))
        return {number: path for number, (_, path) in found.items()}

    def _k_file(self, scene_id: str, key: str, frame_id: int | None) -> Path:
        pattern, values = getattr(self.cfg, f"{key}_file"), self._values(scene_id)
        if frame_id is None:
            return self._path(pattern, values)
        with self._lock:
            files = self._k_files(scene_id, key)
        return files.get(frame_id) or self._path(pattern, self.names_of(scene_id, frame_id))

    def _read_intrinsics(self, scene_id: str, key: str, frame_id: int | None) -> tuple[Calibration, str]:
        """The K that the configuration's ``key`` or ``key_file`` gives, and the name of its source."""
        numbers, size = (getattr(self.cfg, key + suffix) for suffix in ("", "_size"))
        if numbers is not None:
            calibration, where = Calibration(pinhole(*numbers)), f"data.{key}={numbers}"
        else:
            path = self._k_file(scene_id, key, frame_id)
            kind, where = ("depth" if key == "depth_intrinsics" else "color"), str(path)
            said = getattr(self.cfg, key.replace("intrinsics", "distortion")) is not None
            calibration = read_calibration(path, kind, lens_said=said)
        scale = calibration.depth_scale
        if scale is not None and not math.isclose(scale, self.cfg.depth_scale, rel_tol=1e-6):
            raise DataError(
                f"{where}: depth scale {scale:g}, but data.depth_scale={self.cfg.depth_scale:g}; which is right?"
            )
        k = centred_on_integers(calibration.intrinsics, self.cfg.pixel_center)
        return Calibration(k, tuple(size) if size else calibration.size, scale, self._lenses[key]), where
