"""nerfstudio's ``transforms.json``: pictures, depth, K and poses of a scene in one file.

Source of each rule: nerfstudio's docs/quickstart/data_conventions.md, nerfstudio_dataparser.py and cameras.py. Poses
are camera-to-world with OpenGL's camera axes; the centre of the first pixel is (0.5, 0.5); K is of pictures of w × h.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.base import path_below
from clipfeat.data.json_files import json_object, matrix_of, names_in, number_of
from clipfeat.data.matrices import DISTORTION_NAMES, Calibration, pinhole
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Distortion

_K = ("fl_x", "fl_y", "cx", "cy")

_SIZE = ("w", "h")

_MODEL = ("camera_model", "is_fisheye")

_PERSPECTIVE = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
"""Models that nerfstudio takes for one: k1 to k4 of r² to r⁸ (OpenCV's k4 divides), p1 and p2."""

_FISHEYE = "OPENCV_FISHEYE"
"""k1 to k4 of θ² to θ⁸, as OpenCV's fisheye."""

_SAME = 1e-6
"""Relative difference of two numbers that are one, written twice."""

_EXPECTED = "expected nerfstudio's transforms.json"


@dataclass(frozen=True)
class ListedFrame:
    """A frame as the file lists it.

    Attributes:
        place: its place in ``frames``, from 0.
        color: path of the picture, below the file's folder.
        depth: the same of its depth, or None.
        entry: all that the file says of it.
    """

    place: int
    color: PurePosixPath
    depth: PurePosixPath | None
    entry: Mapping[str, Any]


class Transforms:
    """A checked file; what is wrong with one frame alone is said when that frame is asked for.

    Attributes:
        path: the file.
        frames: in the order of the file.
        depth_scale: units of depth in a metre by ``depth_unit_scale_factor``, or None where the file doesn't say it.

    Args:
        path: the file.

    Raises:
        DataError: If it is missing, no such file, of a unit other than metres, or of a camera that is not read.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._top = json_object(path)
            factor = number_of(self._top, "depth_unit_scale_factor")
            scale = number_of(self._top, "applied_scale")
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file, {_EXPECTED}") from error
        except ValueError as error:
            raise DataError(f"{path}: {error}; {_EXPECTED}") from error
        listed = self._top.get("frames")
        if not isinstance(listed, list) or not listed:
            what = "an empty" if listed == [] else "no"
            raise DataError(f"{path}: has {what} list 'frames', but {names_in(self._top)}; {_EXPECTED}")
        if factor is not None and factor <= 0:
            raise DataError(f"{path}: depth_unit_scale_factor={factor:g}, expected metres of a unit, such as 0.001")
        if scale is not None and abs(scale - 1) > _SAME:
            raise DataError(
                f"{path}: applied_scale={scale:g}, so the poses are not in metres and don't fit depth; divide their "
                f"translations by it and remove it"
            )
        self.depth_scale = None if factor is None else 1 / factor
        try:
            numbers = {name: number_of(self._top, name) for name in DISTORTION_NAMES}
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
        self._lens(self._top, numbers, "")
        self.frames = [self._listed(place, entry) for place, entry in enumerate(listed)]

    def pose(self, frame: ListedFrame) -> NDArray[np.float64]:
        """The (4, 4) ``transform_matrix`` as written: camera-to-world, OpenGL's camera axes.

        Raises:
            FrameError: If there is none, or it is no such matrix.
        """
        if frame.entry.get("transform_matrix") is None:
            raise FrameError(f"{self.where(frame)}: has no transform_matrix, a 4×4 camera-to-world pose was expected")
        try:
            return matrix_of(frame.entry["transform_matrix"])
        except ValueError as error:
            raise FrameError(
                f"{self.where(frame)}: transform_matrix is {error}, a 4×4 camera-to-world pose was expected"
            ) from error

    def applied_transform(self) -> NDArray[np.float64]:
        """(4, 4) from the world that the capture had to that of the file's poses; the identity where it says none.

        Raises:
            DataError: If it is no rigid motion.
        """
        value = self._top.get("applied_transform")
        if value is None:
            return np.eye(4)
        try:
            matrix = matrix_of(value)
        except ValueError as error:
            raise DataError(f"{self.path}: applied_transform is {error}") from error
        rotation = matrix[:3, :3]
        rigid = np.isfinite(matrix).all() and np.abs(rotation).max() < 2
        if not rigid or np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.any(matrix[3] != (0, 0, 0, 1)):
            raise DataError(f"{self.path}: applied_transform is no rotation and translation, so it can't be undone")
        if np.linalg.det(rotation) < 0:
            raise DataError(f"{self.path}: applied_transform mirrors the world, and without it poses would be mirrored")
        return matrix

    def calibration(self, frame: ListedFrame) -> Calibration:
        """K of a frame's picture as written, its lens, and the size that it belongs to.

        Raises:
            FrameError: If a number is missing or none, is said at the top and in the frame in two ways, or if the
                camera model is not read.
        """
        where = self.where(frame)
        try:
            said = {name: self._said(frame, name) for name in (*_K, *_SIZE, *DISTORTION_NAMES)}
            node = {name: self._top[name] for name in _MODEL if name in self._top} | dict(frame.entry)
            lens = self._lens(node, {name: said[name] for name in DISTORTION_NAMES}, f", {frame.color}")
        except (ValueError, DataError) as error:
            raise FrameError(str(error) if isinstance(error, DataError) else f"{where}: {error}") from error
        k, size = [said[name] for name in _K], [said[name] for name in _SIZE]
        numbers = [value for value in k if value is not None]
        if len(numbers) < len(k):
            missing = ", ".join(name for name in _K if said[name] is None)
            has_angle = "camera_angle_x" in {*self._top, *frame.entry}
            of_view = "; of camera_angle_x, fl_x is w / 2 / tan(camera_angle_x / 2)" if has_angle else ""
            raise FrameError(
                f"{where}: has no {missing}, expected {', '.join(_K)} at the top of the file or in the frame{of_view}"
            )
        sides = [int(value) for value in size if value is not None]
        if len(sides) == 1 or any(side < 1 or side != value for side, value in zip(sides, size, strict=False)):
            raise FrameError(f"{where}: w={size[0]} h={size[1]}, expected both in whole pixels, or neither")
        return Calibration(pinhole(*numbers), (sides[0], sides[1]) if sides else None, distortion=lens)

    def where(self, frame: ListedFrame) -> str:
        """A frame of the file, for messages."""
        return f"{self.path}, {frame.color}"

    def _said(self, frame: ListedFrame, name: str) -> float | None:
        """A number of K. nerfstudio silently takes the top's where both are said, which few who write both mean."""
        top, own = number_of(self._top, name), number_of(frame.entry, name)
        if top is None or own is None:
            return own if top is None else top
        if abs(top - own) > _SAME * max(abs(top), abs(own)):
            raise ValueError(f"{name} is {own:g}, but {top:g} at the top of the file; remove the one that is wrong")
        return top

    def _lens(self, node: Mapping[str, Any], numbers: Mapping[str, float | None], place: str) -> Distortion | None:
        """The lens of a camera model and its numbers; None for a pinhole.

        Raises:
            DataError: If there is no such model, or a number has no meaning for it.
        """
        where = f"{self.path}{place}"
        model = node.get("camera_model", "OPENCV")
        fisheye = model == _FISHEYE
        if model not in (*_PERSPECTIVE, _FISHEYE) or (node.get("is_fisheye") and not fisheye):
            named = "is_fisheye" if node.get("is_fisheye") else f"camera_model {str(model)[:40]}"
            raise DataError(
                f"{where}: {named} is not read, expected camera_model to be one of {', '.join(_PERSPECTIVE)}, "
                f"{_FISHEYE}; undistort the pictures first, as colmap image_undistorter does"
            )
        said = {name: value or 0.0 for name, value in numbers.items()}
        odd = [f"{name}={said[name]:g}" for name in ("k5", "k6", *(("p1", "p2") if fisheye else ())) if said[name]]
        if odd:
            raise DataError(
                f"{where}: {', '.join(odd)} is no number that nerfstudio knows of camera_model {model}, and points "
                f"would be misplaced; undistort the pictures first, as colmap image_undistorter does"
            )
        k1, k2, k3, k4, p1, p2 = (said[name] for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
        return Distortion(fisheye, radial=(k1, k2, k3, k4), tangential=(p1, p2))

    def _listed(self, place: int, entry: Any) -> ListedFrame:
        where = f"{self.path}, frames[{place}]"
        if not isinstance(entry, dict):
            raise DataError(f"{where}: of type {type(entry).__name__}, expected an object with file_path; {_EXPECTED}")
        color = path_below(entry.get("file_path"), f"{where}: file_path")
        if color is None:
            raise DataError(f"{where}: has no file_path, but {names_in(entry)}; {_EXPECTED}")
        return ListedFrame(place, color, path_below(entry.get("depth_file_path"), f"{where}: depth_file_path"), entry)
