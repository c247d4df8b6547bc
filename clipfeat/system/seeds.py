"""Random weights that follow from a seed alone, whatever other threads do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_one_at_a_time = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's generator begins at ``seed`` in here, and is as it was afterwards.

    All threads share that generator: two that drew weights at once would each get a part of the other's.
    """
    with _one_at_a_time, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
