"""Batches of what may differ in size: what is alike is worked on at once, and comes from a GPU at once."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from clipfeat.system.pinned import to_host, wait
from clipfeat.types import FeatureMap


@dataclass(frozen=True, eq=False)
class Batch:
    """Some of a number of things, stacked.

    Attributes:
        places: of the B things among all of them.
        values: (B, ...).
    """

    places: list[int]
    values: torch.Tensor


def alike(kinds: Iterable[Hashable]) -> list[list[int]]:
    """The places of the things of each kind; the kinds in the order in which they come."""
    found: dict[Hashable, list[int]] = {}
    for place, kind in enumerate(kinds):
        found.setdefault(kind, []).append(place)
    return list(found.values())


def joined(batches: Sequence[Batch]) -> list[Batch]:
    """Batches of things of one shape as one each, in which they are in order."""
    found = []
    for same in alike(batch.values.shape[1:] for batch in batches):
        parts = [batches[place] for place in same]
        found += parts if len(parts) == 1 else stacked(dict(sorted(by_place(parts).items())))
    return found


def stacked(things: Mapping[int, torch.Tensor]) -> list[Batch]:
    """Things by their places: those of one shape, type and device as a batch each."""
    places = list(things)
    groups = alike((one.shape, one.dtype, one.device) for one in things.values())
    return [Batch([places[i] for i in group], torch.stack([things[places[i]] for i in group])) for group in groups]


def by_place(batches: Iterable[Batch]) -> dict[int, torch.Tensor]:
    """The things one by one."""
    return {place: one for batch in batches for place, one in zip(batch.places, batch.values, strict=True)}


def in_order(batches: Iterable[Batch]) -> list[torch.Tensor]:
    """The things one by one, at their places; there is one at each."""
    found = by_place(batches)
    return [found[place] for place in range(len(found))]


def fetch(maps: Sequence[FeatureMap], *, half: bool = False, stay: bool = False) -> list[tuple[FeatureMap, bool]]:
    """Maps for the host, and whether each holds finite numbers alone. A GPU is waited for once, and not for each.

    Args:
        maps: of a batch, all where the same model has made them.
        half: whether they become float16; what is too large for it is not finite then.
        stay: whether the maps stay where they are, and only what stands for the whole pictures comes to the host.
    """
    if all(one.values.device.type == "cpu" for one in maps):
        return [_at_hand(one, half) for one in maps]
    return fetch_together(maps, half=half, stay=stay)


def _at_hand(one: FeatureMap, half: bool) -> tuple[FeatureMap, bool]:
    values = one.values.half() if half else one.values
    return replace(one, values=values), is_finite(values)


def is_finite(values: torch.Tensor) -> bool:
    """Whether a tensor holds neither inf nor NaN; a GPU is waited for."""
    # The least and the largest value tell it in one pass: NaN is both of them.
    return bool(torch.isfinite(torch.stack(values.aminmax())).all())


@torch.inference_mode()
def fetch_together(maps: Sequence[FeatureMap], *, half: bool, stay: bool) -> list[tuple[FeatureMap, bool]]:
    """As ``fetch``, on any device."""
    values, finite = [], []
    # Channels last, as they lie in memory.
    for batch in stacked({place: one.values.permute(1, 2, 0) for place, one in enumerate(maps)}):
        rows = batch.values.half() if half else batch.values
        least, largest = rows.flatten(1).aminmax(dim=1)
        finite.append(Batch(batch.places, to_host(least.isfinite() & largest.isfinite())))
        values.append(Batch(batch.places, rows if stay else to_host(rows)))
    known = {place: one.clip_global for place, one in enumerate(maps) if one.clip_global is not None}
    wholes = by_place(Batch(batch.places, to_host(batch.values)) for batch in stacked(known))
    wait(maps[0].values.device)
    return [
        (FeatureMap(rows.permute(2, 0, 1), one.image_to_map, wholes.get(place)), bool(good))
        for place, (rows, good, one) in enumerate(zip(in_order(values), in_order(finite), maps, strict=True))
    ]
