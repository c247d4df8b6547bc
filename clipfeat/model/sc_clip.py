"""SC-CLIP: the last block of open_clip's ViT, given what the blocks before it know of where things lie.

Self-Calibrated CLIP (Bai et al. 2024, arXiv 2411.15869) needs no training, no text and no second network. With X^l the
patches after l blocks, c^l the class token there, and L the last block's attention (its output alone, without residual
path and MLP, as ClearCLIP has it):

1. Anomalous patches of X^(last-1), told by their local outlier factor, take the mean of their neighbours: P.
   In the middle the same places do: M.
2. S = cosines of M. P becomes Norm(S ≥ β)·P: each patch a mean of those that resemble it there.
3. L mixes values by ½·(softmax(k·kᵀ/√d) + softmax(τ·(S - mean S) where that is ≥ 0)).
4. L runs a second time, on the sum of the patches of many blocks: F = Σ X^l, f = Σ c^l.
5. With T the cosines of X^shallow: Norm(T ≥ β)·(L(P) + γ·c^(last-1) + L(F) + γ·f), before ``ln_post``.

The constants, the half in 3, γ, T and which blocks are those of the authors' programme. Different from that: the local
outlier factor is that of Breunig et al. 2000, as the paper has it (the programme squares distances, and takes a patch's
own k-distance for its neighbours'); what is averaged and decided is so of each picture, whatever else is in the batch
(the programme takes one picture at a time). Left out is what it does to scores: thresholds of classes and areas.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as nnf

from clipfeat.model.attention import Variant, key_likeness, run_last_block
from clipfeat.model.similarity import cosines, weights_above_mean

NEIGHBOURS = 30
"""Of a patch, whose density the local outlier factor compares with its own; all others where there are fewer."""

ANOMALOUS_SHARE = 0.05
"""Of the patches of a picture are taken for anomalous: those of the largest local outlier factor."""

LEAST_LIKENESS = 0.4
"""β: a cosine below this counts as 0."""

SHARPNESS = 3.0
"""τ: factor of the logits that likeness in the middle adds to the attention."""


@dataclass(frozen=True)
class Levels:
    """After how many blocks SC-CLIP takes tokens.

    Attributes:
        penultimate: what the last block gets.
        middle: of S; things are told apart best there.
        shallow: of T.
        fused: of F and f.
        class_share: γ, how much of the class token is added to each patch.
    """

    penultimate: int
    middle: int
    shallow: int
    fused: tuple[int, ...]
    class_share: float

    @classmethod
    def of(cls, depth: int) -> "Levels":
        """Those of a tower of so many blocks.

        The authors say them for 12 blocks (ViT-B/16) and for 24 (ViT-L/14). Towers of other depths take them at the
        same share of their depth: of ViT-B's below 24 blocks, of ViT-L's above.
        """
        blocks, middle, shallow, first, last, share = (12, 9, 4, 4, 10, 0.3) if depth < 24 else (24, 17, 7, 9, 19, 0.1)
        middle, shallow, first, last = (
            min(max(round(number * depth / blocks), 1), depth - 1) for number in (middle, shallow, first, last)
        )
        return cls(depth - 1, middle, shallow, tuple(range(first, last + 1)), share)

    @property
    def used(self) -> list[int]:
        """All of them, each once, in order."""
        return sorted({self.penultimate, self.middle, self.shallow, *self.fused})


def calibrated(block: Any, hidden: Mapping[int, torch.Tensor], levels: Levels, grid: int) -> torch.Tensor:
    """What SC-CLIP makes of a picture's patches.

    Args:
        block: the last one, open_clip's ``ResidualAttentionBlock``, see ``attention.can_vary``.
        hidden: (B, 1 + grid², D) after each number of blocks of ``levels.used``, class token first, patches row by row.
        levels: of the tower.
        grid: patches along one side.

    Returns:
        (B, grid², D), before ``ln_post``.
    """
    before = hidden[levels.penultimate].float()
    fused = torch.stack([hidden[number] for number in levels.fused]).sum(0, dtype=torch.float32)
    mending = mending_weights(anomalies(before[:, 1:]), grid)
    likeness = cosines(mending @ hidden[levels.middle][:, 1:].float())
    by_likeness = weights_above_mean(likeness, SHARPNESS)

    def mix(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, side: int) -> torch.Tensor:
        # One matrix for all heads: they are taken side by side.
        alike = by_likeness.to(v.dtype) @ v.transpose(1, 2).flatten(2)
        return (key_likeness(q, k, v, side) + alike.unflatten(2, (v.shape[1], -1)).transpose(1, 2)) / 2

    def last_block(class_token: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        given = patches.to(hidden[levels.penultimate].dtype)
        return run_last_block(block, given, grid, Variant(mix, whole_block=False)) + levels.class_share * class_token

    found = last_block(before[:, :1], _mean_weights(likeness) @ (mending @ before[:, 1:]))
    found = found + last_block(fused[:, :1], fused[:, 1:])
    return (_mean_weights(cosines(hidden[levels.shallow][:, 1:])) @ found).to(hidden[levels.penultimate].dtype)


def _mean_weights(likeness: torch.Tensor) -> torch.Tensor:
    """Norm(s ≥ β): what is alike enough, rows that sum to 1."""
    return nnf.normalize(likeness.where(likeness >= LEAST_LIKENESS, 0), p=1, dim=-1)


@torch.no_grad()
def anomalies(patches: torch.Tensor) -> torch.Tensor:
    """(B, N, D) to (B, N) bool: the twentieth of each picture's patches that are least like their likes."""
    factors = local_outlier_factors(patches)
    return factors > factors.quantile(1 - ANOMALOUS_SHARE, dim=1, keepdim=True)


def local_outlier_factors(points: torch.Tensor) -> torch.Tensor:
    """How much sparser it is around a point than around its neighbours (Breunig et al. 2000): 1 is as dense.

    Args:
        points: (B, N, D).

    Returns:
        (B, N) float64, each picture by itself.
    """
    batch, count, _ = points.shape
    if count == 1:  # which has no neighbours
        return points.new_ones(batch, 1, dtype=torch.float64)
    # By products, which are fast, and lose the digits of points that lie close together: so of more digits.
    distances = torch.cdist(points.double(), points.double())
    distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    nearest, which = distances.topk(min(NEIGHBOURS, count - 1), largest=False)

    def of_neighbours(values: torch.Tensor) -> torch.Tensor:
        return values[:, None].expand(-1, count, -1).gather(2, which)

    reachability = torch.maximum(nearest, of_neighbours(nearest[..., -1]))
    density = 1 / (reachability.mean(-1) + 1e-10)  # equal points are at no distance
    return of_neighbours(density).mean(-1) / density


def mending_weights(anomalous: torch.Tensor, grid: int) -> torch.Tensor:
    """What each patch takes of each, so that anomalous ones become the mean of the sound ones among their 8 neighbours.

    Args:
        anomalous: (B, grid²) bool.
        grid: patches along one side.

    Returns:
        (B, grid², grid²) float32, rows sum to 1. Sound patches stay, and anomalous ones without a sound neighbour.
    """
    cell = torch.arange(grid, device=anomalous.device)
    along = ((cell[:, None] - cell).abs() <= 1).float()
    sound_around = torch.kron(along, along) * ~anomalous[:, None]
    mended = anomalous & (sound_around.sum(-1) > 0)
    itself = torch.eye(grid**2, device=anomalous.device)
    return torch.where(mended[..., None], nnf.normalize(sound_around, p=1, dim=-1), itself)
