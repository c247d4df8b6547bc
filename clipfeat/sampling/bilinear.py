"""Bilinear sampling of a feature map at picture positions."""

import math

import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray

from clipfeat.config.checks import right_type
from clipfeat.system.compiled import compiled
from clipfeat.system.pinned import to_device
from clipfeat.types import FeatureMap


def map_positions(uv: torch.Tensor, image_to_map: NDArray[np.float64]) -> torch.Tensor:
    """Cell positions (N, 2) of picture positions uv (N, 2), both with centres on integers; float64."""
    affine = to_device(np.array(image_to_map, np.float64), uv.device)
    return uv.to(torch.float64) @ affine[:, :2].T + affine[:, 2]


def sample_img_feat(
    feature_map: FeatureMap, uv: torch.Tensor | NDArray[np.floating], out: NDArray[np.float32] | None = None
) -> torch.Tensor:
    """Samples a feature map bilinearly at positions of the original colour picture.

    Equals ``F.grid_sample(..., mode="bilinear", padding_mode="border", align_corners=False)``. Each sample is a
    weighted sum of four rows of the channels-last map; grid_sample walks through memory channel by channel, which costs
    a CPU ten times as much. Differentiable in the map.

    Args:
        feature_map: values (C, h, w) and the affine map from picture pixels to cells.
        uv: (N, 2) pixels of the original colour picture, finite. Positions beyond the outermost cell centres take the
            nearest border's values.
        out: (N, C) to be filled, for a map on the CPU that needs no gradient; fresh memory where it is None.

    Returns:
        (N, C) float32 on the map's device.

    Raises:
        ValueError: If a shape does not fit or uv is not finite (points behind the camera have no pixel).
        TypeError: If the map is only its values.
    """
    right_type("feature_map", feature_map, isinstance(feature_map, FeatureMap), _MAP)
    values = feature_map.values
    if values.ndim != 3:
        raise ValueError(f"feature map must be (C, h, w), got {tuple(values.shape)}")
    channels, height, width = values.shape
    rows = values.permute(1, 2, 0).reshape(height * width, channels).float()
    if values.device.type != "cpu" or values.requires_grad:
        index, weight = bilinear_taps(uv, feature_map.image_to_map, (height, width), values.device)
        return nnf.embedding_bag(index, rows, per_sample_weights=weight, mode="sum")
    positions = np.ascontiguousarray(_checked(torch.as_tensor(uv).cpu()).numpy(), np.float64)
    if out is None:
        out = np.empty((len(positions), channels), np.float32)
    elif out.shape != (len(positions), channels) or out.dtype != np.float32:
        raise ValueError(f"out must be ({len(positions)}, {channels}) float32, got {out.shape} {out.dtype}")
    affine = np.ascontiguousarray(feature_map.image_to_map, np.float64)
    if not _sample(rows.detach().contiguous().numpy(), width, height, affine, positions, out):
        raise ValueError(_NO_PIXEL)
    return torch.from_numpy(out)


_MAP = "a clipfeat.types.FeatureMap, such as FeatureMap(values, resize_affine(image_size, (w, h)))"
_NO_PIXEL = "uv holds NaN or inf: points behind the camera have no pixel, leave them out"


def _checked(uv: torch.Tensor) -> torch.Tensor:
    if uv.ndim != 2 or uv.shape[1] != 2:
        raise ValueError(f"uv must be (N, 2), got {tuple(uv.shape)}")
    return uv


@compiled(error_model="numpy")
def four_cells(
    x: float, y: float, width: int, height: int
) -> tuple[tuple[int, ...], tuple[np.float32, ...]]:  # pragma: no cover - compiled
    """``bilinear_taps`` for one finite cell position, for compiled loops: flat cells and their float32 weights."""
    x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
    left, top = min(int(x), max(width - 2, 0)), min(int(y), max(height - 2, 0))
    fu, fv = np.float32(x - left), np.float32(y - top)
    gu, gv = np.float32(1) - fu, np.float32(1) - fv
    # A map that is one cell wide or high has no neighbour to the right or below.
    step_u, step_v = min(width - 1, 1), (width if height > 1 else 0)
    a = top * width + left
    return (a, a + step_u, a + step_v, a + step_u + step_v), (gu * gv, fu * gv, gu * fv, fu * fv)


@compiled(error_model="numpy")
def _sample(
    rows: NDArray[np.float32],
    width: int,
    height: int,
    image_to_map: NDArray[np.float64],
    uv: NDArray[np.float64],
    out: NDArray[np.float32],
) -> bool:  # pragma: no cover - compiled
    """``bilinear_taps`` and the weighted sum of a map's rows (h·w, C), a point at a time; False if uv is not finite."""
    m = image_to_map
    for i in range(len(uv)):
        x = m[0, 0] * uv[i, 0] + m[0, 1] * uv[i, 1] + m[0, 2]
        y = m[1, 0] * uv[i, 0] + m[1, 1] * uv[i, 1] + m[1, 2]
        if not (math.isfinite(x) and math.isfinite(y)):
            return False
        (a, b, c, d), (wa, wb, wc, wd) = four_cells(x, y, width, height)
        for j in range(rows.shape[1]):
            out[i, j] = wa * rows[a, j] + wb * rows[b, j] + wc * rows[c, j] + wd * rows[d, j]
    return True


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
    if isinstance(uv, np.ndarray):
        finite = np.isfinite(uv).all()  # here, for a look at what is on a GPU waits for it
        uv = to_device(uv, torch.device(device))
    else:
        finite = torch.isfinite(uv).all()
    position = map_positions(_checked(uv.to(device)), image_to_map)
    if not finite:
        raise ValueError(_NO_PIXEL)
    height, width = map_size
    limit = to_device(np.array([width - 1, height - 1], np.float64), position.device)
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
