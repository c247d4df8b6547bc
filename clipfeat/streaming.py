"""Work done ahead: a bounded, ordered prefetch in threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int
) -> Generator[Result, None, None]:
    """``map(function, items)`` in threads, in order, never more than ``ahead`` results in waiting.

    Decoding and resizing leave Python's lock, so threads suffice and nothing is copied between processes. An error of
    ``function`` is raised where its result would have come. When the generator is closed, what has not begun is dropped
    and what has begun is waited for.
    """
    source = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="clipfeat-prepare") as pool:
        waiting: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(source, ahead))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(source, 1))
                yield result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def shares(items: Sequence[Item], size: int, workers: int) -> Iterator[Sequence[Item]]:
    """Batches of ``size`` items that become smaller towards the end, so that all workers finish at about the same time.

    What is left is always enough for each worker to take two batches of the present size (guided self-scheduling,
    Polychronopoulos and Kuck, 1987).
    """
    begin = 0
    while begin < len(items):
        left = len(items) - begin
        now = min(size, -(-left // (2 * workers)))
        yield items[begin : begin + now]
        begin += now
