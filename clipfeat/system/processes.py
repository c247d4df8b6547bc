"""Processes that begin anew, and know nothing of the script that started them."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess

_hiding = threading.Lock()


class FreshProcess(SpawnProcess):
    """A spawned process that does not run its caller's script again.

    Python lets it, for the script may define what the process is to do, and a script that does not ask for
    ``__name__ == "__main__"`` then begins its work a second time. What clipfeat's processes do lies in clipfeat.
    """

    def start(self) -> None:
        """See ``multiprocessing.Process``."""
        with _script_hidden():
            super().start()


class FreshContext(SpawnContext):
    """Spawns such processes: threads that the caller has would be frozen by a fork."""

    Process = FreshProcess


@contextmanager
def _script_hidden() -> Iterator[None]:
    """Takes away what multiprocessing tells a new process of the script: the name of its module, or its file."""
    script = sys.modules["__main__"]
    with _hiding:
        there = {name: value for name in ("__spec__", "__file__") if (value := getattr(script, name, None)) is not None}
        for name in there:
            setattr(script, name, None)
        try:
            yield
        finally:
            for name, value in there.items():
                setattr(script, name, value)
