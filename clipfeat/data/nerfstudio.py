"""Scenes of nerfstudio: a ``transforms.json`` and the pictures and depth that it names."""

import logging
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.config import NerfstudioConfig
from clipfeat.data.conventions import cam_to_world_of, centred_on_integers, z_of_ray_lengths
from clipfeat.data.images import read_picture
from clipfeat.data.matrices import check_pose
from clipfeat.data.rasters import INVALID_DEPTH, read_depth
from clipfeat.data.registered import camera_of, registered_frame
from clipfeat.data.scene_files import COUNTED, SceneFiles, number_pictures
from clipfeat.data.told import ToldOnce
from clipfeat.data.transforms import ListedFrame, Transforms
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Camera, Frame

log = logging.getLogger(__name__)

_PIXEL_CENTER = 0.5
"""nerfstudio's rays start at pixel + 0.5 (cameras.py, get_image_coords)."""

_DEPTH_SCALE = 1000.0
"""nerfstudio's default where nobody says it: depth_unit_scale_factor of 1e-3."""


@dataclass(frozen=True, eq=False)
class _Scene:
    """An open scene.

    Attributes:
        transforms: its file.
        frames: by number, ascending.
        digits: how the picture's name spells the number.
        to_world: (4, 4) from the world of the file's poses to the one that is asked for.
    """

    transforms: Transforms
    frames: dict[int, ListedFrame]
    digits: dict[int, str]
    to_world: np.ndarray


class NerfstudioDataset:
    """See the module. A frame's number is the last one in its picture's name.

    Where a name has none, or two pictures share one, frames are numbered by their place, from 0, when sorted by path as
    text: nerfstudio's own order.

    Args:
        cfg: the layout; its checks have been made.

    Raises:
        DataError: If ``root`` is no folder.
    """

    def __init__(self, cfg: NerfstudioConfig):
        self.cfg = cfg
        self.root = Path(cfg.root)
        self._files = SceneFiles(self.root, [cfg.transforms], root_is_scene=cfg.root_is_scene, named=cfg.transforms)
        self._lock = Lock()
        # Cached an instance, so that two data sets never share an entry.
        self._scene = lru_cache(maxsize=8)(self._open_scene)
        self._tell = ToldOnce(log)

    def scenes(self) -> list[str]:
        """All folders that hold a file where the pattern says, sorted by name.

        Raises:
            DataError: If there is none, or a name of theirs is not allowed.
        """
        return self._files.scenes()

    def frame_ids(self, scene_id: str) -> list[int]:
        """See ``Dataset``. Frames whose picture or pose is missing are among them."""
        return list(self._scene_of(scene_id).frames)

    def names_of(self, scene_id: str, frame_id: int) -> dict[str, str]:
        """What the placeholders stand for in a frame's own names."""
        return {"scene": scene_id, "frame": self._scene_of(scene_id).digits.get(frame_id, str(frame_id))}

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """See ``Dataset``."""
        scene = self._scene_of(scene_id)
        listed, transforms = scene.frames.get(frame_id), scene.transforms
        if listed is None:
            raise FrameError(f"{transforms.path}: lists no frame {frame_id}")
        where, folder = transforms.where(listed), transforms.path.parent
        pose = check_pose(transforms.pose(listed), f"{where}, transform_matrix")
        calibration = transforms.calibration(listed)
        picture = read_picture(folder / listed.color, self.cfg.rotate or 0)
        k = centred_on_integers(calibration.intrinsics, _PIXEL_CENTER)
        camera = camera_of(replace(calibration, intrinsics=k), picture, where)
        depth_m = None if listed.depth is None else self._depth(folder / listed.depth, transforms, camera)
        cam_to_world = scene.to_world @ cam_to_world_of(pose, "camera_to_world", "opengl")
        return registered_frame(
            scene_id, frame_id, picture, camera, depth_m, cam_to_world,
            where=str(folder / listed.color), rotate=self.cfg.rotate, tell=self._tell,
        )  # fmt: skip

    def _depth(self, path: Path, transforms: Transforms, color: Camera) -> NDArray[np.float32]:
        """(h, w) metres along z."""
        said, told = self.cfg.depth_scale, transforms.depth_scale
        if said is not None and told is not None and not math.isclose(said, told, rel_tol=1e-6):
            raise DataError(
                f"{transforms.path}: depth_unit_scale_factor={1 / told:g}, {told:g} units a metre, but "
                f"data.depth_scale={said:g}; leave data.depth_scale out if the file is right"
            )
        depth_m = read_depth(path, said or told or _DEPTH_SCALE, INVALID_DEPTH, self.cfg.depth_float_scale or told)
        if self.cfg.depth_along == "ray":
            return z_of_ray_lengths(depth_m, color.resized(depth_m.shape[1], depth_m.shape[0]))
        return depth_m

    def _scene_of(self, scene_id: str) -> _Scene:
        with self._lock:  # one thread at a time, so that nothing is read, and nothing told, twice
            return self._scene(scene_id)

    def _open_scene(self, scene_id: str) -> _Scene:
        path = self._files.paths(scene_id)[0]
        transforms = Transforms(path)
        _check_twice(transforms)
        numbering = number_pictures([frame.color for frame in transforms.frames], path)
        if numbering.counted:
            self._tell(scene_id, "numbers", f"{path}: {COUNTED}", logging.INFO)
        undo = self.cfg.undo_applied_transform
        return _Scene(
            transforms=transforms,
            frames={number: transforms.frames[place] for number, place in numbering.places.items()},
            digits=numbering.digits,
            to_world=np.linalg.inv(transforms.applied_transform()) if undo else np.eye(4),
        )


def _check_twice(transforms: Transforms) -> None:
    """Raises DataError if a picture is listed twice."""
    seen: dict[str, ListedFrame] = {}
    for frame in transforms.frames:
        if (before := seen.get(str(frame.color))) is not None:
            both = f"frames[{before.place}] and frames[{frame.place}]"
            raise DataError(f"{transforms.path}: {both} are both {frame.color}; remove one")
        seen[str(frame.color)] = frame
