"""Files that appear whole or not at all, and folders that several processes change one after another."""

import fcntl
import os
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from clipfeat.errors import OutputError

TEMPORARY = ".tmp"
"""Ending of the hidden files that are not whole yet."""

_TEMPORARY_NAME = re.compile(rf"\..+\.([\w-]+)\.(\d+)-\d+{re.escape(TEMPORARY)}")
_DAY_S = 24 * 3600


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside ``path`` that takes its name when the block ends well, and goes when it does not.

    Raises:
        OutputError: If it can't be written, such as on a full disk.
    """
    with temporary_file(path) as temporary, temporary.open("w+b") as file:
        yield file


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """The name of a temporary file, renamed to ``path`` when the block ends well, removed when it does not.

    Raises:
        OutputError: If it can't be written, such as on a full disk.
    """
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


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lets one process at a time into the block: shards share folders, and must not clear or join each other's files.

    The lock goes with its process, however that ends.

    Raises:
        OutputError: If its file can't be made.
    """
    path = folder / ".lock"
    try:
        file = path.open("wb")
    except OSError as error:
        raise OutputError(f"{path}: can't be written ({error.strerror or error})") from error
    with file:
        with suppress(OSError):  # some network disks have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
