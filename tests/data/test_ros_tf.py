import numpy as np
import pytest
from phone_recordings import quaternion_of, shots
from ros_bags import message

from clipfeat.data.ros_tf import FrameTree, TimedTrack
from clipfeat.errors import DataError, FrameError


def vectors(matrix):
    q = quaternion_of(matrix[:3, :3])
    return message(dict(zip("xyz", matrix[:3, 3], strict=True))), message(dict(zip("xyzw", q, strict=True)))


def transforms(*rows):
    """Messages of tf: (static, seconds, parent, child, matrix) each."""
    for static, seconds, parent, child, matrix in rows:
        translation, rotation = vectors(matrix)
        stamp = message({"sec": int(seconds), "nanosec": round(seconds % 1 * 1e9)})
        one = {
            "header": message({"stamp": stamp, "frame_id": parent}), "child_frame_id": child,
            "transform": message({"translation": translation, "rotation": rotation}),
        }  # fmt: skip
        yield static, message({"transforms": [message(one)]})


def about_z(degrees, x=0.0):
    a = np.radians(degrees)
    pose = np.eye(4)
    pose[:2, :2], pose[0, 3] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]], x
    return pose


def test_a_pose_between_two_is_on_the_way():
    track = TimedTrack("here")
    for seconds, degrees, x in ((3.0, 80, 4.0), (1.0, 20, 1.0), (2.0, 40, 2.0)):  # whatever the order
        track.add(seconds, *vectors(about_z(degrees, x)))
    np.testing.assert_allclose(track.at(2.25, 0.3), about_z(50, 2.5), atol=1e-12)
    np.testing.assert_allclose(track.at(2.75, 0.3), about_z(70, 3.5), atol=1e-12)
    np.testing.assert_allclose(track.at(2.0, 0), about_z(40, 2.0), atol=1e-12)
    np.testing.assert_allclose(track.at(3.1, 0.2), about_z(80, 4.0), atol=1e-12)  # past the end: the nearest
    with pytest.raises(
        FrameError, match=r"here: the nearest pose is 0.250 s from 2.250000 s, more than data.max_dt=0.1"
    ):
        track.at(2.25, 0.1)


def test_a_tree_is_climbed_from_both_sides():
    map_odom, odom_base, base_lens, map_mark = (shot.pose for shot in shots(4))
    tree = FrameTree("bag", transforms(
        (False, 1.0, "map", "odom", map_odom), (False, 50.0, "map", "odom", map_odom),  # which never moves
        (False, 5.0, "/odom", "base", odom_base), (False, 6.0, "odom", "base", np.eye(4)),
        (True, 0.0, "base", "lens", base_lens), (True, 0.0, "map", "mark", map_mark),
    ))  # fmt: skip
    lens = map_odom @ odom_base @ base_lens
    np.testing.assert_allclose(tree.pose("lens", "map", 5.0, 0.01), lens, atol=1e-12)
    np.testing.assert_allclose(tree.pose("lens", "mark", 5.0, 0.01), np.linalg.inv(map_mark) @ lens, atol=1e-12)
    np.testing.assert_allclose(tree.pose("base", "/lens", 9.0, 0.01), np.linalg.inv(base_lens), atol=1e-12)
    with pytest.raises(FrameError, match="bag, tf from odom to base: the nearest pose is 1.000 s from 7.000000 s"):
        tree.pose("lens", "map", 7.0, 0.01)
    with pytest.raises(
        DataError, match="bag: tf has no way from world to lens, but the frames base, lens, map, mark, odom"
    ):
        tree.pose("lens", "world", 5.0, 0.01)


def test_nothing_is_interpolated_towards_a_pose_that_was_lost():
    track = TimedTrack("here")
    track.add(1.0, *vectors(about_z(20)))
    track.add(1.1, message({"x": 0, "y": 0, "z": 0}), message({"x": 0, "y": 0, "z": 0, "w": 0}))
    np.testing.assert_allclose(track.at(1.0, 0.1), about_z(20), atol=1e-12)
    with pytest.raises(FrameError, match="here at 1.100000 s: the quaternion is zero"):
        track.at(1.01, 0.1)


def test_what_was_said_once_does_not_hold_always():
    tree = FrameTree("bag", transforms((False, 1.0, "map", "base", about_z(20))))
    np.testing.assert_allclose(tree.pose("base", "map", 1.05, 0.1), about_z(20), atol=1e-12)
    with pytest.raises(FrameError, match="the nearest pose is 4.000 s from 5.000000 s"):
        tree.pose("base", "map", 5.0, 0.1)


def test_stamps_that_nobody_set_are_told():
    rows = [(False, 0.0, "map", "base", about_z(angle)) for angle in (10, 20)]
    with pytest.raises(DataError, match="bag, tf from map to base: all 2 poses bear the time 0 s; were the stamps"):
        FrameTree("bag", transforms(*rows))


def test_a_frame_that_hangs_on_two_in_turn_is_told_where_it_matters():
    rows = [(False, 1.0 + i, parent, "base", about_z(i)) for i, parent in enumerate(("map", "odom", "map", "odom"))]
    tree = FrameTree("bag", transforms(*rows, (True, 0.0, "rig", "lens", about_z(30))))
    np.testing.assert_allclose(tree.pose("lens", "rig", 1.0, 0.1), about_z(30), atol=1e-12)
    with pytest.raises(DataError, match="bag: tf hangs base on map and on odom in turn; take data.pose_topic"):
        tree.pose("base", "odom", 1.0, 0.1)
