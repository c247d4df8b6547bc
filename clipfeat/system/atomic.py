"""Files that appear whole or not at all, and folders that several processes change one after another.

A file that bears its name is whole, also after a power cut: it is written through to the disk before it takes the name.
The name itself may be lost until its folder is written through too. A file alone does that at once; of many in one
folder the last one does it for all (``sync_to_disk``), for each time costs as much as the writing through of a file.
"""

import errno
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
def atomic_file(path: Path, *, one_of_many: bool = False) -> Iterator[BinaryIO]:
    """Opens a temporary file beside ``path`` that takes its name when the block ends well, and goes when it does not.

    Args:
        path: the file.
        one_of_many: whether the caller makes the names of its folder last by ``sync_to_disk``, for many files at once.

    Raises:
        OutputError: If it can't be written, such as on a full disk.
    """
    with temporary_file(path, one_of_many=one_of_many) as temporary, temporary.open("w+b") as file:
        yield file


@contextmanager
def temporary_file(path: Path, *, one_of_many: bool = False) -> Iterator[Path]:
    """The name of a temporary file, renamed to ``path`` when the block ends well, removed when it does not.

    Args:
        path: the file.
        one_of_many: see ``atomic_file``.

    Raises:
        OutputError: If it can't be written, such as on a full disk.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _write_through(temporary)
        temporary.replace(path)
        if not one_of_many:
            sync_to_disk(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        why = error.strerror or error
        raise OutputError(f"{path}: can't be written ({why}); what was finished before is kept") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_to_disk(path: Path) -> None:
    """Makes a file outlast a power cut, or the names in a folder: those that files have taken, and those that are gone.

    Does nothing where there is no such file or folder, or its file system can't.

    Raises:
        OutputError: If the disk fails.
    """
    try:
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):  # one may write where one can't list
            _write_through(path)
    except OSError as error:
        raise OutputError(f"{path}: can't be written through to the disk ({error.strerror or error})") from error


def sync_tree(folder: Path) -> None:
    """Writes a folder through with all that is in it, for one that takes its name when it is whole.

    Raises:
        OSError: If the disk fails.
        OutputError: The same.
    """
    for parent, _, names in os.walk(folder):
        for name in names:
            _write_through(Path(parent, name))
        sync_to_disk(Path(parent))


def _write_through(path: Path) -> None:
    """Returns when the disk has all of a file or a folder; whoever wrote it may have closed it.

    Raises:
        OSError: If the disk fails, or finds out only now that it is full.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Of a file's times and the like nothing is asked. macOS has no such call.
        getattr(os, "fdatasync", os.fsync)(descriptor)
    except OSError as error:
        # Some file systems of networks and of users' programs have no such thing; they write as they see fit.
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


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


_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PROCESS_SPACE = Path("/proc/self/ns/pid")


@cache
def _machine() -> str:
    """The host's name, which start of its system this is, and its space of process ids, as far as they are known.

    Hosts may bear one name (localhost, copies of a virtual machine), and containers of one host start together. What
    was written before the machine started again counts as another's.
    """
    name = re.sub(r"[^\w-]", "-", socket.gethostname())[:64]
    with suppress(OSError, UnicodeDecodeError):
        name += f"-{re.sub(r'[^0-9a-f]', '', _BOOT_ID.read_text(encoding='ascii'))[:8]}"
    with suppress(OSError):
        name += f"-{_PROCESS_SPACE.stat().st_ino}"
    return name


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True
