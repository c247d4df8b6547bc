"""What a package hands on from its files, which are imported when asked for: ``--help`` must not wait for torch."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any


def lazily(package: str, **places: Sequence[str]) -> tuple[Callable[[str], Any], list[str]]:
    """The ``__getattr__`` (PEP 562) and ``__all__`` of a package whose names lie in its files.

    Args:
        package: its ``__name__``.
        places: by file the names that are handed on from there.
    """
    place_of = {name: file for file, names in places.items() for name in names}

    def find(name: str) -> Any:
        if name not in place_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{place_of[name]}"), name)

    return find, sorted(place_of)
