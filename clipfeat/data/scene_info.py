"""Files of ``name = value`` lines that come with a scene: ScanNet's ``<scene>.txt``, 3RScan's ``_info.txt``.

================  ================================================================  ================================
                  ScanNet                                                           3RScan and 12-Scenes
================  ================================================================  ================================
size of colour    ``colorWidth``, ``colorHeight``                                   ``m_colorWidth``, …
K of colour       ``fx_color``, ``fy_color``, ``mx_color``, ``my_color``            ``m_calibrationColorIntrinsic``
of depth          ``depthWidth``, …, ``fx_depth``, …                                ``m_depthWidth``, …
units of depth    (millimetres)                                                     ``m_depthShift``
================  ================================================================  ================================
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfeat.errors import DataError

SceneInfo = dict[str, list[str]]
"""From names, in small letters and without ``m_``, to the words behind the equals sign."""


def read_scene_info(path: Path) -> SceneInfo:
    """The lines of a file that have an equals sign.

    Raises:
        DataError: If it can't be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read as text ({error}), expected lines of name = value") from error
    pairs = (line.split("#", 1)[0].split("=", 1) for line in lines if "=" in line)
    return {name.strip().lower().removeprefix("m_"): value.split() for name, value in pairs}


def find_scene_info(path: Path) -> SceneInfo | None:
    """``read_scene_info`` of a file that has such lines; None leaves any other file, and its errors, to others."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    return read_scene_info(path) if "=" in text else None


def size_of(info: SceneInfo, kind: str, where: object) -> tuple[int, int] | None:
    """(width, height) of the pictures of a kind, ``color`` or ``depth``; None where the file does not say it.

    Raises:
        DataError: If it is no size.
    """
    found = [_numbers(info, f"{kind}{side}", where) for side in ("width", "height")]
    if found[0] is None or found[1] is None:
        return None
    width, height = found[0][0], found[1][0]
    if not (width >= 1 and height >= 1 and width == int(width) and height == int(height)):
        raise DataError(f"{where}: {kind} pictures of {width:g}×{height:g} pixels; expected whole numbers above 0")
    return int(width), int(height)


def intrinsics_of(info: SceneInfo, kind: str, where: object) -> NDArray[np.float64] | None:
    """(3, 3) K of the pictures of a kind, ``color`` or ``depth``; None where the file does not say it.

    Raises:
        DataError: If it is no K.
    """
    flat = _numbers(info, f"calibration{kind}intrinsic", where)
    if flat is not None:
        if len(flat) not in (9, 12, 16):
            raise DataError(f"{where}: a matrix of {len(flat)} numbers, expected the 9, 12 or 16 of a K")
        return np.array(flat).reshape(3 if len(flat) < 16 else 4, -1)[:3, :3]
    four = [_numbers(info, f"{name}_{kind}", where) for name in ("fx", "fy", "mx", "my")]
    if any(one is None for one in four):
        return None
    fx, fy, cx, cy = (one[0] for one in four if one is not None)
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def depth_scale_of(info: SceneInfo, where: object) -> float | None:
    """Units of depth in a metre, None where the file does not say it."""
    found = _numbers(info, "depthshift", where)
    return None if found is None else found[0]


def _numbers(info: SceneInfo, name: str, where: object) -> list[float] | None:
    if name not in info:
        return None
    try:
        numbers = [float(word) for word in info[name]]
    except ValueError as error:
        raise DataError(f"{where}: {name}: {error}, numbers were expected") from error
    if not numbers:
        raise DataError(f"{where}: {name} has no value")
    return numbers
