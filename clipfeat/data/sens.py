"""ScanNet's raw recordings, streamed: one ``.sens`` file a scene."""

import logging
import threading
from collections import OrderedDict
from pathlib import Path

from clipfeat.data.base import check_scene_name
from clipfeat.data.config import SensConfig
from clipfeat.data.matrices import check_pose
from clipfeat.data.rasters import depth_in_metres
from clipfeat.data.roots import check_root
from clipfeat.data.sens_file import SensFile
from clipfeat.errors import DataError
from clipfeat.types import Frame

log = logging.getLogger(__name__)


class SensDataset:
    """``<root>/<scene>/<scene>.sens``, or ``<root>/<scene>.sens`` for one folder of recordings.

    Frames are numbered from 0, as ScanNet's exporter names its files. Poses are camera-to-world. A frame without depth
    is a frame with ``depth_m`` None. Memory holds the indices of a few files and the frames that are asked for.

    Args:
        root: the folder.
        max_open: files that are kept open at once, with their indices; the least used is closed first.

    Raises:
        DataError: If ``root`` is no folder.
    """

    def __init__(self, root: Path, max_open: int = 8):
        self.root = check_root(root, "recordings (.sens)")
        self._max_open = max_open
        self._open: OrderedDict[str, SensFile] = OrderedDict()
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def scenes(self) -> list[str]:
        """All recordings of either layout, sorted by name.

        Raises:
            DataError: If there is none.
        """
        flat = {path.stem for path in self.root.glob("*.sens") if path.is_file()}
        nested = {path.stem for path in self.root.glob("*/*.sens") if path.stem == path.parent.name and path.is_file()}
        # Hidden ones are other systems' shadows of a file, such as ._scene0000_00.sens.
        found = sorted(name for name in flat | nested if not name.startswith("."))
        if not found:
            raise DataError(
                f"data.root={self.root}: holds no recording, expected files such as scene0000_00/scene0000_00.sens"
            )
        return found

    def frame_ids(self, scene_id: str) -> list[int]:
        """See ``Dataset``. Of a cut-off file, the frames that are whole."""
        return list(range(len(self.file(scene_id))))

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """See ``Dataset``."""
        file = self.file(scene_id)
        header = file.header
        cam_to_world = check_pose(file.pose(frame_id), file.name_of(frame_id))
        picture = file.picture(frame_id)
        raw = file.raw_depth(frame_id)
        return Frame(
            scene_id=scene_id,
            frame_id=frame_id,
            picture=picture,
            depth_m=None if raw is None else depth_in_metres(raw, header.depth_scale),
            color_camera=header.color_camera.resized(picture.width, picture.height),
            depth_camera=None if raw is None else header.depth_camera,
            cam_to_world=cam_to_world,
        )

    def file(self, scene_id: str) -> SensFile:
        """The open recording of a scene; its warnings are logged the first time.

        Raises:
            DataError: If there is no such scene, or it can't be read at all.
        """
        with self._lock:
            file = self._open.get(scene_id)
            if file is None:
                file = SensFile(self.path(scene_id))
                if scene_id not in self._warned:
                    self._warned.add(scene_id)
                    for warning in file.warnings:
                        log.warning("WARNING %s", warning)
                self._open[scene_id] = file
                while len(self._open) > self._max_open:
                    self._open.popitem(last=False)
            self._open.move_to_end(scene_id)
            return file

    def path(self, scene_id: str) -> Path:
        """The recording of a scene.

        Raises:
            DataError: If there is none.
        """
        name = check_scene_name(scene_id, "scene")
        nested, flat = self.root / name / f"{name}.sens", self.root / f"{name}.sens"
        for path in (nested, flat):
            if path.is_file():
                return path
        raise DataError(f"{scene_id}: no such scene, expected {nested} or {flat}")


def open_sens(cfg: SensConfig) -> SensDataset:
    """The data set of ``data=sens``."""
    return SensDataset(Path(cfg.root))
