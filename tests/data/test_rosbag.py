import logging
import struct
import sys

import numpy as np
import pytest
from phone_recordings import shots
from ros_bags import COLOR, DEPTH, INFO, START, BagWriter, image, write_bag
from test_record3d import assert_is

from clipfeat.data.archive_config import RosbagConfig
from clipfeat.data.layouts import build_dataset
from clipfeat.data.ros_bag import import_rosbags
from clipfeat.errors import ConfigError, DataError, FrameError

TOPICS = {"color_topic": COLOR, "depth_topic": DEPTH, "camera_info_topic": INFO}


def opened(root, **keys):
    keys = {"pose_topic": "/odom"} | keys if "tf_frames" not in keys else keys
    return build_dataset(RosbagConfig(root=str(root), **TOPICS | keys))


@pytest.fixture(scope="module")
def frames():
    return shots(4)


@pytest.fixture(scope="module")
def bags(frames, tmp_path_factory):
    """One of each kind."""
    pytest.importorskip("rosbags")
    root = tmp_path_factory.mktemp("bags")
    write_bag(root / "one.bag", "bag", frames)
    write_bag(root / "two", "mcap", frames, packed=True)
    write_bag(root / "three", "sqlite3", frames)
    (root / "three" / "three.db3").rename(root / "four.db3")  # as RealSense's recorder leaves one
    for path in (root / "three").iterdir():
        path.unlink()
    (root / "three").rmdir()
    return root


@pytest.mark.parametrize(
    "how", [{}, {"tf_frames": ["map", "optical"]}, {"pose_topic": "slam", "pose_frame": "optical"}]
)
def test_bags_of_each_kind_are_read_by_their_clock(how, frames, bags):
    """Poses of another frame than the camera's come to it by tf."""
    dataset = opened(bags, **how)
    assert dataset.scenes() == ["four", "one", "two"]
    for scene in dataset.scenes():
        assert dataset.frame_ids(scene) == [0, 1, 2, 3]
        for i in (2, 0, 3):
            assert_is(dataset.load(scene, i), frames[i], k=frames[0].k, depth_atol=1e-6)
    with pytest.raises(FrameError, match="one.bag: holds no frame 4, only 0 to 3"):
        dataset.load("one", 4)
    assert opened(bags / "two", root_is_scene=True).scenes() == ["two"]
    assert opened(bags, depth_topic=None).load("one", 1).depth_m is None


def without_channels(content):
    """The MCAP without channels in its summary, and without a table of what is where in it."""
    begin, table = struct.unpack_from("<QQ", content, len(content) - 28)
    kept, at, end = [], begin, table or len(content) - 37
    while at < end:
        size = 9 + struct.unpack_from("<Q", content, at + 1)[0]
        if content[at] != 4:
            kept.append(content[at : at + size])
        at += size
    footer = struct.pack("<BQQQI", 2, 20, begin, 0, 0)
    return content[:begin] + b"".join(kept) + footer + content[-8:]


def test_an_mcap_whose_summary_does_not_repeat_its_channels_is_told(bags, tmp_path):
    """MCAP's specification leaves it open; rosbags then finds no topic and no message."""
    whole = next((bags / "two").glob("*.mcap"))
    path = tmp_path / "once.mcap"
    path.write_bytes(without_channels(whole.read_bytes()))
    with pytest.raises(DataError, match=r"once.mcap: holds \d+ messages and no topic, .*; copy it with"):
        opened(tmp_path).frame_ids("once")


def test_a_topic_that_is_not_there_is_told_with_those_that_are(bags):
    with pytest.raises(DataError) as error:
        opened(bags, color_topic="/rgb").frame_ids("one")
    assert (
        "one.bag: holds no topic data.color_topic=/rgb, but /camera/aligned_depth_to_color/image_raw (Image), "
        "/camera/color/camera_info (CameraInfo), /camera/color/image_raw (Image), /odom (Odometry), /slam "
        "(PoseStamped), /tf (TFMessage), /tf_static (TFMessage)"
    ) in str(error.value)
    with pytest.raises(
        DataError, match="data.pose_topic=/tf is of tf2_msgs/msg/TFMessage, expected Odometry or PoseSt"
    ):
        opened(bags, pose_topic="/tf").frame_ids("one")


def test_whose_poses_they_are_is_never_guessed(bags):
    with pytest.raises(DataError, match=r"/slam doesn't say whose poses it holds: say data.pose_frame=optical if they"):
        opened(bags, pose_topic="/slam").frame_ids("one")
    with pytest.raises(DataError, match="tf has no way from gripper to optical, but the frames base, map, optical"):
        opened(bags, pose_frame="gripper").frame_ids("one")
    with pytest.raises(DataError, match="tf has no way from earth to optical, but the frames base, map, optical"):
        opened(bags, tf_frames=["earth", "optical"]).frame_ids("one")


def test_the_camera_of_tf_that_is_not_the_pictures_is_told(bags, caplog):
    with caplog.at_level(logging.WARNING):
        opened(bags, tf_frames=["map", "base"]).frame_ids("one")
    assert (
        "one.bag: data.tf_frames ends at base, but /camera/color/image_raw says it is of optical; poses are"
        in caplog.text
    )


def test_clocks_that_never_meet_are_told(frames, tmp_path):
    pytest.importorskip("rosbags")
    write_bag(tmp_path / "a.bag", "bag", frames, depth_late=5.5)
    with pytest.raises(DataError) as error:
        opened(tmp_path).frame_ids("a")
    assert (
        f"a.bag, {DEPTH}: no depth is within data.max_dt=0.02 s of a picture; pictures are from {START:.3f} to "
        f"{START + 0.3:.3f} s, these from {START + 5.5:.3f} to {START + 5.8:.3f} s: another clock, or another unit?"
    ) in str(error.value)
    with BagWriter(tmp_path / "c.bag", "bag") as bag:
        bag.camera_info(INFO, frames[0].k, (32, 24), "optical")
        bag.add(COLOR, "sensor_msgs/msg/Image", START, "optical", image(frames[0].color, "rgb8"))
        bag.odometry("/odom", 5.0, frames[0].pose, "optical")
    with pytest.raises(
        DataError, match=r"c.bag: /odom \(5.000 to 5.000 s\) is never within data.max_dt=0.02 s of /cam"
    ):
        opened(tmp_path, depth_topic=None).frame_ids("c")
    write_bag(tmp_path / "b.bag", "bag", frames, depth_late=0.09)  # of the picture after it, by 0.01 s
    dataset = opened(tmp_path)
    assert dataset.load("b", 0).depth_m is None
    np.testing.assert_allclose(dataset.load("b", 2).depth_m, frames[1].depth, atol=1e-6)


def test_depth_of_another_camera_has_to_be_told_how_it_lies(frames, tmp_path, caplog):
    pytest.importorskip("rosbags")
    write_bag(tmp_path / "a.bag", "bag", frames, depth_frame="lidar")
    with pytest.raises(
        DataError, match="is of the frame lidar, .*of optical, so depth is not registered to colour; take"
    ):
        opened(tmp_path).frame_ids("a")
    same = opened(tmp_path, color_from_depth=[0, 0, 0]).load("a", 1)
    assert np.count_nonzero(same.depth_m == frames[1].depth.astype(np.float32)) > 0.9 * same.depth_m.size
    assert "K is taken to be colour's" not in caplog.text
    opened(tmp_path, color_from_depth=[0, 0, 0.5]).frame_ids("a")
    assert "K is taken to be colour's, resized; data.depth_camera_info_topic names the topic of its own" in caplog.text
    moved = opened(tmp_path, color_from_depth=[0, 0, 0.5], depth_camera_info_topic=INFO).load("a", 1)
    seen = moved.depth_m[moved.depth_m > 0]
    assert np.isin((seen * 1000).round(), (frames[1].depth * 1000).round() + 500).all()


def test_whether_pictures_are_rectified_must_be_said_of_a_lens_that_distorts(frames, tmp_path):
    pytest.importorskip("rosbags")
    write_bag(tmp_path / "a.bag", "bag", frames, d=(0.1, 0, 0, 0, 0), p=frames[1].k)
    with pytest.raises(DataError, match=r"a.bag, /camera/color/camera_info: the lens distorts .plumb_bob, D: 0.1, 0"):
        opened(tmp_path).frame_ids("a")
    taken = opened(tmp_path, rectified=False).load("a", 0)
    assert taken.depth_camera.distortion.radial[0] == taken.color_camera.distortion.radial[0] == 0.1
    assert_is(opened(tmp_path, rectified=True).load("a", 0), frames[0], k=frames[1].k)


def test_a_bag_without_a_pose_or_a_message_is_told(frames, tmp_path):
    pytest.importorskip("rosbags")
    with BagWriter(tmp_path / "a.bag", "bag") as bag:
        bag.camera_info(INFO, frames[0].k, (32, 24), "optical")
        bag.add(COLOR, "sensor_msgs/msg/Image", START, "optical", image(frames[0].color, "rgb8"))
        bag.tf(START, "map", "optical", frames[0].pose)
        bag.tf(START + 9, "map", "optical", frames[1].pose)
    dataset = opened(tmp_path, depth_topic=None, tf_frames=["map", "optical"])
    assert dataset.frame_ids("a") == [0]
    with BagWriter(tmp_path / "b.bag", "bag") as bag:
        bag.camera_info(INFO, frames[0].k, (32, 24), "optical")
        bag.add(COLOR, "sensor_msgs/msg/Image", START, "optical", image(frames[0].color, "rgb8"))
        bag.tf(START + 1, "map", "optical", frames[0].pose)
        bag.tf(START + 9, "map", "optical", frames[1].pose)
    with pytest.raises(
        DataError, match=r"b.bag: not one picture has a pose; of the first: .*is 1.000 s from .*max_dt=0.02"
    ):
        dataset.frame_ids("b")


@pytest.mark.parametrize("kind", ["bag", "mcap", "db3"])
def test_a_bag_that_is_cut_off_is_told(kind, bags, tmp_path):
    source = {"bag": bags / "one.bag", "mcap": next((bags / "two").glob("*.mcap")), "db3": bags / "four.db3"}[kind]
    data = source.read_bytes()
    (tmp_path / f"a.{kind}").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=rf"a.{kind}\S* .*(cut off|damaged).*; copy or record it again, or mend it by"):
        opened(tmp_path).frame_ids("a")


def test_a_root_without_a_bag_is_told(bags, tmp_path):
    with pytest.raises(DataError, match="holds no bag, expected <scene>.bag, .mcap, .db3 or ROS 2's folders"):
        opened(tmp_path).scenes()
    with pytest.raises(DataError, match="two: a bag of ROS 2 itself, say data.root_is_scene=true"):
        opened(bags / "two").scenes()
    with pytest.raises(DataError, match="one.bag: a file, expected the folder that holds it"):
        opened(bags / "one.bag")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"color_topic": None}, "data.color_topic is not set: give the topic, such as /camera/color/image_raw"),
        ({"camera_info_topic": None}, "data.camera_info_topic is not set"),
        ({"tf_frames": ["map", "a"]}, r"pose_topic=/odom data.tf_frames=\['map', 'a'\]: expected one of the two"),
        ({"pose_topic": None, "tf_frames": ["map"]}, r"data.tf_frames=\['map'\]: expected \[world,camera\]"),
        ({"depth_camera_info_topic": "/d"}, "data.depth_camera_info_topic is set, but not data.color_from_depth"),
        ({"max_dt": -1}, "data.max_dt=-1: expected a number of at least 0"),
    ],
)
def test_keys_that_contradict_are_told(keys, message):
    with pytest.raises(ConfigError, match=message):
        RosbagConfig(root=".", **TOPICS | {"pose_topic": "/odom"} | keys)


def test_a_package_that_is_missing_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "rosbags.highlevel", None)
    with pytest.raises(ConfigError, match=r"data=rosbag needs the package rosbags: pip install 'clipfeat\[ros\]'"):
        import_rosbags()
