"""Recordings that keep their frames packed, by the writers in ../shared/recordings; skipped without a package.

Each takes what gives the writers by name, pytest's monkeypatch and the root, and returns the layout's configuration.
"""

import sys

import pytest
from phone_recordings import Shot, quaternion_of
from ros_bags import COLOR, DEPTH, INFO, write_bag

from clipfeat.data.archive_config import Record3dConfig, RosbagConfig, StrayScannerConfig


def write_record3d(writers, monkeypatch, root):
    """Its pictures are made smaller than the metadata says, and K with them."""
    for name in ("lzfse", "liblzfse", "OpenEXR"):
        pytest.importorskip(name)
    room, recording = writers("room"), writers("recording")
    record = recording.Recording
    monkeypatch.setattr(recording, "Recording", lambda c, d: record(c.resized(180, 240), d, room.path()))
    writers("write_record3d").write(root)
    return Record3dConfig(root=str(root))


def _small_phone(writers, monkeypatch):
    phone = writers("recording").phone
    monkeypatch.setattr(writers("recording"), "phone", lambda *_, **__: phone((320, 240), (256, 192)))


def write_stray(writers, monkeypatch, root):
    pytest.importorskip("av")
    _small_phone(writers, monkeypatch)
    writers("write_stray").write(root)
    return StrayScannerConfig(root=str(root))


def write_rosbag(writers, monkeypatch, root):
    for name in ("lz4", "lz4.block"):  # rosbags wants the real one, not that of the writers
        monkeypatch.delitem(sys.modules, name, raising=False)
    pytest.importorskip("rosbags")
    _small_phone(writers, monkeypatch)
    recording = writers("recording")
    recorded, world = recording.phone(), recording.rigid((1, 0, 0), -80, (0, 0.1, 0.2))
    poses = [world @ pose for pose in recorded.poses]
    frames = [
        Shot(recorded.picture(i), recorded.depth_m(i), None, pose, quaternion_of(pose[:3, :3]), recorded.colour.k)
        for i, pose in enumerate(poses)
    ]
    write_bag(root / "a", "mcap", frames, packed=True)
    recording.write_truth(root, recorded, {i: i for i in range(len(poses))}, world)
    keys = {"color_topic": COLOR, "depth_topic": DEPTH, "camera_info_topic": INFO, "pose_topic": "/odom"}
    return RosbagConfig(root=str(root), **keys)
