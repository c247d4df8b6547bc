"""The ``depth.bin`` of a phone's recording in ScanNet++: depth of 256×192 pixels, one frame after another.

Source: scannetpp/scannetpp, iphone/prepare_iphone_data.py. It is one of

* a frame each: its size in 4 bytes, little-endian, then an LZ4 block of uint16 millimetres, or, in older scenes, a raw
  deflate stream of float32 metres;
* one raw deflate stream of the float32 metres of all frames.
"""

import os
import stat
import threading
import weakref
import zlib
from array import array
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.sens_format import pread
from clipfeat.errors import ConfigError, DataError, FrameError

SIZE = (256, 192)
"""(width, height) of each frame."""

_PIXELS = SIZE[0] * SIZE[1]

_LARGEST_BLOCK = 8 * _PIXELS
"""Bytes of a packed frame, at most: what does not pack well is as large as it was, and a little more."""

_MOST_MARKS = 256
"""States of the inflater that are kept, of 60 kB each at most."""

_READ = 1 << 14

_AGAIN = "copy or download the file again"


class DepthFrames(Protocol):
    """Depth by a frame's place, from 0. Safe to use from several threads."""

    count: int | None
    """Frames of the file; None where that is not known before all of it is unpacked."""

    def metres(self, place: int) -> NDArray[np.float32]:
        """(192, 256) metres, 0 where nothing was measured.

        Raises:
            FrameError: If there is no such frame, or it is damaged.
        """
        ...


def open_depth_bin(path: Path) -> DepthFrames:
    """Opens the file, whichever of its kinds it is.

    Raises:
        DataError: If it is missing or none of these.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a named pipe would wait for ever
            raise DataError(f"{path}: not a file, expected ScanNet++'s depth.bin")
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file, expected ScanNet++'s depth.bin") from error
    except OSError as error:
        raise DataError(f"{path}: can't be opened ({error.strerror or error})") from error
    file = _File(path, fd)
    offsets, left = _walk(file)
    if len(offsets) and left == 0:
        return FramedDepth(file, offsets, "")
    try:
        stream = StreamedDepth(file)
        stream.metres(0)
        return stream
    except FrameError:
        pass
    framed = FramedDepth(file, offsets, f"its last {left} bytes are no whole frame")
    try:
        framed.metres(0)
    except FrameError as error:
        raise DataError(
            f"{path}: neither frames packed by LZ4 or deflate nor one stream of them, expected ScanNet++'s depth.bin; "
            f"{_AGAIN}"
        ) from error
    return framed


class _File:
    """An open file; closed when nobody holds it any more."""

    def __init__(self, path: Path, fd: int):
        self.path = path
        self._fd = fd
        self.size = os.fstat(fd).st_size
        weakref.finalize(self, os.close, fd)

    def read(self, size: int, offset: int) -> bytes:
        try:
            return pread(self._fd, size, offset)
        except OSError as error:
            raise FrameError(f"{self.path}: can't be read ({error.strerror or error})") from error


def _walk(file: _File) -> tuple["array[int]", int]:
    """Where the frames' data begin if the file has sizes before them, and the bytes that are left after the last."""
    offsets = array("q")
    at = 0
    while at + 4 <= file.size:
        size = int.from_bytes(file.read(4, at), "little")
        if not 0 < size <= _LARGEST_BLOCK or at + 4 + size > file.size:
            break
        offsets.append(at + 4)
        at += 4 + size
    return offsets, file.size - at


class FramedDepth:
    """Frames with their sizes before them; 8 bytes a frame are kept.

    Args:
        file: the file.
        offsets: where the data of each begin.
        ends_early: why there may be more; empty for a whole file.
    """

    def __init__(self, file: _File, offsets: "array[int]", ends_early: str):
        self._file = file
        self._offsets = offsets
        self._ends_early = ends_early
        self.count: int | None = len(offsets)

    def metres(self, place: int) -> NDArray[np.float32]:
        """See ``DepthFrames``."""
        where = f"{self._file.path}: frame {place}"
        if not 0 <= place < len(self._offsets):
            why = f" ({self._ends_early}: cut off? {_AGAIN})" if self._ends_early else ""
            raise FrameError(f"{where}: the file holds {len(self._offsets)} frames, from 0{why}")
        offset = self._offsets[place]
        size = int.from_bytes(self._file.read(4, offset - 4), "little")
        packed = self._file.read(size, offset)
        plain = _inflated(packed)
        if plain is not None:
            return _of_floats(plain, where)
        plain = _lz4(packed)
        if plain is None:
            raise FrameError(f"{where}: neither deflate data nor an LZ4 block of {SIZE[0]}×{SIZE[1]} pixels; {_AGAIN}")
        return np.frombuffer(plain, "<u2").reshape(SIZE[::-1]).astype(np.float32) / np.float32(1000)


class StreamedDepth:
    """Frames in one deflate stream, which can only be inflated forwards.

    Where frames are asked for in order, nothing is inflated twice. On the way the inflater's state is kept every so
    many frames, so that any frame passed before is reached from the state before it: never more than ``_MOST_MARKS`` of
    them, however long the recording is.

    Args:
        file: the file.
    """

    def __init__(self, file: _File):
        self._file = file
        self.count: int | None = None
        self._lock = threading.Lock()
        self._every = 1
        self._state = _State(0, zlib.decompressobj(-zlib.MAX_WBITS), 0, b"")
        self._marks = {0: self._state.copy()}

    def metres(self, place: int) -> NDArray[np.float32]:
        """See ``DepthFrames``."""
        where = f"{self._file.path}: frame {place}"
        with self._lock:
            nearest = max(mark for mark in self._marks if mark <= place)
            if not nearest <= self._state.place <= place:
                self._state = self._marks[nearest].copy()
            while True:
                plain = self._state.next_frame(self._file, where)
                done = self._state.place > place
                self._mark()
                if done:
                    return _of_floats(plain, where)

    def _mark(self) -> None:
        if self._state.place % self._every or self._state.place in self._marks:
            return
        self._marks[self._state.place] = self._state.copy()
        if len(self._marks) > _MOST_MARKS:
            self._every *= 2
            self._marks = {place: state for place, state in self._marks.items() if place % self._every == 0}


class _State:
    """An inflater before a frame."""

    def __init__(self, place: int, inflater: Any, offset: int, waiting: bytes):
        self.place = place
        self._inflater = inflater
        self._offset = offset
        self._waiting = waiting

    def copy(self) -> "_State":
        return _State(self.place, self._inflater.copy(), self._offset, self._waiting)

    def next_frame(self, file: _File, where: str) -> bytes:
        """The bytes of the frame; the state is that before the next one afterwards."""
        parts, missing = [], 4 * _PIXELS
        while missing:
            data = self._waiting or file.read(_READ, self._offset)
            if not self._waiting:
                self._offset += len(data)
            try:
                part = self._inflater.decompress(data, missing)
            except zlib.error as error:
                raise FrameError(f"{where}: damaged deflate data ({error}); {_AGAIN}") from error
            self._waiting = self._inflater.unconsumed_tail
            if not part and (self._inflater.eof or not data):
                raise FrameError(f"{where}: the file holds {self.place} frames, from 0; is it cut off? {_AGAIN}")
            parts.append(part)
            missing -= len(part)
        self.place += 1
        return b"".join(parts)


def import_lz4() -> Any:
    """The package lz4's blocks.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import lz4.block
    except ImportError as error:
        raise ConfigError(
            "depth.bin is packed by LZ4, which needs the package lz4: pip install 'clipfeat[video]'"
        ) from error
    return lz4.block


def _inflated(packed: bytes) -> bytes | None:
    """The bytes of a frame of float32; None of data that are none."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(packed, 4 * _PIXELS + 1)
    except zlib.error:
        return None
    return plain if inflater.eof and len(plain) == 4 * _PIXELS else None


def _lz4(packed: bytes) -> bytes | None:
    """The bytes of a frame of uint16; None of a block that is none."""
    block = import_lz4()
    try:
        plain: bytes = block.decompress(packed, uncompressed_size=2 * _PIXELS)
    except block.LZ4BlockError:
        return None
    return plain if len(plain) == 2 * _PIXELS else None


def _of_floats(plain: bytes, where: str) -> NDArray[np.float32]:
    depth = np.frombuffer(plain, "<f4").reshape(SIZE[::-1])
    depth = np.where(np.isfinite(depth), depth, np.float32(0))
    if depth.min() < 0:
        raise FrameError(f"{where}: depth down to {depth.min():g}, expected metres; {_AGAIN}")
    return depth
