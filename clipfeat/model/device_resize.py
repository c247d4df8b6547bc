"""Pillow's bicubic and bilinear resizing to the bit, where the model runs.

The same sums of whole numbers as in ``resize.py``, by torch: for each of an output row's few weights one row is
fetched and added. They stay within 32 bits, and the order in which they are summed changes nothing.
"""

import numpy as np
import torch

from clipfeat.model.resize import BITS, HALF, fixed_weights, pillow_s_order
from clipfeat.system.pinned import to_device

_WORD = 8
"""Bytes that are fetched as one, where rows are a multiple of them."""


def can_resize_there(size: tuple[int, int], new_size: tuple[int, int], interpolation: str) -> bool:
    """Whether these sums give Pillow's bits, from one (width, height) to another: but for pictures of a few pixels."""
    return pillow_s_order(size, new_size, interpolation) is not None


def resize_there(pictures: torch.Tensor, new_size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """Resizes (B, H, W, 3) uint8 to (B, height, width, 3), bit-equal to ``resize_pillow`` of each.

    Args:
        pictures: on any device.
        new_size: (width, height); one for which ``can_resize_there``.
        interpolation: bicubic or bilinear.
    """
    height, width = pictures.shape[1:3]
    across_first = bool(pillow_s_order((width, height), new_size, interpolation))
    for across in (across_first, not across_first):
        dim = 2 if across else 1
        pictures = _along(pictures, dim, new_size[0 if across else 1], interpolation)
    return pictures.contiguous()  # or the network might go by another layout, and its last bits be others


def _along(pictures: torch.Tensor, dim: int, new_length: int, interpolation: str) -> torch.Tensor:
    """Resizes the dimension ``dim``, which becomes the first: rows that are fetched then lie in memory as they are."""
    length = pictures.shape[dim]
    if length == new_length:
        return pictures
    first, weights = fixed_weights(length, new_length, interpolation)
    index = first.astype(np.int32) + np.arange(weights.shape[1], dtype=np.int32)[:, None]  # (K, new_length)
    taps = to_device(np.stack([index, weights.T]), pictures.device)
    turned = pictures.movedim(dim, 0)
    rows = turned.reshape(length, -1)
    total = torch.full((new_length, rows.shape[1]), HALF, dtype=torch.int32, device=pictures.device)
    wide = rows.view(torch.int64) if rows.shape[1] % _WORD == rows.storage_offset() % _WORD == 0 else rows
    for where, weight in zip(*taps, strict=True):
        total.addcmul_(wide.index_select(0, where).view(torch.uint8), weight[:, None])
    short = total.bitwise_right_shift_(BITS).clamp_(0, 255).to(torch.uint8)
    return short.view(new_length, *turned.shape[1:]).movedim(0, dim)
