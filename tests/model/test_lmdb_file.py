import multiprocessing
import os
import pickle
import signal
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import lmdb
import pytest
import torch
from cache_entries import PICTURE, entry, is_entry

from clipfeat.errors import OutputError
from clipfeat.model import lmdb_file
from clipfeat.model.cache import MapCache


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "maps.lmdb"


def test_the_map_doubles_as_often_as_it_must(path, monkeypatch):
    monkeypatch.setattr(lmdb_file, "FIRST_SIZE", 64 << 10)
    entries = [entry(i, shape=(32, 16, 16)) for i in range(64)]  # 16 KiB each, 1 MiB in all: four doublings and more
    with MapCache.open(path) as cache:
        cache.put("fp", entries[:1])
        cache.put("fp", entries[1:40])
        cache.put("fp", entries[40:])
        assert all(is_entry(cache.get("scene0000_00", e.frame_id, "fp", PICTURE), e) for e in entries)
    assert (path / "data.mdb").stat().st_size > 1 << 20


def test_threads_read_while_one_makes_the_map_grow(path, monkeypatch):
    monkeypatch.setattr(lmdb_file, "FIRST_SIZE", 64 << 10)
    entries = [entry(i, shape=(16, 16, 16)) for i in range(60)]
    wrong = []
    with MapCache.open(path) as cache:
        cache.put("fp", entries[:1])
        done = threading.Event()

        def read():
            while not done.is_set():
                if not is_entry(cache.get("scene0000_00", 0, "fp", PICTURE), entries[0]):
                    wrong.append(1)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for kept in entries[1:]:
            cache.put("fp", [kept])
        done.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert cache.counts.found > 3
        assert cache.counts.missing == 0


def read_all(path, count, results):
    """A process that waits for all maps of another one's writing."""
    cache = MapCache(path)
    missing, wrong, deadline = set(range(count)), 0, time.monotonic() + 60
    while missing and time.monotonic() < deadline:
        for i in sorted(missing):
            found = cache.get("scene0000_00", i, "fp", PICTURE)
            if found is not None:
                missing.discard(i)
                wrong += not is_entry(found, entry(i, shape=(16, 16, 16)))
    results.put((len(missing), wrong))


def test_processes_read_while_one_writes_and_the_map_grows(path, monkeypatch):
    monkeypatch.setattr(lmdb_file, "FIRST_SIZE", 64 << 10)
    with MapCache.open(path) as cache:
        context = multiprocessing.get_context("fork")  # the parent's opening is open already: a child makes its own
        results = context.Queue()
        readers = [context.Process(target=read_all, args=(path, 100, results)) for _ in range(3)]
        for reader in readers:
            reader.start()
        for i in range(100):
            cache.put("fp", [entry(i, shape=(16, 16, 16))])
        assert [results.get(timeout=60) for _ in readers] == [(0, 0)] * 3
        for reader in readers:
            reader.join()
        assert is_entry(cache.get("scene0000_00", 99, "fp", PICTURE), entry(99, shape=(16, 16, 16)))


def write_pairs(path, scene_id, count, told):
    """A process that keeps two maps a transaction, and tells after each."""
    torch.set_num_threads(1)
    cache = MapCache.open(path)
    for i in range(count):
        cache.put("fp", [entry(2 * i + k, scene_id, shape=(64, 14, 14)) for k in (0, 1)])
        told.send(i)


def test_two_writers_wait_for_each_other_and_one_that_is_killed_leaves_a_whole_cache(path):
    context = multiprocessing.get_context("fork")
    writers, ears = {}, {}
    for scene_id, count in (("killed", 10**6), ("other", 60)):
        ears[scene_id], told = context.Pipe(duplex=False)
        writers[scene_id] = context.Process(target=write_pairs, args=(path, scene_id, count, told))
        writers[scene_id].start()
        told.close()
    written = [ears["killed"].recv() for _ in range(40)]
    os.kill(writers["killed"].pid, signal.SIGKILL)
    with suppress(EOFError):
        while True:
            written.append(ears["killed"].recv())
    for writer in writers.values():
        writer.join(60)
    assert (writers["killed"].exitcode, writers["other"].exitcode) == (-signal.SIGKILL, 0)
    with MapCache.open(path) as cache:
        for scene_id, count in (("killed", len(written)), ("other", 60)):
            for frame_id in range(2 * count):
                expected = entry(frame_id, shape=(64, 14, 14))
                assert is_entry(cache.get(scene_id, frame_id, "fp", PICTURE), expected)
        # Both maps of a transaction, or none.
        after = [cache.get("killed", 2 * len(written) + k, "fp", PICTURE) is None for k in (0, 1)]
        assert after[0] == after[1]
        cache.put("fp", [entry()])
        assert cache.counts.damaged == 0


def test_one_process_may_open_a_cache_twice_and_hand_it_to_others(path, tmp_path):
    first, second = MapCache.open(path), MapCache.open(path)
    first.put("fp", [entry()])
    first.close()
    assert second.get("scene0000_00", 0, "fp", PICTURE) is not None
    (tmp_path / "link.lmdb").symlink_to(path)
    with MapCache.open(tmp_path / "link.lmdb") as third:
        assert third.get("scene0000_00", 0, "fp", PICTURE) is not None
    copy = pickle.loads(pickle.dumps(second))  # noqa: S301
    assert copy.get("scene0000_00", 0, "fp", PICTURE) is not None
    second.close()
    copy.close()
    assert first.get("scene0000_00", 0, "fp", PICTURE) is not None  # opens again
    first.close()
    with lmdb.open(str(path)):  # nobody holds it any more
        pass


def use_inherited(cache, told):
    cache.put("fp", [entry(1)])
    told.put((cache._shared().pid == os.getpid(), is_entry(cache.get("scene0000_00", 0, "fp", PICTURE), entry())))


def test_after_a_fork_the_child_opens_the_file_for_itself(path):
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    with MapCache.open(path) as cache:
        cache.put("fp", [entry()])
        child = context.Process(target=use_inherited, args=(cache, told))
        child.start()
        assert told.get(timeout=60) == (True, True)
        child.join()
        assert child.exitcode == 0
        cache.put("fp", [entry(2)])
        assert all(is_entry(cache.get("scene0000_00", i, "fp", PICTURE), entry(i)) for i in range(3))


@pytest.mark.parametrize("damage", ["not lmdb", "cut off", "short"])
def test_a_damaged_file_is_named(path, damage):
    with MapCache.open(path) as cache:
        cache.put("fp", [entry(shape=(192, 28, 28))])
    file = path / "data.mdb"
    data = file.read_bytes()
    file.write_bytes({"not lmdb": b"x" * len(data), "cut off": data[: len(data) // 2], "short": data[:100]}[damage])
    with pytest.raises(OutputError, match=r"maps.lmdb: not a whole cache \(.*\); delete it, it fills again, or choose"):
        MapCache.open(path)
    file.unlink()
    with MapCache.open(path) as cache:
        assert cache.get("scene0000_00", 0, "fp", PICTURE) is None


def test_no_byte_of_the_pages_that_lead_to_the_maps_can_kill_the_process(path):
    """Each is changed; LMDB is asked only for what it can read without leaving the file."""
    with MapCache.open(path) as cache:
        cache.put("fp", [entry(i, shape=(4, 16, 16)) for i in range(120)])  # two leaves, and a branch above them
        cache.put("fp", [entry(3, seed=1, shape=(4, 16, 16))])  # and pages that are free again
    file = path / "data.mdb"
    whole = file.read_bytes()
    pages = [at for at in range(0, len(whole), 4096) if at < 8192 or whole[at + 10 : at + 12] in (b"\x01\0", b"\x02\0")]
    assert len(pages) >= 6
    refused = 0
    for at in (at + k for at in pages for k in [*range(0, 200, 7), *range(200, 4096, 197)]):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            with MapCache.open(path) as cache:
                for i in (0, 3, 119):
                    cache.get("scene0000_00", i, "fp", PICTURE)
                cache.put("fp", [entry(0, seed=2, shape=(4, 16, 16)), entry(130)])
        except OutputError as error:
            refused += "not a whole cache" in str(error)
    assert refused > 50


def test_a_cache_that_another_process_writes_to_is_opened(path, monkeypatch):
    """Its pages are read while they change, and seem damaged."""
    import lmdb.verify

    with MapCache.open(path) as cache:
        cache.put("fp", [entry()])

    def in_between(folder):
        with lmdb.open(folder) as other, other.begin(write=True) as transaction:
            transaction.put(b"k", b"v")
        return ["page 7 is reachable more than once"]

    monkeypatch.setattr(lmdb.verify, "verify", in_between)
    with MapCache.open(path) as cache:
        assert is_entry(cache.get("scene0000_00", 0, "fp", PICTURE), entry())
    monkeypatch.setattr(lmdb.verify, "verify", lambda _: ["page 7 is reachable more than once"])
    with pytest.raises(OutputError, match=r"not a whole cache \(page 7 is reachable more than once\); delete it"):
        MapCache.open(path)


def test_places_that_can_not_be_used_are_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cache.path=.*file: a file, expected a folder"):
        MapCache.open(tmp_path / "file")
    with pytest.raises(OutputError, match=r"cache.path=.*file/maps: can't be opened \(Not a directory\); choose"):
        MapCache.open(tmp_path / "file" / "maps")


def test_a_full_disk_is_named_before_anything_is_written(path, monkeypatch):
    message = r"maps.lmdb: can't be written \(1 MB free on the disk, 4 MB needed\); what was kept before is whole. Make"
    with MapCache.open(path) as cache:
        cache.put("fp", [entry()])
        with monkeypatch.context() as full:
            full.setattr(lmdb_file.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
            with pytest.raises(OutputError, match=message):
                cache.put("fp", [entry(1)])
        assert is_entry(cache.get("scene0000_00", 0, "fp", PICTURE), entry())
        cache.put("fp", [entry(1)])


def test_a_disk_that_becomes_full_while_it_is_written_to_is_named(path, monkeypatch):
    """Where free space is a guess, as with quotas, LMDB's own error comes."""

    class Full:
        def begin(self, write):
            raise lmdb.DiskError("mdb_txn_commit: No space left on device")

    with MapCache.open(path) as cache:
        shared = cache._shared()
        monkeypatch.setattr(shared, "lmdb_environment", Full())
        with pytest.raises(OutputError, match=r"maps.lmdb: can't be written \(mdb_txn_commit: No space left on device"):
            cache.put("fp", [entry()])
        monkeypatch.undo()
