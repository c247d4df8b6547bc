"""ScanNet's raw recordings, streamed: one ``.sens`` file a scene, read frame by frame through an index of offsets.

The format, version 4, little-endian::

    u32 version · u64 length and bytes of the sensor's name
    4×4 float32, row-major: intrinsic_color, extrinsic_color, intrinsic_depth, extrinsic_depth
    i32 color_compression, depth_compression · u32 color_width, color_height, depth_width, depth_height
    f32 depth_shift (units in a metre) · u64 num_frames
    then a frame:  16 f32 camera_to_world · u64 timestamp_color, timestamp_depth, color_bytes, depth_bytes · the blobs
    then IMU readings, which are not read
"""

import logging
import os
import stat
import struct
import threading
import weakref
import zlib
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.base import check_scene_name
from clipfeat.data.config import SensConfig
from clipfeat.data.images import MAX_PIXELS, depth_in_metres, picture_of
from clipfeat.data.matrices import camera_for, check_pose
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Camera, Frame, Picture

log = logging.getLogger(__name__)

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

_AGAIN = "copy or download the file again"


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


class SensFile:
    """Random access to the frames of one ``.sens`` file. Safe to use from several threads.

    Opening walks over the fixed part of every frame and reads no picture: 80 bytes a frame are kept. The file closes
    when nobody holds this object any more, so a thread that still reads never loses it.

    Attributes:
        path: the file.
        header: see ``SensHeader``.
        warnings: what a user should know of this file, a line each; empty for a whole file.

    Args:
        path: the file.

    Raises:
        DataError: If there is no such file, it is no ``.sens`` of version 4, its header is damaged or names a
            compression that isn't read, or it holds no whole frame.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            # Asked before opening: to open a named pipe would wait for ever.
            if not stat.S_ISREG(path.stat().st_mode):
                raise DataError(f"{path}: not a file, expected a ScanNet recording (.sens)")
            self._fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file, expected a ScanNet recording (.sens)") from error
        except OSError as error:
            raise DataError(f"{path}: can't be opened ({error.strerror or error})") from error
        close = weakref.finalize(self, os.close, self._fd)
        try:
            size = os.fstat(self._fd).st_size
            self.header, start = _read_header(self._fd, size, path)
            index = _walk(self._fd, start, size, self.header.num_frames)
            if not index.offsets.size:
                raise DataError(
                    f"{path}: holds no whole frame of {self.header.num_frames} declared ({index.ends_early}): "
                    f"cut off or damaged; {_AGAIN}"
                )
        except OSError as error:
            close()
            raise DataError(f"{path}: can't be read ({error.strerror or error})") from error
        except BaseException:
            close()
            raise
        self._index = index
        self.warnings = self._find_warnings()

    def __len__(self) -> int:
        """Whole frames in the file."""
        return int(self._index.offsets.size)

    def pose(self, frame_id: int) -> NDArray[np.float64]:
        """(4, 4) cam_to_world as it is stored: all -inf where tracking was lost.

        Raises:
            FrameError: If there is no such frame.
        """
        return self._index.poses[self._row(frame_id)].astype(np.float64)

    def color_blob(self, frame_id: int) -> bytes:
        """The colour picture as it is stored, compressed by ``header.color_kind``.

        Raises:
            FrameError: If there is no such frame, it has no colour, or it can't be read.
        """
        row = self._row(frame_id)
        if not self._index.sizes[row, 0]:
            raise FrameError(f"{self.name_of(frame_id)}: has no colour picture")
        return self._read(frame_id, int(self._index.offsets[row]), int(self._index.sizes[row, 0]))

    def depth_blob(self, frame_id: int) -> bytes:
        """The depth as it is stored, compressed by ``header.depth_kind``; empty for a frame without depth.

        Raises:
            FrameError: If there is no such frame, or it can't be read.
        """
        row = self._row(frame_id)
        color_bytes, depth_bytes = self._index.sizes[row].tolist()
        return self._read(frame_id, int(self._index.offsets[row]) + color_bytes, depth_bytes)

    def picture(self, frame_id: int) -> Picture:
        """Reads the colour picture; it is decoded when its pixels are asked for.

        Raises:
            FrameError: If it can't be read or is no picture.
        """
        camera, name = self.header.color_camera, f"{self.name_of(frame_id)}, colour"
        return unpack_color(self.color_blob(frame_id), self.header.color_kind, (camera.width, camera.height), name)

    def raw_depth(self, frame_id: int) -> NDArray[np.uint16] | None:
        """Decodes the (h, w) uint16 depth, in ``header.depth_scale`` units a metre; None for a frame without depth.

        Raises:
            FrameError: If it can't be read or is damaged.
        """
        camera, name = self.header.depth_camera, f"{self.name_of(frame_id)}, depth"
        blob = self.depth_blob(frame_id)
        return unpack_depth(blob, self.header.depth_kind, (camera.width, camera.height), name) if blob else None

    def name_of(self, frame_id: int) -> str:
        """What messages call a frame."""
        return f"{self.path}: frame {frame_id}"

    def _row(self, frame_id: int) -> int:
        if not 0 <= frame_id < len(self):
            raise FrameError(f"{self.path}: holds no frame {frame_id}, only 0 to {len(self) - 1}")
        return frame_id

    def _read(self, frame_id: int, offset: int, size: int) -> bytes:
        try:
            data = _pread(self._fd, size, offset)
        except OSError as error:
            raise FrameError(f"{self.name_of(frame_id)}: can't be read ({error.strerror or error})") from error
        if len(data) < size:
            raise FrameError(f"{self.name_of(frame_id)}: the file became shorter while it was read; {_AGAIN}")
        return data

    def _find_warnings(self) -> list[str]:
        found = []
        if self._index.ends_early:
            found.append(
                f"{self.path}: {len(self)} of {self.header.num_frames} declared frames are there and used "
                f"({self._index.ends_early}): cut off or damaged; {_AGAIN} to have them all"
            )
        extrinsics = {"colour": self.header.color_extrinsic, "depth": self.header.depth_extrinsic}
        moved = [name for name, matrix in extrinsics.items() if not (np.abs(matrix - np.eye(4)) <= 1e-6).all()]
        if moved:
            found.append(
                f"{self.path}: the {' and '.join(moved)} extrinsics in the header are not the identity; they are not "
                "applied, as ScanNet's own exporter doesn't: depth counts as registered to colour"
            )
        return found


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
        if root.is_file():
            raise DataError(f"data.root={root}: a file, expected the folder that holds it")
        if not root.is_dir():
            raise DataError(f"data.root={root}: no such folder, expected one that holds recordings (.sens)")
        self.root = root
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
            raise FrameError(f"{name}: damaged zlib data ({error}); {_AGAIN}") from error
        if len(blob) > expected:
            raise FrameError(f"{name}: inflates to more than the {expected} bytes of {width}×{height} pixels; {_AGAIN}")
        if not stream.eof:
            raise FrameError(f"{name}: cut-off zlib data, {len(blob)} bytes of {expected} are there; {_AGAIN}")
    _check_length(len(blob), expected, size, name)
    return np.frombuffer(blob, "<u2").reshape(height, width).astype(np.uint16, copy=False)


def _check_length(length: int, expected: int, size: tuple[int, int], name: str) -> None:
    if length != expected:
        raise FrameError(f"{name}: {length} bytes, expected {expected} for {size[0]}×{size[1]} pixels; {_AGAIN}")


@dataclass(frozen=True, eq=False)
class _Index:
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


def _read_header(fd: int, size: int, path: Path) -> tuple[SensHeader, int]:
    """Reads and checks the header of a file of ``size`` bytes; returns it and the offset of the first frame."""
    data = _pread(fd, _NAME_LENGTH.size + _MAX_NAME + _AFTER_NAME.size, 0)
    if not data:
        raise DataError(f"{path}: empty file, expected a ScanNet recording; {_AGAIN}")
    cut_off = f"{path}: cut off in the header, after {size} bytes; {_AGAIN}"
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
            f"{path}: damaged header: a sensor name of {name_length} bytes, expected at most {_MAX_NAME}; {_AGAIN}"
        )
    start = _NAME_LENGTH.size + name_length + _AFTER_NAME.size
    if len(data) < start:
        raise DataError(cut_off)
    values = _AFTER_NAME.unpack_from(data, _NAME_LENGTH.size + name_length)
    k_color, color_extrinsic, k_depth, depth_extrinsic = np.array(values[:64], dtype=np.float64).reshape(4, 4, 4)
    color_code, depth_code, *sizes, depth_scale, num_frames = values[64:]
    color_size, depth_size = (sizes[0], sizes[1]), (sizes[2], sizes[3])

    if color_code not in COLOR_KINDS:
        raise DataError(f"{path}: unknown colour compression {color_code}, expected {_choices(COLOR_KINDS)}; {_AGAIN}")
    if depth_code == _OCCI:
        raise DataError(
            f"{path}: depth compressed with occi ({_OCCI}) is not supported, expected {_choices(DEPTH_KINDS)}; export "
            "the scan with ScanNet's own SensReader and read that with data=scannet"
        )
    if depth_code not in DEPTH_KINDS:
        raise DataError(f"{path}: unknown depth compression {depth_code}, expected {_choices(DEPTH_KINDS)}; {_AGAIN}")
    for what, (width, height) in (("colour", color_size), ("depth", depth_size)):
        if not 1 <= width * height <= MAX_PIXELS:
            raise DataError(f"{path}: damaged header: {what} of {width}×{height} pixels; {_AGAIN}")
    if not 0 < depth_scale < float("inf"):
        raise DataError(f"{path}: damaged header: depth_shift {depth_scale:g}, expected units in a metre; {_AGAIN}")
    if not 1 <= num_frames <= _MAX_FRAMES:
        raise DataError(f"{path}: the header declares {num_frames} frames, expected 1 to {_MAX_FRAMES}; {_AGAIN}")
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


def _walk(fd: int, start: int, size: int, declared: int) -> _Index:
    """Goes from frame to frame without reading a picture, and stops at the first that isn't whole.

    Nothing is allocated for what is only declared: the index grows with the frames that are there.
    """
    offsets, sizes, poses = array("q"), array("i"), bytearray()
    ends_early = ""
    at = start
    for frame_id in range(declared):
        fixed = _pread(fd, _FRAME.size, at)
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
    return _Index(
        offsets=np.frombuffer(offsets, np.int64),
        sizes=np.frombuffer(sizes, np.int32).reshape(-1, 2),
        poses=np.frombuffer(poses, "<f4").reshape(-1, 4, 4),
        ends_early=ends_early,
    )


def _pread(fd: int, size: int, offset: int) -> bytes:
    """``size`` bytes from ``offset``, fewer only at the end of the file. Moves no file position: threads don't meet."""
    data = os.pread(fd, size, offset)
    if len(data) == size:
        return data
    parts = [data]  # network file systems may hand a read out in pieces
    while data and (missing := size - sum(map(len, parts))):
        data = os.pread(fd, missing, offset + size - missing)
        parts.append(data)
    return b"".join(parts)


def open_sens(cfg: SensConfig) -> SensDataset:
    """The data set of ``data=sens``."""
    return SensDataset(Path(cfg.root))
