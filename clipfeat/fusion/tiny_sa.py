"""The two light attentions: of a feature map's cells among each other, and of points with those around them."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import nn

from clipfeat.fusion.neighbours import Neighbours, ball_query, take_rows, thin_out


class TinySA2D(nn.Module):
    """Self-attention of all cells of a map, some layers of it (pre-norm; Xiong et al., 2020).

    Args:
        channels: of the map, a multiple of 4 and of ``heads``.
        layers: how many.
        heads: of each.
    """

    def __init__(self, channels: int, layers: int = 2, heads: int = 4):
        super().__init__()
        self.layers = nn.ModuleList(_CellAttention(channels, heads) for _ in range(layers))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) to the same."""
        height, width = maps.shape[2:]
        cells = maps.flatten(2).transpose(1, 2)
        place = cell_positions(height, width, maps.shape[1], maps.device)
        for layer in self.layers:
            cells = layer(cells, place)
        return cells.transpose(1, 2).unflatten(2, (height, width))


class _CellAttention(nn.Module):
    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.attend = nn.Linear(channels, 3 * channels)
        self.merge = nn.Linear(channels, channels)
        self.feed = _feed_forward(channels)

    def forward(self, cells: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """(B, L, C) at the places (L, C) to the same."""
        together = self.attend(self.norm(cells) + place).unflatten(-1, (3, self.heads, -1))
        query, key, value = together.permute(2, 0, 3, 1, 4)
        mixed = nnf.scaled_dot_product_attention(query, key, value)
        cells = cells + self.merge(mixed.transpose(1, 2).flatten(2))
        return cells + self.feed(cells)


def cell_positions(height: int, width: int, channels: int, device: torch.device) -> torch.Tensor:
    """(h·w, C) sines and cosines of each cell's row and column (Vaswani et al., 2017, section 3.5, for two axes)."""
    rate = 10_000.0 ** -(torch.arange(channels // 4, device=device) / (channels // 4))
    rows, columns = (torch.arange(size, device=device)[:, None] * rate for size in (height, width))
    row, column = (torch.cat((angle.sin(), angle.cos()), 1) for angle in (rows, columns))
    grid = row[:, None].expand(-1, width, -1), column[None].expand(height, -1, -1)
    return torch.cat(grid, -1).flatten(0, 1)


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Some of the points, what lies around each, and which of them is next to each point.

    Attributes:
        centers: (B, M) rows of the points that attend.
        center_mask: (B, M) which are real.
        around: the points around each centre, itself among them.
        offset: (B, M, K, 3) from the centre to those, in radii.
        nearest: (B, N) for each point its nearest centre, a row of ``centers``.
    """

    centers: torch.Tensor
    center_mask: torch.Tensor
    around: Neighbours
    offset: torch.Tensor
    nearest: torch.Tensor


@torch.no_grad()
def find_surroundings(
    xyz: torch.Tensor, mask: torch.Tensor, *, radius: float = 0.3, count: int = 32, ratio: float = 0.25
) -> Surroundings:
    """Chooses the centres and looks around them; follows from where the real points lie, and from nothing else.

    Args:
        xyz: (B, N, 3) metres.
        mask: (B, N) which points are real.
        radius: of the balls, in metres.
        count: points in a ball at most.
        ratio: share of the points that are centres.
    """
    centers, center_mask = thin_out(xyz, mask, ratio)
    at = take_rows(xyz, centers)
    around = ball_query(at, xyz, center_mask, mask, count, radius)
    offset = (take_rows(xyz, around.index) - at[:, :, None]) / radius
    nearest = ball_query(xyz, at, mask, center_mask, 1).index[..., 0]
    return Surroundings(centers, center_mask, around, torch.where(around.mask[..., None], offset, 0), nearest)


class TinySAModule(nn.Module):
    """Self-attention of some points with those around them, carried back to all points.

    A key's logit gets what an MLP makes of its offset, and its value a linear part of it; so no tensor is larger than
    the keys and the values of all balls, and the memory grows with the number of points.

    Args:
        channels: of a point, a multiple of ``heads``.
        heads: of the attention.
    """

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.offset_logit = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, heads))
        self.offset_value = nn.Parameter(torch.randn(heads, 4, channels // heads) * 0.1)
        self.merge = nn.Linear(channels, channels)
        self.feed = _feed_forward(channels)
        self.carry = nn.Linear(channels, channels)

    def forward(self, features: torch.Tensor, where: Surroundings) -> torch.Tensor:
        """(B, N, C) to the same."""
        batch, centers = where.centers.shape
        head_shape = (self.heads, features.shape[-1] // self.heads)
        known = self.norm(features)
        query = self.query(take_rows(known, where.centers)).view(batch, centers, *head_shape)
        both = take_rows(self.key_value(known), where.around.index)
        key, value = (part.unflatten(-1, head_shape) for part in both.chunk(2, -1))
        offset = torch.cat((where.offset, where.offset.norm(dim=-1, keepdim=True)), -1)
        logit = torch.einsum("bmhd,bmkhd->bmkh", query, key) / math.sqrt(head_shape[1]) + self.offset_logit(offset)
        # A lowest number and not -inf: a centre that is padding has no neighbour at all.
        weight = logit.masked_fill(~where.around.mask[..., None], torch.finfo(logit.dtype).min).softmax(2)
        mixed = torch.einsum("bmkh,bmkhd->bmhd", weight, value)
        mixed = mixed + torch.einsum("bmkh,bmkc,hcd->bmhd", weight, offset, self.offset_value)
        center = take_rows(features, where.centers) + self.merge(mixed.flatten(2))
        center = center + self.feed(center)
        return features + self.carry(take_rows(center, where.nearest))


def _feed_forward(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(channels), nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)
    )
