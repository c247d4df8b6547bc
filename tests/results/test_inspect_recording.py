import shlex
import shutil
import sys

import pytest
from conftest import SHARED
from phone_recordings import shots, write_r3d, write_record3d_export
from ros_bags import write_bag

from clipfeat.cli.commands import inspect_main
from clipfeat.data.layouts import layouts
from clipfeat.data.recognize import SIGNS, readings
from clipfeat.results.inspect_recording import inspect_recording


@pytest.fixture
def inspected(monkeypatch, capsys):
    """Exit code, output and errors of the command."""

    def inspect(folder):
        monkeypatch.setattr(sys, "argv", ["clipfeat-inspect", str(folder)])
        with pytest.raises(SystemExit) as stop:
            inspect_main()
        return stop.value.code, *capsys.readouterr()

    return inspect


@pytest.fixture(scope="session")
def known():
    return layouts()


def test_every_layout_that_needs_no_key_is_asked(known):
    assert {"scannet", "sens", "scannet200_mv", "sevenscenes", "tum", "replica", "open3d"} <= set(known)
    assert not {"demo", "posed_rgbd"} & set(known)


@pytest.mark.parametrize("place", [".", "demo0001_00", ".."])
def test_scans_are_known_from_their_root_from_a_scene_and_from_above(scans, known, place):
    [reading] = readings(scans / place, known)
    assert (reading.layout, reading.root, reading.frames) == ("scannet", scans, 4)
    assert reading.scenes == (["demo0001_00"] if place == "demo0001_00" else ["demo0000_00", "demo0001_00"])
    assert reading.frame.picture is not None


def test_the_command_says_what_it_found_and_what_to_run(inspected, scans):
    code, out, err = inspected(scans)
    assert (code, err) == (0, "")
    assert out.startswith(f"{scans}: recordings that data=scannet reads\n")
    for line in (
        "scenes      2 (demo0000_00, demo0001_00)",
        "frames      4 in demo0000_00",
        "216×162, fx ",
        "128×96, fx ",
    ):
        assert line in out
    assert "broken" not in out
    command = next(line for line in out.splitlines() if line.endswith("check=only")).split("next")[-1]
    _, *overrides = shlex.split(command)
    assert overrides == ["data=scannet", f"data.root={scans}", "check=only"]


def test_files_that_are_there_but_can_not_be_read_are_told(inspected, scans):
    for path in scans.glob("*/pose/*.txt"):
        path.write_text("nonsense")
    code, out, _ = inspected(scans)
    assert code == 1
    assert "has the files of data=scannet, but its first frames can't be read" in out
    assert "broken" in out
    assert "pose/0.txt" in out


@pytest.mark.parametrize("pattern", SIGNS)
def test_a_recording_of_another_kind_is_told_by_its_files(inspected, tmp_path, pattern):
    folder = tmp_path / "recording"
    place = folder / pattern.replace("*", "x")
    place.parent.mkdir(parents=True)
    place.touch()
    code, out, err = inspected(folder)
    assert (code, out) == (1, "")
    assert f"it looks like {SIGNS[pattern]}" in err
    assert err.count("\n") == 1


def test_an_empty_folder_and_none_are_told(inspected, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "it is empty; data=posed_rgbd reads" in inspected(tmp_path / "empty")[2]
    assert "nowhere: no such folder" in inspected(tmp_path / "nowhere")[2]


def test_real_recordings_are_known(known):
    if not SHARED.is_dir():
        pytest.skip("the real recordings are not here")
    for place, layout in {"office": "scannet", "office/scans/scene9000_00": "scannet", "open3d_rgbd": "open3d"}.items():
        [reading] = readings(SHARED / place, known)
        assert (reading.layout, reading.wrong) == (layout, "")


def test_a_recording_that_several_layouts_read_is_told_by_each(scans, known):
    twice = {"scannet": known["scannet"], "again": known["scannet"]}
    assert len(inspect_recording(scans, twice)) == 2
    shutil.rmtree(scans / "demo0000_00")
    assert inspect_recording(scans, twice)[0].facts["scenes"] == "1 (demo0001_00)"


def test_archives_are_known_by_their_folder_and_by_themselves(inspected, tmp_path):
    write_record3d_export(tmp_path / "recordings" / "kitchen", shots(2))
    for place in ("recordings", "recordings/kitchen"):
        code, out, _ = inspected(tmp_path / place)
        assert code == 0
        assert f"{tmp_path / place}: recordings that data=record3d reads" in out
    pytest.importorskip("lzfse")
    path = write_r3d(tmp_path / "archives" / "office.r3d", shots(3))
    write_r3d(tmp_path / "archives" / "lab.r3d", shots(2))
    code, out, _ = inspected(path)
    assert (code, "scenes      1 (office)" in out, "frames      3 in office" in out) == (0, True, True)


def test_a_bag_is_told_with_its_topics(inspected, tmp_path):
    pytest.importorskip("rosbags")
    path = write_bag(tmp_path / "a.bag", "bag", shots(1))
    for place in (path, tmp_path):
        err = inspected(place)[2]
        assert "it looks like ROS 1 (a bag), which data=rosbag reads by its topics: /camera/aligned_depth_to_co" in err
        assert err.count("\n") == 1


def test_a_file_of_another_kind_is_told(inspected, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    assert (
        "notes.txt: holds no results of clipfeat, and no recording in a layout that it knows"
        in (inspected(tmp_path / "notes.txt")[2])
    )
