"""A feature map as a cache keeps it: its key, its bytes, its checksum.

A key is ``<fingerprint>/<scene>/<frame>``: the fingerprint stands for everything that shapes a map (``model/cached.py``
makes it). A value is a safetensors file: ``values`` (h, w, C) float16, ``image_to_map`` (2, 3) float64, ``clip_global``
(D,) float32 where it is known, ``picture`` and ``checksum`` uint8.
"""

from dataclasses import dataclass
from hashlib import blake2b
from zlib import crc32

import numpy as np
import torch
from safetensors.torch import load, save

from clipfeat.types import FeatureMap

_LONGEST_SCENE = 300  # LMDB's keys end at 511 bytes


@dataclass(frozen=True, eq=False)
class CacheEntry:
    """A map to be kept.

    Attributes:
        scene_id: scene.
        frame_id: frame number.
        picture: ``Picture.digest`` of the picture that the map was made of.
        feature_map: values (C, h, w) in any precision; float16 is what is kept.
    """

    scene_id: str
    frame_id: int
    picture: str
    feature_map: FeatureMap


def as_float16(values: torch.Tensor) -> torch.Tensor | None:
    """The values as they are kept; None if they are not finite or too large, so that float16 can't hold them."""
    half = values.half()
    return half if bool(torch.isfinite(half).all()) else None


def map_key(fingerprint: str, scene_id: str, frame_id: int) -> bytes:
    """Under what a map is kept: of a name that is too long for LMDB, a hash stands there."""
    scene = scene_id.encode()
    if len(scene) > _LONGEST_SCENE:
        scene = blake2b(scene, digest_size=32).hexdigest().encode()
    return b"/".join((fingerprint.encode(), scene, str(frame_id).encode()))


def encode_entry(entry: CacheEntry) -> bytes:
    """The bytes of a map.

    Raises:
        ValueError: If it holds values that float16 does not (see ``as_float16``).
    """
    half = as_float16(entry.feature_map.values)
    if half is None:
        raise ValueError(f"{entry.scene_id} frame {entry.frame_id}: float16 can't hold the values of this map")
    tensors = {
        "values": half.permute(1, 2, 0).contiguous().cpu(),
        "image_to_map": torch.tensor(entry.feature_map.image_to_map, dtype=torch.float64),
        "picture": torch.frombuffer(bytearray.fromhex(entry.picture), dtype=torch.uint8),
    }
    if entry.feature_map.clip_global is not None:
        tensors["clip_global"] = entry.feature_map.clip_global.float().contiguous().cpu()
    return save({**tensors, "checksum": _checksum(tensors)})


def decode_entry(data: bytes, picture: str) -> FeatureMap | None:
    """The map that these bytes are; None for one of another picture. Raises anything for a damaged entry."""
    tensors = load(data)
    checksum = tensors.pop("checksum")
    if not torch.equal(checksum, _checksum(tensors)):
        raise ValueError("its checksum does not fit")
    if tensors["picture"].numpy().tobytes().hex() != picture:
        return None
    clip_global = tensors.get("clip_global")
    return FeatureMap(tensors["values"].permute(2, 0, 1), tensors["image_to_map"].numpy(), clip_global)


def _checksum(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    value = 0
    for name, tensor in sorted(tensors.items()):
        value = crc32(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode(), value)
        value = crc32(tensor.numpy().data, value)
    return torch.from_numpy(np.frombuffer(value.to_bytes(4, "little"), np.uint8).copy())
