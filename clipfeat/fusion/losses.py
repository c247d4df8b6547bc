"""What keeps fused features near CLIP's, and near each other where several frames see the same point."""

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import nn

CONSISTENCIES = ("cosine", "ntxent")


@dataclass(frozen=True, eq=False)
class ClipConsLoss:
    """The parts of the loss, each a number, 0 where nothing speaks to it.

    Attributes:
        clip: fused features against CLIP's.
        views: the same point in several frames.
    """

    clip: torch.Tensor
    views: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        """Their sum."""
        return self.clip + self.views


class ClipConsCriterion(nn.Module):
    """Fused features against CLIP's, and against those of the same point in other frames.

    Args:
        channels: of the fused features.
        clip_channels: of CLIP's; a linear layer of the criterion's own brings the fused ones there.
        consistency: cosine (all views of a point are to be alike) or ntxent (alike, and unlike all other points).
        temperature: of ntxent.
        max_pairs: pairs of views that ntxent compares; its memory grows with their square.

    Raises:
        ValueError: If there is no such consistency.
    """

    def __init__(
        self,
        channels: int,
        clip_channels: int,
        consistency: str = "cosine",
        temperature: float = 0.07,
        max_pairs: int = 1024,
    ):
        super().__init__()
        if consistency not in CONSISTENCIES:
            raise ValueError(f"consistency={consistency}: expected one of {', '.join(CONSISTENCIES)}")
        self.to_clip = nn.Linear(channels, clip_channels)
        self.consistency = consistency
        self.temperature = temperature
        self.max_pairs = max_pairs

    def forward(
        self,
        feat_fusion: torch.Tensor,
        clip_feat: torch.Tensor,
        conf_2d: torch.Tensor,
        mask: torch.Tensor,
        point_id: torch.Tensor | None = None,
    ) -> ClipConsLoss:
        """The loss of a batch.

        Args:
            feat_fusion: (B, N, C).
            clip_feat: (B, N, D), best with what all have in common taken off; no gradient goes into it.
            conf_2d: (B, N) weights of the points in the first part; no gradient goes into it, or the network would
                please the criterion by distrusting the picture.
            mask: (B, N) which points are real.
            point_id: (B, N) int64, the same number for the same 3D point in every sample that sees it, negative for a
                point of which nothing is known. Without it ``views`` is 0.

        Raises:
            ValueError: If a shape does not fit.
        """
        rows = feat_fusion.shape[:2]
        shapes = [
            list(values.shape[:2]) for values in (clip_feat, conf_2d, mask, mask if point_id is None else point_id)
        ]
        if feat_fusion.ndim != 3 or any(shape != list(rows) for shape in shapes):
            raise ValueError(f"expected (B, N, …) of the same B and N, got {list(feat_fusion.shape)} and {shapes}")
        weight = (conf_2d * mask).detach().float()
        like = nnf.cosine_similarity(self.to_clip(feat_fusion).float(), clip_feat.detach().float(), dim=-1)
        clip = (weight * (1 - like)).sum() / weight.sum().clamp(min=1e-6)
        known = mask if point_id is None else mask & (point_id >= 0)
        unit = nnf.normalize(feat_fusion[known].float(), dim=-1)
        if point_id is None:
            views = unit.sum() * 0
        elif self.consistency == "cosine":
            views = view_consistency(unit, point_id[known])
        else:
            first, second = view_pairs(point_id[known], self.max_pairs)
            views = nt_xent(unit[first], unit[second], self.temperature)
        return ClipConsLoss(clip, views)


def view_consistency(unit: torch.Tensor, point_id: torch.Tensor) -> torch.Tensor:
    """1 minus the mean cosine of all pairs of views of a point, averaged over the points that have several.

    Args:
        unit: (M, C) features of length 1.
        point_id: (M,) whose they are.

    Returns:
        A number; 0, with a gradient of 0, where no point has two.
    """
    _, group, count = point_id.unique(return_inverse=True, return_counts=True)
    total = unit.new_zeros(len(count), unit.shape[1]).index_add(0, group, unit)
    several = count > 1
    pairs = (count * (count - 1))[several]
    # |Σu|² counts each vector with itself, which makes 1 each, and every pair twice.
    cosine = (total[several].square().sum(1) - count[several]) / pairs
    return (1 - cosine).sum() / several.sum().clamp(min=1)


def view_pairs(point_id: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the first two views of each point that has two; of more than ``most`` points an even choice."""
    order = point_id.sort(stable=True).indices
    ordered = point_id[order]
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    first = torch.nonzero(begins[:-1] & ~begins[1:])[:, 0]
    if len(first) > most:
        first = first[torch.arange(most, device=first.device) * len(first) // most]
    return order[first], order[first + 1]


def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float = 0.07) -> torch.Tensor:
    """The normalised, temperature-scaled cross entropy of P pairs (Chen et al., SimCLR, 2020, equation 1).

    Args:
        first: (P, C) of length 1.
        second: (P, C) of length 1, the partners.
        temperature: what cosines are divided by.

    Returns:
        The mean over all 2P; 0, with a gradient of 0, without pairs.
    """
    if not len(first):
        return (first.sum() + second.sum()) * 0
    both = torch.cat((first, second))
    itself = torch.eye(len(both), dtype=torch.bool, device=both.device)
    logit = (both @ both.T / temperature).masked_fill(itself, -torch.inf)
    partner = torch.arange(len(both), device=both.device).roll(len(first))
    return nnf.cross_entropy(logit, partner)
