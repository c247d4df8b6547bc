"""Samples of uneven size as one batch, and where a batch's points lie in its feature maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch.nn.utils.rnn import pad_sequence

from clipfeat.camera.projection import build_uv_index
from clipfeat.sampling.bilinear import bilinear_taps
from clipfeat.types import FeatureMap, PointStatus

Uneven = torch.Tensor | Sequence[torch.Tensor]
"""A tensor (B, ...), or B tensors whose first sizes may differ."""


@dataclass(frozen=True, eq=False)
class Maps:
    """The feature maps of B pictures.

    Attributes:
        values: (B, C, h, w).
        image_to_map: (B, 2, 3) float64, see ``FeatureMap``.
        sizes: (B, 2) int64 width and height of the original pictures.
        clip_global: (B, D) of the whole pictures, or None.
    """

    values: torch.Tensor
    image_to_map: torch.Tensor
    sizes: torch.Tensor
    clip_global: torch.Tensor | None = None

    @classmethod
    def of(cls, maps: Sequence[FeatureMap], sizes: Sequence[tuple[int, int]], device: torch.device) -> "Maps":
        """Stacks maps.

        Args:
            maps: of one size each, as ``FeatureStore.map`` has them.
            sizes: (width, height) of the original pictures.
            device: where they go.

        Raises:
            ValueError: If the maps differ in size, as those of windows do.
        """
        shapes = {tuple(feature_map.values.shape) for feature_map in maps}
        if len(shapes) != 1 or len(maps) != len(sizes):
            raise ValueError(f"{len(sizes)} pictures and maps of {sorted(shapes)}: expected as many, of one shape")
        # Those that a model made in inference mode could not go through autograd.
        values = torch.stack([feature_map.values.to(device).float() for feature_map in maps])
        wholes = [feature_map.clip_global.to(device) for feature_map in maps if feature_map.clip_global is not None]
        return cls(
            values=values,
            image_to_map=torch.from_numpy(np.stack([feature_map.image_to_map for feature_map in maps])).to(device),
            sizes=torch.tensor(sizes, device=device),
            clip_global=torch.stack(wholes) if len(wholes) == len(maps) else None,
        )


def pad(values: Uneven) -> tuple[torch.Tensor, torch.Tensor]:
    """One tensor (B, N, ...) of samples of uneven N, zeros after each sample's own; and (B, N) what is real."""
    if isinstance(values, torch.Tensor):
        return values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    if not values:
        raise ValueError("a batch of no samples: expected one at least")
    padded = pad_sequence(list(values), batch_first=True)
    counts = torch.tensor([len(value) for value in values], device=padded.device)
    return padded, torch.arange(padded.shape[1], device=padded.device)[None] < counts[:, None]


def pixels_of(
    xyz: torch.Tensor, mask: torch.Tensor, intrinsics: torch.Tensor, cam_to_world: torch.Tensor, sizes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where points fall in the pictures of their samples.

    Args:
        xyz: (B, N, 3) world metres.
        mask: (B, N) which points are real.
        intrinsics: (B, 3, 3) in pixels of the original pictures.
        cam_to_world: (B, 4, 4).
        sizes: (B, 2) width and height of the pictures.

    Returns:
        uv (B, N, 2) in pixels, and (B, N) which real points are in view. Whether something hides a point is not known.
    """
    extrins = torch.linalg.inv(cam_to_world.double())
    size: tuple[Any, Any] = (sizes[:, :1], sizes[:, 1:])
    projection = build_uv_index(torch.where(mask[..., None], xyz, 0), intrinsics, extrins, size)
    in_view = torch.as_tensor(projection.status == int(PointStatus.VISIBLE))
    return torch.as_tensor(projection.uv), in_view & mask


def sample_maps(maps: Maps, uv: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples the maps of a batch at their own points, bilinearly, all samples at once; differentiable in the maps.

    Args:
        maps: the maps.
        uv: (B, N, 2) pixels of the original pictures.
        wanted: (B, N) where it is asked for.

    Returns:
        (B, N, C) float32, 0 where nothing is asked for or the network did not see the pixel; (B, N) where it did.
    """
    batch, channels, height, width = maps.values.shape
    affine = maps.image_to_map
    position = uv.double() @ affine[:, :, :2].transpose(1, 2) + affine[:, None, :, 2]
    limit = torch.tensor([width, height], device=uv.device) - 0.5
    # A NaN, of a point behind the camera, is not inside.
    seen = wanted & ((position >= -0.5) & (position <= limit)).all(-1)
    rows = maps.values.permute(0, 2, 3, 1).reshape(batch * height * width, channels).float()
    sample = torch.nonzero(seen)[:, 0]
    index, weight = bilinear_taps(position[seen], np.eye(2, 3), (height, width), uv.device)
    index = index + (sample * height * width)[:, None]
    sampled = nnf.embedding_bag(index, rows, per_sample_weights=weight, mode="sum")
    return rows.new_zeros(*seen.shape, channels).index_put((seen,), sampled), seen
