"""What the bytes of a ScanNet recording mean: its header, where its frames are, and what their blobs hold.

The format, version 4, little-endian::

    u32 version · u64 length and bytes of the sensor's name
    4×4 float32, row-major: intrinsic_color, extrinsic_color, intrinsic_depth, extrinsic_depth
    i32 color_compression, depth_compression · u32 color_width, color_height, depth_width, depth_height
    f32 depth_shift (units in a metre) · u64 num_frames
    then a frame:  16 f32 camera_to_world · u64 timestamp_color, timestamp_depth, color_bytes, depth_bytes · the blobs
    then IMU readings, which are not read
"""

import os
import struct
import zlib
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.images import MAX_PIXELS, picture_of
from clipfeat.data.matrices import camera_for
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Camera, Picture

VERSION = 4
COLOR_KINDS = {0: "raw", 1: "png", 2: "jpeg"}
DEPTH_KINDS = {0: "raw", 1: "zlib"}
_OCCI = 2

_NAME_LENGTH = struct.Struct("<IQ")
_AFTER_NAME = struct.Struct("<64f2i4IfQ")
_FRAME = struct.Struct("<64s16xQQ")

# Far above any real recording. A number beyond them is damage, and nothing is allocated for it.
_MAX_NAME = 4096
_MAX_FRAMES = 1 << 22  # 38 hours at 30 Hz
_MAX_BLOB = 4 * MAX_PIXELS

AGAIN = "copy or download the file again"


@dataclass(frozen=True, eq=False)
class SensHeader:
    """What the recording says of all its frames.

    Attributes:
        sensor: name of the device.
        color_kind: how colour is stored: "raw", "png" or "jpeg".
        depth_kind: how depth is stored: "raw" or "zlib".
        color_camera: of pictures of the size that the header gives.
        depth_camera: of depth of the size that the header gives.
        color_extrinsic: (4, 4) float64. Never applied: ScanNet's depth is registered to colour.
        depth_extrinsic: (4, 4) float64. Never applied.
        depth_scale: units of the stored depth in a metre.
        num_frames: frames that the recording declares; a cut-off file holds fewer.
    """

    sensor: str
    color_kind: str
    depth_kind: str
    color_camera: Camera
    depth_camera: Camera
    color_extrinsic: NDArray[np.float64]
    depth_extrinsic: NDArray[np.float64]
    depth_scale: float
    num_frames: int


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """Where the N whole frames are.

    Attributes:
        offsets: (N,) int64, byte at which the colour blob starts; the depth blob follows it.
        sizes: (N, 2) int32, bytes of the colour and depth blobs.
        poses: (N, 4, 4) float32 cam_to_world.
        ends_early: why there are fewer frames than declared; empty if there are not.
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int32]
    poses: NDArray[np.float32]
    ends_early: str


def read_header(fd: int, size: int, path: Path) -> tuple[SensHeader, int]:
    """Reads and checks the header of a file of ``size`` bytes; returns it and the offset of the first frame.

    Raises:
        DataError: If it is damaged, of another version, or names a compression that isn't read.
        OSError: If it can't be read.
    """
    data = pread(fd, _NAME_LENGTH.size + _MAX_NAME + _AFTER_NAME.size, 0)
    if not data:
        raise DataError(f"{path}: empty file, expected a ScanNet recording; {AGAIN}")
    cut_off = f"{path}: cut off in the header, after {size} bytes; {AGAIN}"
    if len(data) < 4:
        raise DataError(cut_off)
    version = int.from_bytes(data[:4], "little")
    if version != VERSION:
        raise DataError(
            f"{path}: version {version} of the .sens format, expected {VERSION}; is it a ScanNet v2 recording?"
        )
    if len(data) < _NAME_LENGTH.size:
        raise DataError(cut_off)
    name_length = _NAME_LENGTH.unpack_from(data)[1]
    if name_length > _MAX_NAME:
        raise DataError(
            f"{path}: damaged header: a sensor name of {name_length} bytes, expected at most {_MAX_NAME}; {AGAIN}"
        )
    start = _NAME_LENGTH.size + name_length + _AFTER_NAME.size
    if len(data) < start:
        raise DataError(cut_off)
    values = _AFTER_NAME.unpack_from(data, _NAME_LENGTH.size + name_length)
    k_color, color_extrinsic, k_depth, depth_extrinsic = np.array(values[:64], dtype=np.float64).reshape(4, 4, 4)
    color_code, depth_code, *sizes, depth_scale, num_frames = values[64:]
    color_size, depth_size = (sizes[0], sizes[1]), (sizes[2], sizes[3])

    if color_code not in COLOR_KINDS:
        raise DataError(f"{path}: unknown colour compression {color_code}, expected {_choices(COLOR_KINDS)}; {AGAIN}")
    if depth_code == _OCCI:
        raise DataError(
            f"{path}: depth compressed with occi ({_OCCI}) is not supported, expected {_choices(DEPTH_KINDS)}; export "
            "the scan with ScanNet's own SensReader and read that with data=scannet"
        )
    if depth_code not in DEPTH_KINDS:
        raise DataError(f"{path}: unknown depth compression {depth_code}, expected {_choices(DEPTH_KINDS)}; {AGAIN}")
    for what, (width, height) in (("colour", color_size), ("depth", depth_size)):
        if not 1 <= width * height <= MAX_PIXELS:
            raise DataError(f"{path}: damaged header: {what} of {width}×{height} pixels; {AGAIN}")
    if not 0 < depth_scale < float("inf"):
        raise DataError(f"{path}: damaged header: depth_shift {depth_scale:g}, expected units in a metre; {AGAIN}")
    if not 1 <= num_frames <= _MAX_FRAMES:
        raise DataError(f"{path}: the header declares {num_frames} frames, expected 1 to {_MAX_FRAMES}; {AGAIN}")
    header = SensHeader(
        sensor=data[_NAME_LENGTH.size : _NAME_LENGTH.size + name_length].decode("utf-8", "replace"),
        color_kind=COLOR_KINDS[color_code],
        depth_kind=DEPTH_KINDS[depth_code],
        color_camera=camera_for(k_color[:3, :3], None, color_size, f"{path}: colour intrinsics", None),
        depth_camera=camera_for(k_depth[:3, :3], None, depth_size, f"{path}: depth intrinsics", None),
        color_extrinsic=color_extrinsic,
        depth_extrinsic=depth_extrinsic,
        depth_scale=depth_scale,
        num_frames=num_frames,
    )
    return header, start


def _choices(kinds: dict[int, str]) -> str:
    return ", ".join(f"{code} ({name})" for code, name in kinds.items())


def walk_frames(fd: int, start: int, size: int, declared: int) -> FrameIndex:
    """Goes from frame to frame without reading a picture, and stops at the first that isn't whole.

    Nothing is allocated for what is only declared: the index grows with the frames that are there.
    """
    offsets, sizes, poses = array("q"), array("i"), bytearray()
    ends_early = ""
    at = start
    for frame_id in range(declared):
        fixed = pread(fd, _FRAME.size, at)
        if len(fixed) < _FRAME.size:
            ends_early = f"frame {frame_id} starts at byte {at} and the file ends at {size}"
            break
        pose, color_bytes, depth_bytes = _FRAME.unpack(fixed)
        left = size - at - _FRAME.size
        if color_bytes + depth_bytes > left:
            ends_early = f"frame {frame_id} declares {color_bytes} + {depth_bytes} bytes, {left} are left"
            break
        if max(color_bytes, depth_bytes) > _MAX_BLOB:
            ends_early = f"frame {frame_id} declares {color_bytes} + {depth_bytes} bytes, too many for one frame"
            break
        if not any(fixed):
            # What a download leaves that reserved its space: every 96 bytes of it would pass for a frame.
            ends_early = f"frame {frame_id}, at byte {at}, is all zeros"
            break
        offsets.append(at + _FRAME.size)
        sizes.extend((color_bytes, depth_bytes))
        poses += pose
        at += _FRAME.size + color_bytes + depth_bytes
    return FrameIndex(
        offsets=np.frombuffer(offsets, np.int64),
        sizes=np.frombuffer(sizes, np.int32).reshape(-1, 2),
        poses=np.frombuffer(poses, "<f4").reshape(-1, 4, 4),
        ends_early=ends_early,
    )


def unpack_color(blob: bytes, kind: str, size: tuple[int, int], name: str) -> Picture:
    """A stored colour picture.

    Args:
        blob: the picture as it is stored.
        kind: "raw", "png" or "jpeg".
        size: (width, height) of raw pixels; a compressed picture has its own.
        name: of the picture, for messages.

    Raises:
        FrameError: If it is no picture, or raw pixels are of another number.
    """
    if kind != "raw":
        return picture_of(blob, name)
    width, height = size
    _check_length(len(blob), width * height * 3, size, name)
    return Picture.of(np.frombuffer(blob, np.uint8).reshape(height, width, 3))


def unpack_depth(blob: bytes, kind: str, size: tuple[int, int], name: str) -> NDArray[np.uint16]:
    """Decodes stored depth to (h, w) uint16.

    Args:
        blob: the depth as it is stored.
        kind: "raw" or "zlib".
        size: (width, height).
        name: of the depth, for messages.

    Raises:
        FrameError: If it is damaged, or holds more or fewer pixels than ``size``.
    """
    width, height = size
    expected = width * height * 2
    if kind == "zlib":
        stream = zlib.decompressobj()
        try:
            # One byte more than there may be: a stream that would fill the memory stops there.
            blob = stream.decompress(blob, expected + 1)
        except zlib.error as error:
            raise FrameError(f"{name}: damaged zlib data ({error}); {AGAIN}") from error
        if len(blob) > expected:
            raise FrameError(f"{name}: inflates to more than the {expected} bytes of {width}×{height} pixels; {AGAIN}")
        if not stream.eof:
            raise FrameError(f"{name}: cut-off zlib data, {len(blob)} bytes of {expected} are there; {AGAIN}")
    _check_length(len(blob), expected, size, name)
    return np.frombuffer(blob, "<u2").reshape(height, width).astype(np.uint16, copy=False)


def _check_length(length: int, expected: int, size: tuple[int, int], name: str) -> None:
    if length != expected:
        raise FrameError(f"{name}: {length} bytes, expected {expected} for {size[0]}×{size[1]} pixels; {AGAIN}")


def pread(fd: int, size: int, offset: int) -> bytes:
    """``size`` bytes from ``offset``, fewer only at the end of the file. Moves no file position: threads don't meet."""
    data = os.pread(fd, size, offset)
    if len(data) == size:
        return data
    parts = [data]  # network file systems may hand a read out in pieces
    while data and (missing := size - sum(map(len, parts))):
        data = os.pread(fd, missing, offset + size - missing)
        parts.append(data)
    return b"".join(parts)
