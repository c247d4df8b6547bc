import json
import shutil
import sys
import zipfile

import numpy as np
import pytest
from phone_recordings import exr, jpeg, record3d_metadata, shots, write_r3d, write_record3d_export

from clipfeat.data.archive_config import Record3dConfig
from clipfeat.data.exr import decode_exr
from clipfeat.data.layouts import build_dataset
from clipfeat.data.lzfse_blocks import unpack
from clipfeat.data.rasters import read_depth
from clipfeat.errors import ConfigError, DataError, FrameError


def opened(root, **keys):
    return build_dataset(Record3dConfig(root=str(root), **keys))


def assert_is(frame, shot, *, depth_atol=0.0, k=None):
    np.testing.assert_allclose(frame.cam_to_world, shot.pose, atol=1e-9)
    np.testing.assert_allclose(frame.color_camera.intrinsics, shot.k if k is None else k)
    np.testing.assert_allclose(frame.depth_m, shot.depth.astype(np.float32), atol=depth_atol)
    expected = frame.color_camera.resized(*shot.depth.shape[::-1])
    np.testing.assert_allclose(frame.depth_camera.intrinsics, expected.intrinsics)
    assert np.abs(frame.image.astype(int) - shot.color).max() < 6


def test_an_export_is_read_by_numbers_and_not_by_places(tmp_path):
    """File 1 is missing: pose 2 stays that of file 2. Each frame has its own K, which wins."""
    frames = shots()
    write_record3d_export(tmp_path / "kitchen", frames, leave_out=[1])
    dataset = opened(tmp_path)
    assert (dataset.scenes(), dataset.frame_ids("kitchen")) == (["kitchen"], [0, 2, 3])
    for i in (0, 2, 3):
        assert_is(dataset.load("kitchen", i), frames[i], depth_atol=1e-3)  # half floats
    inside = opened(tmp_path / "kitchen", root_is_scene=True)
    assert inside.scenes() == ["kitchen"]
    with pytest.raises(FrameError, match="kitchen: holds no frame 1"):
        dataset.load("kitchen", 1)


def test_an_archive_is_read_as_it_is_and_unpacked(tmp_path):
    pytest.importorskip("lzfse")
    frames = shots()
    write_r3d(tmp_path / "a.r3d", frames, leave_out=[1])
    write_r3d(tmp_path / "b" / "b.r3d", frames, record3d_metadata(frames, own_k=False))
    zipfile.ZipFile(tmp_path / "a.r3d").extractall(tmp_path / "c")
    dataset = opened(tmp_path)
    assert dataset.scenes() == ["a", "b", "c"]
    assert dataset.frame_ids("a") == dataset.frame_ids("c") == [0, 2, 3]
    for scene in "ac":
        assert_is(dataset.load(scene, 3), frames[3])
    assert_is(dataset.load("b", 3), frames[3], k=frames[0].k)
    doubtful = opened(tmp_path, confidence_min=2).load("a", 2).depth_m
    np.testing.assert_array_equal(doubtful > 0, frames[2].confidence == 2)
    weighed = opened(tmp_path, confidence_full=2).load("a", 2)
    np.testing.assert_array_equal(weighed.depth_weight, frames[2].confidence / 2)
    write_record3d_export(tmp_path / "e", frames)
    assert opened(tmp_path).load("e", 0).frame_id == 0
    with pytest.raises(FrameError, match=r"0.exr: has no confidence beside it, but data.confidence_min=1; .*=null"):
        opened(tmp_path, confidence_min=1).load("e", 0)


def test_a_turned_picture_is_told_with_both_readings(tmp_path):
    frames = shots(1)
    folder = write_record3d_export(tmp_path / "a", frames)
    (folder / "rgb/0.jpg").write_bytes(jpeg(np.rot90(frames[0].color)))
    with pytest.raises(FrameError, match=r"K: K belongs to 32×24 pixels, but the picture has 24×32: .*data.rotate=90"):
        opened(tmp_path).load("a", 0)
    assert_is(opened(tmp_path, rotate=90).load("a", 0), frames[0], depth_atol=1e-3)


def test_metadata_of_another_schema_is_told(tmp_path):
    frames = shots(2)
    cases = {
        "no_k": ({"K": None}, "has no K, but w, h, dw, dh, fps, poses; expected Record3D's metadata"),
        "nine": ({"K": [1, 2, 3]}, "K is [1, 2, 3], expected 9 numbers"),
        "poses": ({"poses": None}, "poses is 'None', expected a list, an entry a frame"),
        "size": ({"w": None}, "has no w and h, but "),
        "other": ({"w": "wide"}, "w is 'wide', a number was expected"),
    }
    for scene, (changes, message) in cases.items():
        write_record3d_export(tmp_path / scene, frames, record3d_metadata(frames, own_k=False, **changes))
        with pytest.raises(DataError) as error:
            opened(tmp_path).frame_ids(scene)
        assert f"{tmp_path / scene / 'metadata.json'}: {message}" in str(error.value)
    (tmp_path / "no_k" / "metadata.json").write_text("[1, 2")
    with pytest.raises(DataError, match="metadata.json: not JSON, or cut off .*; expected Record3D's metadata"):
        opened(tmp_path).frame_ids("no_k")


def test_a_frame_without_its_pose_or_k_is_a_bad_frame(tmp_path):
    frames = shots(3)
    metadata = record3d_metadata(frames, K=None)
    metadata["poses"] = metadata["poses"][:2]
    metadata["poses"][1][:4] = 0, 0, 0, 0
    metadata["perFrameIntrinsicCoeffs"] = metadata["perFrameIntrinsicCoeffs"][:1]
    folder = write_record3d_export(tmp_path / "a", frames, metadata)
    dataset = opened(tmp_path)
    assert dataset.frame_ids("a") == [0, 1, 2]
    with pytest.raises(FrameError, match="metadata.json: pose 1: the quaternion is zero, so tracking was lost"):
        dataset.load("a", 1)
    with pytest.raises(FrameError, match="metadata.json: holds 2 poses, none of frame 2"):
        dataset.load("a", 2)
    metadata["poses"][1][:4] = 0, 0, 0, 1
    (folder / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(FrameError, match="metadata.json: has a K of 1 frames, none of frame 1"):
        opened(tmp_path).load("a", 1)
    (folder / "depth/0.exr").unlink()
    assert opened(tmp_path).load("a", 0).depth_m is None


def test_an_archive_that_is_cut_off_or_damaged_is_told(tmp_path):
    pytest.importorskip("lzfse")
    frames = shots(2)
    whole = write_r3d(tmp_path / "a.r3d", frames).read_bytes()
    (tmp_path / "cut.r3d").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut.r3d: cut off, damaged or no .r3d archive .*; copy or export"):
        opened(tmp_path).frame_ids("cut")
    at = whole.index(b"rgbd/1.depth") + 60
    (tmp_path / "a.r3d").write_bytes(whole[:at] + b"\xff" * 4 + whole[at + 4 :])
    assert opened(tmp_path).load("a", 0).depth_m is not None
    with pytest.raises(FrameError, match="a.r3d, rgbd/1.depth: damaged .Bad CRC-32.*; copy or export"):
        opened(tmp_path).load("a", 1)
    write_r3d(tmp_path / "a.r3d", frames, record3d_metadata(frames, dw=15))
    with pytest.raises(FrameError, match="rgbd/0.depth: LZFSE data of 768 bytes, expected 720, depth in metres"):
        opened(tmp_path).load("a", 0)
    write_r3d(tmp_path / "a.r3d", frames, record3d_metadata(frames, dw=None))
    with pytest.raises(FrameError, match="rgbd/0.depth: the metadata says no dw and dh, the size of depth"):
        opened(tmp_path).load("a", 0)


def test_packed_data_takes_no_more_memory_than_was_expected():
    lzfse = pytest.importorskip("lzfse")
    with pytest.raises(ValueError, match="LZFSE data of 3000000 bytes, expected 100"):
        unpack(lzfse.compress(bytes(3_000_000)), 100)
    with pytest.raises(ValueError, match="damaged or cut off LZFSE data, after 0 bytes"):
        unpack(b"nonsense", 100)


def test_a_package_that_is_missing_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "lzfse", None)
    with pytest.raises(ConfigError, match=r"needs the package lzfse .*: pip install 'clipfeat\[record3d\]'"):
        unpack(b"", 0)


def test_a_root_without_a_recording_is_told(tmp_path):
    with pytest.raises(DataError, match=r"holds no recording, expected <scene>.r3d, or <scene>/metadata.json"):
        opened(tmp_path).scenes()
    write_record3d_export(tmp_path / "a", shots(1))
    with pytest.raises(DataError, match="; it is there for data.root_is_scene=true"):
        opened(tmp_path / "a").scenes()
    (tmp_path / "a.r3d").touch()
    with pytest.raises(DataError, match="a.r3d and .*/a would both be scene a; rename one of them"):
        opened(tmp_path).scenes()
    shutil.rmtree(tmp_path / "a" / "rgb")
    assert opened(tmp_path).scenes() == ["a"]
    with pytest.raises(DataError, match="no such folder"):
        opened(tmp_path / "nowhere")


@pytest.mark.parametrize("compression", [0, 2, 3])
def test_exr_gives_what_was_written(tmp_path, compression):
    depth = shots(1, depth_size=(21, 37))[0].depth
    depth[:20] = 1.5
    encoded = exr(depth, compression)
    np.testing.assert_array_equal(decode_exr(encoded, 1 << 20), depth.astype(np.float16).astype(np.float32))
    (tmp_path / "x.exr").write_bytes(encoded)
    assert read_depth(tmp_path / "x.exr", 1000, float_scale=1).shape == (37, 21)
    for size in range(0, len(encoded), 97):
        with pytest.raises(ValueError):
            decode_exr(encoded[:size], 1 << 20)


def test_exr_of_another_kind_is_told():
    good = exr(np.ones((4, 4)))
    for old, new, message in (
        (b"R\0\1", b"R\0\7", "channel R of an unknown type"),
        (struct_of("compression", 3), struct_of("compression", 4), "an EXR compressed by PIZ; none, ZIPS and ZIP"),
        (b"\x01\x02\0\0\0", b"\x01\x02\x02\0\0", "an EXR of tiles, deep pixels or several parts"),
        (b"\x03\0\0\0\x03\0\0\0", b"\xff\xff\0\0\xff\xff\0\0", "its header says 65536×65536 pixels"),
    ):
        assert good.count(old) >= 1
        with pytest.raises(ValueError, match=message):
            decode_exr(good.replace(old, new, 1), 1 << 20)


def struct_of(name, value):
    return name.encode() + b"\0" + name.encode() + b"\0" + (1).to_bytes(4, "little") + bytes([value])
