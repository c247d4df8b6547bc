import pytest

from clipfeat.errors import ConfigError
from clipfeat.system.patterns import PathPattern, check_pattern


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("../{scene}/{frame}.jpg", r"'..' leaves data.root"),
        ("{scene}/../../{frame}.jpg", r"'..' leaves data.root"),
        ("/data/{scene}/{frame}.jpg", "expected a path below data.root"),
        ("~/{scene}/{frame}.jpg", "expected a path below data.root"),
        ("C:/{scene}/{frame}.jpg", "expected a path below data.root"),
        ("{scene}\\{frame}.jpg", "expected a path below data.root"),
        ("", "expected a path such as"),
        ("{scene}//{frame}.jpg", "without empty parts"),
        ("./{scene}/{frame}.jpg", "without empty parts"),
        ("{scene}/{number}.jpg", r"no such placeholder \{number\}, expected one of \{scene\}, \{sequence\}, \{frame\}"),
        ("{scene}/{frame:06d}.jpg", r"no such placeholder \{frame:06d\}"),
        ("{scene}/{frame.jpg", "a brace that belongs to no placeholder"),
        ("{scene}/color.jpg", r"has no \{frame\}, so all frames would share one file"),
        ("{sequence}/{scene}/{frame}.jpg", r"\{sequence\} has no meaning here"),
    ],
)
def test_bad_patterns_are_named(pattern, message):
    with pytest.raises(ConfigError, match=r"data.color=.*" + message):
        check_pattern("data.color", pattern, required=["scene", "frame"], forbidden=["sequence"])


def walk(tmp_path, pattern, files, values=None):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    found = PathPattern(pattern).walk(tmp_path, values or {})
    return {path.relative_to(tmp_path).as_posix(): named for named, path in found}


def test_files_are_found_and_their_names_read(tmp_path):
    found = walk(tmp_path, "{scene}/rgb/f-{frame}.jpg", ["a/rgb/f-007.jpg", "b.1/rgb/f-10.jpg", "a/rgb/f-x.jpg",
                 "a/rgb/f-1.jpg.bak", "a/rgbd/f-1.jpg", ".a/rgb/f-1.jpg", "rgb/f-1.jpg", "a/rgb/f-１.jpg"])  # fmt: skip
    assert found == {
        "a/rgb/f-007.jpg": {"scene": "a", "frame": "007"},
        "b.1/rgb/f-10.jpg": {"scene": "b.1", "frame": "10"},
    }


def test_what_is_known_already_and_what_comes_twice_must_agree(tmp_path):
    files = ["a/a_1.jpg", "a/b_1.jpg", "b/b_2.jpg", "a+/a+_3.jpg", "aa/aa_4.jpg"]
    assert set(walk(tmp_path, "{scene}/{scene}_{frame}.jpg", files)) == {files[0], *files[2:]}
    assert set(walk(tmp_path, "{scene}/{scene}_{frame}.jpg", [], {"scene": "a+"})) == {"a+/a+_3.jpg"}
    assert set(walk(tmp_path, "c/{scene}+{scene}.{frame}", ["c/x+x.1", "c/x+y.1"])) == {"c/x+x.1"}


def test_a_file_in_a_folder_s_place_is_passed_over(tmp_path):
    assert walk(tmp_path, "{scene}/color/{frame}.jpg", ["list.txt", "s/color"]) == {}


def test_filling_leaves_the_unknown(tmp_path):
    assert PathPattern("{scene}/{frame}.jpg").fill({"scene": "a"}) == "a/{frame}.jpg"
