"""Bilinear sampling of a feature map at picture positions."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray

from clipfeat.types import FeatureMap


def map_positions(uv: torch.Tensor, image_to_map: NDArray[np.float64]) -> torch.Tensor:
    """Cell positions (N, 2) of picture positions uv (N, 2), both with centres on integers; float64."""
    affine = torch.as_tensor(image_to_map, dtype=torch.float64, device=uv.device)
    return uv.to(torch.float64) @ affine[:, :2].T + affine[:, 2]


def sample_img_feat(feature_map: FeatureMap, uv: torch.Tensor | NDArray[np.floating]) -> torch.Tensor:
    """Samples a feature map bilinearly at positions of the original colour picture.

    Equals ``F.grid_sample(..., mode="bilinear", padding_mode="border", align_corners=False)``; as four weighted rows
    of the channels-last map it is several times faster on a CPU, where grid_sample walks through memory channel by
    channel.

    Args:
        feature_map: values (C, h, w) and the affine map from picture pixels to cells.
        uv: (N, 2) pixels of the original colour picture, finite. Positions beyond the outermost cell centres take the
            nearest border's values.

    Returns:
        (N, C) float32 on the map's device.

    Raises:
        ValueError: If a shape does not fit or uv is not finite (points behind the camera have no pixel).
    """
    values = feature_map.values
    if values.ndim != 3:
        raise ValueError(f"feature map must be (C, h, w), got {tuple(values.shape)}")
    channels, height, width = values.shape
    with one_thread():
        rows = values.permute(1, 2, 0).reshape(height * width, channels).float()
        index, weight = bilinear_taps(uv, feature_map.image_to_map, (height, width), values.device)
        return nnf.embedding_bag(index, rows, per_sample_weights=weight, mode="sum")


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps torch's work on the CPU in the calling thread.

    Steps of a millisecond gain little from more. Where other threads keep the cores busy, such as those that read
    ahead, they lose a hundred times as much: OpenMP's threads wait for each other at the end of every step.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bilinear_taps(
    uv: torch.Tensor | NDArray[np.floating],
    image_to_map: NDArray[np.float64],
    map_size: tuple[int, int],
    device: torch.device | str = "cpu",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The four cells around each position and their weights.

    Args:
        uv: (N, 2) finite pixels of the original colour picture.
        image_to_map: (2, 3) affine map from picture pixels to cells.
        map_size: (h, w) of the map.
        device: where the result goes.

    Returns:
        (N, 4) int64 flat cells v·w + u, and (N, 4) float32 weights that sum to 1.

    Raises:
        ValueError: If uv is not (N, 2) or not finite.
    """
    uv = torch.as_tensor(uv, device=device)
    if uv.ndim != 2 or uv.shape[1] != 2:
        raise ValueError(f"uv must be (N, 2), got {tuple(uv.shape)}")
    position = map_positions(uv, image_to_map)
    if not torch.isfinite(position).all():
        raise ValueError("uv holds NaN or inf: points behind the camera have no pixel, leave them out")
    height, width = map_size
    limit = torch.tensor([width - 1, height - 1], dtype=torch.float64, device=position.device)
    position = torch.minimum(position.clamp(min=0), limit)
    low = torch.minimum(position.floor(), (limit - 1).clamp(min=0))
    fraction = (position - low).float()
    low = low.long()
    # A map that is one cell wide or high has no neighbour to the right or below.
    step_u, step_v = int(width > 1), width if height > 1 else 0
    corner = low[:, 1] * width + low[:, 0]
    index = torch.stack((corner, corner + step_u, corner + step_v, corner + step_u + step_v), 1)
    fu, fv = fraction[:, 0], fraction[:, 1]
    weight = torch.stack(((1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv, fu * fv), 1)
    return index, weight
