import numpy as np
import pytest
from phone_recordings import shots
from ros_bags import COLOR, DEPTH, INFO, START, BagWriter, image, write_bag

from clipfeat.data.bag_keys import bag_keys, is_open
from clipfeat.data.ros_bag import Bag
from clipfeat.errors import DataError


@pytest.fixture(autouse=True)
def _reader():
    pytest.importorskip("rosbags")


@pytest.mark.parametrize("packed", [False, True])
def test_colour_and_depth_are_told_apart_by_what_they_are_packed_as(tmp_path, packed):
    keys = bag_keys(Bag(write_bag(tmp_path / "a.bag", "bag", shots(1), packed=packed, without=["/slam"])))
    assert keys == {
        "data.color_topic": COLOR, "data.camera_info_topic": INFO, "data.depth_topic": DEPTH, "data.pose_topic": "/odom"
    }  # fmt: skip
    assert not is_open(keys)


def test_depth_and_k_are_those_of_the_frame_of_colour(tmp_path):
    """The others are of another camera, whose depth is not registered."""
    pixels, k = np.zeros((3, 4, 3), np.uint8), np.eye(3)
    with BagWriter(tmp_path / "a.bag", "bag") as bag:
        bag.add("/rgb", "sensor_msgs/msg/Image", START, "optical", image(pixels, "rgb8"))
        for name, frame in (("ir", "infra"), ("registered", "optical")):
            bag.add(f"/{name}", "sensor_msgs/msg/Image", START, frame, image(pixels[..., :1] * 1.0, "32FC1"))
            bag.camera_info(f"/{name}/camera_info", k, (4, 3), frame)
        bag.pose("/pose", START, np.eye(4))
        bag.add("/raw", "sensor_msgs/msg/Image", START, "optical", image(pixels[..., :1], "bayer_rggb8"))
    assert bag_keys(Bag(tmp_path / "a.bag")) == {
        "data.color_topic": "/rgb",
        "data.camera_info_topic": "/registered/camera_info",
        "data.depth_topic": "/registered",
        "data.pose_topic": "/pose",
        "data.pose_frame": "<optical, or whose poses these are>",
    }


def test_what_a_run_would_ask_for_stands_in_brackets(tmp_path):
    """A lens that distorts, and depth of another frame, whose K is that frame's."""
    path, lens = tmp_path / "a.bag", (0.1, 0.0, 0.0, 0.0, 0.0)
    keys = bag_keys(Bag(write_bag(path, "bag", shots(1), depth_frame="depth", d=lens, without=["/slam"])))
    assert keys["data.rectified"].startswith("<true if")
    assert keys["data.color_from_depth"].startswith("<from the axes of depth to those of colour")
    assert is_open(keys)
    assert "data.depth_camera_info_topic" not in keys


def test_without_poses_of_its_own_there_is_tf(tmp_path):
    keys = bag_keys(Bag(write_bag(tmp_path / "a.bag", "bag", shots(1), without=["/slam", "/odom"])))
    assert keys["data.tf_frames"] == "[<one of base | map>,optical]"
    assert is_open(keys)


@pytest.mark.parametrize(
    ("without", "what"),
    [([COLOR], "pictures"), ([INFO], "a K (CameraInfo)"), (["/slam", "/odom", "/tf"], "poses, nor /tf")],
)
def test_what_a_bag_lacks_is_told(tmp_path, without, what):
    path = write_bag(tmp_path / "a.bag", "bag", shots(1), without=without)
    with pytest.raises(DataError) as error:
        bag_keys(Bag(path))
    assert f"a.bag: holds no messages of {what}, but the topics /" in str(error.value)
