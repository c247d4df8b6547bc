"""What other packages say while clipfeat uses them, and what other processes of clipfeat's own say."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)
_OURS = logging.getLogger("clipfeat")


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


class KeptWarnings(logging.Handler):
    """Keeps clipfeat's warnings until somebody takes them: for a process that has no terminal."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._kept: deque[str] = deque()
        _OURS.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one."""
        self._kept.append(record.getMessage())

    def take(self) -> list[str]:
        """Those since the last time."""
        return [self._kept.popleft() for _ in range(len(self._kept))]


class WarningsOnce(logging.Handler):
    """Passes the warnings of other processes on, but those that this one, or another, has given already."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told: set[str] = set()
        if _OURS.hasHandlers():  # or Python's own last resort would fall silent
            _OURS.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Takes note of one that is given here."""
        self._told.add(record.getMessage())

    def pass_on(self, warnings: Iterable[str]) -> None:
        """Gives the new ones."""
        for warning in warnings:
            if warning not in self._told:
                self._told.add(warning)
                log.warning("%s", warning)

    def close(self) -> None:
        """Listens no more."""
        _OURS.removeHandler(self)
        super().close()
