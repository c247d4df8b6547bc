"""Small stores, as a run would have written them."""

import numpy as np

from clipfeat.output import RunFolder
from clipfeat.types import PointFeatures

MODEL = {"arch": "A", "weights": "w", "weights_sha256": "0123", "head": "none", "head_sha256": None}


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


def write_store(path, frames, name="npz"):
    """Writes ``frames``, features by scene and frame number, and returns the folder of the run."""
    run = RunFolder(path, name, "float32")
    for (scene_id, frame_id), features in frames.items():
        run.write(scene_id, frame_id, features, {"scene_id": scene_id, "frame_id": frame_id, "model": MODEL})
    return run
