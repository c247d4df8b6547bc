"""Packed recordings of a room whose geometry is known exactly.

The recordings are those of the writers in ../shared/recordings, where these are.
"""

import json
import sys

import numpy as np
import pytest
from packed_recordings import write_record3d, write_rosbag, write_stray
from phone_recordings import write_video
from test_recording_writers import WRITERS, writers  # noqa: F401  a fixture

from clipfeat.camera.projection import build_uv_index, unproject_depth, world_to_cam
from clipfeat.data.archive_config import ScanNetPpRawConfig
from clipfeat.data.layouts import build_dataset

pytestmark = pytest.mark.skipif(not WRITERS.is_dir(), reason="the writers of recordings are not here")


def assert_on_the_room(dataset, scene, room, truth, most_m=1e-3):
    """All measured pixels: to 1 mm of where their rays meet the room, to 0.01 px of where that is seen; and colours."""
    colour, depth = (room.Pinhole(*truth[kind]) for kind in ("colour", "depth"))
    assert [str(number) for number in dataset.frame_ids(scene)] == sorted(truth["cam_to_room"], key=int)
    for number in dataset.frame_ids(scene):
        frame = dataset.load(scene, number)
        xyz, pixels = unproject_depth(frame.depth_m, frame.depth_camera.intrinsics, frame.cam_to_world)
        assert len(pixels) == depth.width * depth.height
        pose = np.array(truth["cam_to_room"][str(number)])
        rays = depth.rays().reshape(-1, 3)
        z, _ = room.hit(pose[:3, 3], rays @ pose[:3, :3].T)
        camera = rays * z[:, None]
        world = (np.array(truth["room_to_world"]) @ pose @ np.c_[camera, np.ones(len(rays))].T).T[:, :3]
        assert (np.linalg.norm(world - xyz, axis=1) / (most_m(z) if callable(most_m) else most_m)).max() < 1
        size = (frame.picture.width, frame.picture.height)
        seen = build_uv_index(world, frame.color_camera.intrinsics, world_to_cam(frame.cam_to_world), image_size=size)
        true_uv = camera[:, :2] / camera[:, 2:] * (colour.fx, colour.fy) + (colour.cx, colour.cy)
        assert np.abs(seen.uv - true_uv).max() < 0.01
        assert size == (colour.width, colour.height)
        assert (
            np.abs(frame.image.astype(int) - room.render(colour, pose)[0]).mean() < 4
        )  # of another frame: 20 and more


@pytest.fixture
def small(writers, monkeypatch):  # noqa: F811
    """The writers, of three frames and small pictures, for pixels are far fewer than say anything new."""
    for name in ("lz4", "lz4.block"):  # here it is the real one
        monkeypatch.delitem(sys.modules, name)
    room, recording = writers("room"), writers("recording")
    path, phone = room.path, recording.phone
    monkeypatch.setattr(room, "path", lambda _count=3, *rest: path(3, *rest))
    monkeypatch.setattr(recording, "phone", lambda *_, **__: phone((320, 240), (256, 192)))
    return writers


def truth_of(root):
    return json.loads((root / "truth.json").read_text())


def test_record3d(small, tmp_path, monkeypatch):
    dataset, room = build_dataset(write_record3d(small, monkeypatch, tmp_path)), small("room")
    truth = truth_of(tmp_path)
    assert_on_the_room(dataset, "room", room, truth)
    # Half floats have 11 bits: of 2 m and more they are off by 1 mm, along rays of up to 1.3 times the depth.
    assert_on_the_room(dataset, "export", room, truth, most_m=lambda z: 1.4 * np.exp2(np.floor(np.log2(z)) - 11))


def test_stray_scanner(small, tmp_path, monkeypatch):
    dataset = build_dataset(write_stray(small, monkeypatch, tmp_path))
    assert_on_the_room(dataset, "c00a170fe1", small("room"), truth_of(tmp_path))


def test_scannetpp_raw(small, tmp_path):
    """The writer numbers every tenth frame, and packs these alone; here they are all that was recorded."""
    pytest.importorskip("av")
    pytest.importorskip("lz4")
    recorded = small("write_scannetpp_iphone").write(tmp_path, extracted=False)
    listed = tmp_path / "0a7cc12c0e/iphone/pose_intrinsic_imu.json"
    frames = json.loads(listed.read_text()).values()
    listed.write_text(json.dumps({f"frame_{i:06d}": frame for i, frame in enumerate(frames)}))
    write_video(listed.with_name("rgb.mkv"), [recorded.picture(i) for i in range(3)])
    truth = truth_of(tmp_path)
    truth["cam_to_room"] = {str(int(number) // 10): pose for number, pose in truth["cam_to_room"].items()}
    dataset = build_dataset(ScanNetPpRawConfig(root=str(tmp_path)))
    assert_on_the_room(dataset, "0a7cc12c0e", small("room"), truth)


def test_rosbag(small, tmp_path, monkeypatch):
    dataset = build_dataset(write_rosbag(small, monkeypatch, tmp_path))
    assert_on_the_room(dataset, "a", small("room"), truth_of(tmp_path))
