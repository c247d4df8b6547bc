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
    with temporary_file(path) as temporary, temporary.open("w+b") as file:
        yield file


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """The name of a temporary file, renamed to ``path`` when the block ends well, removed when it does not.

    Raises:
        OutputError: If it can't be written, such as on a full disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}{TEMPORARY}")
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
