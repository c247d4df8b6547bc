"""Work done ahead: a bounded, ordered prefetch in threads."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from itertools import count, islice
from multiprocessing.connection import wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def end_with_parent() -> None:
    """Ends this process when the one that started it is gone. A pool's process that is not told would wait for ever.

    To be called once, first of all, in a process of ``multiprocessing``.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="clipfeat-parent", daemon=True).start()


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int
) -> Generator[Result, None, None]:
    """``map(function, items)`` in threads, in order, never more than ``ahead`` results in waiting.

    Decoding and resizing leave Python's lock, so threads suffice and nothing is copied between processes. An error of
    ``function`` is raised where its result would have come. When the generator is closed, what has not begun is dropped
    and what has begun is waited for.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="clipfeat-prepare") as pool:
        yield from in_order(pool, function, items, ahead)


def in_order(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int, *, keep: bool = False
) -> Generator[Result, None, None]:
    """As ``prefetch``, in a pool of threads or processes; the pool is shut down at the end, unless it is kept."""
    source = iter(items)
    waiting: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(source, ahead))
    try:
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(source, 1))
            yield result
    finally:
        if keep:
            wait_for([future for future in waiting if not future.cancel()])
        else:
            pool.shutdown(wait=True, cancel_futures=True)


def shares(items: Sequence[Item], size: int, workers: int) -> Iterator[Sequence[Item]]:
    """Batches of ``size`` items that become smaller towards the end, so that all workers finish at about the same time.

    What is left is always enough for each worker to take two batches of the present size (guided self-scheduling,
    Polychronopoulos and Kuck, 1987). The workers' first batches are of different sizes: the first of all is soon
    there, and later not all workers need the disk at one moment and none in between.
    """
    begin = 0
    for number in count(1):
        left = len(items) - begin
        if left == 0:
            return
        first = -(-size * number // workers)
        now = min(size, first, -(-left // (2 * workers)))
        yield items[begin : begin + now]
        begin += now
