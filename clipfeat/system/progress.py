"""What a terminal shows of work that goes on."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm


@contextmanager
def progress_bar(
    total: int | None, unit: str, doing: str | None = None, *, shown: bool = True
) -> "Iterator[tqdm[Any]]":
    """A bar, and messages above it; where no terminal shows it, it is disabled and messages go their own way.

    Args:
        total: how often it is updated; None where nobody knows.
        unit: what is counted.
        doing: what is said before the bar.
        shown: False disables it on a terminal too.
    """
    with (
        tqdm(total=total, desc=doing, unit=unit, disable=None if shown else True) as bar,
        # It takes the handlers of the root logger, which may be the caller's own, for so long.
        nullcontext() if bar.disable else logging_redirect_tqdm(),
    ):
        yield bar
