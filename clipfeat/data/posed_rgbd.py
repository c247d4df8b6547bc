"""Posed RGB-D folders of any layout: where their files are, and what is in them, is told by the configuration.

Paths are patterns below ``data.root`` (``clipfeat.system.patterns``): ``{scene}`` and ``{sequence}`` make up the
scene's id, ``{frame}`` is the frame's number, or ``{stamp}`` its time. A new layout is one YAML file. What it says::

    color: "{scene}/color/{frame}.jpg"      # 8-bit pictures; or color_list
    depth: "{scene}/depth/{frame}.png"      # 16 bits, registered to colour; or depth_list; or null
    depth_scale: 1000                       # units a metre
    depth_float_scale: 1                    # the same where files hold floats, which are refused without it
    depth_invalid: [0, 65535]               # raw values that mean: nothing measured
    pose: "{scene}/pose/{frame}.txt"        # a file a frame, or one trajectory file a scene
    pose_format: matrix_per_frame           # or json_per_frame, xyzw_per_frame, trajectory_log, tum, …
    pose_direction: camera_to_world         # or world_to_camera: nobody guesses this
    pose_axes: opencv                       # or opengl: nor this
    intrinsics: [525, 525, 319.5, 239.5]    # fx, fy, cx, cy; or intrinsics_file; or hfov

``conf/data/{sevenscenes,tum,replica,open3d,arkitscenes,scannetpp_iphone}.yaml`` are examples, and all there is of these
layouts. Files are found in ``listing``, poses read in ``poses``; here frames are put together.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.distortion import without_blind_pixels
from clipfeat.data.confidence import Trust
from clipfeat.data.config import PosedRgbdConfig
from clipfeat.data.conventions import cam_to_world_of, centred_on_integers, z_of_ray_lengths
from clipfeat.data.images import read_picture
from clipfeat.data.lenses import lens_said
from clipfeat.data.listing import FrameFiles, Listing, PatternFiles
from clipfeat.data.matching import ClocksError
from clipfeat.data.matrices import Calibration, camera_for, k_of_field, pinhole, pinhole_of_view, read_calibration
from clipfeat.data.pose_rows import PoseRowsError
from clipfeat.data.poses import Poses, open_poses
from clipfeat.data.rasters import read_depth, read_labels
from clipfeat.data.roots import check_root
from clipfeat.data.turned import check_turn
from clipfeat.data.two_cameras import color_from_depth_matrix, seen_from_color
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Camera, Frame, Picture

log = logging.getLogger(__name__)


class PosedRgbdDataset:
    """See the module. A frame's number is the one in its picture's name, its time, or its place in ``color_list``.

    A frame without a depth file, or without one near enough in time, is a frame without depth. A frame without a pose
    can't be used; with ``posed_only`` it is none. A scene's id is its folder's name; where ``{sequence}`` tells
    recordings of it apart, it is both names joined by "-".

    Args:
        cfg: the layout; its checks have been made.

    Raises:
        DataError: If ``root`` is no folder.
        ConfigError: If ``color_from_depth`` is no transform, or a distortion is none.
    """

    def __init__(self, cfg: PosedRgbdConfig):
        self.cfg = cfg
        self.root = check_root(Path(cfg.root), cfg.color or cfg.color_list or "")
        self._color_from_depth = color_from_depth_matrix(cfg.color_from_depth)
        if self._color_from_depth is not None:
            log.info(
                "depth has a camera of its own: colour K %s, depth K %s, colour from depth %s, poses of the %s camera",
                cfg.intrinsics or cfg.intrinsics_file, cfg.depth_intrinsics or cfg.depth_intrinsics_file or "the same",
                cfg.color_from_depth, cfg.pose_camera,
            )  # fmt: skip
        self._files = PatternFiles(cfg)
        self._trust = Trust(cfg.confidence_min, cfg.confidence_full)
        self._lenses = {
            "intrinsics": lens_said("distortion", cfg.distortion),
            "depth_intrinsics": lens_said("depth_distortion", cfg.depth_distortion),
        }
        self._lock = Lock()
        # Methods are cached an instance, so that two data sets never share an entry.
        self._poses = lru_cache(maxsize=8)(lambda scene_id: open_poses(self._files, scene_id))
        self._intrinsics = lru_cache(maxsize=64)(self._read_intrinsics)
        self._k_files = lru_cache(maxsize=8)(self._list_k_files)

    def scenes(self) -> list[str]:
        """All folders that hold at least one picture where the pattern says, sorted by name.

        Raises:
            DataError: If there is none, or a name of theirs is not allowed, or two would share an id.
        """
        found = sorted(self._files.scenes())
        if not found:
            raise DataError(f"data.root={self.root}: holds no {self._files.pattern.text}{self._files.hint()}")
        return found

    def frame_ids(self, scene_id: str) -> list[int]:
        """See ``Dataset``. Poses that can't be these pictures' are told here, before anything runs."""
        frame_ids = list(self._listing_of(scene_id).color)
        if self.cfg.posed_only:
            posed = self._poses_of(scene_id).frames
            return [frame_id for frame_id in frame_ids if frame_id in posed]
        if frame_ids and not (self.cfg.pose_format or "").endswith("_per_frame"):
            try:
                self._poses_of(scene_id)
            except (PoseRowsError, ClocksError):
                raise
            except DataError:  # a file that is damaged or not there is told when its poses are needed
                pass
        return frame_ids

    def names_of(self, scene_id: str, frame_id: int) -> dict[str, str]:
        """What the placeholders stand for in a frame's own names."""
        return self._files.values(scene_id) | self._listing_of(scene_id).placeholders(frame_id)

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """See ``Dataset``."""
        listing = self._listing_of(scene_id)
        if frame_id not in listing.color:
            raise FrameError(f"{self.root}: scene {scene_id} has no frame {frame_id}")
        pose = self._poses_of(scene_id).of(frame_id)
        cam_to_world = cam_to_world_of(pose, self.cfg.pose_direction or "", self.cfg.pose_axes or "")
        picture = read_picture(listing.color[frame_id], self.cfg.rotate or 0)
        depth_m, depth_weight = self._depth(listing, frame_id)
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
            depth_weight=depth_weight,
        )

    # One thread at a time, so that nothing is read, and no warning given, twice.

    def _listing_of(self, scene_id: str) -> Listing:
        with self._lock:
            return self._files.listing(scene_id)

    def _poses_of(self, scene_id: str) -> Poses:
        with self._lock:
            return self._poses(scene_id)

    def _check_turn(
        self, scene_id: str, path: Path, picture: Picture, camera: Camera, depth_m: NDArray[np.float32] | None
    ) -> None:
        own = self.cfg.depth_intrinsics is not None or self.cfg.depth_intrinsics_file is not None
        shape = None if depth_m is None else depth_m.shape
        note = check_turn(str(path), picture, camera.intrinsics, shape, said=self.cfg.rotate, own_depth_k=own)
        if note is not None:
            self._files.tell(scene_id, "turn", note)

    def _depth(self, listing: Listing, frame_id: int) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """(h, w) metres along what ``depth_along`` says, 0 where nothing (sure) was measured; its weights."""
        if frame_id not in listing.depth:
            return None, None
        cfg, path = self.cfg, listing.depth[frame_id]
        depth_m = read_depth(path, cfg.depth_scale, cfg.depth_invalid, cfg.depth_float_scale)
        if listing.confidence is None:
            return depth_m, None
        where, trust = listing.confidence.of(frame_id), self._trust
        try:
            sure = read_labels(where, "confidence")
        except FrameError as error:
            raise FrameError(f"{error}; data.confidence=null {trust.without} takes all depth as it is") from error
        return trust(depth_m, sure, str(where))

    # Cameras

    def _color_camera(self, scene_id: str, frame_id: int, size: tuple[int, int]) -> Camera:
        if self.cfg.hfov is not None:
            return Camera(pinhole_of_view(self.cfg.hfov, *size), *size)
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
        said = [getattr(self.cfg, f"{key}_file"), self.cfg.intrinsics_field if key == "intrinsics" else None]
        return any("{frame}" in (text or "") or "{stamp}" in (text or "") for text in said)

    def _calibration(self, scene_id: str, frame_id: int, key: str) -> tuple[Calibration, str]:
        return self._intrinsics(scene_id, key, frame_id if self._is_k_a_frame(key) else None)

    def _list_k_files(self, scene_id: str, key: str) -> FrameFiles:
        return self._files.of_frames(scene_id, "K", getattr(self.cfg, f"{key}_file"), self._files.listing(scene_id))

    def _k_file(self, scene_id: str, key: str, frame_id: int | None) -> Path:
        pattern = getattr(self.cfg, f"{key}_file")
        if frame_id is None or not ("{frame}" in pattern or "{stamp}" in pattern):
            return self._files.path(pattern, self._files.values(scene_id))
        with self._lock:
            return self._k_files(scene_id, key).of(frame_id)

    def _read_intrinsics(self, scene_id: str, key: str, frame_id: int | None) -> tuple[Calibration, str]:
        """The K that the configuration's ``key`` or ``key_file`` gives, and the name of its source."""
        numbers, size = (getattr(self.cfg, key + suffix) for suffix in ("", "_size"))
        if numbers is not None:
            calibration, where = Calibration(pinhole(*numbers)), f"data.{key}={numbers}"
        else:
            path = self._k_file(scene_id, key, frame_id)
            if key == "intrinsics" and self.cfg.intrinsics_field is not None:
                calibration, where = self._k_of_field(scene_id, path, self.cfg.intrinsics_field, frame_id)
            else:
                kind, where = ("depth" if key == "depth_intrinsics" else "color"), str(path)
                said = getattr(self.cfg, key.replace("intrinsics", "distortion")) is not None
                calibration = read_calibration(path, kind, lens_said=said)
        scale = calibration.depth_scale
        if scale is not None and not math.isclose(scale, self.cfg.depth_scale, rel_tol=1e-6):
            raise DataError(
                f"{where}: depth scale {scale:g}, but data.depth_scale={self.cfg.depth_scale:g}; "
                f"if the file is right, say data.depth_scale={scale:g}"
            )
        k = centred_on_integers(calibration.intrinsics, self.cfg.pixel_center)
        return Calibration(k, tuple(size) if size else calibration.size, scale, self._lenses[key]), where

    def _k_of_field(self, scene_id: str, path: Path, field: str, frame_id: int | None) -> tuple[Calibration, str]:
        values = self._files.values(scene_id) if frame_id is None else self.names_of(scene_id, frame_id)
        with self._lock:
            found = self._files.json_of(path)
        return k_of_field(found, field, values, path)
