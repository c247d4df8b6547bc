"""Feature maps kept from one run to the next, in one LMDB file.

A map is given back only for the picture that it was made of. Beside the maps, under ``card/<key>``, lies what is known
of a model without loading it, as JSON. ``cache_entry.py`` says how a map is stored, ``lmdb_file.py`` opens the file.
"""

import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipfeat.errors import DataError, OutputError
from clipfeat.model.cache_entry import CacheEntry, decode_entry, encode_entry, map_key
from clipfeat.model.config import CacheConfig
from clipfeat.model.lmdb_file import Environment, can_write, import_lmdb, registry
from clipfeat.types import FeatureMap

log = logging.getLogger(__name__)


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
        self._environment: Environment | None = None
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
        data = self._read(map_key(fingerprint, scene_id, frame_id))
        found = None
        if data is not None:
            try:
                found = decode_entry(data, picture)
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
        items = [(map_key(fingerprint, e.scene_id, e.frame_id), encode_entry(e)) for e in entries]
        self._write(items)
        with self._guard:
            self.counts.stored += len(items)

    def maps(self) -> list[tuple[str, str]]:
        """Fingerprint and ``<scene>/<frame>`` of all maps that are kept.

        Raises:
            OutputError: If the cache can't be opened or read.
        """
        lmdb = import_lmdb()
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
            decode_entry(self._read(f"{fingerprint}/{frame}".encode()) or b"", picture="")
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
            registry.release(environment)

    def __enter__(self) -> "MapCache":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        # At the interpreter's end the module's names may have gone already.
        if registry is not None and getattr(self, "_environment", None) is not None:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "readonly": self.readonly}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _shared(self) -> "Environment":
        with self._guard:
            # After a fork the parent's opening is not the child's to use.
            if self._environment is None or self._environment.pid != os.getpid():
                self._environment = registry.acquire(self.path, readonly=self.readonly)
            return self._environment

    def _read(self, key: bytes) -> bytes | None:
        lmdb = import_lmdb()
        try:
            return self._shared().read(key)
        except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.BadTxnError, lmdb.InvalidError) as error:
            self._count_damaged(key.decode(errors="replace"), error)
        except lmdb.Error as error:
            raise OutputError(f"cache.path={self.path}: can't be read ({error})") from error
        return None

    def _write(self, items: list[tuple[bytes, bytes]]) -> None:
        lmdb = import_lmdb()
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


def build_cache(cfg: CacheConfig) -> MapCache | None:
    """The cache that ``cache=…`` names, open; None for none. One that can't be written to is read only.

    Raises:
        OutputError: If its path can't be used.
        ConfigError: If the package lmdb is not installed.
    """
    return CACHES[cfg.name](Path(cfg.path))


def _open_lmdb(path: Path) -> MapCache:
    readonly = (path / "data.mdb").is_file() and not can_write(path)
    if readonly:
        log.warning("WARNING cache.path=%s: can't be written to; its maps are used, and no others are added", path)
    return MapCache.open(path, readonly=readonly)


CACHES: dict[str, Callable[[Path], MapCache | None]] = {"none": lambda _path: None, "lmdb": _open_lmdb}
