import pytest

from clipfeat.data.base import check_scene_name, read_scenes_file, seeded_rng, select_frames
from clipfeat.errors import DataError


@pytest.mark.parametrize("name", ["../x", "/etc", "a/b", "..", ".", ".hidden", "", "a\\b", "scene 1", "x\n"])
def test_a_scene_name_that_is_a_path_is_refused(name):
    with pytest.raises(DataError, match="is not allowed: letters, digits, '_', '-', '.', and no path"):
        check_scene_name(name, "scenes.txt")


@pytest.mark.parametrize("name", ["scene0000_00", "office-1.2", "A", "00777"])
def test_usual_scene_names_pass(name):
    assert check_scene_name(name, "x") == name


def test_a_scenes_file_may_hold_comments_blank_lines_and_repeats(tmp_path):
    path = tmp_path / "scenes.txt"
    path.write_text("# train\nscene0001_00\r\n\n  scene0000_00  \nscene0001_00\n")
    assert read_scenes_file(path) == ["scene0001_00", "scene0000_00"]


def test_bad_scenes_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none.txt: no such file, expected a text file with a scene a line"):
        read_scenes_file(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match=r"empty.txt: names no scene"):
        read_scenes_file(tmp_path / "empty.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DataError, match=r"binary.txt: can't be read as text"):
        read_scenes_file(tmp_path / "binary.txt")
    (tmp_path / "path.txt").write_text("scene0000_00\n../secrets\n")
    with pytest.raises(DataError, match=r"path.txt: scene name '../secrets' is not allowed"):
        read_scenes_file(tmp_path / "path.txt")


def test_frame_selection():
    ids = list(range(0, 200, 2))
    assert select_frames(ids, "s", count=3) == [0, 2, 4]
    assert select_frames(ids, "s", stride=10) == list(range(0, 200, 20))
    assert select_frames(ids, "s", stride=10, count=3, how="uniform") == [0, 80, 180]
    assert select_frames(ids, "s", count=1, how="uniform") == [0]
    assert select_frames(ids, "s", count=1000) == ids
    assert select_frames([], "s", count=5, how="random") == []


def test_random_selection_is_a_scene_s_own_and_seeded():
    ids = list(range(1000))
    chosen = select_frames(ids, "a", count=20, how="random", seed=1)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 20
    assert chosen == select_frames(ids, "a", count=20, how="random", seed=1)
    assert chosen != select_frames(ids, "b", count=20, how="random", seed=1)
    assert chosen != select_frames(ids, "a", count=20, how="random", seed=2)


def test_seeded_generators_depend_on_the_key_alone():
    assert seeded_rng(0, "s", 1).integers(1 << 30) == seeded_rng(0, "s", 1).integers(1 << 30)
    assert seeded_rng(0, "s", 1).integers(1 << 30) != seeded_rng(0, "s", 2).integers(1 << 30)
