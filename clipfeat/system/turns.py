"""Threads that share something, until one of them needs it for itself."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Lets any number of threads in together, or one alone, for whom the others wait."""

    def __init__(self) -> None:
        self._left = threading.Condition()
        self._inside = 0
        self._alone = threading.Lock()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Beside others, but not beside one that is alone, or waits to be."""
        with self._alone, self._left:
            self._inside += 1
        try:
            yield
        finally:
            with self._left:
                self._inside -= 1
                self._left.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """When all who are inside have left; must not be asked for inside."""
        with self._alone:
            with self._left:
                self._left.wait_for(lambda: self._inside == 0)
            yield
