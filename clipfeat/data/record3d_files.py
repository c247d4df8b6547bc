"""The files of a Record3D recording, packed in an archive (.r3d, a zip) or in folders, by frame."""

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from clipfeat.data.base import frame_number
from clipfeat.data.images import MAX_PIXELS
from clipfeat.errors import DataError, FrameError

METADATA = ("metadata", "metadata.json")
"""Of the app's archive, and of its export."""

_FRAME = re.compile(r"(rgbd|rgb|depth)/([0-9]+)\.(jpg|png|depth|conf|exr)")

_KINDS = {
    ("rgbd", "jpg"): "colour", ("rgb", "jpg"): "colour", ("rgb", "png"): "colour",
    ("rgbd", "depth"): "depth", ("depth", "exr"): "depth", ("rgbd", "conf"): "confidence",
}  # fmt: skip

_LARGEST = 16 * MAX_PIXELS
"""Bytes of one file: nothing is unpacked that says more."""

_AGAIN = "copy or export the recording again"


class Store(Protocol):
    """Files by name. Safe to use from several threads."""

    path: Path

    def names(self) -> Iterable[str]:
        """All of them."""
        ...

    def read(self, name: str) -> bytes:
        """The content of one.

        Raises:
            FrameError: If it can't be read.
        """
        ...


class Archive:
    """The files in a zip, opened once; its list of files is kept, and nothing else.

    Raises:
        DataError: If it is none, or cut off.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            if not path.is_file():  # to open a named pipe would wait for ever
                raise DataError(f"{path}: no such file, expected a Record3D recording (.r3d)")
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            # The list stands at the end, so nothing is known of the files of an archive that is cut off.
            raise DataError(f"{path}: cut off, damaged or no .r3d archive ({error}); {_AGAIN}") from error

    def names(self) -> Iterable[str]:
        """See ``Store``."""
        return self._zip.namelist()

    def read(self, name: str) -> bytes:
        """See ``Store``. A file whose checksum is wrong is damaged."""
        try:
            size = self._zip.getinfo(name).file_size
            if size > _LARGEST:
                raise FrameError(f"{self.path}, {name}: says it is of {size} bytes, {_LARGEST} are read at most")
            return self._zip.read(name)
        except KeyError as error:
            raise FrameError(f"{self.path}: holds no {name}") from error
        except FrameError:
            raise
        except Exception as error:  # zlib's, zipfile's and the system's own
            raise FrameError(f"{self.path}, {name}: damaged ({error}); {_AGAIN}") from error


class Folder:
    """The same files, unpacked or exported."""

    def __init__(self, path: Path):
        self.path = path

    def names(self) -> Iterable[str]:
        """See ``Store``."""
        for name in METADATA:
            if (self.path / name).is_file():
                yield name
        for folder in ("rgbd", "rgb", "depth"):
            if (self.path / folder).is_dir():
                yield from (f"{folder}/{file.name}" for file in (self.path / folder).iterdir())

    def read(self, name: str) -> bytes:
        """See ``Store``."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise FrameError(f"{self.path / name}: can't be read ({error.strerror or error})") from error


class FrameFiles:
    """Which file is which frame's.

    Attributes:
        store: the files.
        metadata: name of the one that describes all frames.
        color: name of each frame's picture, ascending by number.
        depth: of its depth, where it has some.
        confidence: of how far the phone trusts that, where it says so.

    Args:
        store: the files.

    Raises:
        DataError: If there is no metadata or no picture, or two files of a kind have one number.
    """

    def __init__(self, store: Store):
        self.store = store
        found: dict[str, dict[int, str]] = {"colour": {}, "depth": {}, "confidence": {}}
        metadata = ""
        for name in store.names():
            metadata = name if name in METADATA else metadata
            match = _FRAME.fullmatch(name)
            kind = _KINDS.get((match[1], match[3])) if match else None
            if match is None or kind is None:
                continue
            number = frame_number(match[2], f"{store.path}, {name}")
            if (before := found[kind].setdefault(number, name)) != name:
                raise DataError(f"{store.path}: {before} and {name} are both frame {number}; remove one of them")
        expected = f"expected {' or '.join(METADATA)}, and pictures rgbd/0.jpg or rgb/0.jpg, as Record3D writes them"
        if not metadata:
            raise DataError(f"{store.path}: holds no metadata; {expected}")
        if not found["colour"]:
            raise DataError(f"{store.path}: holds no picture; {expected}")
        self.metadata = metadata
        self.color = dict(sorted(found["colour"].items()))
        self.depth = found["depth"]
        self.confidence = found["confidence"]

    def where(self, name: str) -> str:
        """A file, for messages."""
        return f"{self.store.path}, {name}" if isinstance(self.store, Archive) else str(self.store.path / name)
