import json
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from clipfeat.errors import DataError, OutputError
from clipfeat.extraction import uv_index
from clipfeat.extraction.uv_index import index_path, read_located, write_located
from clipfeat.output.folders import read_config
from clipfeat.sampling.locate import Located
from clipfeat.system.messages import WarningsOnce
from clipfeat.types import Points, PointStatus

KEY = ("scene0000_00", 40)


@pytest.fixture
def located():
    """A frame of four points, three of them visible."""
    points = Points(np.ones((3, 3)), np.array([0, 2, 3]), {"rgb": np.zeros((3, 3), np.uint8)})
    status = np.array([PointStatus.VISIBLE, PointStatus.BEHIND, PointStatus.VISIBLE, PointStatus.VISIBLE], np.uint8)
    return Located(points, np.ones((3, 2), np.float32), np.ones(3, np.float32), status)


@pytest.fixture
def path(tmp_path, located):
    write_located(tmp_path, KEY, located)
    return index_path(tmp_path, KEY)


def test_what_is_written_is_read_back(tmp_path, path):
    located = read_located(tmp_path, KEY)
    assert located.points.idx.tolist() == [0, 2, 3]
    assert located.status.tolist() == [0, 3, 0, 0]
    assert located.points.attributes["rgb"].shape == (3, 3)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"status": None}, "no status"),
        ({"xyz": None}, "no xyz"),
        ({"uv_idx": np.ones((3, 3))}, r"uv_idx has the shape \(3, 3\)"),
        ({"pts_idx": np.arange(4)}, r"pts_idx has the shape \(4,\)"),
        ({"conf_2d": np.full(3, "x")}, "conf_2d is of <U1, not of numbers"),
        ({"uv_idx": np.full((3, 2), np.nan)}, "it holds inf or NaN"),
        ({"status": np.zeros(4, np.uint8)}, "its status is not that of 3 visible points"),
        ({"status": np.array([0.0, 3, 0, 0])}, "its status is not that of 3 visible points"),
        ({"status": np.array([0, 255, 0, 0], np.uint8)}, "its status has values that mean nothing"),
        ({"rgb": np.zeros((2, 3))}, "not all of its arrays have 3 rows"),
        ({"rgb": np.array(7)}, "not all of its arrays have 3 rows"),
    ],
)
def test_arrays_that_can_not_be_an_index_are_named(tmp_path, path, changes, why):
    with np.load(path) as data:
        arrays = {**data, **changes}
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
    with pytest.raises(DataError, match=rf"uv_40.npz: no uv index \({why}\); delete it and build it again"):
        read_located(tmp_path, KEY)


def test_a_folder_in_which_nothing_was_indexed_is_free_for_another_configuration(tmp_path, path):
    uv_index._claim(tmp_path, {"camera": 1}, [KEY], overwrite=False)
    with pytest.raises(OutputError, match="another configuration, which differs in camera: 1 there, 2 now"):
        uv_index._claim(tmp_path, {"camera": 2}, [KEY], overwrite=False)
    path.unlink()
    uv_index._claim(tmp_path, {"camera": 2}, [KEY], overwrite=False)
    assert read_config(tmp_path) == {"camera": 2}


def test_the_index_of_another_frame_is_named(tmp_path, path):
    path.rename(path.with_name("uv_60.npz"))
    message = "uv_60.npz: holds scene0000_00 frame 40, not this frame's points; delete it and build it again"
    with pytest.raises(DataError, match=message):
        read_located(tmp_path, (KEY[0], 60))
    np.savez(path, meta=np.array(json.dumps({"schema_version": 1})))
    with pytest.raises(DataError, match="uv_40.npz: holds None frame None, not this frame's points"):
        read_located(tmp_path, KEY)


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("warm_pools")
def test_a_process_that_is_killed_is_told_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(uv_index, "_start_worker", die)
    cfg, frames = SimpleNamespace(num_workers=2), [("scene", number) for number in range(9)]
    with pytest.raises(OutputError, match=f"{tmp_path}: a process .* died, perhaps for want of memory.* num_workers=1"):
        list(uv_index._results(cfg, tmp_path, frames, WarningsOnce()))


def test_a_process_stops_before_its_first_file_if_another_run_has_taken_the_folder(tmp_path, located):
    uv_index._claim(tmp_path, {"camera": 1}, [KEY], overwrite=False)
    dataset = SimpleNamespace(load=lambda *_: None)
    first = uv_index._Worker(dataset, lambda _: located, tmp_path, {"camera": 1})
    uv_index._claim(tmp_path, {"camera": 2}, [KEY], overwrite=False)
    with pytest.raises(OutputError, match="another configuration, which differs in camera: 2 there, 1 now"):
        first(KEY)
    assert not uv_index.index_path(tmp_path, KEY).exists()
    second = uv_index._Worker(dataset, lambda _: located, tmp_path, {"camera": 2})
    assert second(KEY)[2] == ""
    assert second.claimed
