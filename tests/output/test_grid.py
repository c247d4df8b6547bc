import dataclasses
import io

import numpy as np
import pytest
import torch
from safetensors import safe_open

from clipfeat.camera.projection import unproject_depth
from clipfeat.errors import DataError, OutputError
from clipfeat.output.files import FORMATS, read_arrays, read_features, read_meta, write_features
from clipfeat.output.grid import GridFrame, grid_arrays, grid_frame, read_grid, write_grid
from clipfeat.types import Camera, FeatureMap

ARRAYS = {
    "map": np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float16),
    "flags": np.array([True, False, True]),
    "far": np.array([1, 1 << 60]),
    "bytes": np.arange(7, dtype=np.uint8),
    "big_endian": np.arange(5, dtype=">f4"),
    "strided": np.arange(20, dtype=np.int16)[::3],
    "turned": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "empty": np.zeros((0, 2), np.float32),
    "number": np.array(3.5),
}


def write(path, arrays=ARRAYS, meta='{"a": "ü \\" é"}'):
    file = io.BytesIO()
    write_grid(file, arrays, meta)
    path.write_bytes(file.getvalue())
    return path


def grid_of(count=40, channels=6, seed=0):
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.normal(size=(4, 5, channels)).astype(np.float16)).permute(2, 0, 1)
    return GridFrame(
        feature_map=FeatureMap(values, rng.normal(size=(2, 3)), torch.from_numpy(rng.random(9, np.float32))),
        camera=Camera(np.array([[500, 0, 320], [0, 510, 240], [0, 0, 1.0]]), 640, 480),
        cam_to_world=np.eye(4),
        uv_idx=rng.uniform(0, 400, (count, 2)).astype(np.float32),
        depth_m=rng.uniform(1, 5, count).astype(np.float32),
        conf_2d=rng.random(count).astype(np.float32),
        pts_idx=np.sort(rng.choice(9000, count, replace=False)),
        attributes={"rgb": rng.integers(0, 256, (count, 3), dtype=np.uint8), "label": rng.integers(0, 200, count)},
    )  # fmt: skip


def meta_of(grid):
    camera = grid.camera
    return {
        "camera": {"intrinsics": camera.intrinsics.tolist(), "width": camera.width, "height": camera.height},
        "cam_to_world": grid.cam_to_world.tolist(),
        "image_to_map": grid.feature_map.image_to_map.tolist(),
        "model": {"head": "none"},
    }


def assert_same(found, expected):
    assert torch.equal(found.feature_map.values, expected.feature_map.values)
    assert torch.equal(found.feature_map.clip_global, expected.feature_map.clip_global)
    np.testing.assert_array_equal(found.feature_map.image_to_map, expected.feature_map.image_to_map)
    for key in ("cam_to_world", "uv_idx", "depth_m", "pts_idx"):
        np.testing.assert_array_equal(getattr(found, key), getattr(expected, key))
        assert getattr(found, key).dtype == getattr(expected, key).dtype
    np.testing.assert_allclose(found.conf_2d, expected.conf_2d, atol=5e-4)
    assert found.attributes.keys() == expected.attributes.keys()
    for key, values in expected.attributes.items():
        np.testing.assert_array_equal(found.attributes[key], values)


def test_a_frame_comes_back(tmp_path):
    grid, path = grid_of(), tmp_path / "scene" / "frame_3.safetensors"
    size = write_features(path, "grid", grid, meta_of(grid))
    assert size == path.stat().st_size
    arrays, meta = read_arrays(path)
    assert_same(grid_frame(path, arrays, meta), grid)
    assert read_meta(path) == meta
    rows = np.array([7, 0, 33])
    some = grid.take(rows)
    np.testing.assert_array_equal(some.xyz, grid.xyz[rows])
    np.testing.assert_array_equal(some.attributes["rgb"], grid.attributes["rgb"][rows])
    with pytest.raises(DataError, match="holds a map and no features; clipfeat.FeatureStore samples them"):
        read_features(path)


def test_the_points_follow_from_their_pixels_and_z():
    rng = np.random.default_rng(0)
    k = np.array([[500, 1.5, 320], [0, 510, 240], [0, 0, 1.0]])
    pose = np.eye(4)
    pose[:3, :3] += rng.normal(size=(3, 3)) * 0.2
    pose[:3, 3] = 3, -2, 1
    depth = rng.uniform(0.5, 6, (48, 64)).astype(np.float32)
    points, idx = unproject_depth(depth, k, pose)
    v, u = np.divmod(idx, 64)
    grid = GridFrame(
        feature_map=grid_of().feature_map, camera=Camera(k, 64, 48), cam_to_world=pose,
        uv_idx=np.stack((u, v), 1).astype(np.float32), depth_m=depth.reshape(-1),
        conf_2d=np.ones(len(idx), np.float32), pts_idx=idx,
    )  # fmt: skip
    assert grid.xyz.dtype == np.float32
    np.testing.assert_allclose(grid.xyz, points, atol=2e-6)


def test_any_reader_of_safetensors_reads_the_files(tmp_path):
    path = write(tmp_path / "a.safetensors")
    with safe_open(path, framework="np") as file:
        assert file.metadata()["meta"] == '{"a": "ü \\" é"}'
        assert sorted(file.keys()) == sorted(ARRAYS)
        for key, array in ARRAYS.items():
            np.testing.assert_array_equal(file.get_tensor(key), array)


def test_arrays_come_back_writable_and_aligned(tmp_path):
    found, meta = read_grid(write(tmp_path / "a.safetensors"), arrays=True)
    assert meta == '{"a": "ü \\" é"}'
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(found[key], array)
        assert found[key].shape == array.shape
        assert found[key].flags.writeable
        assert found[key].ctypes.data % array.itemsize == 0
    assert read_grid(tmp_path / "a.safetensors", arrays=False) == ({}, meta)


def test_every_flipped_bit_and_every_cut_is_found(tmp_path):
    whole = write(tmp_path / "a.safetensors").read_bytes()
    expected, meta = read_grid(tmp_path / "a.safetensors", arrays=True)
    path = tmp_path / "b.safetensors"
    harmless = 0
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
        try:
            found, other = read_grid(path, arrays=True)
        except (OSError, ValueError, KeyError):
            continue
        harmless += 1  # a letter of the checksum in capitals
        assert other == meta
        assert all(np.array_equal(found[key], expected[key]) for key in expected)
    assert harmless <= 4
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError):
            read_grid(path, arrays=True)
    with pytest.raises(ValueError, match="its header is not clipfeat's"):
        read_grid(_other_writer(path), arrays=True)


def _other_writer(path):
    from safetensors.numpy import save_file

    save_file({"map": np.zeros((40, 3))}, path)
    return path


@pytest.mark.parametrize(
    ("idx", "dtype"),
    [
        (np.array([70_000, 70_000, 70_255]), np.uint8),
        (np.array([3, 4, 60_000]), np.uint16),
        (np.array([0, 1 << 20]), np.uint32),
        (np.array([0, 1 << 40]), np.uint64),
        (np.array([5, 4, 9]), np.int64),
        (np.zeros(0, np.int64), np.uint8),
    ],
)
def test_rows_are_kept_in_the_smallest_type(tmp_path, idx, dtype):
    n = len(idx)
    ones = np.ones(n, np.float32)
    grid = dataclasses.replace(
        grid_of(), uv_idx=np.zeros((n, 2), np.float32), depth_m=ones, conf_2d=ones, pts_idx=idx, attributes={}
    )
    arrays = grid_arrays(tmp_path, grid)
    assert arrays.get("pts_idx_steps", arrays.get("pts_idx")).dtype == dtype
    found = grid_frame(tmp_path, arrays, meta_of(grid)).pts_idx
    np.testing.assert_array_equal(found, idx)
    assert found.dtype == np.int64


def test_what_is_missing_or_can_not_be_held_is_named(tmp_path):
    grid = grid_of()
    arrays = grid_arrays(tmp_path, grid)
    del arrays["depth_m"]
    with pytest.raises(
        DataError, match=r"f.safetensors: not a whole feature file \(KeyError\('depth_m'\)\); delete it"
    ):
        grid_frame(tmp_path / "f.safetensors", arrays, meta_of(grid))
    grid.attributes["name"] = np.array(["a"] * 40)
    with pytest.raises(OutputError, match=r"f.x: the points' attribute name is of type <U1, which .x files can't"):
        write_features(tmp_path / "f.x", "grid", grid, {})
    assert FORMATS["grid"].holds == "map"
