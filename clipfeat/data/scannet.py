"""ScanNet's exported layout."""

import logging
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.base import check_scene_name, frame_number
from clipfeat.data.config import ScanNetConfig, as_size
from clipfeat.data.images import read_picture
from clipfeat.data.matrices import belongs_to, camera_for, read_intrinsics, read_pose
from clipfeat.data.rasters import read_depth
from clipfeat.data.roots import check_root, where_scenes_are
from clipfeat.data.scene_info import intrinsics_of, read_scene_info, size_of
from clipfeat.data.told import ToldOnce
from clipfeat.data.turned import check_turn
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Camera, Frame

log = logging.getLogger(__name__)

_COLOR_SUFFIXES = (".jpg", ".jpeg", ".png")


def _found(root: Path, root_is_scene: bool) -> list[str]:
    """The scenes of a folder, or its own name if it is one."""
    if root_is_scene:
        return [root.absolute().name] if (root / "color").is_dir() else []
    return [path.parent.name for path in root.glob("*/color") if not path.parent.name.startswith(".")]


class ScanNetDataset:
    """``<root>/<scene>/`` with ``color/<i>.jpg|png``, ``depth/<i>.png`` (u16), ``pose/<i>.txt`` and ``intrinsic/``.

    Poses are camera-to-world.
    Colour and depth may differ in size and then have their own K: ``intrinsic/intrinsic_{color,depth}.txt``, 3×3 or
    4×4, or ``intrinsics_{color,depth}.txt`` as in ScanNet's 25k set. Depth is already registered to colour, so
    ScanNet's extrinsics are not applied, nor is ``axisAlignment``.

    Args:
        root: folder with one folder a scene.
        depth_scale: units of the depth files in a metre.
        color_intrinsics_size: (width, height) that the colour K belongs to, if not the pictures as they are stored.
        depth_intrinsics_size: the same for depth.
        scene_ids: the scenes that ``scenes()`` lists; None for all that are there.
        rotate: degrees by which colour is turned clockwise; None for not at all, and where that can't be, an error.

    Raises:
        DataError: If ``root`` is no folder.
    """

    def __init__(
        self,
        root: Path,
        depth_scale: float = 1000.0,
        color_intrinsics_size: tuple[int, int] | None = None,
        depth_intrinsics_size: tuple[int, int] | None = None,
        scene_ids: list[str] | None = None,
        rotate: int | None = None,
    ):
        self.root = check_root(root, "a folder a scene")
        self.depth_scale = depth_scale
        self.scene_ids = scene_ids
        self.rotate = rotate
        self._tell = ToldOnce(log)
        self.k_size = {"color": color_intrinsics_size, "depth": depth_intrinsics_size}
        # Methods are cached an instance, so that two data sets never share an entry.
        self._color_files = lru_cache(maxsize=8)(self._list_color_files)
        self._intrinsics = lru_cache(maxsize=64)(self._read_intrinsics)
        self._own_sizes = lru_cache(maxsize=64)(self._own_size)

    def scenes(self) -> list[str]:
        """All folders under the root that hold a ``color`` folder, sorted by name.

        Raises:
            DataError: If there is none.
        """
        if self.scene_ids is not None:
            return self.scene_ids
        found = sorted(_found(self.root, False))
        if not found:
            hint = where_scenes_are(self.root, _found)
            raise DataError(f"data.root={self.root}: holds no scene, expected folders such as scene0000_00/color{hint}")
        return found

    def frame_ids(self, scene_id: str) -> list[int]:
        """See ``Dataset``."""
        return list(self._color_files(scene_id))

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """See ``Dataset``. A missing depth file makes a frame without depth; a missing pose makes it unusable."""
        scene = self._scene(scene_id)
        color_path = self._color_files(scene_id).get(frame_id)
        if color_path is None:
            raise FrameError(f"{scene / 'color'}: holds no frame {frame_id}")
        cam_to_world = read_pose(self._beside(scene / "pose", color_path, frame_id, ".txt"))
        picture = read_picture(color_path, self.rotate or 0)
        depth_path = self._beside(scene / "depth", color_path, frame_id, ".png")
        depth_m = read_depth(depth_path, self.depth_scale) if depth_path.is_file() else None
        color_camera = self._camera(scene, "color", (picture.width, picture.height), color_path)
        shape = None if depth_m is None else depth_m.shape
        note = check_turn(str(color_path), picture, color_camera.intrinsics, shape, said=self.rotate, own_depth_k=True)
        if note is not None:
            self._tell(scene_id, "turn", note)
        return Frame(
            scene_id=scene_id,
            frame_id=frame_id,
            picture=picture,
            depth_m=depth_m,
            color_camera=color_camera,
            depth_camera=None if depth_m is None else self._camera(scene, "depth", depth_m.shape[::-1], depth_path),
            cam_to_world=cam_to_world,
        )

    def _scene(self, scene_id: str) -> Path:
        scene = self.root / check_scene_name(scene_id, "scene")
        if not (scene / "color").is_dir():
            raise DataError(f"{scene}: no such scene, expected a folder with color/, depth/, pose/ and intrinsic/")
        return scene

    def _list_color_files(self, scene_id: str) -> dict[int, Path]:
        """Frame number to file, ascending by number: "9" comes before "10"."""
        folder = self._scene(scene_id) / "color"
        files: dict[int, Path] = {}
        for path in folder.iterdir():
            if path.suffix.lower() not in _COLOR_SUFFIXES or not path.stem.isdecimal():
                continue
            number = frame_number(path.stem, path)
            if number in files:
                raise DataError(f"{path} and {files[number].name} are both frame {number}; remove one of them")
            files[number] = path
        if not files:
            raise DataError(f"{folder}: holds no frames, expected <number>.jpg or <number>.png")
        return dict(sorted(files.items()))

    @staticmethod
    def _beside(folder: Path, color: Path, frame_id: int, suffix: str) -> Path:
        """The file of a frame in another folder, spelt as the picture's name (padded, as in the 25k set) or plainly."""
        same, plain = folder / f"{color.stem}{suffix}", folder / f"{frame_id}{suffix}"
        if same != plain and same.is_file():
            if plain.is_file():
                raise FrameError(f"{same} and {plain.name} are both frame {frame_id}; remove one of them")
            return same
        return plain

    def _own_size(self, scene: Path, kind: str) -> tuple[int, int] | None:
        """The resolution that ScanNet's own file of the scene, ``<scene>.txt``, says."""
        path = scene / f"{scene.name}.txt"
        return size_of(read_scene_info(path), kind, path) if path.is_file() else None

    @staticmethod
    def _intrinsics_file(scene: Path, kind: str) -> Path:
        """Where the export has it, or else ScanNet's own 25k set: beside the folders."""
        exported, beside = scene / "intrinsic" / f"intrinsic_{kind}.txt", scene / f"intrinsics_{kind}.txt"
        return beside if beside.is_file() and not exported.exists() else exported

    def _read_intrinsics(self, scene: Path, kind: str) -> NDArray[np.float64]:
        """Of the export; a scene without it may have ScanNet's own file alone, whose K is a little less exact."""
        path, own = self._intrinsics_file(scene, kind), scene / f"{scene.name}.txt"
        if not path.exists() and own.is_file():
            k = intrinsics_of(read_scene_info(own), kind, own)
            return read_intrinsics(path) if k is None else k
        return read_intrinsics(path)

    def _camera(self, scene: Path, kind: str, picture_size: tuple[int, ...], picture: Path) -> Camera:
        k, size = self._intrinsics(scene, kind), (picture_size[0], picture_size[1])
        k_size = self.k_size[kind]
        # Scenes may have been recorded at other resolutions than most (0704 and 0705): one key can't say both.
        if not belongs_to(k, k_size or size):
            k_size = self._own_sizes(scene, kind) or k_size
        where = f"{self._intrinsics_file(scene, kind)}, for {kind}/{picture.name}"  # either may be the wrong one
        return camera_for(k, k_size, size, where, f"data.{kind}_intrinsics_size")


def open_scannet(cfg: ScanNetConfig, scene_ids: list[str] | None = None) -> ScanNetDataset:
    """The data set of ``data=scannet``; with ``scene_ids`` only these scenes of it."""
    sizes = as_size(cfg.color_intrinsics_size), as_size(cfg.depth_intrinsics_size)
    return ScanNetDataset(Path(cfg.root), cfg.depth_scale, *sizes, scene_ids, cfg.rotate)
