"""The phone's recordings in ScanNet++ as they are released: nothing has to be extracted.

Sources: scannetpp/scannetpp iphone/prepare_iphone_data.py and common/scene_release.py. ``<scene>/iphone`` holds

* ``rgb.mkv`` or ``rgb.mp4``, 1920×1440, and ``depth.bin`` (see ``depth_bin.py``): frame k of one is that of the other;
* ``pose_intrinsic_imu.json``: for ``frame_000000`` and so on an ``intrinsic`` (3×3, of the video's size, pixel centres
  on integers), and two poses, camera-to-world with OpenCV's camera axes: ``pose`` in ARKit's world, and
  ``aligned_pose`` in that of the scene's mesh.
"""

import logging
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.archive_config import ScanNetPpRawConfig
from clipfeat.data.base import check_scene_name, frame_number
from clipfeat.data.depth_bin import DepthFrames, open_depth_bin
from clipfeat.data.json_files import json_object, matrix_of, names_in
from clipfeat.data.matrices import Calibration, check_pose
from clipfeat.data.phones import SceneFolders, tell_of_video
from clipfeat.data.registered import camera_of, registered_frame
from clipfeat.data.told import ToldOnce
from clipfeat.data.video import Video
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Frame

log = logging.getLogger(__name__)

_JSON = "pose_intrinsic_imu.json"

_VIDEOS = ("rgb.mkv", "rgb.mp4")

_EXPECTED = "expected ScanNet++'s frame_000000 with aligned_pose and intrinsic, …"


class ListedPoses:
    """``pose_intrinsic_imu.json``, of which the poses and Ks are kept: 200 bytes a frame.

    Attributes:
        path: the file.
        numbers: of its frames, ascending.

    Args:
        path: the file.

    Raises:
        DataError: If it can't be read, or lists no frame of that kind.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            found = json_object(path)
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file, {_EXPECTED}") from error
        except ValueError as error:
            raise DataError(f"{path}: {error}; {_EXPECTED}") from error
        self._kept: dict[int, tuple[NDArray[np.float64] | str, NDArray[np.float64] | str]] = {}
        for name, entry in found.items():
            match = re.fullmatch(r"frame_([0-9]+)", name)
            if match is None or not isinstance(entry, dict):
                raise DataError(f"{path}: '{name[:40]}' is no frame; {_EXPECTED}")
            number = frame_number(match[1], f"{path}, {name}")
            if number in self._kept:
                raise DataError(f"{path}: lists frame {number} twice, once as '{name}'; {_EXPECTED}")
            self._kept[number] = _matrix(entry, "aligned_pose", (4, 4)), _matrix(entry, "intrinsic", (3, 3))
        if not self._kept:
            raise DataError(f"{path}: lists {names_in(found)}; {_EXPECTED}")
        self.numbers = sorted(self._kept)

    def cam_to_world(self, number: int) -> NDArray[np.float64]:
        """The (4, 4) pose of a frame in the mesh's world.

        Raises:
            FrameError: If it has none.
        """
        return check_pose(self._value(number, 0), self._where(number))

    def intrinsics(self, number: int) -> NDArray[np.float64]:
        """The (3, 3) K of a frame.

        Raises:
            FrameError: If it has none.
        """
        return self._value(number, 1)

    def _value(self, number: int, which: int) -> NDArray[np.float64]:
        value = self._kept[number][which]
        if isinstance(value, str):
            raise FrameError(f"{self._where(number)}: {value}; {_EXPECTED}")
        return value

    def __contains__(self, number: int) -> bool:
        """Whether the frame is listed."""
        return number in self._kept

    def _where(self, number: int) -> str:
        return f"{self.path}, frame_{number:06d}"


@dataclass(frozen=True, eq=False)
class _Recording:
    folder: Path
    poses: ListedPoses

    @cached_property
    def video(self) -> Video:
        """Opened when a picture is first asked for: until then nobody needs the package."""
        paths = [self.folder / name for name in _VIDEOS]
        return Video(next((path for path in paths if path.is_file()), paths[0]))

    @cached_property
    def depth(self) -> DepthFrames:
        """Opened when a frame is first asked for, too."""
        return open_depth_bin(self.folder / "depth.bin")


class ScanNetPpRawDataset:
    """See the module. A frame's number is that in the list of poses, and its place in the video and in depth.bin.

    Args:
        cfg: the layout; its checks have been made.

    Raises:
        DataError: If ``root`` is no folder.
    """

    def __init__(self, cfg: ScanNetPpRawConfig):
        self.cfg = cfg
        self._folders = SceneFolders(Path(cfg.root), f"iphone/{_JSON}", root_is_scene=cfg.root_is_scene)
        self._lock = Lock()
        # Cached an instance, so that two data sets never share an entry; two, for decoders take memory.
        self._recording = lru_cache(maxsize=2)(self._open)
        self._tell = ToldOnce(log)

    def scenes(self) -> list[str]:
        """All folders that hold a phone's recording with its depth packed, sorted by name.

        Raises:
            DataError: If there is none.
        """
        names = [name for name in self._folders.scenes() if (self._folder(name) / "depth.bin").is_file()]
        if not names:
            raise DataError(f"data.root={self._folders.root}: holds no <scene>/iphone/depth.bin beside {_JSON}")
        return names

    def frame_ids(self, scene_id: str) -> list[int]:
        """See ``Dataset``. Frames that the video or depth.bin have not are among them."""
        with self._lock:
            return self._recording(scene_id).poses.numbers

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """See ``Dataset``."""
        with self._lock:  # one thread at a time, so that nothing is opened, and nothing told, twice
            recording = self._recording(scene_id)
            video, depth, poses = recording.video, recording.depth, recording.poses
            tell_of_video(self._tell, scene_id, video, f"{_JSON} lists", poses.numbers, depth.count)
        if frame_id not in poses:
            raise FrameError(f"{poses.path}: lists no frame {frame_id}")
        cam_to_world, k = poses.cam_to_world(frame_id), poses.intrinsics(frame_id)
        picture = video.picture(frame_id, self.cfg.rotate or 0)
        where = f"{video.path}: frame {frame_id}"
        depth_m, camera = depth.metres(frame_id), camera_of(Calibration(k), picture, f"{where}, K")
        return registered_frame(
            scene_id, frame_id, picture, camera, depth_m, cam_to_world,
            where=where, rotate=self.cfg.rotate, tell=self._tell, by="note in the video",
        )  # fmt: skip

    def _open(self, scene_id: str) -> _Recording:
        folder = self._folder(check_scene_name(scene_id, "scene"))
        return _Recording(folder, ListedPoses(folder / _JSON))

    def _folder(self, scene_id: str) -> Path:
        return self._folders.folder(scene_id) / "iphone"


def _matrix(entry: dict[str, Any], name: str, shape: tuple[int, int]) -> NDArray[np.float64] | str:
    """A matrix of a frame, or what is wrong with it."""
    if entry.get(name) is None:
        return f"has no {name}, but {names_in(entry)}"
    try:
        found = matrix_of(entry[name]) if shape == (4, 4) else np.array(entry[name], dtype=np.float64)
    except (ValueError, TypeError) as error:
        return f"{name} is {error}"
    return found if found.shape == shape else f"{name} is of shape {found.shape}"
