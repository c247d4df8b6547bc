"""What other packages say while clipfeat uses them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def root_logger_kept() -> Iterator[None]:
    """Keeps ``logging.warning(…)`` of another package from setting up the root logger of a program that has not.

    Python's own ``logging.warning`` calls ``logging.basicConfig`` where the root logger has no handler.
    """
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
