import os
import struct
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from recordings import SCENE, small_frames, small_recording
from sens_writer import SensWriter, write_like

from clipfeat.data.sens import SensDataset
from clipfeat.data.sens_file import SensFile
from clipfeat.errors import FrameError
from clipfeat.types import Camera


@pytest.fixture
def frames():
    return small_frames()


@pytest.fixture
def sens(tmp_path):
    return small_recording(tmp_path / "scans")


def test_the_index_reads_no_picture_and_is_small(tmp_path, monkeypatch):
    """A recording of ScanNet's size, its pictures a hole: opening it touches the fixed parts alone."""
    path, count, color_bytes, depth_bytes = tmp_path / "a.sens", 3000, 350_000, 150_000
    k = np.array([[1170.0, 0, 648], [0, 1170, 484], [0, 0, 1]])
    with SensWriter(path, (1296, 968), (640, 480), k, Camera(k, 1296, 968).resized(640, 480).intrinsics) as sens:
        for number in range(count):
            sens.add(b"", b"", np.eye(4) * [[1], [1], [1], [1 + number]])
            sens.file.seek(-16, 1)
            sens.file.write(struct.pack("<QQ", color_bytes, depth_bytes))
            sens.file.seek(color_bytes + depth_bytes, 1)
    assert path.stat().st_size > 1.5e9
    read = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: read.append(size) or pread(fd, size, offset))
    file = SensFile(path)
    assert len(file) == count
    assert sum(read) < count * 100 + 10_000
    assert sum(a.nbytes for a in (file._index.offsets, file._index.sizes, file._index.poses)) == 80 * count
    assert file.pose(1234)[3, 3] == 1235
    assert len(file.depth_blob(2999)) == depth_bytes


def test_a_file_that_shrinks_while_it_is_read_is_named(sens):
    path, starts = sens
    dataset = SensDataset(path.parent)
    dataset.load(SCENE, 4)
    with path.open("r+b") as file:
        file.truncate(starts[4])
    with pytest.raises(FrameError, match="frame 4: the file became shorter while it was read"):
        dataset.load(SCENE, 4)


def test_threads_that_read_one_file_do_not_move_each_others_position(tmp_path, frames):
    write_like(tmp_path / "a.sens", frames, color="raw", depth="raw")
    file = SensFile(tmp_path / "a.sens")
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            read = list(pool.map(lambda n: file.picture(n % 5).pixels, range(2000)))
    finally:
        sys.setswitchinterval(usual)
    for n, image in enumerate(read):
        np.testing.assert_array_equal(image, frames[n % 5].image)
