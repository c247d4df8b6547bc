"""Large files from memory to disk without a copy: memory that begins at a page, and files past the page cache.

Pages of the cache have to be found, cleared and filled, only to hold what nobody will read soon: that costs 5 to 45 ms
of a core for 16 MB, and writing past it 0.6 ms. But the disk then fetches the bytes itself, and does so only from the
beginning of a page, to a whole block of the file.
"""

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from weakref import finalize

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from clipfeat.system.atomic import temporary_file
from clipfeat.system.pinned import pin

BLOCK = 4096
"""Bytes of a page of memory, and of a block of a disk: what is written past the cache begins and ends at one."""

_LARGE_PAGE = 2**21

# What is shared between processes, Python's default, is not given in large pages.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}

# From malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

_DIRECT = getattr(os, "O_DIRECT", 0)

_ROWS_AT_ONCE = 256
"""Rows that change their type at once: few enough to stay in the cache between reading and writing them."""

_GATHERED = 2**20
"""Bytes that are gathered before they are written. A file with less goes through the page cache."""


class PageBuffer:
    """Memory that begins at a page, grows, and is used again and again: fresh memory has to be cleared, page by page.

    An array of it is valid until the next one is asked for.
    """

    def __init__(self) -> None:
        self._memory = _pages(BLOCK)
        self._unpin: finalize[Any, PageBuffer] | None = None

    def floats(
        self, rows: int, columns: int, dtype: DTypeLike = np.float32, *, pinned: bool = False
    ) -> NDArray[np.floating]:
        """A (rows, columns) array, its values anything.

        Args:
            rows: of it.
            columns: of it.
            dtype: of it.
            pinned: whether a GPU fills it.

        Raises:
            ConfigError: If memory can't be pinned.
        """
        kind = np.dtype(dtype)
        size = kind.itemsize * rows * columns
        if size > len(self._memory) or (pinned and self._unpin is None):
            if self._unpin is not None:
                self._unpin()
            # The old memory goes when its last array does.
            self._memory = _pages(max(size * 9 // 8, BLOCK))
            self._unpin = finalize(self, pin(self._memory)) if pinned else None
        return np.frombuffer(self._memory, kind)[: rows * columns].reshape(rows, columns)

    def hold(self, values: NDArray[np.floating], dtype: DTypeLike) -> NDArray[np.floating]:
        """Values (N, C) in this memory, in the type that they are to be written in; none is copied to where it is.

        Args:
            values: anywhere, or the array that ``floats`` gave last, which is lost if its type is another.
            dtype: no wider than theirs.
        """
        kind, begins = np.dtype(dtype), np.frombuffer(self._memory, np.uint8).ctypes.data
        if values.dtype == kind and values.ctypes.data == begins:
            return values
        rows, columns = values.shape
        out = self.floats(rows, columns, kind)
        there, source = torch.from_numpy(out), torch.from_numpy(values)
        for begin in range(0, rows, _ROWS_AT_ONCE):
            # Made elsewhere first: what a row of this memory becomes ends no later than the row, but may overlap it.
            part = source[begin : begin + _ROWS_AT_ONCE].to(there.dtype)
            there[begin : begin + _ROWS_AT_ONCE] = part
        return out


def _pages(size: int) -> mmap.mmap:
    """Memory of at least ``size`` bytes, in large pages where there are some.

    A disk takes 16 MB in a third less time from 8 of those than from 4,000 small ones, and is less work to drive.
    """
    memory = mmap.mmap(-1, -(-size // BLOCK) * BLOCK, **_PRIVATE)
    if size >= _LARGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


@lru_cache(maxsize=1)
def reuse_memory() -> None:
    """Tells the C library to keep what is freed, for all threads together. Once a process; only glibc listens.

    By default it hands large arrays back to the system and keeps a heap a thread: a network's layers in several threads
    then clear up to 20,000 fresh pages a picture, 20 ms, and without that none. The process keeps its peak of memory.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)  # what loading a model has left over goes back first
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, -1)
        mallopt(_M_MMAP_THRESHOLD, 2**25)  # the largest that it takes


@lru_cache(maxsize=1)
def page_buffers(count: int) -> "SimpleQueue[PageBuffer]":
    """A queue of buffers, to take one and put it back: who finds none waits for one.

    The next run of this process, of a sweep say, has the same ones: the system takes 3 to 40 ms to find large pages for
    16 MB.
    """
    buffers: SimpleQueue[PageBuffer] = SimpleQueue()
    for _ in range(count):
        buffers.put(PageBuffer())
    return buffers


@contextmanager
def direct_file(path: Path, *, one_of_many: bool = False) -> Iterator["DirectFile"]:
    """As ``atomic_file``, for large files that are written from front to back and not read again soon.

    Raises:
        OutputError: If it can't be written, such as on a full disk.
    """
    with temporary_file(path, one_of_many=one_of_many) as temporary:
        file = DirectFile(temporary)
        try:
            yield file
            file.finish()
        finally:
            file.close()


class DirectFile:
    """A file that is written past the page cache where the file system allows it, through it otherwise.

    Small pieces are gathered; a large one that begins at a page of memory, and comes where a block of the file begins,
    goes to the disk from where it lies.

    Attributes:
        size: bytes written into it.
    """

    def __init__(self, path: Path):
        self.size = 0
        self._path = path
        self._descriptor = -1
        self._direct = False
        if not hasattr(_own, "gathered"):
            _own.gathered = _pages(_GATHERED)  # a thread's own, used again
        self._gathered: mmap.mmap = _own.gathered
        self._waiting = 0

    def write(self, data: Any) -> int:
        """Appends anything that is contiguous bytes.

        Raises:
            OSError: If the disk is full, or the like.
        """
        source = np.frombuffer(data, np.uint8)
        self.size += len(source)
        rest = source
        if self._waiting % BLOCK == 0 and len(source) >= _GATHERED and source.ctypes.data % BLOCK == 0:
            self._flush()
            whole = len(source) // BLOCK * BLOCK
            self._to_disk(source[:whole].data)
            rest = source[whole:]
        gathered = np.frombuffer(self._gathered, np.uint8)
        while len(rest):
            count = min(len(rest), _GATHERED - self._waiting)
            gathered[self._waiting : self._waiting + count] = rest[:count]
            self._waiting += count
            rest = rest[count:]
            if self._waiting == _GATHERED:
                self._flush()
        return len(source)

    def finish(self) -> None:
        """Writes what waits.

        Raises:
            OSError: If the disk is full, or the like.
        """
        if self._descriptor < 0:
            self._open(0)
            self._flush()
            return
        self._waiting = -(-self._waiting // BLOCK) * BLOCK  # whole blocks, and what is too much is cut off
        self._flush()
        os.ftruncate(self._descriptor, self.size)

    def close(self) -> None:
        """Closes the file, whole or not."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _flush(self) -> None:
        with memoryview(self._gathered) as memory:
            self._to_disk(memory[: self._waiting])
        self._waiting = 0

    def _to_disk(self, data: memoryview) -> None:
        if self._descriptor < 0:
            self._open(_DIRECT)
        done = 0
        while done < len(data):
            try:
                done += os.write(self._descriptor, data[done:])
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._go_through_cache()

    def _open(self, direct: int) -> None:
        try:
            self._descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | direct, 0o666)
            self._direct = bool(direct)
        except OSError as error:
            if not direct or error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            self._open(0)  # a file system without direct writing, such as a tmpfs of an older kernel

    def _go_through_cache(self) -> None:
        """For file systems that take the flag and refuse to write, and after a write that ended within a block."""
        import fcntl

        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & ~_DIRECT)
        self._direct = False


_own = threading.local()
