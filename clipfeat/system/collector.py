"""Python's collector of circular garbage, kept from what stays for ever: modules, which are most of a start."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache


@contextmanager
def uncollected() -> Iterator[None]:
    """For imports: the collector would go through the half a million objects of torch's modules again and again."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@lru_cache(maxsize=1)
def no_last_collection() -> None:
    """Lets a process end without a last search through all modules, half a second of a core. Once a process."""
    atexit.register(gc.freeze)
