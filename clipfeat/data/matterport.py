"""Matterport3D: houses of a ``.conf`` each, which names the pictures of all panoramas with their poses and K.

``intrinsics_matrix`` lines hold for the ``scan`` lines after them, so a house has several K. All of it counts from the
picture's bottom row: poses are those of OpenGL's axes, and cy is H - 1 - cy from the top.
Source: data_organization.md of the data set; its ``matterport_camera_intrinsics`` have cy of the same cameras from the
top.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.config import Matterport3DConfig, as_size
from clipfeat.data.conventions import cam_to_world_of
from clipfeat.data.images import read_picture
from clipfeat.data.matrices import camera_for, check_pose
from clipfeat.data.rasters import read_depth
from clipfeat.data.scene_files import SceneFiles
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Camera, Frame

_COLOR = re.compile(r"(?P<pano>\w+)_i(?P<camera>[0-2])_(?P<yaw>[0-5])\.\w+")

_LENGTHS = {"intrinsics_matrix": 10, "scan": 19, "color_directory": 2, "depth_directory": 2}
"""The lines that are read, and how many words each has. Others, such as n_images, say nothing that is needed."""


@dataclass(frozen=True, eq=False)
class _Scan:
    """A ``scan`` line: its place for messages, the files, and what is known of the camera.

    Attributes:
        where: file and line.
        color: the colour picture.
        depth: its depth.
        intrinsics: (3, 3) as stored: cy from the bottom row.
        pose: (4, 4) as stored: camera-to-world, OpenGL's axes.
    """

    where: str
    color: Path
    depth: Path
    intrinsics: NDArray[np.float64]
    pose: NDArray[np.float64]


class MatterportDataset:
    """See the module. A frame's number is 100 times the place of its panorama in the file, and 10·camera + yaw.

    Args:
        cfg: the layout; its checks have been made.

    Raises:
        DataError: If ``root`` is no folder.
    """

    def __init__(self, cfg: Matterport3DConfig):
        self.cfg = cfg
        self.root = Path(cfg.root)
        self._files = SceneFiles(self.root, [cfg.parameters], root_is_scene=cfg.root_is_scene, named=cfg.parameters)
        self._lock = Lock()
        # Cached an instance, so that two data sets never share an entry.
        self._scene = lru_cache(maxsize=8)(lambda scene_id: read_conf(self._files.paths(scene_id)[0]))

    def scenes(self) -> list[str]:
        """All houses whose file is where the pattern says, sorted by name.

        Raises:
            DataError: If there is none, or a name of theirs is not allowed.
        """
        return self._files.scenes()

    def frame_ids(self, scene_id: str) -> list[int]:
        """See ``Dataset``."""
        return sorted(self._scans(scene_id))

    def names_of(self, scene_id: str, frame_id: int) -> dict[str, str]:
        """What the placeholders stand for in a frame's own names: {frame} is the picture's, without its ending."""
        scan = self._scans(scene_id).get(frame_id)
        return {"scene": scene_id, "frame": str(frame_id) if scan is None else scan.color.stem}

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """See ``Dataset``."""
        scan = self._scans(scene_id).get(frame_id)
        if scan is None:
            raise FrameError(f"{self.root}: scene {scene_id} has no frame {frame_id}")
        pose = check_pose(scan.pose, scan.where)
        picture = read_picture(scan.color, 0)
        camera = self._camera(scan, (picture.width, picture.height))
        # Depth is a download of its own; where it was made, a file that is missing is none of its frames'.
        depth_m = read_depth(scan.depth, self.cfg.depth_scale) if scan.depth.parent.is_dir() else None
        return Frame(
            scene_id=scene_id,
            frame_id=frame_id,
            picture=picture,
            depth_m=depth_m,
            color_camera=camera,
            depth_camera=None if depth_m is None else camera.resized(depth_m.shape[1], depth_m.shape[0]),
            cam_to_world=cam_to_world_of(pose, "camera_to_world", "opengl"),
        )

    def _camera(self, scan: _Scan, size: tuple[int, int]) -> Camera:
        """K with cy from the top row; a bad one is its frame's trouble."""
        k_size = as_size(self.cfg.intrinsics_size) or size
        k = scan.intrinsics.copy()
        k[1, 2] = k_size[1] - 1 - k[1, 2]
        try:
            return camera_for(k, k_size, size, scan.where, "data.intrinsics_size")
        except DataError as error:
            raise FrameError(str(error)) from error

    def _scans(self, scene_id: str) -> dict[int, _Scan]:
        with self._lock:  # one thread at a time, so that nothing is read twice
            return self._scene(scene_id)


def read_conf(path: Path) -> dict[int, _Scan]:
    """The scans of a house, by frame number.

    Args:
        path: the ``.conf``, in a folder beside those of the pictures.

    Raises:
        DataError: If it can't be read, a line is another than expected, or it lists no scan, or one twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: can't be read as text ({error}), expected Matterport3D's camera parameters"
        ) from error
    folders = {"color": "undistorted_color_images", "depth": "undistorted_depth_images"}
    k: NDArray[np.float64] | None = None
    panoramas: dict[str, int] = {}
    scans: dict[int, _Scan] = {}
    for number, line in enumerate(lines, 1):
        name, *words = line.split() or [""]
        where = f"{path}, line {number}"
        if name not in _LENGTHS:
            continue
        if len(words) + 1 != _LENGTHS[name]:
            raise DataError(f"{where}: {len(words)} values after {name}, expected {_LENGTHS[name] - 1}")
        if name == "intrinsics_matrix":
            k = _numbers(where, words).reshape(3, 3)
        elif name == "scan":
            if k is None:
                raise DataError(f"{where}: a scan before any intrinsics_matrix, which holds for the lines after it")
            depth, color = (_name(where, word) for word in words[:2])
            match = _COLOR.fullmatch(color)
            if match is None:
                raise DataError(f"{where}: '{color}', expected <panorama>_i<camera>_<yaw>.jpg, as the data set has it")
            place = panoramas.setdefault(match["pano"], len(panoramas))
            frame_id = 100 * place + 10 * int(match["camera"]) + int(match["yaw"])
            if frame_id in scans:
                raise DataError(f"{where}: {color} is listed before, {scans[frame_id].where}; remove one")
            house = path.parent.parent
            pose = _numbers(where, words[2:]).reshape(4, 4)
            scans[frame_id] = _Scan(where, house / folders["color"] / color, house / folders["depth"] / depth, k, pose)
        else:
            folders[name.removesuffix("_directory")] = _name(where, words[0])
    if not scans:
        raise DataError(f"{path}: lists no scan, expected lines 'scan <depth> <colour> <16 numbers>'")
    return scans


def _name(where: str, word: str) -> str:
    if len(PurePosixPath(word).parts) != 1 or word == ".." or "\\" in word:
        raise DataError(f"{where}: '{word}', expected the name of a file or folder, and no path")
    return word


def _numbers(where: str, words: list[str]) -> NDArray[np.float64]:
    try:
        return np.array(words, dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{where}: {error}, a number was expected") from error
