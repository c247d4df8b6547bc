"""Recordings of the app Stray Scanner, as they are: the colour is a video.

Sources: strayrobots/scanner docs/format.md and its encoders, kekeblom/StrayVisualizer. A scene is a folder of

* ``rgb.mp4``, HEVC or H.264. It may ask viewers to stand it upright (older versions of the app do), while depth, K and
  poses are of the pictures as they are stored: nothing is turned by itself;
* ``depth/000000.png``, 16 bits, millimetres (older: ``.npy``), and ``confidence/000000.png``, 0 to 2;
* ``odometry.csv``: a row a frame, camera-to-world with OpenCV's camera axes. Its column ``frame`` is the number of the
  frame in the video and of the file of depth; newer ones have a K a frame, fx, fy, cx, cy;
* ``camera_matrix.csv``: the 3×3 K of the last frame, of the video's size, for rows that have none.
"""

import logging
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.archive_config import StrayScannerConfig
from clipfeat.data.base import check_scene_name, frame_number
from clipfeat.data.confidence import Trust
from clipfeat.data.matrices import Calibration, check_pose, pinhole, read_intrinsics
from clipfeat.data.phones import SceneFolders, tell_of_video
from clipfeat.data.rasters import INVALID_DEPTH, read_depth, read_labels
from clipfeat.data.registered import camera_of, registered_frame
from clipfeat.data.told import ToldOnce
from clipfeat.data.trajectories import rotation_from_quaternion
from clipfeat.data.video import Video
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Frame

log = logging.getLogger(__name__)

_POSE = ("x", "y", "z", "qx", "qy", "qz", "qw")

_K = ("fx", "fy", "cx", "cy")

_EXPECTED = f"expected Stray Scanner's columns timestamp, frame, {', '.join(_POSE)}"

_DEPTH_SCALE = 1000.0


class Odometry:
    """``odometry.csv``.

    Attributes:
        path: the file.
        numbers: of its frames, ascending.

    Args:
        path: the file.

    Raises:
        DataError: If it can't be read, has other columns, no row, or a frame twice.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: can't be read as text ({error}), {_EXPECTED}") from error
        rows = [[word.strip() for word in line.split(",")] for line in lines]
        names = rows[0] if rows else []
        missing = [name for name in ("frame", *_POSE) if name not in names]
        if missing:
            raise DataError(f"{path}: has no column {', '.join(missing)}, but {', '.join(names)[:100]}; {_EXPECTED}")
        place = {name: names.index(name) for name in ("frame", *_POSE, *_K) if name in names}
        found: dict[int, tuple[int, NDArray[np.float64]]] = {}
        for line, words in enumerate(rows[1:], 2):
            if words == [""]:
                continue
            # Of the last row of a recording that broke off a part may be missing.
            words += [""] * (len(names) - len(words))
            if not words[place["frame"]].isdecimal():
                raise DataError(f"{path}, line {line}: frame '{words[place['frame']][:30]}', expected a number")
            number = frame_number(words[place["frame"]], f"{path}, line {line}")
            if number in found:
                raise DataError(f"{path}: lines {found[number][0]} and {line} are both frame {number}; remove one")
            wanted = [words[place[name]] if name in place else "" for name in (*_POSE, *_K)]
            try:
                found[number] = line, np.array([float(word) if word else math.nan for word in wanted])
            except ValueError as error:
                raise DataError(f"{path}, line {line}: {error}, a number was expected") from error
        if not found:
            raise DataError(f"{path}: has no row, {_EXPECTED}")
        self.numbers = sorted(found)
        self._rows = found

    def __contains__(self, number: int) -> bool:
        """Whether there is a row of that frame."""
        return number in self._rows

    def where(self, number: int) -> str:
        """A frame's row, for messages."""
        return f"{self.path}, line {self._rows[number][0]}"

    def cam_to_world(self, number: int) -> NDArray[np.float64]:
        """The (4, 4) pose of a frame.

        Raises:
            FrameError: If it has none.
        """
        numbers, where = self._rows[number][1], self.where(number)
        pose = np.eye(4)
        pose[:3, :3] = rotation_from_quaternion(numbers[3:7], where, ", ".join(_POSE))
        pose[:3, 3] = numbers[:3]
        return check_pose(pose, where)

    def intrinsics(self, number: int) -> NDArray[np.float64] | None:
        """A frame's own (3, 3) K, or None."""
        own = self._rows[number][1][7:]
        return None if np.isnan(own).any() else pinhole(*own.tolist())


@dataclass(frozen=True, eq=False)
class _Recording:
    folder: Path
    odometry: Odometry

    @cached_property
    def video(self) -> Video:
        """Opened when a picture is first asked for: until then nobody needs the package."""
        return Video(self.folder / "rgb.mp4")

    @cached_property
    def last_k(self) -> NDArray[np.float64] | None:
        """(3, 3), of the last frame."""
        path = self.folder / "camera_matrix.csv"
        return read_intrinsics(path) if path.is_file() else None


class StrayScannerDataset:
    """See the module. A frame's number is that of its row, its file of depth, and its place in the video.

    Args:
        cfg: the layout; its checks have been made.

    Raises:
        DataError: If ``root`` is no folder.
    """

    def __init__(self, cfg: StrayScannerConfig):
        self.cfg = cfg
        self._folders = SceneFolders(Path(cfg.root), "odometry.csv", root_is_scene=cfg.root_is_scene)
        self._trust = Trust(cfg.confidence_min, cfg.confidence_full)
        self._lock = Lock()
        # Cached an instance, so that two data sets never share an entry; two, for decoders take memory.
        self._recording = lru_cache(maxsize=2)(self._open)
        self._tell = ToldOnce(log)

    def scenes(self) -> list[str]:
        """All folders that hold an odometry.csv, sorted by name.

        Raises:
            DataError: If there is none.
        """
        return self._folders.scenes()

    def frame_ids(self, scene_id: str) -> list[int]:
        """See ``Dataset``. Frames that the video has not are among them."""
        with self._lock:
            return self._recording(scene_id).odometry.numbers

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """See ``Dataset``."""
        with self._lock:  # one thread at a time, so that nothing is opened, and nothing told, twice
            recording = self._recording(scene_id)
            video, odometry = recording.video, recording.odometry
            tell_of_video(self._tell, scene_id, video, f"{odometry.path.name} tells of", odometry.numbers)
        if frame_id not in odometry:
            raise FrameError(f"{odometry.path}: holds no frame {frame_id}")
        cam_to_world = odometry.cam_to_world(frame_id)
        k = odometry.intrinsics(frame_id)
        k = recording.last_k if k is None else k
        if k is None:
            raise FrameError(
                f"{odometry.where(frame_id)}: has no K (fx, fy, cx, cy), and there is no camera_matrix.csv beside it"
            )
        picture, where = video.picture(frame_id, self.cfg.rotate or 0), f"{video.path}: frame {frame_id}"
        depth_m, depth_weight = self._depth(recording.folder, frame_id)
        camera = camera_of(Calibration(k), picture, f"{where}, K")
        return registered_frame(
            scene_id, frame_id, picture, camera, depth_m, cam_to_world,
            where=where, rotate=self.cfg.rotate, tell=self._tell, by="note in the video", depth_weight=depth_weight,
        )  # fmt: skip

    def _depth(self, folder: Path, number: int) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        path = _file_of(folder / "depth", number, "png", "npy")
        if path is None:
            return None, None
        depth_m = read_depth(path, _DEPTH_SCALE, INVALID_DEPTH)
        if not self._trust.asked:
            return depth_m, None
        confidence = _file_of(folder / "confidence", number, "png")
        if confidence is None:
            raise FrameError(
                f"{path}: has no confidence/{number:06d}.png beside it, but {self._trust}; {self._trust.without} "
                "takes all depth"
            )
        return self._trust(depth_m, read_labels(confidence, "confidence"), str(confidence))

    def _open(self, scene_id: str) -> _Recording:
        folder = self._folders.folder(check_scene_name(scene_id, "scene"))
        return _Recording(folder, Odometry(folder / "odometry.csv"))


def _file_of(folder: Path, number: int, *endings: str) -> Path | None:
    paths = (folder / f"{number:06d}.{ending}" for ending in endings)
    return next((path for path in paths if path.is_file()), None)
