"""Files that appear whole or not at all."""

import errno
import mmap
import os
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from clipfeat.errors import OutputError

TEMPORARY = ".tmp"
"""Ending of the hidden files that are not whole yet."""

_TEMPORARY_NAME = re.compile(rf"\..+\.([\w-]+)\.(\d+)-\d+{re.escape(TEMPORARY)}")
_DAY_S = 24 * 3600
_BLOCK = 4096
_DIRECT_FROM = 2**20
"""Bytes from which on a file is written past the page cache."""


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside ``path`` that takes its name when the block ends well, and goes when it does not.

    Raises:
        OutputError: If it can't be written, such as on a full disk.
    """
    with _temporary(path) as temporary, temporary.open("w+b") as file:
        yield file


@contextmanager
def direct_file(path: Path) -> Iterator["AlignedBuffer"]:
    """As ``atomic_file``, for large files that are written from front to back and not read again soon.

    They are gathered in memory and written past the page cache where the file system allows it. Pages of the cache have
    to be found, cleared and filled, only to hold what nobody will read: that costs 5 to 45 ms of a core for 16 MB, and
    writing past it 0.4 ms. The memory is a thread's own and used again.

    Raises:
        OutputError: If it can't be written, such as on a full disk.
    """
    buffer: AlignedBuffer | None = getattr(_own, "buffer", None)
    if buffer is None:
        buffer = _own.buffer = AlignedBuffer()
    buffer.size = 0
    with _temporary(path) as temporary:
        yield buffer
        buffer.write_to(temporary)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """The name of a temporary file, renamed to ``path`` or removed when the block ends."""
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        why = error.strerror or error
        raise OutputError(f"{path}: can't be written ({why}); what was finished before is kept") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_path(path: Path) -> Path:
    """The hidden name beside ``path`` that this thread writes under; it says which process of which machine that is."""
    return path.with_name(f".{path.name}.{_machine()}.{os.getpid()}-{threading.get_ident()}{TEMPORARY}")


def remove_leftovers(folders: Iterable[Path]) -> int:
    """Removes the temporary files of processes that were killed, and returns how many there were.

    Other processes may be writing into the same folders, from other machines too. A file is left over if its process
    ran here and does so no longer, or if nobody has written to it for a day.

    Args:
        folders: looked at without their subfolders; they need not be there.
    """
    found = 0
    for folder in folders:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for entry in entries:
                match = _TEMPORARY_NAME.fullmatch(entry.name)
                if match is None:
                    continue
                with suppress(OSError, OverflowError):  # it was renamed just now, or another process removes it too
                    dead = match.group(1) == _machine() and not _runs(int(match.group(2)))
                    if dead or time.time() - entry.stat().st_mtime > _DAY_S:
                        Path(entry).unlink()
                        found += 1
    return found


@cache
def _machine() -> str:
    """The host's name and, where there are such, its space of process ids: containers may share the one."""
    try:
        space = f"-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        space = ""
    return re.sub(r"[^\w-]", "-", socket.gethostname())[:64] + space


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


class AlignedBuffer:
    """Memory that grows, begins at a page and can be written to a file past the page cache.

    Attributes:
        size: bytes written into it.
    """

    def __init__(self) -> None:
        self.size = 0
        self._memory = mmap.mmap(-1, _DIRECT_FROM)

    def write(self, data: Any) -> int:
        """Appends anything that is contiguous bytes."""
        source = np.frombuffer(data, np.uint8)
        end = self.size + len(source)
        if end > len(self._memory):
            larger = mmap.mmap(-1, -(-max(end, 3 * len(self._memory) // 2) // _BLOCK) * _BLOCK)
            larger[: self.size] = self._memory[: self.size]
            self._memory = larger
        np.frombuffer(self._memory, np.uint8)[self.size : end] = source
        self.size = end
        return len(source)

    def write_to(self, path: Path) -> None:
        """Writes everything to a new file.

        Raises:
            OSError: If that fails.
        """
        direct = getattr(os, "O_DIRECT", 0) if self.size >= _DIRECT_FROM else 0
        try:
            self._write(path, direct)
        except OSError as error:
            if not direct or error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            self._write(path, 0)  # a file system without direct writing, such as a tmpfs of an older kernel

    def _write(self, path: Path, flags: int) -> None:
        # Whole blocks are written, as direct writing wants it, and what is too much is cut off.
        whole = min(-(-self.size // _BLOCK) * _BLOCK, len(self._memory)) if flags else self.size
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | flags, 0o666)
        try:
            with memoryview(self._memory) as memory:
                done = 0
                while done < whole:
                    done += os.write(descriptor, memory[done:whole])
            os.ftruncate(descriptor, self.size)
        finally:
            os.close(descriptor)


_own = threading.local()
