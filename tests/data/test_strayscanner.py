import logging

import numpy as np
import pytest
from phone_recordings import shots, write_stray, write_video
from test_record3d import assert_is

from clipfeat.data.archive_config import StrayScannerConfig
from clipfeat.data.layouts import build_dataset
from clipfeat.data.strayscanner import Odometry
from clipfeat.errors import DataError, FrameError


def opened(root, **keys):
    return build_dataset(StrayScannerConfig(root=str(root), **keys))


def test_each_frame_has_its_row_its_depth_and_its_place_in_the_video(tmp_path):
    pytest.importorskip("av")
    frames = shots(7)
    write_stray(tmp_path / "new", frames)
    write_stray(tmp_path / "old", frames, own_k=False)
    lines = (tmp_path / "new/odometry.csv").read_text().splitlines()
    (tmp_path / "new/odometry.csv").write_text("\n".join([lines[0], *lines[:3:-1], *lines[1:3]]))  # row 2 is lost
    dataset = opened(tmp_path)
    assert dataset.scenes() == ["new", "old"]
    assert dataset.frame_ids("new") == [0, 1, 3, 4, 5, 6]
    for i in (6, 3, 0):
        assert_is(dataset.load("new", i), frames[i])
        assert_is(dataset.load("old", i), frames[i], k=frames[-1].k)
    doubtful = opened(tmp_path, confidence_min=1).load("new", 1).depth_m
    np.testing.assert_array_equal(doubtful > 0, frames[1].confidence >= 1)
    weighed = opened(tmp_path, confidence_min=1, confidence_full=2).load("new", 1)
    np.testing.assert_array_equal(weighed.depth_m, doubtful)
    np.testing.assert_array_equal(weighed.depth_weight, frames[1].confidence / 2)
    (tmp_path / "new/depth/000000.png").unlink()
    np.save(tmp_path / "new/depth/000001.npy", (frames[1].depth * 1000).round().astype(np.uint16))
    (tmp_path / "new/depth/000001.png").unlink()
    (tmp_path / "new/confidence/000003.png").unlink()
    assert dataset.load("new", 0).depth_m is None
    assert_is(dataset.load("new", 1), frames[1])
    with pytest.raises(FrameError, match=r"000003.png: has no confidence/000003.png beside it.*=null takes all depth"):
        opened(tmp_path, confidence_min=1).load("new", 3)


def test_a_video_that_asks_to_be_turned_is_taken_as_stored_and_told(tmp_path, caplog):
    pytest.importorskip("av", minversion="18")
    frames = shots(2)
    write_stray(tmp_path / "a", frames, turned=-90)
    with caplog.at_level(logging.WARNING):
        assert_is(opened(tmp_path).load("a", 1), frames[1])
    assert "its note in the video says it is to be turned by 90°; if K, depth and poses are of the picture turned" in (
        caplog.text
    )
    write_video(tmp_path / "a/rgb.mp4", [np.rot90(frame.color) for frame in frames], turned=-90)
    with pytest.raises(DataError, match="colour of 24×32 pixels, but depth of 16×12: one of them lies on its side"):
        opened(tmp_path).load("a", 1)
    assert_is(opened(tmp_path, rotate=90).load("a", 1), frames[1])


def test_a_video_of_hdr_is_told_once(tmp_path, caplog):
    pytest.importorskip("av")
    frames = shots(2)
    write_stray(tmp_path / "a", frames, color_trc="arib-std-b67")
    dataset = opened(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert all(dataset.load("a", i).depth_m is not None for i in range(2))
    [told] = caplog.messages
    assert "rgb.mp4: its colours are HDR (HLG) and are taken as they are stored, so white is grey" in told


def test_counts_that_differ_are_told_and_what_the_video_lacks_is_bad(tmp_path, caplog):
    pytest.importorskip("av")
    frames = shots(4)
    write_stray(tmp_path / "a", frames)
    write_video(tmp_path / "a/rgb.mp4", [frame.color for frame in frames[:3]])
    dataset = opened(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert_is(dataset.load("a", 2), frames[2])
        with pytest.raises(FrameError, match="rgb.mp4: frame 3: the video holds 3 frames, from 0; is it cut off"):
            dataset.load("a", 3)
    assert len(caplog.messages) == 1
    assert "rgb.mp4: holds 3 frames, but odometry.csv tells of 4, up to number 3; they are paired by number" in (
        caplog.text
    )


def test_a_frame_without_k_is_told(tmp_path):
    pytest.importorskip("av")
    write_stray(tmp_path / "a", shots(1), own_k=False)
    (tmp_path / "a/camera_matrix.csv").unlink()
    with pytest.raises(FrameError, match=r"odometry.csv, line 2: has no K .*, and there is no camera_matrix.csv"):
        opened(tmp_path).load("a", 0)


HEAD = "timestamp, frame, x, y, z, qx, qy, qz, qw\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column frame, x, y, z, qx, qy, qz, qw, but ; expected Stray Scanner's columns timestamp, frame"),
        (
            "timestamp, x, y, z, q\n1,2,3,4,5",
            "has no column frame, qx, qy, qz, qw, but timestamp, x, y, z, q; exp",
        ),
        (HEAD, "has no row, expected Stray Scanner's columns"),
        (HEAD + "1, a, 0,0,0,0,0,0,1", "line 2: frame 'a', expected a number"),
        (HEAD + "1, 1, 0,0,0,0,0,0,1\n\n2, 1, 0,0,0,0,0,0,1", "lines 2 and 4 are both frame 1; remove one"),
        (HEAD + "1, 1, 0,0,x,0,0,0,1", "line 2: could not convert string to float: 'x', a number was expected"),
    ],
)
def test_an_odometry_of_another_kind_is_told(text, message, tmp_path):
    (tmp_path / "odometry.csv").write_text(text)
    with pytest.raises(DataError) as error:
        Odometry(tmp_path / "odometry.csv")
    assert message in str(error.value)


def test_a_row_that_broke_off_is_a_bad_frame(tmp_path):
    (tmp_path / "odometry.csv").write_text(HEAD + "1, 0, 0,0,0,0,0,0,1\n2, 1, 0.5,0.")
    odometry = Odometry(tmp_path / "odometry.csv")
    assert odometry.cam_to_world(0).tolist() == np.eye(4).tolist()
    with pytest.raises(FrameError, match="line 3: the quaternion holds inf or NaN, so tracking was lost"):
        odometry.cam_to_world(1)
