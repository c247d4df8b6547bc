"""Which points are near which: exact, batched over samples of uneven size, in bounded memory, nothing to compile.

A batch is (B, N, 3) with a mask (B, N) of the points that are real; the others are padding. What comes out for a sample
does not depend on its padding, nor on the other samples.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from scipy.spatial import cKDTree

_CHUNK_BYTES = 64 << 20
"""Of distances that are looked at at once."""

_CODE_BITS = 10
"""Bits of a Morton code along an axis: a thousandth of the sample's extent."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest points of each query, nearest first.

    Attributes:
        index: (B, Q, K) int64 rows of the points; 0 where there is none.
        mask: (B, Q, K) where there is one.
    """

    index: torch.Tensor
    mask: torch.Tensor


def ball_query(
    queries: torch.Tensor,
    points: torch.Tensor,
    query_mask: torch.Tensor,
    point_mask: torch.Tensor,
    count: int,
    radius: float = float("inf"),
) -> Neighbours:
    """The ``count`` nearest points within ``radius`` of each query.

    The nearest and not the first, so that the order of the points is of no matter. On a CPU scipy's tree finds them; on
    a GPU all distances are looked at, some queries at a time. Both compare distances in float64.

    Args:
        queries: (B, Q, 3).
        points: (B, N, 3).
        query_mask: (B, Q) which queries are real.
        point_mask: (B, N) which points are real.
        count: K, neighbours at most.
        radius: metres; a point at this very distance is within.

    Raises:
        ValueError: If a shape does not fit.
    """
    for name, xyz, mask in (("queries", queries, query_mask), ("points", points, point_mask)):
        if xyz.ndim != 3 or xyz.shape[2] != 3 or mask.shape != xyz.shape[:2]:
            raise ValueError(
                f"{name} must be (B, N, 3) and their mask (B, N), got {list(xyz.shape)}, {list(mask.shape)}"
            )
    if len(queries) != len(points):
        raise ValueError(f"queries are of {len(queries)} samples, points of {len(points)}")
    search = _by_tree if points.device.type == "cpu" else _by_distance
    return search(queries.detach(), points.detach(), query_mask, point_mask, count, radius)


def _by_distance(
    queries: torch.Tensor,
    points: torch.Tensor,
    query_mask: torch.Tensor,
    point_mask: torch.Tensor,
    count: int,
    radius: float,
) -> Neighbours:
    batch, total = point_mask.shape
    kept = min(count, total)
    index = torch.zeros(*query_mask.shape, count, dtype=torch.int64, device=points.device)
    mask = torch.zeros_like(index, dtype=torch.bool)
    rows = max(_CHUNK_BYTES // max(8 * batch * total, 1), 1)
    for begin in range(0, queries.shape[1] if kept else 0, rows):
        some = slice(begin, begin + rows)
        # Not by a matrix product: |a|² - 2ab + |b|² loses the digits that tell near points apart.
        exact = "donot_use_mm_for_euclid_dist"
        distance = torch.cdist(queries[:, some].double(), points.double(), compute_mode=exact)
        distance.masked_fill_(~point_mask[:, None], torch.inf)
        near, which = distance.topk(kept, largest=False)
        found = (near <= radius) & torch.isfinite(near) & query_mask[:, some, None]
        index[:, some, :kept], mask[:, some, :kept] = which * found, found
    return Neighbours(index, mask)


def _by_tree(
    queries: torch.Tensor,
    points: torch.Tensor,
    query_mask: torch.Tensor,
    point_mask: torch.Tensor,
    count: int,
    radius: float,
) -> Neighbours:
    index = torch.zeros(*query_mask.shape, count, dtype=torch.int64)
    mask = torch.zeros_like(index, dtype=torch.bool)
    for sample, (asked, real) in enumerate(zip(query_mask, point_mask, strict=True)):
        rows = torch.nonzero(real)[:, 0]
        if not len(rows) or not asked.any():
            continue
        # The tree is looked through for what is nearer than its bound; a little more, and the radius decides below.
        tree, bound = cKDTree(points[sample, rows].double().numpy()), radius * (1 + 1e-9)
        near, which = tree.query(
            queries[sample, asked].double().numpy(),
            k=list(range(1, count + 1)),
            distance_upper_bound=bound,
            workers=torch.get_num_threads(),
        )
        found = torch.from_numpy(near <= radius) & torch.from_numpy(which < len(rows))
        index[sample, asked] = rows[torch.from_numpy(which).clamp(max=len(rows) - 1)] * found
        mask[sample, asked] = found
    return Neighbours(index, mask)


def thin_out(xyz: torch.Tensor, mask: torch.Tensor, ratio: float) -> tuple[torch.Tensor, torch.Tensor]:
    """An even choice of the points: every so-many-th along a space-filling curve.

    Farthest point sampling takes time with the square of N, and as many steps as it takes points. Points at random
    leave holes, and differ from run to run. Along the Morton curve neighbours are near in space, so that a choice in
    equal steps has no large holes; it costs a sort, and follows from where the points lie and not from their order (but
    for points in one cell, a thousandth of the extent).

    Args:
        xyz: (B, N, 3).
        mask: (B, N) which points are real.
        ratio: share of a sample's points that is taken, rounded up.

    Returns:
        (B, M) int64 rows of the points that are taken, 0 where there is none, and (B, M) where there is one; M is 1 at
        least.
    """
    codes = morton_code(xyz, mask).masked_fill(~mask, torch.iinfo(torch.int64).max)
    order = codes.sort(dim=1, stable=True).indices
    counts = mask.sum(1, keepdim=True)
    taken = (counts * ratio).ceil().long()
    steps = torch.arange(max(int(taken.max()), 1), device=xyz.device)[None]
    # The middle of each of ``taken`` equal parts.
    place = ((2 * steps + 1) * counts) // (2 * taken.clamp(min=1))
    chosen = steps < taken
    return order.gather(1, place.clamp(max=xyz.shape[1] - 1)) * chosen, chosen


def morton_code(xyz: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, N) int64 places along the Morton curve through each sample's own box (Morton, 1966); 0 for padding."""
    low, size = bounding_box(xyz, mask)
    extent = size.amax(-1, keepdim=True).clamp(min=1e-6)
    cells = ((xyz.detach() - low[:, None]) / extent[:, None] * 2**_CODE_BITS).long().clamp(0, 2**_CODE_BITS - 1)
    spread = torch.where(mask[..., None], cells, 0)
    # Two zeros between any two bits: each step moves the upper half of each group of bits away from the lower half.
    for shift, kept in ((16, 0x30000FF), (8, 0x300F00F), (4, 0x30C30C3), (2, 0x9249249)):
        spread = (spread | spread << shift) & kept
    x, y, z = spread.unbind(-1)
    return x | y << 1 | z << 2


def bounding_box(xyz: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Lowest corner and size (B, 3) of the box around each sample's real points; zeros where it has none."""
    real = mask[..., None]
    low = torch.where(real, xyz.detach(), torch.inf).amin(1)
    high = torch.where(real, xyz.detach(), -torch.inf).amax(1)
    some = mask.any(1, keepdim=True)
    return torch.where(some, low, 0), torch.where(some, high - low, 0)


def take_rows(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows of each sample: values (B, N, C) at index (B, ...) to (B, ..., C)."""
    batch, total, channels = values.shape
    first = torch.arange(batch, device=index.device).mul(total).view(-1, *[1] * (index.ndim - 1))
    # On a CPU the gradient of an embedding takes a third of the time of that of values[index], or less.
    return nnf.embedding(index + first, values.reshape(batch * total, channels))
