"""Recordings of the app Record3D: its archives as they are, and its export as EXR and JPG.

Sources: the streaming library marek-simonik/record3d, nerfstudio's record3d_utils.py, a real export. In the metadata

* ``K`` is nine numbers column by column, of pictures of w × h; ``perFrameIntrinsicCoeffs`` (fx, fy, cx, cy a frame), in
  newer files, wins over it. Both count pixel centres on integers;
* ``poses`` are qx qy qz qw tx ty tz, camera-to-world with OpenGL's camera axes; the k-th is that of file number k, not
  of the k-th file: frames may be missing in the middle;
* ``initPose`` places the world in another one. It moves all frames alike, and is not applied.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.archive_config import Record3dConfig
from clipfeat.data.base import check_scene_name
from clipfeat.data.confidence import Trust
from clipfeat.data.conventions import cam_to_world_of
from clipfeat.data.exr import decode_exr
from clipfeat.data.images import MAX_PIXELS, picture_of
from clipfeat.data.json_files import names_in, number_of, object_of
from clipfeat.data.lzfse_blocks import unpack
from clipfeat.data.matrices import Calibration, check_pose, pinhole
from clipfeat.data.phones import SceneFolders
from clipfeat.data.rasters import without_gaps
from clipfeat.data.record3d_files import METADATA, Archive, Folder, FrameFiles
from clipfeat.data.registered import camera_of, registered_frame
from clipfeat.data.roots import where_scenes_are
from clipfeat.data.told import ToldOnce
from clipfeat.data.trajectories import rotation_from_quaternion
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Frame

log = logging.getLogger(__name__)

_POSE = "qx qy qz qw tx ty tz"

_EXPECTED = "expected Record3D's metadata: w, h, K, poses"


class Metadata:
    """What a recording says of its frames.

    Attributes:
        size: (width, height) of the pictures that K belongs to.
        depth_size: (width, height) of depth, or None where it doesn't say.

    Args:
        encoded: the file's content.
        where: the file, for messages.

    Raises:
        DataError: If it is something else, or has no K at all.
    """

    def __init__(self, encoded: bytes, where: str):
        self._where = where
        try:
            found = object_of(encoded)
            sizes = [_size_of(found, *names) for names in (("w", "h"), ("dw", "dh"))]
            self._k = None if found.get("K") is None else _numbers(found["K"], 9, "K")
            self._own = _rows(found.get("perFrameIntrinsicCoeffs") or [], "perFrameIntrinsicCoeffs")
            self._poses = _rows(found.get("poses"), "poses")
        except ValueError as error:
            raise DataError(f"{where}: {error}; {_EXPECTED}") from error
        if sizes[0] is None or (self._k is None and not self._own):
            missing = "w and h" if sizes[0] is None else "K"
            raise DataError(f"{where}: has no {missing}, but {names_in(found)}; {_EXPECTED}")
        self.size, self.depth_size = sizes[0], sizes[1]

    def calibration(self, number: int) -> Calibration:
        """K of a frame.

        Raises:
            FrameError: If it has none, or numbers that are none.
        """
        own = self._own[number] if number < len(self._own) else None
        try:
            if own is not None:
                return Calibration(pinhole(*_numbers(own, 4, "perFrameIntrinsicCoeffs")), self.size)
        except ValueError as error:
            raise FrameError(f"{self._where}: frame {number}: {error}") from error
        if self._k is None:
            raise FrameError(f"{self._where}: has a K of {len(self._own)} frames, none of frame {number}")
        return Calibration(np.reshape(self._k, (3, 3)).T, self.size)

    def cam_to_world(self, number: int) -> NDArray[np.float64]:
        """The (4, 4) pose of a frame, of OpenCV's axes.

        Raises:
            FrameError: If it has none, or numbers that are none.
        """
        where = f"{self._where}: pose {number}"
        if number >= len(self._poses):
            raise FrameError(f"{self._where}: holds {len(self._poses)} poses, none of frame {number}")
        try:
            numbers = np.array(_numbers(self._poses[number], 7, "a pose"))
        except ValueError as error:
            raise FrameError(f"{where}: {error}, expected {_POSE}") from error
        pose = np.eye(4)
        pose[:3, :3] = rotation_from_quaternion(numbers[:4], where, _POSE)
        pose[:3, 3] = numbers[4:]
        return cam_to_world_of(check_pose(pose, where), "camera_to_world", "opengl")


@dataclass(frozen=True, eq=False)
class _Recording:
    files: FrameFiles
    metadata: Metadata


class Record3dDataset:
    """See the module. A frame's number is the one in its files' names.

    Args:
        cfg: the layout; its checks have been made.

    Raises:
        DataError: If ``root`` is no folder.
    """

    def __init__(self, cfg: Record3dConfig):
        self.cfg = cfg
        self.root = Path(cfg.root)
        self._folders = [SceneFolders(self.root, name, root_is_scene=cfg.root_is_scene) for name in METADATA]
        self._trust = Trust(cfg.confidence_min, cfg.confidence_full)
        self._lock = Lock()
        # Cached an instance, so that two data sets never share an entry.
        self._recording = lru_cache(maxsize=4)(self._open)
        self._tell = ToldOnce(log)

    def scenes(self) -> list[str]:
        """All archives and exports, sorted by name.

        Raises:
            DataError: If there is none, or two share a name.
        """
        root_is_scene = self.cfg.root_is_scene
        found = self._found(self.root, root_is_scene)
        if not found:
            raise DataError(
                f"data.root={self.root}: holds no recording, expected <scene>.r3d, or <scene>/{METADATA[1]} beside "
                f"rgb/ and depth/{where_scenes_are(self.root, self._found, root_is_scene=root_is_scene)}"
            )
        return sorted(found)

    def frame_ids(self, scene_id: str) -> list[int]:
        """See ``Dataset``. Frames without a pose are among them."""
        return list(self._recording_of(scene_id).files.color)

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """See ``Dataset``."""
        recording = self._recording_of(scene_id)
        files, metadata = recording.files, recording.metadata
        if frame_id not in files.color:
            raise FrameError(f"{files.store.path}: holds no frame {frame_id}")
        cam_to_world = metadata.cam_to_world(frame_id)
        name = files.color[frame_id]
        picture = picture_of(files.store.read(name), files.where(name), self.cfg.rotate or 0)
        depth_m, depth_weight = self._depth(recording, frame_id)
        camera = camera_of(metadata.calibration(frame_id), picture, f"{files.where(name)}, K")
        return registered_frame(
            scene_id, frame_id, picture, camera, depth_m, cam_to_world,
            where=files.where(name), rotate=self.cfg.rotate, tell=self._tell, depth_weight=depth_weight,
        )  # fmt: skip

    def _depth(
        self, recording: _Recording, number: int
    ) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """(h, w) metres, without what is trusted too little, and its weights; None for a frame without depth."""
        files, size = recording.files, recording.metadata.depth_size
        name = files.depth.get(number)
        if name is None:
            return None, None
        encoded, where = files.store.read(name), files.where(name)
        try:
            raw = decode_exr(encoded, MAX_PIXELS) if name.endswith(".exr") else _unpacked(encoded, size, "<f4")
        except ValueError as error:
            raise FrameError(f"{where}: {error}, depth in metres was expected; export the recording again") from error
        depth_m = without_gaps(raw.astype(np.float32), where)
        return self._trusted(recording, number, depth_m) if self._trust.asked else (depth_m, None)

    def _trusted(
        self, recording: _Recording, number: int, depth_m: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        files = recording.files
        name = files.confidence.get(number)
        if name is None:
            raise FrameError(
                f"{files.where(files.depth[number])}: has no confidence beside it, but {self._trust}; "
                f"{self._trust.without} takes all depth"
            )
        try:
            confidence = _unpacked(files.store.read(name), recording.metadata.depth_size, "u1")
        except ValueError as error:
            raise FrameError(f"{files.where(name)}: {error}, confidence of a byte a pixel was expected") from error
        return self._trust(depth_m, confidence, files.where(name))

    def _recording_of(self, scene_id: str) -> _Recording:
        with self._lock:  # one thread at a time, so that nothing is opened twice
            return self._recording(scene_id)

    def _open(self, scene_id: str) -> _Recording:
        path = self._found(self.root, self.cfg.root_is_scene).get(check_scene_name(scene_id, "scene"))
        if path is None:
            raise DataError(f"{self.root}: no such scene {scene_id}, expected {scene_id}.r3d or {scene_id}/metadata")
        files = FrameFiles(Archive(path) if path.suffix == ".r3d" else Folder(path))
        try:
            encoded = files.store.read(files.metadata)
        except FrameError as error:  # without it no frame can be read
            raise DataError(str(error)) from error
        return _Recording(files, Metadata(encoded, files.where(files.metadata)))

    def _found(self, root: Path, root_is_scene: bool) -> dict[str, Path]:
        """Scene to its archive or folder."""
        found: dict[str, Path] = {}
        if not root_is_scene:
            for path in (*root.glob("*.r3d"), *root.glob("*/*.r3d")):
                if path.stem.startswith(".") or path.parent not in (root, root / path.stem):
                    continue
                name = check_scene_name(path.stem, str(path))
                if (before := found.setdefault(name, path)) != path:
                    raise DataError(f"{before} and {path} would both be scene {name}; rename one of them")
        for folders in self._folders:
            for name, folder in folders.found(root, root_is_scene).items():
                if not ((folder / "rgb").is_dir() or (folder / "rgbd").is_dir()):
                    continue
                if (before := found.setdefault(name, folder)) != folder:
                    raise DataError(f"{before} and {folder} would both be scene {name}; rename one of them")
        return found


def _unpacked(packed: bytes, size: tuple[int, int] | None, dtype: str) -> NDArray[Any]:
    """(h, w) numbers of an archive's file.

    Raises:
        ValueError: If they are damaged, or of another size.
    """
    if size is None:
        raise ValueError("the metadata says no dw and dh, the size of depth")
    width, height = size
    plain = unpack(packed, width * height * np.dtype(dtype).itemsize)
    return np.frombuffer(plain, dtype).reshape(height, width)


def _size_of(found: Mapping[str, Any], width: str, height: str) -> tuple[int, int] | None:
    w, h = number_of(found, width), number_of(found, height)
    if w is None or h is None:
        return None
    if min(w, h) < 1 or w != int(w) or h != int(h) or w * h > MAX_PIXELS:
        raise ValueError(f"{width}={w:g} {height}={h:g}, expected pixels")
    return int(w), int(h)


def _rows(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {str(value)[:40]!r}, expected a list, an entry a frame")
    return value


def _numbers(value: Any, count: int, name: str) -> list[float]:
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"{name} is {str(value)[:60]}, expected {count} numbers")
    try:
        return [float(number) for number in value]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {str(value)[:60]}, expected {count} numbers") from error
