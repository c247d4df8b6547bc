import dataclasses
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch
from stores import some_segments

from clipfeat.errors import OutputError
from clipfeat.output import space
from clipfeat.output.files import FORMATS, FrameSize, write_features
from clipfeat.output.grid import GridFrame
from clipfeat.output.space import DiskSpace, readable
from clipfeat.types import Camera, FeatureMap, PointFeatures, resize_affine

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def only_warnings(caplog):
    """Whatever level other tests have left."""
    caplog.set_level("WARNING", logger="clipfeat")


@pytest.fixture
def disk(monkeypatch):
    """Sets the bytes that are free."""

    def set_free(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**15, 0, free))

    return set_free


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_each_format_knows_how_large_its_files_become(tmp_path, name, dtype):
    n, channels = 5000, 48
    uv, one, rgb = np.zeros((n, 2), np.float32), np.zeros(n, np.float32), {"rgb": np.zeros((n, 3), np.uint8)}
    if FORMATS[name].holds == "segments":
        kept = dataclasses.replace(
            some_segments(0), uv_idx=uv, depth_m=one, conf_2d=one, pts_idx=np.arange(n) * 300, attributes=rgb,
            segment_feat=np.zeros((12, channels), np.float32),
        )  # fmt: skip
    elif FORMATS[name].holds == "map":
        feature_map = FeatureMap(torch.zeros(channels, 28, 28, dtype=torch.float16), resize_affine((64, 48), (28, 28)))
        kept = GridFrame(
            feature_map=feature_map, camera=Camera(np.eye(3), 64, 48), cam_to_world=np.eye(4), uv_idx=uv, depth_m=one,
            conf_2d=one, pts_idx=np.arange(n) * 300, attributes=rgb,
        )  # fmt: skip
    else:
        kept = PointFeatures(
            np.zeros((n, channels), np.float32), uv, one, np.zeros((n, 3), np.float32), np.arange(n), rgb
        )
    real = write_features(tmp_path / f"x{FORMATS[name].suffix}", name, kept, {"model": "m" * 1000}, dtype)
    size = FrameSize(n, channels, dtype, attribute_bytes=3, map_values=channels * 28 * 28)
    # Of a picture's segments nobody knows the number beforehand.
    rel = {"points": 0.01, "map": 0.05, "segments": 0.5}[FORMATS[name].holds]
    assert FORMATS[name].bytes_of(size) == pytest.approx(real, rel=rel)


def test_what_is_to_be_written_and_what_is_free_is_always_said(tmp_path, disk, caplog):
    caplog.set_level("INFO", logger="clipfeat")
    disk(310e9)
    DiskSpace(tmp_path, 750, 12e6).check(16e6, certain=True)
    assert caplog.messages == [f"about 12 GB to write, 310 GB free in {tmp_path}"]


@pytest.mark.parametrize(("free", "said"), [(12.5e9, "that is tight"), (11.5e9, "that may not fit")])
def test_a_warning_where_it_is_tight(tmp_path, disk, caplog, free, said):
    disk(free)
    DiskSpace(tmp_path, 750, 0).check(16e6, certain=True)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert f"12 GB to write, {readable(free)} free in {tmp_path}: {said}. Make room, choose another" in caplog.text
    assert "output.dtype=float16, fewer frames (frames_per_scene, frame_stride) or fewer points" in caplog.text


def test_a_refusal_where_it_can_not_fit_and_that_is_certain(tmp_path, disk, caplog):
    disk(5e9)
    plan = DiskSpace(tmp_path, 750, 0)
    message = (
        r"output_dir=.*: about 12 GB to write, 5.0 GB free in .*: that can't fit. Make room, .*output.dtype=float16"
    )
    with pytest.raises(OutputError, match=message):
        plan.check(16e6, certain=True)
    plan.check(16e6, certain=False)
    assert "that may not fit" in caplog.text
    caplog.clear()
    plan.check(16e6, certain=True, freed=10**10)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_a_disk_that_does_not_know_its_size_is_not_full(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 0))
    DiskSpace(tmp_path, 750, 0).check(16e6, certain=True)
    assert not caplog.records


def test_what_was_really_written_warns_once(tmp_path, disk, caplog, monkeypatch):
    monkeypatch.setattr(space, "CHECK_EVERY", 10)
    disk(1000)
    plan = DiskSpace(tmp_path, 100, 0)
    for _ in range(10):
        plan.wrote(10)
    assert not caplog.records
    for _ in range(30):
        plan.wrote(30)
    assert len(caplog.records) == 1
    assert "20 of 100 frames are written, the others take about 1.6 kB, and 1.0 kB are free" in caplog.text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0.0 kB"), (400, "0.4 kB"), (9949, "9.9 kB"), (9951, "10 kB"), (999_499, "999 kB"), (999_501, "1.0 MB"),
     (16.02e6, "16 MB"), (1.23e12, "1.2 TB"), (2.5e15, "2500 TB")],
)  # fmt: skip
def test_bytes_as_a_person_says_them(size, text):
    assert readable(size) == text
