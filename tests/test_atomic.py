import errno
import os
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from clipfeat import atomic
from clipfeat.atomic import atomic_file, direct_file, remove_leftovers, temporary_path
from clipfeat.errors import OutputError

TMPFS = Path("/dev/shm")  # noqa: S108 - the place is the point
BOTH = pytest.mark.parametrize("open_file", [atomic_file, direct_file])
BYTES = np.random.default_rng(0).integers(0, 255, 5_000_123, dtype=np.uint8)


@BOTH
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 1 << 20, (1 << 20) + 1, 5_000_123])
def test_what_is_written_is_there_and_nothing_else(tmp_path, open_file, size):
    path = tmp_path / "deep" / "x.bin"
    with open_file(path) as file:
        for part in np.array_split(BYTES[:size], 3):
            file.write(part.data)
        assert not path.exists()
    assert path.read_bytes() == BYTES[:size].tobytes()
    assert [p.name for p in path.parent.iterdir()] == ["x.bin"]


@BOTH
def test_a_file_appears_whole_or_not_at_all(tmp_path, open_file):
    path = tmp_path / "x.bin"
    path.write_bytes(b"before")

    def stop_half_way():
        with open_file(path) as file:
            file.write(b"half")
            assert path.read_bytes() == b"before"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_half_way()
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


def test_a_smaller_file_after_a_larger_one_has_nothing_of_it(tmp_path):
    for name, size in (("large", 5_000_123), ("small", 2_000_001), ("tiny", 3)):
        with direct_file(tmp_path / name) as file:
            file.write(BYTES[:size].data)
        assert (tmp_path / name).read_bytes() == BYTES[:size].tobytes()


def test_where_direct_writing_is_refused_the_file_is_written_all_the_same(tmp_path, monkeypatch):
    real, flags = os.open, []

    def without_direct(path, how, *rest):
        flags.append(how & getattr(os, "O_DIRECT", 0))
        if flags[-1]:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, how, *rest)

    monkeypatch.setattr(atomic.os, "open", without_direct)
    with direct_file(tmp_path / "x") as file:
        file.write(BYTES.data)
    assert (tmp_path / "x").read_bytes() == BYTES.tobytes()
    assert flags[-1] == 0


@pytest.mark.skipif(not TMPFS.is_dir(), reason="needs a tmpfs")
def test_a_tmpfs_will_do(tmp_path):
    path = TMPFS / f"clipfeat-test-{os.getpid()}" / "x"
    try:
        with direct_file(path) as file:
            file.write(BYTES.data)
        assert path.read_bytes() == BYTES.tobytes()
    finally:
        path.unlink(missing_ok=True)
        path.parent.rmdir()


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    real = os.write
    written = []

    def full(descriptor, data):
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(real(descriptor, data[: 1 << 20]))
        return written[-1]

    monkeypatch.setattr(atomic.os, "write", full)
    message = r"x: can't be written \(No space left on device\); what was finished before"
    with pytest.raises(OutputError, match=message), direct_file(tmp_path / "x") as file:
        file.write(BYTES.data)
    assert list(tmp_path.iterdir()) == []


def test_threads_have_buffers_of_their_own(tmp_path):
    def work(number):
        for _ in range(5):
            with direct_file(tmp_path / str(number)) as file:
                file.write(np.full(3_000_000 + number, number, np.uint8).data)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(4):
        data = np.fromfile(tmp_path / str(n), np.uint8)
        assert len(data) == 3_000_000 + n
        assert (data == n).all()


@pytest.fixture
def ended():
    """Number of a process that ran on this machine and has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def leave(folder, *, machine=None, process=None, hours_ago=0.0):
    """A temporary file as a process of some machine leaves it."""
    name = temporary_path(folder / "frame_0.npz").name
    own_machine, own_process = name.rsplit(".", 3)[1], str(os.getpid())
    name = name.replace(own_machine, machine or own_machine).replace(f".{own_process}-", f".{process or own_process}-")
    path = folder / name
    path.touch()
    os.utime(path, (time.time() - 3600 * hours_ago,) * 2)
    return path


def test_what_a_killed_process_left_is_removed(tmp_path, ended):
    dead, alive = leave(tmp_path, process=ended), leave(tmp_path)
    assert remove_leftovers([tmp_path, tmp_path / "nowhere"]) == 1
    assert not dead.exists()
    assert alive.exists()


def test_what_another_machine_writes_is_left_for_a_day(tmp_path, ended):
    fresh = leave(tmp_path, machine="elsewhere-1", process=ended, hours_ago=23)
    old = leave(tmp_path, machine="elsewhere-2", hours_ago=25)
    forgotten = leave(tmp_path, hours_ago=25)
    assert remove_leftovers([tmp_path]) == 2
    assert fresh.exists()
    assert not old.exists()
    assert not forgotten.exists()


def test_files_of_other_names_are_nobody_s_leftovers(tmp_path):
    names = ["frame_0.npz", ".frame_0.npz.tmp", "frame.host.1-2.tmp", ".x.1-2.tmp", ".notes.tmp", f".x.h.{9**40}-1.tmp"]
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    remove_leftovers([tmp_path])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[:-1])


def test_a_temporary_name_tells_its_process(tmp_path):
    with atomic_file(tmp_path / "x.npz"):
        (path,) = tmp_path.iterdir()
        assert path == temporary_path(tmp_path / "x.npz")
        assert path.name.startswith(".x.npz.")
        assert f".{os.getpid()}-" in path.name
        assert remove_leftovers([tmp_path]) == 0
