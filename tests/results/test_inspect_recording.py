import shlex
import shutil
import sys

import pytest
from conftest import SHARED
from layouts import write_nerfstudio, write_polycam, write_tum
from phone_recordings import shots, write_r3d, write_record3d_export, write_scannetpp_raw
from PIL import Image
from ros_bags import COLOR, DEPTH, INFO, START, BagWriter, image, write_bag

from clipfeat.cli.commands import inspect_main
from clipfeat.data.layouts import layouts
from clipfeat.data.recognize import readings
from clipfeat.data.signs import SIGNS
from clipfeat.results.inspect_recording import inspect_recording


@pytest.fixture
def inspected(monkeypatch, capsys, known):
    """Exit code, output and errors of the command."""
    monkeypatch.setattr("clipfeat.data.layouts.layouts", lambda: known)

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
    assert "has the files of data=scannet, but they can't be read" in out
    assert "broken" in out
    assert "pose/0.txt" in out
    assert "clipfeat-extract" not in out
    assert f"next        mend what is broken; clipfeat-inspect {scans} tells whether it is\n" in out


def test_pictures_alone_are_no_recording_but_the_nearest_layout_is_told(inspected, tmp_path):
    for i, shot in enumerate(shots(2)):
        path = tmp_path / "walks" / "home" / "rgb" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(shot.color).save(path)
    err = inspected(tmp_path / "walks")[2]
    assert "data=hm3d finds pictures there, but" in err
    assert "home/pose/0.txt: no such file" in err


@pytest.mark.parametrize("sign", SIGNS, ids=lambda sign: sign.pattern)
def test_a_sign_alone_is_told_with_what_its_layout_says(inspected, tmp_path, sign):
    """Or, of what no layout reads, with its name."""
    scene = tmp_path / "recording"
    place = scene / sign.pattern.replace("*", "x")
    place.parent.mkdir(parents=True)
    place.touch()
    code, out, err = inspected(scene)
    assert code == 1
    if not sign.layouts:
        assert out == ""
        assert f"it looks like {sign.what} ({sign.hint}); data=posed_rgbd reads" in err
        assert err.count("\n") == 1
        return
    assert err == ""
    for layout in sign.layouts:
        assert f"{scene}: has the files of data={layout}, but they can't be read\n" in out
    assert sign.hint in out
    assert "clipfeat-extract" not in out


def test_an_empty_folder_and_none_are_told(inspected, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "it is empty; data=posed_rgbd reads" in inspected(tmp_path / "empty")[2]
    assert inspected(tmp_path / "nowhere")[2] == f"clipfeat: {tmp_path}/nowhere: no such file or folder\n"


@pytest.fixture
def many(scans, tmp_path):
    """Recordings of several layouts in one folder, and one that is cut off in a folder of its own."""
    root = tmp_path / "many"
    scans.rename(root)
    write_record3d_export(root / "kitchen", shots(2))
    write_nerfstudio(root, root / "of a phone")
    (root / "cut").mkdir()
    (root / "cut" / "hall.r3d").write_bytes(b"PK\3\4")
    return root


def test_each_recording_of_a_folder_is_told_with_a_command_of_its_own(inspected, many):
    code, out, err = inspected(many)
    assert (code, err) == (1, "")
    commands = [shlex.split(line.split("clipfeat-extract")[1]) for line in out.splitlines() if "output_dir=" in line]
    assert commands == [
        [f"data={layout}", f"data.root={root}", f"output_dir=features/{name}"]
        for layout, root, name in (
            ("record3d", many, "many-record3d"),
            ("scannet", many, "many-scannet"),
            ("nerfstudio", many / "of a phone", "of_a_phone-nerfstudio"),
        )
    ]
    assert "cut/hall.r3d: cut off, damaged or no .r3d archive" in out


def test_of_very_many_folders_the_first_are_looked_into(known, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("clipfeat.data.recognize.MOST_FOLDERS", 1)
    for name in "abc":
        (tmp_path / name).mkdir()
    assert readings(tmp_path, {"scannet": known["scannet"]}) == []
    assert caplog.messages == [f"{tmp_path}: of its 3 folders only the first 1 were looked into"]


def test_an_archive_beside_a_folder_of_its_name_is_not_what_lies_in_it(inspected, tmp_path):
    (tmp_path / "kitchen").mkdir()
    for name in ("kitchen.r3d", "kitchen.sens", "kitchen.bag"):
        (tmp_path / name).touch()
    assert (
        "kitchen: holds no results of clipfeat, and no recording in a layout that it knows: it is empty;"
        in (inspected(tmp_path / "kitchen")[2])
    )


def test_a_part_of_a_recording_stands_for_it(inspected, many):
    scene = many / "of a phone" / "demo0000_00"
    for place in (scene, scene / "transforms.json", many / "demo0000_00" / "intrinsic"):
        code, out, _ = inspected(place)
        assert (code, "scenes      1 (demo0000_00)" in out) == (0, True)
    err = inspected(scene / "images")[2]
    assert f"; {scene}, which holds it, looks like nerfstudio, instant-ngp or Polycam (transforms.json)" in err
    assert f"clipfeat-inspect '{scene}'" in err


def test_a_phone_s_part_of_a_scannetpp_scene_is_no_scene_of_its_own(inspected, tmp_path):
    """It holds a transforms.json of other pictures."""
    pytest.importorskip("av")
    write_scannetpp_raw(tmp_path / "data" / "0a7c", shots(2, depth_size=(256, 192)))
    phone = tmp_path / "data" / "0a7c" / "iphone"
    (phone / "nerfstudio").mkdir()
    (phone / "nerfstudio" / "transforms.json").write_text('{"frames": [{"file_path": "frame_000000.jpg"}]}')
    for place in (tmp_path / "data", phone.parent, phone, phone / "nerfstudio"):
        code, out, _ = inspected(place)
        assert (code, out.count(": recordings that data=")) == (0, 1)
        assert f"data=scannetpp_raw data.root={tmp_path / 'data'} output_dir=features\n" in out
        assert "missing     mesh (0a7c/scans/mesh_aligned_0.05.ply)\n" in out


def test_without_depth_points_are_of_a_mesh(inspected, scans):
    for depth in scans.glob("*/depth"):
        shutil.rmtree(depth)
    out = inspected(scans)[1]
    assert "missing     depth\n" in out
    assert "mesh        demo0000_00/demo0000_00_vh_clean_2.ply\n" in out
    mesh = f"{scans}/{{scene}}/{{scene}}_vh_clean_2.ply"
    command = shlex.split(out.partition("  next ")[2])
    assert command[2:] == [f"data.root={scans}", "sampling=mesh", f"sampling.points_file={mesh}", "output_dir=features"]
    for path in scans.glob("*/*.ply"):
        path.unlink()
    assert "'sampling.points_file=<a PLY in the world of the poses>'" in inspected(scans)[1]


def test_what_only_a_layout_says_is_told(inspected, scans, tmp_path):
    write_tum(scans, tmp_path / "tum")
    said = "camera_to_world poses of opencv axes, K [525.0, 525.0, 319.5, 239.5], depth in 1/5000 m: so says data=tum"
    assert f"taken as    {said}\n" in inspected(tmp_path / "tum")[1]


def test_a_scene_that_can_not_be_read_does_not_hide_the_next(inspected, many):
    (many / "of a phone" / "demo0000_00" / "transforms.json").write_text("{")
    code, out, _ = inspected(many / "of a phone")
    assert (code, "frames      4 in demo0001_00\n" in out, "check=only" in out) == (1, True, True)
    assert "demo0000_00/transforms.json: not JSON, or cut off" in out


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


def test_a_bag_is_told_with_the_keys_that_its_topics_tell(inspected, tmp_path):
    pytest.importorskip("rosbags")
    path = write_bag(tmp_path / "bags" / "a.bag", "bag", shots(1))
    for place in (path, path.parent, tmp_path):
        code, out, err = inspected(place)
        assert (code, err) == (0, "")
        assert f"{place}: recordings that data=rosbag reads, once you have said what stands in <>\n" in out
        assert "              /odom (Odometry)\n" in out
        command = next(line for line in out.splitlines() if line.endswith("output_dir=features"))
        assert shlex.split(command)[1:] == [
            "data=rosbag", f"data.root={path.parent}", f"data.color_topic={COLOR}", f"data.camera_info_topic={INFO}",
            f"data.depth_topic={DEPTH}", "data.pose_topic=<one of /odom | /slam>", "output_dir=features",
        ]  # fmt: skip


def test_a_bag_that_leaves_nothing_open_is_read(inspected, tmp_path):
    pytest.importorskip("rosbags")
    path = write_bag(tmp_path / "lab", "mcap", shots(1), without=["/slam"])
    for place in (path, tmp_path):
        code, out, _ = inspected(place)
        assert (code, "frames      1 in lab\n" in out, "depth       16×12, fx" in out) == (0, True, True)
        assert f"data=rosbag data.root={tmp_path} data.color_topic={COLOR} " in out
        assert "data.pose_topic=/odom output_dir=features\n" in out


def test_a_bag_whose_tf_has_one_way_up_is_read_by_it(inspected, tmp_path):
    pytest.importorskip("rosbags")
    [shot] = shots(1)
    with BagWriter(tmp_path / "a.bag", "bag") as bag:
        bag.camera_info(INFO, shot.k, (32, 24), "optical")
        bag.add(COLOR, "sensor_msgs/msg/Image", START, "optical", image(shot.color, "rgb8"))
        bag.tf(START, "map", "optical", shot.pose)
    code, out, _ = inspected(tmp_path)
    assert (code, "missing     depth\n" in out) == (0, True)
    assert "'data.tf_frames=[map,optical]' sampling=mesh 'sampling.points_file=<a PLY" in out


def test_a_bag_that_no_keys_would_read_is_told_with_those_that_were_tried(inspected, tmp_path):
    pytest.importorskip("rosbags")
    write_bag(tmp_path / "a.bag", "bag", shots(1), without=["/slam"], depth_late=5)
    code, out, _ = inspected(tmp_path)
    assert (code, "clipfeat-extract" in out) == (1, False)
    assert "no depth is within data.max_dt=0.02 s of a picture" in out
    assert f"keys        data.color_topic={COLOR} " in out


def test_a_file_of_another_kind_is_told(inspected, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    assert (
        "notes.txt: holds no results of clipfeat, and no recording in a layout that it knows"
        in (inspected(tmp_path / "notes.txt")[2])
    )


def test_endings_are_told_as_they_are_spelled(inspected, tmp_path):
    (tmp_path / "room.R3D").touch()
    code, _, err = inspected(tmp_path)
    assert (code, "1 × .R3D" in err) == (1, True)


def test_an_archive_whose_name_is_not_allowed_has_not_the_name_of_its_folder(inspected, tmp_path):
    (tmp_path / "my room.r3d").touch()
    code, out, _ = inspected(tmp_path)
    assert (code, "scenes" in out, "scene name 'my room' is not allowed" in out) == (1, False, True)


def test_12_scenes_without_poses_are_known(inspected, tmp_path):
    (tmp_path / "apt1" / "kitchen" / "data").mkdir(parents=True)
    (tmp_path / "apt1" / "kitchen" / "data" / "frame-000000.color.jpg").touch()
    code, out, _ = inspected(tmp_path)
    assert code == 1
    assert "has the files of data=twelvescenes, but they can't be read" in out
    assert "kitchen/data/frame-000000.pose.txt: no such file" in out


def test_what_a_run_would_warn_of_is_told(inspected, demo_root, tmp_path):
    write_polycam(demo_root, tmp_path / "polycam")
    for path in sorted((tmp_path / "polycam").glob("*/keyframes/depth/*"))[1:]:
        path.unlink()
    code, out, err = inspected(tmp_path / "polycam")
    assert (code, err) == (0, "")
    assert "warnings" in out
    assert "3 of 4 pictures have no depth: " in out


def test_pictures_that_are_cut_off_are_seen(inspected, scans):
    for path in scans.glob("*/color/*"):
        path.write_bytes(path.read_bytes()[:900])
    code, out, _ = inspected(scans)
    assert code == 1
    assert "but they can't be read" in out
