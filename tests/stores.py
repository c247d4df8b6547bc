"""Small stores, as a run would have written them, and what two runs have in common."""

import dataclasses
import shutil

import numpy as np
import torch

from clipfeat.output.files import FORMATS
from clipfeat.output.grid import GridFrame
from clipfeat.output.placed import PlacedPoints
from clipfeat.output.run_folder import RunFolder
from clipfeat.output.segments import SegmentFrame
from clipfeat.output.store import FeatureStore
from clipfeat.sampling.segments import Segments
from clipfeat.types import Camera, FeatureMap, PointFeatures, resize_affine

MODEL = {"arch": "A", "weights": "w", "weights_sha256": "0123", "head": "none", "head_sha256": None}


WHOLE = FeatureMap(torch.zeros(1, 4, 5), resize_affine((40, 30), (5, 4)))


def some_features(seed, count=30):
    """Random features whose first channel is ``pts_idx``, so that a row's origin shows."""
    rng = np.random.default_rng(seed)
    idx = np.sort(rng.choice(1000, count, replace=False))
    pts_feat = rng.normal(size=(count, 6)).astype(np.float32)
    pts_feat[:, 0] = idx
    return PointFeatures(
        pts_feat=pts_feat,
        uv_idx=rng.uniform(0, 100, (count, 2)).astype(np.float32),
        conf_2d=rng.random(count).astype(np.float32),
        xyz=rng.normal(size=(count, 3)).astype(np.float32),
        pts_idx=idx,
        attributes={"rgb": rng.integers(0, 256, (count, 3), np.uint8), "label": rng.integers(0, 9, count, np.uint16)},
        clip_global=rng.normal(size=8).astype(np.float32),
    )


def some_grid(seed, count=30):
    """A random map of a whole 40×30 picture, and random points in it."""
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.normal(size=(4, 5, 6)).astype(np.float16)).permute(2, 0, 1)
    global_ = torch.from_numpy(rng.normal(size=8).astype(np.float32))
    return GridFrame(
        feature_map=FeatureMap(values, resize_affine((40, 30), (5, 4)), global_),
        camera=Camera(np.array([[50, 0, 20], [0, 50, 15], [0, 0, 1.0]]), 40, 30),
        cam_to_world=np.eye(4),
        uv_idx=rng.uniform(0, 29, (count, 2)).astype(np.float32),
        depth_m=rng.uniform(1, 5, count).astype(np.float32),
        conf_2d=rng.random(count).astype(np.float32),
        pts_idx=np.sort(rng.choice(1000, count, replace=False)),
        attributes={"rgb": rng.integers(0, 256, (count, 3), np.uint8), "label": rng.integers(0, 9, count, np.uint16)},
    )


def some_segments(seed, count=30):
    """Random vectors of the segments of a 40×30 picture, and random points in it."""
    grid, rng = some_grid(seed, count), np.random.default_rng(seed)
    rows = np.repeat(np.repeat(np.arange(12, dtype=np.uint16).reshape(3, 4), 10, 0), 10, 1)
    return SegmentFrame(
        segments=Segments(rows, np.arange(12) // 2),
        segment_feat=rng.normal(size=(12, 6)).astype(np.float32),
        clip_global=rng.normal(size=8).astype(np.float32),
        **{key.name: getattr(grid, key.name) for key in dataclasses.fields(PlacedPoints)},
    )


def some_of(name):
    """What makes the frames of a format."""
    return {"points": some_features, "map": some_grid, "segments": some_segments}[FORMATS[name].holds]


def write_store(path, frames, name="npz", **about):
    """Writes ``frames``, features or grids by scene and frame number, and returns the folder of the run."""
    run = RunFolder(path, name, "float32")
    for (scene_id, frame_id), features in frames.items():
        meta = {"scene_id": scene_id, "frame_id": frame_id, "model": MODEL, **about}
        if isinstance(features, PlacedPoints):
            camera = features.camera
            meta |= {
                "camera": {"intrinsics": camera.intrinsics.tolist(), "width": camera.width, "height": camera.height},
                "cam_to_world": features.cam_to_world.tolist(),
                "image_to_map": getattr(features, "feature_map", WHOLE).image_to_map.tolist(),
            }
        run.write(scene_id, frame_id, features, meta)
    return run


def uneven_scenes(demo_root, root, frames):
    """A scene of the demo for each of ``frames``, which says how many of its first four are left."""
    for number, count in enumerate(frames):
        scene = shutil.copytree(demo_root / f"demo{number % 2:04d}_00", root / f"demo{number:04d}_00")
        for frame_id in (0, 20, 40, 60)[count:]:
            (scene / "color" / f"{frame_id}.jpg").unlink()
    return root


def arrays(folder):
    store, found = FeatureStore(folder), {}
    for scene in store.scenes:
        for frame in store.frames(scene):
            features = store.load(scene, frame)
            found[scene, frame] = [features.pts_feat, features.uv_idx, features.conf_2d, features.xyz, features.pts_idx]
    return found


def assert_same_arrays(folder, expected):
    """The run's frames are those of ``expected``, as ``arrays`` has them, bit for bit."""
    found = arrays(folder)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        for value, other in zip(found[key], values, strict=True):
            np.testing.assert_array_equal(value, other)
