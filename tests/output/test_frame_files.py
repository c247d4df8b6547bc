import multiprocessing
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest

from clipfeat.errors import DataError, OutputError
from clipfeat.output import frame_files
from clipfeat.output.files import write_arrays, write_features
from clipfeat.output.frame_files import FrameFiles, SceneFiles, detect_format, natural_key, open_files
from clipfeat.types import PointFeatures


@pytest.fixture
def folder(tmp_path):
    for name in ("s10/frame_3.npz", "s10/frame_20.npz", "s10/frame_100.npz", "s2/frame_0.npz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_frames_are_listed_in_order_and_scenes_naturally(folder):
    files = FrameFiles(folder, "npz")
    assert detect_format(folder) == "npz"
    assert files.scenes() == ["s2", "s10"]
    assert files.frames("s10") == [3, 20, 100]
    assert files.frames("s3") == []
    assert files.path("s10", 3) == folder / "s10" / "frame_3.npz"


def test_only_whole_files_whose_names_fit_are_listed(folder):
    others = [
        ".frame_7.npz.12-34.tmp", "frame_07.npz", "frame_-1.npz", "frame_.npz", "frame_8.npz.part", "frame_8.txt",
        "vis_8.png", "xframe_8.npz", "frame_8.npz2", "frame_٣.npz",
    ]  # fmt: skip
    for name in others:
        (folder / "s2" / name).touch()
    (folder / "s2" / "frame_9.npz").mkdir()
    for name in (".hidden", "pictures", "uv_index"):
        (folder / name).mkdir()
    (folder / ".hidden" / "frame_0.npz").touch()
    (folder / "uv_index" / "uv_0.npz").touch()
    (folder / "frames.jsonl").touch()
    files = FrameFiles(folder, "npz")
    assert files.frames("s2") == [0]
    assert files.scenes() == ["s2", "s10"]


def test_what_is_listed_is_what_is_there_now(folder):
    files = FrameFiles(folder, "npz")
    (folder / "s2" / "frame_5.npz").touch()
    (folder / "s2" / "frame_0.npz").unlink()
    assert files.frames("s2") == [5]


def test_two_formats_in_one_folder_are_refused(folder):
    (folder / "s2" / "frame_0.npz").unlink()
    (folder / "s2" / "frame_4.h5").touch()
    message = r"s2/frame_4.h5: of output=h5, but other files of .* are of output=npz; give each format a folder of its"
    with pytest.raises(DataError, match=message):
        FrameFiles(folder, "npz").frames("s2")
    with pytest.raises(DataError, match=message):
        FrameFiles(folder, "npz").scenes()


def test_folders_that_hold_nothing_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none: no such folder; give the output_dir of clipfeat-extract"):
        detect_format(tmp_path / "none")
    (tmp_path / "scene").mkdir()
    with pytest.raises(
        DataError, match=r"holds no features, expected <scene>/frame_<i> with one of \.npz, \.h5, \.safe"
    ):
        detect_format(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file: can't be listed \(Not a directory\)"):
        detect_format(tmp_path / "file")
    with pytest.raises(DataError, match=r"file: can't be listed \(Not a directory\)"):
        FrameFiles(tmp_path, "npz").frames("file")


def test_another_file_under_a_frame_s_name_is_named(tmp_path):
    files, rows = FrameFiles(tmp_path, "npz"), np.zeros((2, 3))
    features = PointFeatures(rows, rows[:, :2], rows[:, 0], rows, np.arange(2))
    meta = {"scene_id": "s1", "frame_id": 3, "model": {"head": "none"}}
    write_features(files.frame_path("s1", 3), "npz", features, meta)
    assert files.read("s1", 3, only_meta=True)[1]["model"] == {"head": "none"}
    copy = shutil.copy(files.frame_path("s1", 3), files.frame_path("s1", 4))
    message = r"frame_4.npz: holds s1 frame 3, not this frame's features: copied to the wrong place\? Delete it and run"
    with pytest.raises(DataError, match=message):
        files.read("s1", 4)
    write_features(copy, "npz", features, meta | {"frame_id": 4, "model": 3})
    with pytest.raises(DataError, match="frame_4.npz: holds .*, not this frame's features"):
        files.read("s1", 4, only_meta=True)


def test_numbers_in_names_count_as_numbers():
    assert sorted(["b", "a10", "a9", "a9b2", "7", "a"], key=natural_key) == ["7", "a", "a9", "a9b2", "a10", "b"]


def write(files, frame_id, value=0, count=2000):
    arrays = {"pts_feat": np.full((count, 8), value, np.float32), "pts_idx": np.arange(count)}
    write_arrays(files.frame_path("s", frame_id), "h5", arrays, {"frame_id": frame_id, "value": value})


def value_of(files, frame_id):
    arrays, meta = files.read("s", frame_id)
    assert meta["frame_id"] == frame_id
    assert (arrays["pts_feat"] == meta["value"]).all()
    return meta["value"]


@pytest.fixture
def scenes(tmp_path):
    files = open_files(tmp_path, "h5_scene")
    for frame_id in (3, 20, 100):
        write(files, frame_id)
    return files


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != ".lock")


def test_two_that_finish_a_scene_at_once_lose_no_frame(scenes, monkeypatch):
    """Two processes may have been given the same scene by mistake."""
    began, real = threading.Event(), frame_files.write_scene

    def slow(*arguments):
        if not began.is_set():
            began.set()
            time.sleep(0.5)
        real(*arguments)

    monkeypatch.setattr(frame_files, "write_scene", slow)
    first = threading.Thread(target=scenes.finish_scene, args=("s",))
    first.start()
    began.wait()
    write(scenes, 7, 1)  # too late for the first
    open_files(scenes.folder, "h5_scene").finish_scene("s")
    first.join()
    assert names(scenes.folder) == ["s.h5"]
    assert [value_of(scenes, i) for i in (3, 7, 20, 100)] == [0, 1, 0, 0]


def test_the_frames_of_a_finished_scene_become_one_file(scenes):
    assert detect_format(scenes.folder) == "h5"
    scenes.finish_scene("s")
    assert names(scenes.folder) == ["s.h5"]
    assert detect_format(scenes.folder) == "h5_scene"
    assert scenes.scenes() == ["s"]
    assert scenes.frames("s") == [3, 20, 100]
    assert [value_of(scenes, i) for i in (3, 20, 100)] == [0, 0, 0]
    assert scenes.read("s", 20, only_meta=True) == ({}, scenes.read("s", 20)[1])
    before = (scenes.folder / "s.h5").stat().st_mtime_ns
    scenes.finish_scene("s")
    scenes.finish_scene("unknown")
    assert (scenes.folder / "s.h5").stat().st_mtime_ns == before


def test_later_frames_join_and_replace_those_of_before(scenes):
    scenes.finish_scene("s")
    write(scenes, 7, 1)
    write(scenes, 20, 2)
    (scenes.folder / "s" / "vis_7.png").touch()
    for _ in range(2):
        assert scenes.frames("s") == [3, 7, 20, 100]
        assert [value_of(scenes, i) for i in (3, 7, 20, 100)] == [0, 1, 2, 0]
        assert scenes.scenes() == ["s"]
        scenes.finish_scene("s")
    assert names(scenes.folder) == ["s.h5", "s/vis_7.png"]
    # Killed after the file took its name, and before the frames' own were gone:
    write(scenes, 20, 2)
    assert scenes.frames("s") == [3, 7, 20, 100]
    scenes.finish_scene("s")
    assert value_of(scenes, 20) == 2


def test_a_scene_that_can_not_be_finished_loses_nothing(scenes, monkeypatch):
    scenes.finish_scene("s")
    write(scenes, 7, 1)
    damaged = scenes.frame_path("s", 8)
    shutil.copy(scenes.frame_path("s", 7), damaged)
    damaged.write_bytes(damaged.read_bytes()[:3000])
    before = names(scenes.folder)
    with pytest.raises(DataError, match=r"s/frame_8.h5: not a whole feature file"):
        scenes.finish_scene("s")
    damaged.unlink()

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(frame_files, "write_scene", full)
        with pytest.raises(OutputError, match=r"s.h5: can't be written \(No space left on device\); what was finished"):
            scenes.finish_scene("s")
    assert names(scenes.folder) == [name for name in before if name != "s/frame_8.h5"]
    assert [value_of(scenes, i) for i in (3, 7, 20, 100)] == [0, 1, 0, 0]
    monkeypatch.undo()
    scenes.finish_scene("s")
    assert names(scenes.folder) == ["s.h5"]


def test_frames_are_read_while_their_scene_is_finished(scenes):
    wrong, done = [], threading.Event()

    def read():
        while not done.is_set():
            try:
                assert scenes.frames("s") == [3, 20, 100]
                for frame_id in (3, 20, 100):
                    value_of(scenes, frame_id)
            except Exception as error:  # noqa: BLE001
                wrong.append(error)
                return

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for value in range(1, 30):
        for frame_id in (3, 20, 100):
            write(scenes, frame_id, value)
        scenes.finish_scene("s")
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


def write_and_finish(folder):
    files = SceneFiles(folder, "h5_scene")
    for value in range(10**6):
        for frame_id in (3, 20, 100):
            write(files, frame_id, value, 20_000)
        files.finish_scene("s")


def test_a_process_that_is_killed_at_any_moment_leaves_every_frame_whole(scenes):
    context = multiprocessing.get_context("fork")
    rng = np.random.default_rng(0)
    for _ in range(12):
        process = context.Process(target=write_and_finish, args=(scenes.folder,))
        process.start()
        time.sleep(rng.uniform(0.02, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert scenes.frames("s") == [3, 20, 100]
        for frame_id in (3, 20, 100):
            value_of(scenes, frame_id)
    scenes.finish_scene("s")
    assert [name for name in names(scenes.folder) if not name.endswith(".tmp")] == ["s.h5"]


def test_files_of_scenes_beside_another_format_are_refused(scenes):
    scenes.finish_scene("s")
    (scenes.folder / "t").mkdir()
    (scenes.folder / "t" / "frame_0.npz").touch()
    (scenes.folder / ".hidden.h5").touch()
    with pytest.raises(DataError, match=r"t/frame_0.npz: of output=npz, but other files of .* are of output=h5_scene"):
        scenes.scenes()
    assert scenes.frames("s") == [3, 20, 100]
