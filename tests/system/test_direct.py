import errno
import fcntl
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from clipfeat.errors import OutputError
from clipfeat.system import direct
from clipfeat.system.direct import BLOCK, PageBuffer, direct_file

TMPFS = Path("/dev/shm")  # noqa: S108 - the place is the point
BYTES = np.random.default_rng(0).integers(0, 255, 5_000_123, dtype=np.uint8)


def aligned(size):
    """Bytes that begin at a page."""
    array = PageBuffer().floats(-(-size // 4), 1).reshape(-1).view(np.uint8)[:size]
    array[:] = BYTES[:size]
    return array


@pytest.mark.parametrize("first", [0, 7, 4096, 12345, 1 << 20])
@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 4096, 3_000_001, 5_000_123])
def test_what_begins_at_a_page_is_written_without_a_copy_and_as_it_is(tmp_path, monkeypatch, first, size):
    addresses, real = [], os.write
    monkeypatch.setattr(
        direct.os, "write", lambda fd, d: addresses.append(np.frombuffer(d, np.uint8).ctypes.data) or real(fd, d)
    )
    large = aligned(size)
    with direct_file(tmp_path / "x") as file:
        file.write(BYTES[:first].data)
        file.write(large.data)
        file.write(b"the end")
        assert file.size == first + size + 7
    assert (tmp_path / "x").read_bytes() == BYTES[:first].tobytes() + large.tobytes() + b"the end"
    assert (large.ctypes.data in addresses) == (first % 4096 == 0)  # else it would not begin a block of the file


def test_a_buffer_gives_arrays_of_the_same_memory_until_more_is_asked_for():
    buffer = PageBuffer()
    first = buffer.floats(1000, 8)
    address = first.ctypes.data
    assert address % 4096 == 0
    assert buffer.floats(10, 8).ctypes.data == address
    first[:] = 3
    larger = buffer.floats(5000, 8)
    larger[:] = 4
    assert (first == 3).all()  # an array that is still held keeps its memory
    assert buffer.floats(0, 8).shape == (0, 8)


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

    monkeypatch.setattr(direct.os, "open", without_direct)
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

    monkeypatch.setattr(direct.os, "write", full)
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


def test_a_file_system_that_refuses_at_the_writing_gets_it_through_the_cache(tmp_path, monkeypatch):
    real, refused = os.write, []

    def write(descriptor, data):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(len(data))
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, data)

    monkeypatch.setattr(direct.os, "write", write)
    with direct_file(tmp_path / "x") as file:
        file.write(BYTES.data)
    assert len(refused) == 1
    assert (tmp_path / "x").read_bytes() == BYTES.tobytes()


@pytest.mark.parametrize(("rows", "columns"), [(0, 4), (3, 5), (257, 4), (5000, 96)])
def test_a_buffer_holds_values_in_the_type_that_is_written(rows, columns):
    buffer, rng = PageBuffer(), np.random.default_rng(0)
    elsewhere = rng.normal(0, 100, (rows, columns)).astype(np.float32)
    held = buffer.hold(elsewhere, "float32")
    assert buffer.hold(held, "float32") is held  # it lies there already
    np.testing.assert_array_equal(held, elsewhere)
    half = buffer.hold(held, "float16")  # over itself
    assert half.dtype == np.float16
    assert half.ctypes.data % BLOCK == 0 or rows == 0
    np.testing.assert_array_equal(half, elsewhere.astype(np.float16))
    np.testing.assert_array_equal(buffer.hold(elsewhere, "float16"), half)
