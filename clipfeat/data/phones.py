"""What recordings of phones share: where their scenes lie, and how a frame is put together of its parts."""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.distortion import without_blind_pixels
from clipfeat.data.base import check_scene_name, start_of_patterns
from clipfeat.data.matrices import Calibration, camera_for
from clipfeat.data.turned import check_turn
from clipfeat.errors import DataError, FrameError
from clipfeat.system.patterns import PathPattern
from clipfeat.types import Frame, Picture

log = logging.getLogger(__name__)


class SceneFolders:
    """The folders below ``data.root`` that hold a certain file.

    Args:
        root: ``data.root``.
        inner: the file, as a path below a scene's folder.
        root_is_scene: whether ``root`` is itself a scene.

    Raises:
        DataError: If ``root`` is no folder.
    """

    def __init__(self, root: Path, inner: str, *, root_is_scene: bool):
        if not root.is_dir():
            what = "a file, expected the folder that holds it" if root.is_file() else "no such folder"
            raise DataError(f"data.root={root}: {what}; scenes are <root>/<scene>/{inner}")
        self.root = root
        self.inner = inner
        self._root_is_scene = root_is_scene

    def found(self) -> dict[str, Path]:
        """From each scene's name to its folder; hidden ones are left out."""
        return self._found(root_is_scene=self._root_is_scene)

    def scenes(self) -> list[str]:
        """The names of all of them, sorted.

        Raises:
            DataError: If there is none.
        """
        if not (found := self.found()):
            raise DataError(f"data.root={self.root}: holds no <scene>/{self.inner}{self.hint()}")
        return sorted(found)

    def folder(self, scene_id: str) -> Path:
        """The folder of a scene.

        Raises:
            DataError: If there is no such scene.
        """
        folder = self.found().get(scene_id)
        if folder is None:
            raise DataError(f"{self.root}: no such scene {scene_id}, expected {scene_id}/{self.inner}{self.hint()}")
        return folder

    def hint(self) -> str:
        """What may help where a scene was not found: the end of a message."""
        other = not self._root_is_scene
        return f"; it is there for data.root_is_scene={str(other).lower()}" if self._found(root_is_scene=other) else ""

    def _found(self, *, root_is_scene: bool) -> dict[str, Path]:
        root, values = start_of_patterns(self.root, root_is_scene=root_is_scene)
        up = len(Path(self.inner).parts) - 1
        return {
            check_scene_name(found["scene"], str(path)): path.parents[up]
            for found, path in PathPattern(f"{{scene}}/{self.inner}").walk(root, values)
            if not found["scene"].startswith(".")
        }


class Told:
    """What was said of each scene, so that nothing is said twice."""

    def __init__(self) -> None:
        self._said: set[tuple[str, str]] = set()

    def warn(self, scene_id: str, message: str, kind: str = "") -> None:
        """Logs a warning, of each kind once a scene."""
        if (scene_id, kind) not in self._said:
            self._said.add((scene_id, kind))
            log.warning("WARNING %s", message)


def registered_frame(
    scene_id: str,
    frame_id: int,
    picture: Picture,
    calibration: Calibration,
    depth_m: NDArray[np.float32] | None,
    cam_to_world: NDArray[np.float64],
    *,
    where: str,
    rotate: int | None,
    told: Told,
    by: str | None = None,
) -> Frame:
    """A frame whose depth has colour's K, resized.

    Args:
        scene_id: of the frame.
        frame_id: of the frame.
        picture: colour, turned already where ``data.rotate`` says so.
        calibration: of colour, with pixel centres on integers, perhaps with a lens.
        depth_m: (h, w) metres, or None.
        cam_to_world: (4, 4), of OpenCV's axes.
        where: the picture, for messages.
        rotate: ``data.rotate``.
        told: takes what a user should know of the scene.
        by: see ``check_turn``.

    Raises:
        FrameError: If K can't be that of this picture.
        DataError: If picture, K and depth can't all be upright.
    """
    try:
        size, lens = (picture.width, picture.height), calibration.distortion
        camera = camera_for(calibration.intrinsics, calibration.size, size, f"{where}, K", None, lens)
    except DataError as error:  # each frame may have a K of its own
        raise FrameError(str(error)) from error
    shape = None if depth_m is None else depth_m.shape
    note = check_turn(where, picture, camera.intrinsics, shape, said=rotate, own_depth_k=False, by=by)
    if note is not None:
        told.warn(scene_id, note, "turned")
    depth_camera = None if depth_m is None else camera.resized(depth_m.shape[1], depth_m.shape[0])
    return Frame(
        scene_id=scene_id,
        frame_id=frame_id,
        picture=picture,
        depth_m=None if depth_m is None or depth_camera is None else without_blind_pixels(depth_m, depth_camera),
        color_camera=camera,
        depth_camera=depth_camera,
        cam_to_world=cam_to_world,
    )
