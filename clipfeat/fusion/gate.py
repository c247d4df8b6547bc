"""How much of a point's feature comes of the picture, and how much of the geometry."""

import torch
from torch import nn


class FusionGate(nn.Module):
    """``g·f2d + (1 - g)·f3d`` with g, a number a channel, from an MLP on the pair.

    Args:
        channels: of each of the two.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * channels, channels), nn.GELU(), nn.Linear(channels, channels))

    def forward(
        self, feat_2d: torch.Tensor, feat_3d: torch.Tensor, has_pixel: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixes the two.

        Args:
            feat_2d: (B, N, C), finite where there is no pixel too.
            feat_3d: (B, N, C).
            has_pixel: (B, N) bool; without a pixel g is 0 exactly, and what comes out is ``feat_3d``.

        Returns:
            (B, N, C), and (B, N) float32 the mean of g over the channels.
        """
        g = self.mlp(torch.cat((feat_2d, feat_3d), -1)).sigmoid() * has_pixel[..., None]
        return g * feat_2d + (1 - g) * feat_3d, g.float().mean(-1)
