"""An LMDB file that this process has open: once for all who use it, checked before it is believed, growing as it fills.

Any number of processes read and write at once: LMDB lets readers through always, and writers wait for each other. Only
what was committed is ever seen, so a process that is killed leaves a whole file behind.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipfeat.errors import ConfigError, OutputError

if TYPE_CHECKING:
    import lmdb


FIRST_SIZE = 64 << 20
"""Bytes that a new cache may grow to before its map is doubled. The file itself is as large as what it holds."""

_SPARE = 4 << 20
"""Bytes that must stay free on the disk: LMDB copies the pages of its tree before it changes them."""

_MAX_READERS = 1024
_LARGEST_PAGE = 1 << 16


def import_lmdb() -> Any:
    """The package lmdb.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import lmdb
        import lmdb.verify
    except ImportError as error:
        why = "cache=lmdb needs the package lmdb, 3.0 or newer: pip install 'clipfeat[cache]', or cache=none"
        raise ConfigError(why) from error
    return lmdb


@dataclass(eq=False)
class Environment:
    """One opening of an LMDB file, shared by all who use it in this process.

    The size of the map may change only while no transaction of this process runs, so one lock is held for each.
    """

    path: Path
    readonly: bool
    lmdb_environment: "lmdb.Environment"
    identity: tuple[int, int]
    pid: int = field(default_factory=os.getpid)
    users: int = 1
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, key: bytes) -> bytes | None:
        """The value of a key, or None; raises what lmdb raises."""
        with self.lock, self._begin(write=False) as transaction:
            value = transaction.get(key)
            return None if value is None else bytes(value)

    def all_keys(self) -> list[bytes]:
        """All keys, in order; raises what lmdb raises."""
        with self.lock, self._begin(write=False) as transaction:
            return [bytes(key) for key in transaction.cursor().iternext(keys=True, values=False)]

    def write(self, items: list[tuple[bytes, bytes]]) -> None:
        """Writes keys and values in one transaction; raises what lmdb raises.

        Raises:
            OSError: If the disk has no room for them.
        """
        import lmdb

        size = sum(len(key) + len(value) for key, value in items)
        with self.lock:
            while True:
                free = shutil.disk_usage(self.path).free
                if free < size + _SPARE:
                    raise OSError(0, f"{free / 1e6:.0f} MB free on the disk, {(size + _SPARE) / 1e6:.0f} MB needed")
                try:
                    with self._begin(write=True) as transaction:
                        for key, value in items:
                            transaction.put(key, value)
                    return
                except lmdb.MapFullError:
                    self.lmdb_environment.set_mapsize(2 * self.lmdb_environment.info()["map_size"])

    @contextmanager
    def _begin(self, *, write: bool) -> Iterator["lmdb.Transaction"]:
        import lmdb

        try:
            transaction = self.lmdb_environment.begin(write=write)
        except lmdb.MapResizedError:  # another process made it larger
            self.lmdb_environment.set_mapsize(0)
            transaction = self.lmdb_environment.begin(write=write)
        with transaction:
            yield transaction


class _Registry:
    """The openings of this process: LMDB forbids two of one file."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[tuple[int, int], Environment] = {}
        self._told_of_forks = False

    def acquire(self, path: Path, *, readonly: bool) -> Environment:
        """The opening of a file, for one user more.

        Raises:
            OutputError: If it can't be opened so, or is damaged.
            ConfigError: If the package lmdb is not installed.
        """
        with self._lock:
            if not self._told_of_forks:
                # A thread may hold the lock while another forks; nobody would ever give it back in the child.
                os.register_at_fork(after_in_child=self._renew_lock)
                self._told_of_forks = True
            self._drop_inherited()
            known = self._open.get(_identity(path) or (-1, -1))
            if known is None:
                known = _open_environment(path, readonly=readonly)
                self._open[known.identity] = known
                return known
            if known.readonly and not readonly:
                raise OutputError(f"cache.path={path}: open for reading only in this process already; close it first")
            known.users += 1
            return known

    def release(self, environment: Environment) -> None:
        """Takes note that one user less needs it; the last one closes the file."""
        with self._lock:
            if environment.pid != os.getpid():
                return
            environment.users -= 1
            if environment.users == 0:
                self._open.pop(environment.identity, None)
                environment.lmdb_environment.close()

    def _drop_inherited(self) -> None:
        """After a fork: the parent's openings are closed here, which leaves the parent's own as they are."""
        for identity, environment in list(self._open.items()):
            if environment.pid != os.getpid():
                environment.lmdb_environment.close()
                del self._open[identity]

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()


registry = _Registry()


def _open_environment(path: Path, *, readonly: bool) -> Environment:
    lmdb = import_lmdb()
    if path.exists() and not path.is_dir():
        raise OutputError(f"cache.path={path}: a file, expected a folder; choose another cache.path")
    try:
        if not readonly:
            path.mkdir(parents=True, exist_ok=True)
        _check_pages(path)
        environment = lmdb.open(
            str(path),
            map_size=FIRST_SIZE,
            readonly=readonly,
            create=not readonly,
            # Readers take note of themselves in a file of their own, unless nobody can write there.
            lock=not readonly or can_write(path),
            metasync=False,  # a power cut may undo the last transaction; the file stays whole
            max_readers=_MAX_READERS,
        )
        # Slots of readers that were killed would fill the table, and keep old pages from being used again.
        environment.reader_check()
        _check_length(environment, path)
    except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError) as error:
        raise OutputError(
            f"cache.path={path}: not a whole cache ({error}); delete it, it fills again, or choose another cache.path"
        ) from error
    except (lmdb.Error, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cache.path={path}: can't be opened ({reason}); choose another cache.path") from error
    identity = _identity(path)
    if identity is None:
        raise OutputError(f"cache.path={path}: went away while it was opened")
    return Environment(path, readonly, environment, identity)


def can_write(path: Path) -> bool:
    """Whether an LMDB file can be changed, or made; ``path`` is its folder."""
    names = [name for name in (path / "data.mdb", path / "lock.mdb") if name.exists()]
    if path.exists():
        return all(os.access(name, os.W_OK) for name in (path, *names))
    return True  # it is made, or the error says why not


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file: the same file under two names is one."""
    try:
        status = (path / "data.mdb").stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _check_pages(path: Path) -> None:
    """Reads all pages that lead to the values, and raises lmdb.CorruptedError where one is wrong.

    LMDB believes every number in its file. One that leads beyond the file's end would kill the process, not raise an
    error. This looks at 60,000 maps in a second, where the disk is not slower.
    """
    import lmdb
    from lmdb.verify import VerifyError, verify

    file = path / "data.mdb"
    if not file.is_file() or not file.stat().st_size:
        return  # a new one
    begin = _meta_pages(file)
    try:
        problems = verify(str(path))
    except VerifyError as error:
        problems = [str(error)]
    # Pages that another process writes meanwhile look wrong. It has looked at the file when it opened it.
    if problems and _meta_pages(file) == begin:
        raise lmdb.CorruptedError(problems[0])


def _check_length(environment: "lmdb.Environment", path: Path) -> None:
    """Of what is cut off, only the page that a value begins with was looked at."""
    import lmdb

    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size = (path / "data.mdb").stat().st_size
    # A new file is one of no pages yet; a file is longer than what is committed while another process writes.
    if environment.info()["last_txnid"] and size < needed:
        environment.close()
        raise lmdb.CorruptedError(f"{size} bytes, expected {needed}: it was cut off")


def _meta_pages(file: Path) -> bytes:
    """The two pages of which every transaction writes one."""
    with file.open("rb") as data:
        return data.read(2 * _LARGEST_PAGE)
