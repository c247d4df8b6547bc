"""Arrays that may be larger than the memory: they grow on disk, row by row."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import BinaryIO

import numpy as np


class Columns:
    """Arrays of the same rows, each in a file without a name, which goes with its process however that ends.

    To be used in a ``with`` block; the arrays are valid until it ends.

    Args:
        folder: on the disk that has room for them.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._open = ExitStack()
        self._files: dict[str, BinaryIO] = {}
        self._kinds: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}

    def __enter__(self) -> "Columns":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()

    def add(self, rows: Mapping[str, np.ndarray]) -> None:
        """Adds rows to the arrays; the first call says which there are.

        Args:
            rows: (n, …) by name.

        Raises:
            ValueError: If the names, types or shapes of rows are not those of before.
            OSError: If the disk is full.
        """
        kinds = {name: (array.dtype, array.shape[1:]) for name, array in rows.items()}
        if not self._kinds:
            self._kinds = kinds
            for name in kinds:
                file = TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed with the others
                self._files[name] = self._open.enter_context(file)
        if kinds != self._kinds:
            differing = [
                name for name in dict.fromkeys([*self._kinds, *kinds]) if kinds.get(name) != self._kinds.get(name)
            ]
            raise ValueError(f"other {' and '.join(differing)} than before")
        for name, array in rows.items():
            self._files[name].write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def arrays(self) -> dict[str, np.ndarray]:
        """All rows by name; they are read from the disk where they are looked at."""
        found: dict[str, np.ndarray] = {}
        for name, file in self._files.items():
            dtype, shape = self._kinds[name]
            file.flush()
            # An empty file can't be mapped.
            whole = np.memmap(file, dtype, mode="r+") if file.tell() else np.empty(0, dtype)
            found[name] = whole.reshape(-1, *shape)
        return found
