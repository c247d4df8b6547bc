"""Feature maps kept from one run to the next, in one LMDB file.

A key is ``<fingerprint>/<scene>/<frame>``: the fingerprint stands for everything that shapes a map (``model/cached.py``
makes it). A value is a safetensors file: ``values`` (h, w, C) float16, ``image_to_map`` (2, 3) float64, ``clip_global``
(D,) float32 where it is known, ``picture`` and ``checksum`` uint8. A map is given back only for the picture that it was
made of. Beside the maps, under ``card/<key>``, lies what is known of a model without loading it, as JSON.

Any number of processes read and write at once: LMDB lets readers through always, and writers wait for each other. Only
what was committed is ever seen, so a process that is killed leaves a whole cache behind.
"""

import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import torch
from safetensors.torch import load, save

from clipfeat.errors import ConfigError, DataError, OutputError
from clipfeat.model.config import CacheConfig
from clipfeat.types import FeatureMap

if TYPE_CHECKING:
    import lmdb

log = logging.getLogger(__name__)

FIRST_SIZE = 64 << 20
"""Bytes that a new cache may grow to before its map is doubled. The file itself is as large as what it holds."""

_SPARE = 4 << 20
"""Bytes that must stay free on the disk: LMDB copies the pages of its tree before it changes them."""

_MAX_READERS = 1024
_LARGEST_PAGE = 1 << 16
_LONGEST_SCENE = 300  # LMDB's keys end at 511 bytes


@dataclass(frozen=True, eq=False)
class CacheEntry:
    """A map to be kept.

    Attributes:
        scene_id: scene.
        frame_id: frame number.
        picture: ``Picture.digest`` of the picture that the map was made of.
        feature_map: values (C, h, w) in any precision; float16 is what is kept.
    """

    scene_id: str
    frame_id: int
    picture: str
    feature_map: FeatureMap


@dataclass
class CacheCounts:
    """What a cache was asked for.

    Attributes:
        found: maps given back.
        missing: maps that were not there, or of another picture, or damaged.
        damaged: entries that could not be read; they count as missing.
        stored: maps that were put in.
    """

    found: int = 0
    missing: int = 0
    damaged: int = 0
    stored: int = 0


class MapCache:
    """Feature maps by scene, frame, fingerprint and picture. Safe to use from several threads.

    The file is opened when it is first needed, by the process that needs it: an object of this class may be pickled
    and goes through a fork. All objects of one process share one opening of the file, as LMDB demands.

    Args:
        path: folder of the LMDB file; made if missing.
        readonly: never write. The folder must be there.

    Attributes:
        path: the folder.
        readonly: whether nothing may be written.
        counts: what was asked for so far, through this object.
    """

    def __init__(self, path: Path, *, readonly: bool = False):
        self.path = path
        self.readonly = readonly
        self.counts = CacheCounts()
        self._environment: _Environment | None = None
        self._guard = threading.Lock()

    @classmethod
    def open(cls, path: Path, *, readonly: bool = False) -> "MapCache":
        """A cache that is open, so that whatever is wrong with the path is known at once.

        Raises:
            OutputError: If the path is not, and can't become, a cache; or it is a damaged one. What something else
            than LMDB damages while it is open may still kill the process.
            ConfigError: If the package lmdb is not installed.
        """
        cache = cls(path, readonly=readonly)
        cache._shared()
        return cache

    def get(self, scene_id: str, frame_id: int, fingerprint: str, picture: str) -> FeatureMap | None:
        """The map of a frame, or None where there is none of this very picture.

        A damaged entry is counted, and is as good as none.

        Returns:
            Values (C, h, w) float16 on the CPU, channels-last in memory: what the sampler reads without a copy.

        Raises:
            OutputError: If the cache can't be opened.
        """
        data = self._read(_map_key(fingerprint, scene_id, frame_id))
        found = None
        if data is not None:
            try:
                found = _decode(data, picture)
            except Exception as error:  # noqa: BLE001 - a damaged header may raise anything
                self._count_damaged(f"{scene_id} frame {frame_id}", error)
        with self._guard:
            if found is None:
                self.counts.missing += 1
            else:
                self.counts.found += 1
        return found

    def put(self, fingerprint: str, entries: Sequence[CacheEntry]) -> None:
        """Keeps maps, in one transaction: all of them or, where that fails, none.

        What was kept of a frame under the same fingerprint is replaced. Waits while another process writes.

        Raises:
            OutputError: If it can't be written, such as on a full disk.
            ValueError: If a map holds values that float16 does not (see ``as_float16``).
        """
        items = [(_map_key(fingerprint, e.scene_id, e.frame_id), _encode(e)) for e in entries]
        self._write(items)
        with self._guard:
            self.counts.stored += len(items)

    def maps(self) -> list[tuple[str, str]]:
        """Fingerprint and ``<scene>/<frame>`` of all maps that are kept.

        Raises:
            OutputError: If the cache can't be opened or read.
        """
        lmdb = _import_lmdb()
        try:
            keys = [key.decode(errors="replace") for key in self._shared().all_keys()]
        except lmdb.Error as error:
            raise OutputError(f"cache.path={self.path}: can't be read ({error})") from error
        return [(kind, rest) for kind, _, rest in (key.partition("/") for key in keys) if kind != "card"]

    def check(self, fingerprint: str, frame: str) -> None:
        """Reads a map that ``maps`` named, to find whether it is damaged.

        Raises:
            DataError: If it is.
            OutputError: If the cache can't be opened.
        """
        try:
            _decode(self._read(f"{fingerprint}/{frame}".encode()) or b"", picture="")
        except Exception as error:  # a damaged header may raise anything
            raise DataError(
                f"cache.path={self.path}: the map of {frame} is damaged ({error}); runs pass it over and make it again"
            ) from error

    def get_card(self, key: str) -> dict[str, Any] | None:
        """What was kept under a key by ``put_card``; None where there is nothing, or nothing readable.

        Raises:
            OutputError: If the cache can't be opened.
        """
        data = self._read(f"card/{key}".encode())
        if data is None:
            return None
        try:
            card: dict[str, Any] = json.loads(data)
            if not isinstance(card, dict):
                raise ValueError("not a dictionary")
        except ValueError as error:
            self._count_damaged(f"card {key}", error)
            return None
        return card

    def put_card(self, key: str, card: dict[str, Any]) -> None:
        """Keeps a dictionary of anything JSON can hold.

        Raises:
            OutputError: If it can't be written.
        """
        self._write([(f"card/{key}".encode(), json.dumps(card, allow_nan=False).encode())])

    def close(self) -> None:
        """Closes the file, unless another object of this process uses it. It opens again when it is needed again."""
        with self._guard:
            environment, self._environment = self._environment, None
        if environment is not None:
            _registry.release(environment)

    def __enter__(self) -> "MapCache":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        # At the interpreter's end the module's names may have gone already.
        if _registry is not None and getattr(self, "_environment", None) is not None:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "readonly": self.readonly}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _shared(self) -> "_Environment":
        with self._guard:
            # After a fork the parent's opening is not the child's to use.
            if self._environment is None or self._environment.pid != os.getpid():
                self._environment = _registry.acquire(self.path, readonly=self.readonly)
            return self._environment

    def _read(self, key: bytes) -> bytes | None:
        lmdb = _import_lmdb()
        try:
            return self._shared().read(key)
        except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.BadTxnError, lmdb.InvalidError) as error:
            self._count_damaged(key.decode(errors="replace"), error)
        except lmdb.Error as error:
            raise OutputError(f"cache.path={self.path}: can't be read ({error})") from error
        return None

    def _write(self, items: list[tuple[bytes, bytes]]) -> None:
        lmdb = _import_lmdb()
        if self.readonly:
            raise OutputError(f"cache.path={self.path}: opened for reading only, nothing can be added")
        try:
            self._shared().write(items)
        except lmdb.CorruptedError as error:
            raise OutputError(f"cache.path={self.path}: damaged ({error}); delete it, it fills again") from error
        except (lmdb.Error, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OutputError(
                f"cache.path={self.path}: can't be written ({reason}); what was kept before is whole. "
                f"Make room or choose another cache.path"
            ) from error

    def _count_damaged(self, what: str, error: Exception) -> None:
        log.warning("WARNING cache.path=%s: %s is damaged and passed over (%s)", self.path, what, error)
        with self._guard:
            self.counts.damaged += 1


def as_float16(values: torch.Tensor) -> torch.Tensor | None:
    """The values as they are kept; None if they are not finite or too large, so that float16 can't hold them."""
    half = values.half()
    return half if bool(torch.isfinite(half).all()) else None


def build_cache(cfg: CacheConfig) -> MapCache | None:
    """The cache that ``cache=…`` names, open; None for none.

    Raises:
        OutputError: If its path can't be used.
        ConfigError: If the package lmdb is not installed.
    """
    return CACHES[cfg.name](Path(cfg.path))


CACHES: dict[str, Callable[[Path], MapCache | None]] = {"none": lambda _path: None, "lmdb": MapCache.open}


def _map_key(fingerprint: str, scene_id: str, frame_id: int) -> bytes:
    scene = scene_id.encode()
    if len(scene) > _LONGEST_SCENE:
        scene = blake2b(scene, digest_size=32).hexdigest().encode()
    return b"/".join((fingerprint.encode(), scene, str(frame_id).encode()))


def _encode(entry: CacheEntry) -> bytes:
    half = as_float16(entry.feature_map.values)
    if half is None:
        raise ValueError(f"{entry.scene_id} frame {entry.frame_id}: float16 can't hold the values of this map")
    tensors = {
        "values": half.permute(1, 2, 0).contiguous().cpu(),
        "image_to_map": torch.tensor(entry.feature_map.image_to_map, dtype=torch.float64),
        "picture": torch.frombuffer(bytearray.fromhex(entry.picture), dtype=torch.uint8),
    }
    if entry.feature_map.clip_global is not None:
        tensors["clip_global"] = entry.feature_map.clip_global.float().contiguous().cpu()
    return save({**tensors, "checksum": _checksum(tensors)})


def _decode(data: bytes, picture: str) -> FeatureMap | None:
    """Raises anything for a damaged entry; None for a map of another picture."""
    tensors = load(data)
    checksum = tensors.pop("checksum")
    if not torch.equal(checksum, _checksum(tensors)):
        raise ValueError("its checksum does not fit")
    if tensors["picture"].numpy().tobytes().hex() != picture:
        return None
    clip_global = tensors.get("clip_global")
    return FeatureMap(tensors["values"].permute(2, 0, 1), tensors["image_to_map"].numpy(), clip_global)


def _checksum(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    value = 0
    for name, tensor in sorted(tensors.items()):
        value = crc32(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode(), value)
        value = crc32(tensor.numpy().data, value)
    return torch.from_numpy(np.frombuffer(value.to_bytes(4, "little"), np.uint8).copy())


@dataclass(eq=False)
class _Environment:
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
        with self.lock, self._begin(write=False) as transaction:
            value = transaction.get(key)
            return None if value is None else bytes(value)

    def all_keys(self) -> list[bytes]:
        with self.lock, self._begin(write=False) as transaction:
            return [bytes(key) for key in transaction.cursor().iternext(keys=True, values=False)]

    def write(self, items: list[tuple[bytes, bytes]]) -> None:
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
        self._open: dict[tuple[int, int], _Environment] = {}
        self._told_of_forks = False

    def acquire(self, path: Path, *, readonly: bool) -> _Environment:
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

    def release(self, environment: _Environment) -> None:
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


_registry = _Registry()


def _import_lmdb() -> Any:
    try:
        import lmdb
        import lmdb.verify
    except ImportError as error:
        why = "cache=lmdb needs the package lmdb, 3.0 or newer: pip install 'clipfeat[cache]', or cache=none"
        raise ConfigError(why) from error
    return lmdb


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file: the same file under two names is one."""
    try:
        status = (path / "data.mdb").stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _open_environment(path: Path, *, readonly: bool) -> _Environment:
    lmdb = _import_lmdb()
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
    return _Environment(path, readonly, environment, identity)


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
