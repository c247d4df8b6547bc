"""Pictures, depth and calibrations in ROS messages.

Sources: sensor_msgs' Image, CompressedImage and CameraInfo; image_encodings.h; REP 118 (depth is uint16 millimetres or
float32 metres); compressed_depth_image_transport (12 bytes before the PNG, which hold the numbers that depth in floats
was packed with).
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.lens_models import distortion_of
from clipfeat.data.images import MAX_PIXELS, picture_of
from clipfeat.data.matrices import Calibration
from clipfeat.data.png import SIGNATURE, decode_grey16
from clipfeat.data.rasters import INVALID_DEPTH, depth_in_metres, without_gaps
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Distortion, Picture

KINDS = ("Image", "CompressedImage")

_COLORS = {
    "rgb8": (3, [0, 1, 2]), "bgr8": (3, [2, 1, 0]), "8UC3": (3, [2, 1, 0]), "rgba8": (4, [0, 1, 2]),
    "bgra8": (4, [2, 1, 0]), "8UC4": (4, [2, 1, 0]), "mono8": (1, [0, 0, 0]), "8UC1": (1, [0, 0, 0]),
}  # fmt: skip
"""By encoding: bytes of a pixel, and which of them are red, green and blue."""

_DEPTHS = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}

_LENSES = {
    "plumb_bob": ("OPENCV", 5), "rational_polynomial": ("OPENCV", 8), "equidistant": ("OPENCV_FISHEYE", 4),
    "fisheye": ("OPENCV_FISHEYE", 4),
}  # fmt: skip
"""By a CameraInfo's model: what the field calls it, and its numbers (distortion_models.h)."""

_CONFIG = struct.Struct("<iff")
"""Before packed depth: its format, and the two numbers of the inverse depth."""


def is_color(message: Any) -> bool | None:
    """Whether an Image or CompressedImage says that it is colour; False: depth; None: what is read as neither."""
    if hasattr(message, "format"):
        return "compressedDepth" not in message.format
    return message.encoding in _COLORS or (False if message.encoding in _DEPTHS else None)


def color_of(message: Any, where: str, rotate: int) -> Picture:
    """The picture in a message; a packed one is decoded when its pixels are asked for.

    Args:
        message: Image or CompressedImage.
        where: the message.
        rotate: degrees by which it is turned clockwise: 0, 90, 180 or 270.

    Raises:
        FrameError: If it is damaged, or of an encoding that isn't read.
    """
    if hasattr(message, "format"):
        return picture_of(bytes(message.data), where, rotate)
    if message.encoding not in _COLORS:
        raise FrameError(
            f"{where}: colour of the encoding {message.encoding[:30]}, expected {', '.join(_COLORS)}; of raw sensors "
            "take the topic of image_proc"
        )
    channels, order = _COLORS[message.encoding]
    pixels = _rows(message, np.dtype(np.uint8), channels, where)[..., order]
    return Picture.of(np.ascontiguousarray(np.rot90(pixels, -rotate // 90)))


def depth_of(message: Any, where: str, depth_scale: float) -> NDArray[np.float32]:
    """(h, w) metres, 0 where nothing was measured.

    Args:
        message: Image or CompressedImage.
        where: the message.
        depth_scale: units of whole numbers in a metre; floats are metres.

    Raises:
        FrameError: If it is damaged, or of an encoding that isn't read.
    """
    if hasattr(message, "format"):
        return _unpacked(bytes(message.data), message.format, where, depth_scale)
    if message.encoding not in _DEPTHS:
        raise FrameError(f"{where}: depth of the encoding {message.encoding[:30]}, expected {', '.join(_DEPTHS)}")
    dtype = np.dtype(_DEPTHS[message.encoding]).newbyteorder(">" if message.is_bigendian else "<")
    raw = _rows(message, dtype, 1, where)[..., 0]
    if raw.dtype.kind == "f":
        return without_gaps(raw.astype(np.float32), where)
    return depth_in_metres(raw.astype(np.uint16), depth_scale, INVALID_DEPTH)


def _rows(message: Any, dtype: np.dtype[Any], channels: int, where: str) -> NDArray[Any]:
    """(h, w, channels), without what fills the rows up."""
    width, height, step = int(message.width), int(message.height), int(message.step)
    data, row = bytes(message.data), width * channels * dtype.itemsize
    if not 0 < width * height <= MAX_PIXELS or step < row or len(data) < step * height:
        raise FrameError(f"{where}: {len(data)} bytes, expected {height} rows of {max(step, row)} for {width} pixels")
    rows = np.frombuffer(data, np.uint8, step * height).reshape(height, step)[:, :row]
    return np.ascontiguousarray(rows).view(dtype).reshape(height, width, channels)


def _unpacked(data: bytes, kind: str, where: str, depth_scale: float) -> NDArray[np.float32]:
    start = next((at for at in (0, _CONFIG.size) if data[at:].startswith(SIGNATURE)), None)
    raw = None if start is None else decode_grey16(data[start:], MAX_PIXELS)
    if raw is None:
        raise FrameError(
            f"{where}: packed as '{kind[:40]}', expected a whole 16-bit PNG (compressedDepth png); JPEG and RVL are no "
            "depth that is read"
        )
    if "32FC1" not in kind:
        return depth_in_metres(raw, depth_scale, INVALID_DEPTH)
    if start == 0:
        raise FrameError(f"{where}: packed as '{kind[:40]}', without the numbers that make metres of it")
    _, a, b = _CONFIG.unpack_from(data)
    with np.errstate(divide="ignore", invalid="ignore"):
        return without_gaps(np.where(raw == 0, 0, a / (raw - np.float32(b))).astype(np.float32), where)


def calibration_of(message: Any, where: str, *, rectified: bool | None) -> Calibration:
    """The K that a CameraInfo gives, and its lens.

    Args:
        message: CameraInfo.
        where: its topic.
        rectified: whether the pictures are: then K is that of P, and the distortion was taken out; None if nobody said.

    Raises:
        DataError: If it is not calibrated, the lens distorts and nobody said whether the pictures are rectified, or
            they are a part of the camera's.
    """
    lower = {name.lower(): getattr(message, name) for name in ("K", "k", "P", "p", "D", "d") if hasattr(message, name)}
    k = np.array(lower["k"], np.float64).reshape(3, 3)
    if rectified:
        k = np.array(lower["p"], np.float64).reshape(3, 4)[:, :3]
    if k[0, 0] == 0:
        raise DataError(f"{where}: {'P' if rectified else 'K'} is 0: the camera was not calibrated")
    numbers = [float(value) for value in lower["d"]]
    lens = None
    if distorts(message) and not rectified:
        told = f"the lens distorts ({message.distortion_model}, D: {', '.join(f'{one:g}' for one in numbers)[:80]})"
        if rectified is None:
            raise DataError(
                f"{where}: {told}; say data.rectified=true if colour and depth are of image_proc's rectified topics, "
                "data.rectified=false if they are as the camera took them"
            )
        try:
            lens = _lens(message.distortion_model, numbers)
        except ValueError as error:
            raise DataError(
                f"{where}: {told}, which is not read ({error}); rectify the pictures by image_proc, and say "
                "data.rectified=true"
            ) from error
    part = message.roi.width not in (0, message.width) or message.roi.height not in (0, message.height)
    if part or message.binning_x > 1 or message.binning_y > 1:
        raise DataError(
            f"{where}: pictures are a part of the camera's, or binned, which is not read; record whole ones"
        )
    size = (int(message.width), int(message.height))
    return Calibration(k, size if min(size) > 0 else None, distortion=lens)


def distorts(message: Any) -> bool:
    """Whether the lens of a CameraInfo does."""
    return any(float(value) for value in (message.D if hasattr(message, "D") else message.d))


def _lens(model: str, numbers: list[float]) -> Distortion | None:
    """The lens of a CameraInfo. Raises ValueError if it is of another kind."""
    if model not in _LENSES:
        raise ValueError(f"expected {', '.join(_LENSES)}")
    name, most = _LENSES[model]
    if any(numbers[most:]):
        raise ValueError(f"{len(numbers)} numbers, of which {most} are read")
    return distortion_of(name, numbers[:most])
