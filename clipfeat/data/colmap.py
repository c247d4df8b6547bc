"""Scenes of COLMAP: a sparse model, the pictures that it names, and perhaps depth.

The model's world and its poses stay as they are, but for the unit: positions, points and COLMAP's own depth maps are
taken times ``metres_per_unit``.
"""

import logging
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.lens_models import distortion_of
from clipfeat.data.base import frame_number, path_below
from clipfeat.data.colmap_files import (
    ListedCamera,
    ListedImage,
    Motion,
    SparsePoints,
    model_file,
    read_cameras,
    read_depth_map,
    read_images,
    read_points,
    read_rig_poses,
)
from clipfeat.data.config import ColmapConfig
from clipfeat.data.conventions import cam_to_world_of, centred_on_integers
from clipfeat.data.images import read_picture
from clipfeat.data.matrices import Calibration, check_pose, pinhole
from clipfeat.data.rasters import INVALID_DEPTH, read_depth
from clipfeat.data.registered import camera_of, registered_frame
from clipfeat.data.roots import start_of_patterns
from clipfeat.data.scene_files import COUNTED, SceneFiles, number_pictures
from clipfeat.data.told import ToldOnce
from clipfeat.data.trajectories import QUATERNION_COLUMNS, rotation_from_quaternion
from clipfeat.errors import DataError, FrameError
from clipfeat.system.patterns import PathPattern
from clipfeat.types import Frame

log = logging.getLogger(__name__)

_PIXEL_CENTER = 0.5
"""Of COLMAP's K (doc/cameras.rst): the first pixel's centre is (0.5, 0.5).

Its dense stage takes whole numbers with that K, in all pictures alike, so that a depth map still belongs to the pixels
of its picture.
"""

_SAME_TURN, _SAME_PLACE = 1e-3, 1e-3
"""How far two notes of one pose may differ: in the rotation's numbers, and as a share of how far away things are."""

_PICTURE_ENDINGS = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, eq=False)
class _Scene:
    """An open scene.

    Attributes:
        folder: of the model.
        cameras: by id, as centred K and lens.
        frames: by number, ascending.
        digits: how the picture's name spells the number.
        depth: the file of each frame that has depth.
    """

    folder: Path
    cameras: dict[int, Calibration]
    frames: dict[int, ListedImage]
    digits: dict[int, str]
    depth: dict[int, Path]


class ColmapDataset:
    """See the module. Frames are numbered as nerfstudio's are, see ``number_pictures``.

    A frame whose picture is missing is a bad frame; one without a depth file is a frame without depth.

    Args:
        cfg: the layout; its checks have been made.

    Raises:
        DataError: If ``root`` is no folder.
    """

    def __init__(self, cfg: ColmapConfig):
        self.cfg = cfg
        self.root = Path(cfg.root)
        models = [cfg.sparse] if cfg.sparse else ["{scene}/sparse/0", "{scene}/sparse"]
        self._files = SceneFiles(
            self.root,
            [f"{model}/cameras.{ending}" for model in models for ending in ("bin", "txt")],
            root_is_scene=cfg.root_is_scene,
            named=f"{' or '.join(models)} with a COLMAP model (cameras.bin or .txt)",
        )
        self._lock = Lock()
        # Cached an instance, so that two data sets never share an entry.
        self._scene = lru_cache(maxsize=8)(self._open_scene)
        self._points = lru_cache(maxsize=2)(self._read_points)
        self._tell = ToldOnce(log)

    def scenes(self) -> list[str]:
        """All folders that hold a model where the pattern says, sorted by name.

        Raises:
            DataError: If there is none, or a name of theirs is not allowed.
        """
        return self._files.scenes()

    def frame_ids(self, scene_id: str) -> list[int]:
        """See ``Dataset``. Frames whose picture is missing are among them."""
        return list(self._scene_of(scene_id).frames)

    def names_of(self, scene_id: str, frame_id: int) -> dict[str, str]:
        """What the placeholders stand for in a frame's own names."""
        return {"scene": scene_id, "frame": self._scene_of(scene_id).digits.get(frame_id, str(frame_id))}

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """See ``Dataset``."""
        scene = self._scene_of(scene_id)
        listed = scene.frames.get(frame_id)
        if listed is None:
            raise FrameError(f"{scene.folder}: the model holds no frame {frame_id}")
        where = f"{scene.folder}, {listed.name}"
        world_to_cam = _matrix(listed.motion, where)
        world_to_cam[:3, 3] *= self.cfg.metres_per_unit
        check_pose(world_to_cam, where, "world-to-camera")
        path = self._folder(self.cfg.images, scene_id) / listed.name
        picture = read_picture(path, self.cfg.rotate or 0)
        camera = camera_of(scene.cameras[listed.camera_id], picture, where)
        depth_path = scene.depth.get(frame_id)
        depth_m = None if depth_path is None else self._read_depth(depth_path)
        points, rgb = self._points_of(scene_id, listed) if self.cfg.sparse_points else (None, None)
        return registered_frame(
            scene_id, frame_id, picture, camera, depth_m, cam_to_world_of(world_to_cam, "world_to_camera", "opencv"),
            where=str(path), rotate=self.cfg.rotate, tell=self._tell, points=points, rgb=rgb,
        )  # fmt: skip

    def _read_depth(self, path: Path) -> NDArray[np.float32]:
        if "{frame}" not in (self.cfg.depth or ""):
            return read_depth_map(path, self.cfg.metres_per_unit)
        return read_depth(path, self.cfg.depth_scale, INVALID_DEPTH, self.cfg.depth_float_scale)

    def _points_of(self, scene_id: str, listed: ListedImage) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """The sparse points, in metres, whose tracks name a picture, and their colours."""
        with self._lock:
            points = self._points(scene_id)
        rows = points.of_image(listed.id)
        return points.xyz[rows] * self.cfg.metres_per_unit, points.rgb[rows]

    def _read_points(self, scene_id: str) -> SparsePoints:
        folder = self._scene(scene_id).folder
        path = model_file(folder, "points3D")
        if path is None:
            raise DataError(f"{folder}: holds no points3D.bin or .txt, which data.sparse_points=true takes points from")
        return read_points(path)

    # A scene

    def _scene_of(self, scene_id: str) -> _Scene:
        with self._lock:  # one thread at a time, so that nothing is read, and nothing told, twice
            return self._scene(scene_id)

    def _folder(self, pattern: str, scene_id: str) -> Path:
        root, _ = start_of_patterns(self.root, root_is_scene=self.cfg.root_is_scene)
        return root / PathPattern(pattern).fill({"scene": scene_id})

    def _open_scene(self, scene_id: str) -> _Scene:
        paths = self._files.paths(scene_id)
        if len(paths) > 1:
            folders = " and ".join(str(path.parent) for path in paths)
            raise DataError(f"{folders} both hold a COLMAP model; say which by data.sparse='{{scene}}/…'")
        folder = paths[0].parent
        images_path = model_file(folder, "images")
        if images_path is None:
            raise DataError(f"{folder}: holds {paths[0].name}, but no images.bin or .txt; copy the whole model")
        listed = read_images(images_path)
        if not listed:
            raise DataError(f"{images_path}: lists no picture, so nothing has a pose")
        names = [_picture_name(image.name, images_path) for image in listed]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{images_path}: lists {twice} twice; remove one")
        cameras = _calibrations(paths[0], read_cameras(paths[0]))
        lost = next((image for image in listed if image.camera_id not in cameras), None)
        if lost is not None:
            raise DataError(f"{images_path}: {lost.name} is of camera {lost.camera_id}, which {paths[0].name} lacks")
        _check_frames(folder, images_path, listed)
        self._check_pictures(scene_id, folder, names)
        numbering = number_pictures(names, images_path)
        if numbering.counted:
            self._tell(scene_id, "numbers", f"{images_path}: {COUNTED}", logging.INFO)
        frames = {number: listed[place] for number, place in numbering.places.items()}
        depth = self._depth_files(scene_id, frames)
        if depth and len(depth) < len(frames):
            message = f"{len(depth)} of the {len(frames)} pictures of the model have depth; the others go without"
            self._tell(scene_id, "depth", f"{folder}: {message}")
        return _Scene(folder, cameras, frames, numbering.digits, depth)

    def _check_pictures(self, scene_id: str, folder: Path, names: list[PurePosixPath]) -> None:
        """Holds the model's pictures against those on disk, and says what is missing on either side."""
        images = self._folder(self.cfg.images, scene_id)
        there = {
            PurePosixPath(Path(path, file).relative_to(images).as_posix())
            for path, _, files in os.walk(images)
            for file in files
            if file.lower().endswith(_PICTURE_ENDINGS)
        }
        missing = [str(name) for name in names if name not in there and not (images / name).is_file()]
        if len(missing) == len(names):
            raise DataError(
                f"{images}: holds none of the {len(names)} pictures of the model in {folder}, such as {missing[0]}; "
                f"say where they are by data.images='{{scene}}/…'"
            )
        if missing:
            message = f"{images}: {len(missing)} of the {len(names)} pictures of the model are missing"
            self._tell(scene_id, "missing", f"{message}, {missing[0]} first")
        unposed = sorted(map(str, there.difference(names)))
        if unposed:
            message = f"{images}: {len(unposed)} pictures are not in the model, and have no pose: {unposed[0]} first"
            self._tell(scene_id, "unposed", message, logging.INFO)

    def _depth_files(self, scene_id: str, frames: dict[int, ListedImage]) -> dict[int, Path]:
        """The depth file of each frame that has one."""
        pattern = self.cfg.depth
        if pattern is None:
            return {}
        if "{frame}" not in pattern:  # COLMAP's own
            folder = self._folder(pattern, scene_id)
            paths = {number: folder / f"{image.name}.geometric.bin" for number, image in frames.items()}
            return {number: path for number, path in paths.items() if path.is_file()} if folder.is_dir() else {}
        root, _ = start_of_patterns(self.root, root_is_scene=self.cfg.root_is_scene)
        walked = PathPattern(pattern).walk(root, {"scene": scene_id})
        found = {frame_number(values["frame"], path): path for values, path in walked}
        if not found.keys() & frames.keys():
            what = f"{len(found)} files, but none of a frame's number" if found else "no such file"
            raise DataError(
                f"data.depth={pattern}: {what} in scene {scene_id}; {{frame}} is the last number in a picture's name, "
                f"such as {next(iter(frames))} of {next(iter(frames.values())).name}"
            )
        return {number: path for number, path in found.items() if number in frames}


def _picture_name(name: str, where: Path) -> PurePosixPath:
    found = path_below(name, f"{where}: the picture's name")
    if found is None:
        raise DataError(f"{where}: a picture without a name")
    return found


def _calibrations(path: Path, cameras: dict[int, ListedCamera]) -> dict[int, Calibration]:
    """K with pixel centres on integers, its size and its lens, of each camera.

    Raises:
        DataError: If a model is not read, or has other parameters.
    """
    found = {}
    for camera_id, camera in cameras.items():
        params = camera.params
        if camera.model.startswith(("SIMPLE_", "RADIAL")):  # one focal length for both
            params = (*params[:1], *params)
        try:
            k = pinhole(*params[:4])
            lens = distortion_of(camera.model, params[4:])
        except (ValueError, TypeError) as error:
            undistort = "; undistort the pictures first, as colmap image_undistorter does"
            raise DataError(f"{path}: camera {camera_id}: {error}{undistort}") from error
        size = (camera.width, camera.height)
        found[camera_id] = Calibration(centred_on_integers(k, _PIXEL_CENTER), size, distortion=lens)
    return found


def _matrix(motion: Motion, where: str) -> NDArray[np.float64]:
    """The (4, 4) of qw qx qy qz tx ty tz.

    Raises:
        FrameError: If the quaternion is zero, not finite or not of unit length.
    """
    matrix = np.eye(4)
    w, *xyz = motion[:4]
    matrix[:3, :3] = rotation_from_quaternion(np.array([*xyz, w]), where, QUATERNION_COLUMNS["wxyz"])
    matrix[:3, 3] = motion[4:]
    return matrix


def _check_frames(folder: Path, images_path: Path, listed: list[ListedImage]) -> None:
    """Refuses a model that says a pose twice and in two ways.

    COLMAP from 3.12 on takes poses from frames.* and rigs.*, and older tools, which many people edit models with, from
    images.*; which of them is meant nobody can tell.

    Raises:
        DataError: If they contradict each other.
    """
    frames, rigs = model_file(folder, "frames"), model_file(folder, "rigs")
    if frames is None or rigs is None:
        return
    posed = read_rig_poses(frames, rigs)
    for image in listed:
        if image.id not in posed:
            continue
        rig_from_world, sensor_from_rig = posed[image.id]
        try:
            own = _matrix(image.motion, image.name)
            other = _matrix(rig_from_world, image.name)
            if sensor_from_rig is not None:
                other = _matrix(sensor_from_rig, image.name) @ other
        except FrameError:  # which is said when that frame is asked for
            continue
        off = np.abs(own - other)
        far = max(float(np.abs(own[:3, 3]).max()), 1.0)
        if off[:3, :3].max() > _SAME_TURN or off[:3, 3].max() > _SAME_PLACE * far:
            raise DataError(
                f"{folder}: {images_path.name} and {frames.name} have two poses for {image.name}; COLMAP from 3.12 on "
                f"takes that of {frames.name}: remove frames.* and rigs.*, or write the model anew, so that one is left"
            )
