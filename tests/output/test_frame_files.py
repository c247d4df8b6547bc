import pytest

from clipfeat.errors import DataError
from clipfeat.output.frame_files import FrameFiles, detect_format, natural_key


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


def test_numbers_in_names_count_as_numbers():
    assert sorted(["b", "a10", "a9", "a9b2", "7", "a"], key=natural_key) == ["7", "a", "a9", "a9b2", "a10", "b"]
