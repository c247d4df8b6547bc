import threading
from concurrent.futures import ThreadPoolExecutor

from clipfeat.system.turns import Turns


def test_any_number_is_in_together_and_one_alone():
    turns, both, done = Turns(), threading.Barrier(2, timeout=10), []

    def together():
        with turns.together():
            both.wait()
            assert "alone" not in done

    def alone():
        with turns.alone():
            done.append("alone")

    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(together)
        while not turns._inside:
            pass
        with turns.together():
            waits = threads.submit(alone)
            both.wait()
            first.result(10)
            assert not waits.done()
        waits.result(10)
    assert done == ["alone"]


def test_who_fails_inside_leaves():
    turns = Turns()
    for way in (turns.together, turns.alone):
        for _ in range(2):
            try:
                with way():
                    raise ValueError
            except ValueError:
                pass
    with turns.alone():
        pass
