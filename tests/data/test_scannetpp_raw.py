import json
import logging

import numpy as np
import pytest
from phone_recordings import shots, write_scannetpp_raw
from test_record3d import assert_is

from clipfeat.data.archive_config import ScanNetPpRawConfig
from clipfeat.data.layouts import build_dataset
from clipfeat.data.scannetpp_raw import ListedPoses
from clipfeat.errors import DataError, FrameError


def opened(root, **keys):
    return build_dataset(ScanNetPpRawConfig(root=str(root), **keys))


@pytest.fixture(scope="module")
def frames():
    frames = shots(4, depth_size=(256, 192))
    for i, frame in enumerate(frames):  # which packs well
        frame.depth = np.linspace(0.1 + i, 4, 192 * 256).reshape(192, 256).round(1)
    return frames


@pytest.mark.parametrize(("kind", "video"), [("lz4", "rgb.mkv"), ("stream", "rgb.mp4")])
def test_frames_go_by_their_number_in_all_files(kind, video, frames, tmp_path, caplog):
    pytest.importorskip("av")
    pytest.importorskip("lz4")
    inner = write_scannetpp_raw(tmp_path / "0a7cc12c0e", frames, kind, video)
    listed = json.loads((inner / "pose_intrinsic_imu.json").read_text())
    del listed["frame_000001"], listed["frame_000002"]["aligned_pose"]
    listed["frame_000004"] = listed["frame_000003"]
    (inner / "pose_intrinsic_imu.json").write_text(json.dumps(listed))
    dataset = opened(tmp_path)
    assert (dataset.scenes(), dataset.frame_ids("0a7cc12c0e")) == (["0a7cc12c0e"], [0, 2, 3, 4])
    with caplog.at_level(logging.WARNING):
        for i in (3, 0):
            assert_is(dataset.load("0a7cc12c0e", i), frames[i], depth_atol=1e-6)
    assert len(caplog.messages) == 1
    packed = " and depth.bin 4" if kind == "lz4" else ""  # a stream has no count before its end
    said = f"{video}: holds 4 frames{packed}, but pose_intrinsic_imu.json lists 4, up to number 4; they are paired"
    assert said in caplog.text
    with pytest.raises(FrameError, match="frame_000002: has no aligned_pose, but timestamp, pose, intrinsic, imu; exp"):
        dataset.load("0a7cc12c0e", 2)
    with pytest.raises(FrameError, match=f"{video}: frame 4: the video holds 4 frames, from 0; is it cut off"):
        dataset.load("0a7cc12c0e", 4)
    assert opened(tmp_path / "0a7cc12c0e", root_is_scene=True).scenes() == ["0a7cc12c0e"]


def test_a_recording_that_was_extracted_is_not_this_one(frames, tmp_path):
    (write_scannetpp_raw(tmp_path / "a", frames[:1], video="") / "depth.bin").unlink()
    with pytest.raises(DataError, match=r"holds no <scene>/iphone/depth.bin beside pose_intrinsic_imu.json"):
        opened(tmp_path).scenes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "is a list and not an object; expected ScanNet++'s frame_000000 with aligned_pose and intrinsic"),
        ('{"frames": []}', "'frames' is no frame; expected ScanNet++'s frame_000000"),
        ('{"frame_000000": {', "not JSON, or cut off"),
        ("{}", "lists nothing; expected"),
        (
            json.dumps({name: {"aligned_pose": 1, "intrinsic": 2} for name in ("frame_5", "frame_000005")}),
            "lists frame 5 twice, once as 'frame_000005'; expected",
        ),
    ],
)
def test_a_list_of_another_kind_is_told(text, message, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError) as error:
        ListedPoses(tmp_path / "x.json")
    assert f"x.json: {message}" in str(error.value)


def test_a_frame_without_k_is_a_bad_frame(tmp_path):
    (tmp_path / "x.json").write_text(
        json.dumps({"frame_000007": {"aligned_pose": np.eye(4).tolist(), "intrinsic": [1]}})
    )
    poses = ListedPoses(tmp_path / "x.json")
    assert poses.cam_to_world(7).tolist() == np.eye(4).tolist()
    with pytest.raises(FrameError, match=r"x.json, frame_000007: intrinsic is of shape \(1,\); expected ScanNet"):
        poses.intrinsics(7)
