"""Packed recordings are streamed: ten times the frames take no more memory. A process each, for its peak is its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CHECKOUT
from phone_recordings import shots, write_r3d, write_scannetpp_raw, write_stray
from ros_bags import COLOR, DEPTH, INFO, write_bag

READ = """
import re, sys
from clipfeat.data import archive_config
from clipfeat.data.layouts import build_dataset

config, root, keys = sys.argv[1], sys.argv[2], eval(sys.argv[3])
dataset = build_dataset(getattr(archive_config, config)(root=root, **keys))
[scene] = dataset.scenes()
for number in dataset.frame_ids(scene):
    frame = dataset.load(scene, number)
    frame.image, frame.depth_m
# Not getrusage's: that begins with what the process had that started this one.
print(number, int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) / 1024)"""

KEYS = {"color_topic": COLOR, "depth_topic": DEPTH, "camera_info_topic": INFO, "tf_frames": ["map", "optical"]}

CASES = {
    "record3d": ("lzfse", "Record3dConfig", {}, lambda root, frames: write_r3d(root / "a.r3d", frames)),
    "strayscanner": ("av", "StrayScannerConfig", {}, lambda root, frames: write_stray(root / "a", frames)),
    "scannetpp_raw": ("av", "ScanNetPpRawConfig", {}, lambda root, f: write_scannetpp_raw(root / "a", f, "stream")),
    "rosbag1": ("rosbags", "RosbagConfig", KEYS, lambda root, frames: write_bag(root / "a.bag", "bag", frames)),
    "rosbag2": ("rosbags", "RosbagConfig", KEYS, lambda root, frames: write_bag(root / "a", "mcap", frames)),
    "rosbag3": ("rosbags", "RosbagConfig", KEYS, lambda root, frames: write_bag(root / "a", "sqlite3", frames)),
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux tells it")
@pytest.mark.parametrize("name", CASES)
def test_memory_does_not_grow_with_the_frames(name, tmp_path):
    package, config, keys, write = CASES[name]
    pytest.importorskip(package)
    peaks = []
    for count in (200, 2000):
        size, depth = ((32, 24), (256, 192)) if name == "scannetpp_raw" else ((160, 120), (160, 120))
        frames = shots(1, size, depth) * count
        (tmp_path / str(count)).mkdir()
        write(tmp_path / str(count), frames)
        command = [sys.executable, "-c", READ, config, str(tmp_path / str(count)), repr(keys)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=CHECKOUT)
        last, peak = done.stdout.split()
        assert int(last) == count - 1
        peaks.append(float(peak))
    assert peaks[1] < peaks[0] + 100, peaks
