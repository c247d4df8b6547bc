"""Patches that resemble each other: how much, what they take of each other, and a finished map made so.

All of it is of one picture at a time, whatever else is in the batch, and in float32 unless autocast says otherwise:
what lies just below a threshold counts for nothing, and half precision would decide that by chance.
"""

import torch
import torch.nn.functional as nnf

REFINEMENT_SHARPNESS = 10.0
"""RADSeg's factor of the logits in its global aggregation."""


def cosines(patches: torch.Tensor) -> torch.Tensor:
    """(B, N, D) to the cosine of each pair (B, N, N) float32."""
    units = nnf.normalize(patches.float(), dim=-1)
    return units @ units.mT


def weights_above_mean(likeness: torch.Tensor, sharpness: float) -> torch.Tensor:
    """softmax(sharpness·(s - mean(s))) over what is at least as alike as all pairs of the picture are on average.

    Args:
        likeness: (B, N, N), as ``cosines`` gives it.
        sharpness: factor of the logits.

    Returns:
        (B, N, N), rows sum to 1. A patch always takes of itself, also where all are alike.
    """
    logits = sharpness * (likeness - likeness.mean((1, 2), keepdim=True))
    itself = torch.eye(likeness.shape[-1], dtype=torch.bool, device=likeness.device)
    return logits.masked_fill((logits < 0) & ~itself, -torch.inf).softmax(-1)


def refined(tokens: torch.Tensor) -> torch.Tensor:
    """``model.refine=self_similarity``: each cell becomes a mean of those of the whole map that resemble it.

    This is the global aggregation (SCGA) of RADSeg (Alama et al. 2025, arXiv 2511.19704), which was made for RADIO and
    looks at nothing but the map: ``weights_above_mean(cosines(x), 10)·x``, of unprojected tokens and, where windows
    slide over the picture, after they are one map. RADSeg's attention of the last block is RADIO's own, and left out.

    Args:
        tokens: (B, D, h, w) of whole pictures.

    Returns:
        The same shape in float32.
    """
    patches = tokens.flatten(2).mT.float()
    mixed = weights_above_mean(cosines(patches), REFINEMENT_SHARPNESS) @ patches
    return mixed.mT.unflatten(2, tokens.shape[2:])
