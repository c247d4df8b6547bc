"""Reading camera matrices and poses from text files, with the checks that keep a wrong one out."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.json_files import field_of
from clipfeat.data.scene_info import depth_scale_of, find_scene_info, intrinsics_of, size_of
from clipfeat.errors import DataError, FrameError
from clipfeat.types import FARTHEST_M, Camera, Distortion

_LARGEST_SIDE = 1 << 20
"""Pixels. A picture that is said to be larger is none."""

_FOCAL_LENGTHS = (0.01, 1000.0)
"""The shortest and the longest, as shares of the picture's longer side: fields of view from 0.06 to 178 degrees."""

DISTORTION_NAMES = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
"""What JSON files call the numbers of a lens."""

PARTING = str.maketrans(",;[]()", "      ")
"""What some write between numbers and around them."""

_SAME_SHARE, _OFF_MIDDLE = 0.03, 0.2
_SAME_ASPECT = 0.02
"""ScanNet's 1296×968 and 640×480 differ by 0.004, as those of pictures that were rounded to whole pixels do."""
"""Of a K that belongs to another resolution, the principal point is off the middle by as much across as down."""


def read_pose(path: Path, direction: str = "camera-to-world") -> NDArray[np.float64]:
    """Reads a 4×4 pose, or its upper 3×4, as it is written; ``direction`` tells messages which way it was expected.

    Raises:
        FrameError: If the file is missing or no 4×4 matrix, or if ``check_pose`` refuses it.
    """
    try:
        pose = _read_matrix(path)
        if pose.shape == (3, 4):
            pose = np.concatenate((pose, [[0, 0, 0, 1]]))
    except FileNotFoundError as error:
        raise FrameError(f"{path}: no such file, a 4×4 {direction} pose was expected") from error
    except (ValueError, OSError) as error:
        raise FrameError(f"{path}: not a 4×4 {direction} pose ({error})") from error
    return check_pose(pose, str(path), direction)


def check_pose(pose: NDArray[np.float64], where: str, direction: str = "camera-to-world") -> NDArray[np.float64]:
    """Returns the (4, 4) pose if it is a rigid motion; ``where`` names its source in the message.

    Raises:
        FrameError: If it has another shape, holds inf or NaN (a lost track), or is no rotation and translation.
    """
    if pose.shape != (4, 4):
        raise FrameError(f"{where}: pose of shape {pose.shape}, expected 4×4 {direction}")
    if not np.isfinite(pose).all():
        raise FrameError(f"{where}: the pose holds inf or NaN, so tracking was lost in this frame")
    rotation = pose[:3, :3]
    # Real poses are off by some 1e-3; 0.05 still lets a careless export pass and stops scales and transposed blocks.
    # Numbers above 2 are in no rotation, and may be too large for the product.
    if (
        np.abs(rotation).max() > 2
        or np.abs(rotation @ rotation.T - np.eye(3)).max() > 0.05
        or np.linalg.det(rotation) < 0
    ):
        raise FrameError(f"{where}: the upper left 3×3 is no rotation (a scale, a mirrored axis, or another matrix?)")
    if np.abs(pose[3] - (0, 0, 0, 1)).max() > 1e-6:
        raise FrameError(f"{where}: the last row is {pose[3].tolist()}, expected 0 0 0 1 (transposed?)")
    if np.abs(pose[:3, 3]).max() > FARTHEST_M:
        raise FrameError(f"{where}: a translation by {np.abs(pose[:3, 3]).max():g} m; the pose is damaged")
    return pose


def read_intrinsics(path: Path) -> NDArray[np.float64]:
    """Reads a 3×3, 3×4 or 4×4 camera matrix as (3, 3).

    Raises:
        DataError: If the file is missing or no such matrix.
    """
    try:
        k = _read_matrix(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file, a 3×3 or 4×4 camera matrix was expected") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a camera matrix ({error})") from error
    if k.shape not in ((3, 3), (3, 4), (4, 4)):
        raise DataError(f"{path}: matrix of shape {k.shape}, expected a 3×3 or 4×4 camera matrix")
    return k[:3, :3]


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a calibration file says.

    Attributes:
        intrinsics: (3, 3) float64 K in pixels.
        size: (width, height) of the pictures that K belongs to, or None.
        depth_scale: units of the depth files in a metre, or None.
        distortion: of the lens, where the file is of a kind that says it; None for a pinhole.
    """

    intrinsics: NDArray[np.float64]
    size: tuple[int, int] | None = None
    depth_scale: float | None = None
    distortion: Distortion | None = None


def pinhole(fx: float, fy: float, cx: float, cy: float) -> NDArray[np.float64]:
    """The (3, 3) K of two focal lengths and a principal point, all in pixels."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)


def pinhole_of_view(hfov_deg: float, width: int, height: int) -> NDArray[np.float64]:
    """The (3, 3) K of a rendered picture that shows ``hfov_deg`` degrees from its left edge to its right one.

    Pixels are square, and the principal point is the picture's middle: (W - 1) / 2, for pixel centres on integers.
    """
    f = width / 2 / math.tan(math.radians(hfov_deg) / 2)
    return pinhole(f, f, (width - 1) / 2, (height - 1) / 2)


def k_of_field(found: Mapping[str, Any], field: str, values: Mapping[str, str], path: Path) -> tuple[Calibration, str]:
    """The 3×3 K (or 3×4, or 4×4) in a JSON object at a field, and its place for messages.

    Args:
        found: what the file holds.
        field: see ``field_of``.
        values: what the placeholders in it stand for.
        path: the file, for messages.

    Raises:
        DataError: If there is none.
    """
    try:
        name, value = field_of(found, field, values)
        k = np.array(value, dtype=np.float64)
        if k.shape not in ((3, 3), (3, 4), (4, 4)):
            raise ValueError(f"{name} is of shape {k.shape}")
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{path}: {error}; a 3×3 K was expected at data.intrinsics_field={field}") from error
    return Calibration(k[:3, :3]), f"{path}, {name}"


def read_calibration(path: Path, kind: str = "color", *, lens_said: bool = False) -> Calibration:
    """Reads a K in any of the usual forms.

    * ``.json``: ``fx fy cx cy``, perhaps ``w h`` (or ``width height``) and ``scale``, at the top or under ``camera``
      (NICE-SLAM's ``cam_params.json``); or Open3D's ``intrinsic_matrix``, column after column, ``width``, ``height``;
    * ``.pincam`` (ARKitScenes): width, height, fx, fy, cx, cy;
    * lines of ``name = value``: ScanNet's ``<scene>.txt`` and 3RScan's ``_info.txt``, see ``scene_info``;
    * other text: the four numbers fx, fy, cx, cy, or a 3×3, 3×4 or 4×4 matrix; what follows a ``#`` is a comment.

    Args:
        path: the file.
        kind: color or depth, where the file says both.
        lens_said: whether somebody else says what the lens does. Otherwise a JSON file with distortion is refused: its
            numbers don't tell whose model they are of.

    Raises:
        DataError: If the file is missing or none of these.
    """
    if path.suffix.lower() == ".pincam":
        return _read_pincam(path)
    if path.suffix.lower() != ".json" and (info := find_scene_info(path)) is not None:
        k = intrinsics_of(info, kind, path)
        if k is None:
            raise DataError(
                f"{path}: says no K of {kind}, expected fx_{kind}, … or m_calibration{kind.title()}Intrinsic"
            )
        return Calibration(k, size_of(info, kind, path), depth_scale_of(info, path))
    if path.suffix.lower() != ".json":
        numbers = _four_numbers(path)
        return Calibration(read_intrinsics(path) if numbers is None else pinhole(*numbers))
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
        found = found.get("camera", found)
        size = (found.get("w", found.get("width")), found.get("h", found.get("height")))
        if "intrinsic_matrix" in found:
            k = np.array(found["intrinsic_matrix"], dtype=np.float64).reshape(3, 3).T
        else:
            k = pinhole(*(float(found[name]) for name in ("fx", "fy", "cx", "cy")))
        scale = found.get("scale")
        bent = [] if lens_said else [f"{name}={found[name]}" for name in DISTORTION_NAMES if found.get(name)]
        whole = None if None in size else (int(size[0]), int(size[1]))
        if whole is not None and not 1 <= min(whole) <= max(whole) <= _LARGEST_SIDE:
            raise ValueError(f"a picture of {whole[0]}×{whole[1]} pixels")
        calibration = Calibration(k, whole, None if scale is None else float(scale))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file, a JSON file with fx, fy, cx, cy was expected") from error
    except KeyError as error:
        raise DataError(f"{path}: has no {error}, expected fx, fy, cx, cy or intrinsic_matrix") from error
    except Exception as error:  # what damaged numbers and lists bring about
        raise DataError(f"{path}: not a calibration, expected JSON with fx, fy, cx, cy ({error})") from error
    if bent:
        raise DataError(
            f"{path}: pictures are distorted ({', '.join(bent)}), and by whose model it doesn't say; set "
            f"data.distortion=[OPENCV,…] or [OPENCV_FISHEYE,…], or [PINHOLE] if they have been undistorted since"
        )
    return calibration


def _read_pincam(path: Path) -> Calibration:
    expected = "expected 'width height fx fy cx cy'"
    try:
        numbers = [float(word) for row in _rows(path) for word in row]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file, {expected}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}, {expected}") from error
    sizes = numbers[:2]
    if len(numbers) != 6 or any(not 1 <= size <= _LARGEST_SIDE or size != int(size) for size in sizes):
        raise DataError(f"{path}: {len(numbers)} values, {expected}, whole numbers of pixels first")
    return Calibration(pinhole(*numbers[2:]), (int(sizes[0]), int(sizes[1])))


def _four_numbers(path: Path) -> list[float] | None:
    """The numbers of a text file if there are exactly four; None leaves the file, and its errors, to others."""
    try:
        words = [word for row in _rows(path) for word in row]
        return [float(word) for word in words] if len(words) == 4 else None
    except (OSError, ValueError):
        return None


def _rows(path: Path) -> list[list[str]]:
    """The words of each line that holds some; commas, semicolons and brackets part them as spaces do."""
    text = path.read_text(encoding="utf-8-sig").translate(PARTING)
    return [words for line in text.splitlines() if (words := line.split("#", 1)[0].split())]


def _read_matrix(path: Path) -> NDArray[np.float64]:
    """Rows of numbers; 9, 12 or 16 of them on one line are the rows one after another.

    Raises ValueError or OSError for anything else.
    """
    rows = _rows(path)
    if not rows or len({len(row) for row in rows}) > 1:
        raise ValueError(f"{len(rows)} rows of {sorted({len(row) for row in rows})} numbers")
    matrix = np.array(rows, dtype=np.float64)
    if matrix.shape[0] == 1 and matrix.size in (9, 12, 16):
        return matrix.reshape(4 if matrix.size == 16 else 3, -1)
    return matrix


def camera_for(
    k: NDArray[np.float64],
    k_size: tuple[int, int] | None,
    picture_size: tuple[int, int],
    where: str,
    size_key: str | None,
    distortion: Distortion | None = None,
) -> Camera:
    """The camera of pictures of ``picture_size`` from a K that belongs to ``k_size`` (None: to the pictures as stored).

    Args:
        k: (3, 3).
        k_size: (width, height) that K belongs to, or None.
        picture_size: (width, height).
        where: source of K, for messages.
        size_key: configuration key that sets ``k_size``, for messages; None if there is none.
        distortion: of the lens; None for a pinhole.

    Raises:
        DataError: If K is no camera matrix, of no real camera, of a picture on its side, or its principal point lies
            outside the picture, the mark of a K that belongs to another resolution.
    """
    width, height = k_size or picture_size
    if (width - height) * (picture_size[0] - picture_size[1]) < 0:
        raise DataError(
            f"{where}: K belongs to {width}×{height} pixels, but the picture has {picture_size[0]}×{picture_size[1]}: "
            f"one of them lies on its side; say {size_key or 'K'} of the picture as it is stored, or turn it by "
            f"data.rotate=90 or 270"
        )
    try:
        camera = Camera(k, width, height, distortion)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    fx, fy, skew = camera.intrinsics[0, 0], camera.intrinsics[1, 1], camera.intrinsics[0, 1]
    shortest, longest = (share * max(width, height) for share in _FOCAL_LENGTHS)
    if not (shortest < min(fx, fy) and max(fx, fy) < longest and abs(skew) < fx):
        raise DataError(
            f"{where}: focal lengths {fx:g} and {fy:g} (skew {skew:g}) of a {width}×{height} picture; no camera has "
            f"those, expected pixels"
        )
    cx, cy = camera.intrinsics[0, 2], camera.intrinsics[1, 2]
    if not is_inside(camera.intrinsics, (width, height)):
        hint = f"if K belongs to another resolution, say so by {size_key}=[width,height]"
        raise DataError(
            f"{where}: principal point ({cx:g}, {cy:g}) lies outside the {width}×{height} picture; "
            f"{hint if size_key else 'K belongs to another resolution or is damaged'}"
        )
    if not belongs_to(camera.intrinsics, (width, height)):
        with_size = "K and the size that is given with it must be of the same picture"
        without_size = "K must be that of the pictures as stored"
        todo = f"{size_key} must be that of this scene's K" if size_key else with_size if k_size else without_size
        raise DataError(
            f"{where}: K's principal point ({cx:g}, {cy:g}) is far from the middle of {width}×{height} pixels, as if K "
            f"belonged to some {round(2 * cx)}×{round(2 * cy)}; {todo}"
        )
    if (width, height) == picture_size:
        return camera
    across, down = picture_size[0] / width, picture_size[1] / height
    if abs(across / down - 1) > _SAME_ASPECT:
        raise DataError(
            f"{where}: K belongs to {width}×{height} pixels, but the picture has {picture_size[0]}×{picture_size[1]}, "
            f"another aspect: cut out, which moves the principal point, or squeezed; write down K of the picture as it "
            f"is stored{f', and its size as {size_key}' if size_key else ''}"
        )
    return camera.resized(*picture_size)


def is_inside(k: NDArray[np.float64], size: tuple[int, int]) -> bool:
    """Whether the principal point of a K lies in a picture of (width, height); else K is of another size."""
    return bool(0 <= k[0, 2] <= size[0] - 1 and 0 <= k[1, 2] <= size[1] - 1)


def belongs_to(k: NDArray[np.float64], size: tuple[int, int]) -> bool:
    """Whether a K can be that of a picture of (width, height): not if it is off the middle as of a smaller one."""
    across, down = (k[0, 2] + 0.5) / size[0], (k[1, 2] + 0.5) / size[1]
    return is_inside(k, size) and not (abs(across - down) < _SAME_SHARE and abs(across - 0.5) > _OFF_MIDDLE)
