import math
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import CHECKOUT

from clipfeat.system.streaming import in_order, prefetch, shares


def test_results_come_in_order_whoever_is_first():
    def work(n):
        time.sleep(0.02 if n % 2 == 0 else 0)
        return n * n

    assert list(prefetch(work, range(20), workers=4, ahead=6)) == [n * n for n in range(20)]


def test_never_more_than_asked_for_are_in_waiting():
    started = []
    results = prefetch(lambda n: started.append(n) or n, range(100), workers=2, ahead=5)
    for taken in range(20):
        assert next(results) == taken
        time.sleep(0.002)
        assert len(started) <= taken + 1 + 5
    results.close()
    time.sleep(0.01)
    assert len(started) <= 26


def test_an_error_comes_up_where_its_result_would_have_been():
    def work(n):
        if n == 3:
            raise ValueError("three")
        return n

    results = prefetch(work, range(10), workers=2, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_stopping_early_leaves_no_thread_behind():
    results = prefetch(lambda n: n, range(1000), workers=3, ahead=8)
    next(results)
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("clipfeat-prepare")]


@pytest.mark.parametrize("count", [0, 1, 2, 5, 40, 60, 1003])
@pytest.mark.parametrize(("size", "workers"), [(4, 2), (8, 1), (32, 16)])
def test_shares_are_all_of_it_in_order_and_small_at_the_end(count, size, workers):
    items = list(range(count))
    found = list(shares(items, size, workers))
    assert [item for share in found for item in share] == items
    lengths = [len(share) for share in found]
    assert lengths[workers:] == sorted(lengths[workers:], reverse=True)
    if count >= 4 * size * workers:
        assert lengths[:workers] == [math.ceil(size * (i + 1) / workers) for i in range(workers)]
    assert not lengths or (max(lengths) <= size and lengths[-1] == 1)
    if count == 1003 and size == 4:
        assert lengths.count(4) >= 244
    # Workers that take the next share when they are done finish within one small share of each other.
    clock = [0] * workers
    for length in lengths:
        clock[clock.index(min(clock))] += length
    assert max(clock) - min(clock) <= 2


def test_a_pool_that_is_kept_takes_more_and_what_has_begun_is_waited_for():
    begun, go_on = [], threading.Event()

    def work(item):
        begun.append(item)
        if item == 1:
            go_on.wait()
        return item

    with ThreadPoolExecutor(1) as pool:
        found = in_order(pool, work, range(9), ahead=4, keep=True)
        assert next(found) == 0
        threading.Timer(0.05, go_on.set).start()
        found.close()
        assert go_on.is_set()
        assert begun == [0, 1]
        assert list(in_order(pool, work, "abc", ahead=2, keep=True)) == ["a", "b", "c"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_pool_s_processes_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "pool.py").write_text(
        "import multiprocessing, os, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from clipfeat.system.streaming import end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    pool = ProcessPoolExecutor(1, context, end_with_parent)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    command, environment = [sys.executable, str(tmp_path / "pool.py")], {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(process):
    """An orphan that has ended is a zombie until somebody asks for it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
