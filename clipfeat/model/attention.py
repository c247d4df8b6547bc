"""The last block of open_clip's ViT, changed so that its patch tokens say what lies where they lie.

CLIP trained its last block to fill the class token; its patch tokens look all over the picture. These variants, known
for zero-shot segmentation, take the same weights and let each token look at what resembles it. They change the last
block alone: the blocks before it are open_clip's own, untouched. One more, which also looks at what those give, is in
``sc_clip.py``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import nn

NEIGHBOURHOOD_CELLS = 5.0
"""Standard deviation of NACLIP's neighbourhood, in patches."""

Mix = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
"""Queries, keys, values (B, heads, L, d) and the grid's side to mixed values (B, heads, L, d)."""


@dataclass(frozen=True)
class Variant:
    """What a variant makes of the last block. The class token is the first of the L = 1 + grid² tokens, if it is there.

    Attributes:
        mix: what each token takes of all tokens' values.
        whole_block: whether the residual path and the MLP stay; else the attention's output is all there is.
    """

    mix: Mix
    whole_block: bool


def own_value(_q: torch.Tensor, _k: torch.Tensor, v: torch.Tensor, _grid: int) -> torch.Tensor:
    """MaskCLIP (Zhou et al. 2022): each token takes its own value."""
    return v


def query_and_key_likeness(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: int) -> torch.Tensor:
    """SCLIP (Wang et al. 2023): (softmax(q·qᵀ/√d) + softmax(k·kᵀ/√d))·v; the sum is not halved."""
    return query_likeness(q, k, v, grid) + key_likeness(q, k, v, grid)


def query_likeness(q: torch.Tensor, _k: torch.Tensor, v: torch.Tensor, _grid: int) -> torch.Tensor:
    """ClearCLIP (Lan et al. 2024): softmax(q·qᵀ/√d)·v."""
    return nnf.scaled_dot_product_attention(q, q, v)


def key_likeness(_q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, _grid: int) -> torch.Tensor:
    """softmax(k·kᵀ/√d)·v: a part of SCLIP and of SC-CLIP."""
    return nnf.scaled_dot_product_attention(k, k, v)


def key_likeness_nearby(_q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: int) -> torch.Tensor:
    """NACLIP (Hajimiri et al. 2024): softmax(k·kᵀ/√d + exp(-½·distance²/σ²))·v, distances in patches."""
    return nnf.scaled_dot_product_attention(k, k, v, attn_mask=neighbourhood(grid, k.device).to(k.dtype))


def neighbourhood(grid: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """What NACLIP adds to the logits: (1 + grid², 1 + grid²) float32, 0 for the class token, which lies nowhere."""
    cell = torch.arange(grid, dtype=torch.float32, device=device)
    along = torch.exp(-0.5 * ((cell[:, None] - cell) / NEIGHBOURHOOD_CELLS) ** 2)
    # The Gaussian of a distance in the plane is that of its rows times that of its columns; tokens go row by row.
    return nnf.pad(torch.kron(along, along), (1, 0, 1, 0))


VARIANTS: dict[str, Variant] = {
    "maskclip": Variant(own_value, whole_block=False),
    "sclip": Variant(query_and_key_likeness, whole_block=True),
    "clearclip": Variant(query_likeness, whole_block=False),
    "naclip": Variant(key_likeness_nearby, whole_block=False),
}


def run_last_block(block: Any, tokens: torch.Tensor, grid: int, variant: Variant) -> torch.Tensor:
    """Runs the last block as a variant of itself.

    Args:
        block: open_clip's ``ResidualAttentionBlock``, see ``can_vary``.
        tokens: (B, L, D), what the block before gives; the class token first, then the patches row by row.
        grid: patches along one side.
        variant: of ``VARIANTS``, or another that knows what is in ``tokens``.

    Returns:
        (B, L, D), before ``ln_post``.
    """
    attn = block.attn
    projected = nnf.linear(block.ln_1(tokens), attn.in_proj_weight, attn.in_proj_bias)
    # (B, L, 3·D) to three of (B, heads, L, d)
    q, k, v = projected.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()
    mixed = variant.mix(q, k, v, grid).transpose(1, 2).flatten(2)
    # Where the block scales what it adds to the residual path, that scale is as much a part of it as its projection.
    out = block.ls_1(attn.out_proj(mixed))
    if not variant.whole_block:
        return out
    tokens = tokens + out
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


def can_vary(visual: Any) -> bool:
    """Whether a tower ends in a block that ``run_last_block`` knows: open_clip's own ViT with torch's attention."""
    blocks: Any = getattr(getattr(visual, "transformer", None), "resblocks", ())
    return len(blocks) > 1 and isinstance(getattr(blocks[-1], "attn", None), nn.MultiheadAttention)
