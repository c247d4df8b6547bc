"""Random maps to be kept in a cache."""

import numpy as np
import torch

from clipfeat.model.cache_entry import CacheEntry
from clipfeat.types import FeatureMap

PICTURE = "0123456789abcdef" * 2


def entry(frame_id=0, scene_id="scene0000_00", seed=0, shape=(6, 4, 5), picture=PICTURE):
    rng = np.random.default_rng([seed, frame_id])
    values = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
    clip_global = torch.from_numpy(rng.normal(size=7).astype(np.float32))
    return CacheEntry(scene_id, frame_id, picture, FeatureMap(values, rng.normal(size=(2, 3)), clip_global))


def is_entry(found, expected):
    return (
        torch.equal(found.values, expected.feature_map.values.half())
        and np.array_equal(found.image_to_map, expected.feature_map.image_to_map)
        and torch.equal(found.clip_global, expected.feature_map.clip_global)
    )
