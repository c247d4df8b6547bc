"""Files that appear whole or not at all."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from clipfeat.errors import OutputError

TEMPORARY = ".tmp"
"""Ending of the hidden files that are not whole yet."""


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside ``path`` that takes its name when the block ends well, and goes when it does not.

    Raises:
        OutputError: If it can't be written, such as on a full disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w+b") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OutputError(
            f"{path}: can't be written ({error.strerror or error}); what was finished before is kept"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
