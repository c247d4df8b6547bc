import pytest

from clipfeat.data.layouts import layouts
from clipfeat.data.signs import SIGNS, recording_of, signs_of


def test_each_sign_is_of_layouts_that_there_are():
    assert {name for sign in SIGNS for name in sign.layouts} <= {*layouts(), "rosbag"}
    assert all(sign.hint for sign in SIGNS if not sign.layouts)


@pytest.mark.parametrize(
    ("part", "recording"),
    [
        ("a/sparse/0/cameras.bin", "a"),
        ("a/sparse/0", "a"),
        ("a/sparse", "a"),
        ("b/transforms.json", "b"),
        ("b/images", "b/images"),
        ("c.r3d", "c.r3d"),
        ("nothing", "nothing"),
    ],
)
def test_a_part_leads_to_its_recording(tmp_path, part, recording):
    for name in ("a/sparse/0/cameras.bin", "b/transforms.json", "b/images/0.png", "c.r3d", "nothing/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert recording_of(tmp_path / part) == tmp_path / recording


def test_signs_are_looked_for_a_folder_below(tmp_path):
    (tmp_path / "walk" / "lr_kt0").mkdir(parents=True)
    (tmp_path / "walk" / "lr_kt0" / "livingRoom0.gt.freiburg").touch()
    assert [sign.what for sign in signs_of(tmp_path / "walk")] == ["ICL-NUIM"]
    assert signs_of(tmp_path / "walk", below=False) == []
