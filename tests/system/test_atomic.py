import os
import subprocess
import time

import numpy as np
import pytest

from clipfeat.system import atomic
from clipfeat.system.atomic import atomic_file, remove_leftovers, temporary_path
from clipfeat.system.direct import direct_file

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


def test_machines_of_one_name_are_told_apart_by_the_start_of_their_system(tmp_path, monkeypatch, ended):
    """Process numbers and their first space are the same on all; a number that is free here may be at work there."""
    here = temporary_path(tmp_path / "x").name
    (tmp_path / "boot_id").write_text("5c0ffee5-0000-4000-8000-0123456789ab\n")
    monkeypatch.setattr(atomic, "_BOOT_ID", tmp_path / "boot_id")
    atomic._machine.cache_clear()
    try:
        there = leave(tmp_path, process=ended)
    finally:
        monkeypatch.undo()
        atomic._machine.cache_clear()
    assert temporary_path(tmp_path / "x").name == here
    assert "-5c0ffee5-" in there.name
    assert remove_leftovers([tmp_path]) == 0
    assert there.exists()


@pytest.mark.parametrize("missing", ["_BOOT_ID", "_PROCESS_SPACE"])
def test_a_system_that_tells_less_of_itself_will_do(tmp_path, monkeypatch, ended, missing):
    monkeypatch.setattr(atomic, missing, tmp_path / "nowhere")
    atomic._machine.cache_clear()
    try:
        dead, alive = leave(tmp_path, process=ended), leave(tmp_path)
        assert remove_leftovers([tmp_path]) == 1
        assert alive.exists()
        assert not dead.exists()
    finally:
        monkeypatch.undo()
        atomic._machine.cache_clear()


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
