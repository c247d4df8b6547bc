"""Loops compiled by numba on first use; the machine code is kept for the next process where there is a place for it."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(*, error_model: str = "python") -> Callable[[Function], Function]:
    """A decorator: the function is compiled when it is first called, and runs without Python's lock.

    The machine code is kept beside the package, or in the user's cache. Where neither can be written to, as in a
    container without a home whose packages belong to another, each process compiles anew, in a second or two.

    Args:
        error_model: numpy lets a division by zero be inf or NaN; python raises, and is slower.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": error_model}

    def decorate(function: Function) -> Function:
        try:
            made: Function = numba.njit(cache=True, **options)(function)
        except (RuntimeError, OSError):  # numba finds no place at once, and not when it needs one
            made = numba.njit(**options)(function)
        return made

    return decorate
