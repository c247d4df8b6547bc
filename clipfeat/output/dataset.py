"""A torch Dataset over the features of a run: random points of a frame, or of several views of a scene."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, get_worker_info

from clipfeat.errors import DataError
from clipfeat.output.store import FeatureStore
from clipfeat.sampling.points import choose
from clipfeat.system.direct import reuse_memory
from clipfeat.types import PointFeatures

Item = dict[str, Any]

_LISTERS = 16
"""Threads that list the scenes' frames: on a network disk each list is a wait."""

_OWN_NAMES = ("scene_id", "frame_id", "view", "batch", "offset")
"""What an item or a batch holds beside the arrays of a file."""

_ALIGNMENT = 64
"""Bytes that a tensor begins at a multiple of, as torch's own do."""


class FeatureDataset(Dataset[Item]):
    """Random points of the frames of a store, as training reads them: an item a frame.

    With ``views=k`` an item is a frame and k-1 others of its scene, chosen at random; all of them, where the scene has
    fewer. All random numbers are torch's: workers and epochs differ, and ``torch.manual_seed`` repeats a run.

    An item is a dictionary. N are the points of all its V views, one view after the other:

    * ``pts_feat`` (N, C) of ``dtype``; ``xyz`` (N, 3), ``uv_idx`` (N, 2) and ``conf_2d`` (N,) float32; ``pts_idx`` (N,)
      int64: see ``PointFeatures``.
    * The points' attributes (N, ...) by their names, such as ``rgb`` uint8, ``label`` and ``instance``, as they are
      stored; unsigned integers of more than 8 bits, which torch can't compute with, become int64.
    * ``view`` (N,) int64 from 0 to V-1: the view that a point is of.
    * ``frame_id`` (V,) int64, and ``clip_global`` (V, D) float32 where the store has it, by view.
    * ``scene_id``: the scene's name.

    Frames are listed when the dataset is made. It may be pickled and forked, so workers may be started in any way.

    Args:
        store: the store, or its folder.
        num_points: random points a frame, without replacement; frames that have fewer give all. None for all.
        views: frames an item.
        scenes: which of the store's scenes; None for all.
        attributes: which of the points' attributes; None for all.
        dtype: of ``pts_feat``.

    Attributes:
        store: the store.
        scenes: the scenes.

    Raises:
        DataError: If the store can't be opened, or has no such scene.
        ValueError: If num_points or views is less than 1.
    """

    def __init__(
        self,
        store: FeatureStore | str | Path,
        num_points: int | None = None,
        views: int = 1,
        scenes: Sequence[str] | None = None,
        attributes: Sequence[str] | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        if views < 1 or (num_points is not None and num_points < 1):
            raise ValueError(f"num_points={num_points}, views={views}: expected at least 1 each")
        self.store = store if isinstance(store, FeatureStore) else FeatureStore(store)
        self.scenes = list(self.store.scenes if scenes is None else scenes)
        self.num_points = num_points
        self.views = views
        self.attributes = attributes
        self.dtype = dtype
        with ThreadPoolExecutor(_LISTERS) as pool:
            frames = list(pool.map(self.store.frame_numbers, self.scenes))
        # Arrays and not lists of tuples: a forked worker would copy the memory of every object that it looks at.
        self._frame_ids = np.concatenate([np.zeros(0, np.int64), *frames])
        self._ends = np.cumsum([len(of_scene) for of_scene in frames], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._frame_ids)

    def __getitem__(self, index: int) -> Item:
        """The item of a frame.

        Raises:
            DataError: If a frame is missing, damaged, or of another model; the file is named.
            IndexError: If there is no such item.
        """
        if get_worker_info() is not None:  # a process of our own, where fresh memory would take a sixth of the time
            reuse_memory()
        index = range(len(self))[index]
        scene = int(np.searchsorted(self._ends, index, side="right"))
        frames = [self._load(self.scenes[scene], frame_id) for frame_id in self._views_of(scene, index)]
        parts = _by_name(frames)
        parts["view"] = [torch.full((len(tensor),), view) for view, tensor in enumerate(parts["pts_idx"])]
        joined = {name: torch.cat(tensors) if len(frames) > 1 else tensors[0] for name, tensors in parts.items()}
        return {"scene_id": self.scenes[scene], **joined}

    def _views_of(self, scene: int, index: int) -> list[int]:
        """The frame of an item, and random others of its scene."""
        chosen = [index]
        if self.views > 1:
            begin, end = int(self._ends[scene - 1]) if scene else 0, int(self._ends[scene])
            others = begin + torch.randperm(end - begin - 1)[: self.views - 1].numpy()
            chosen += (others + (others >= index)).tolist()  # the frame itself is left out
        return self._frame_ids[chosen].tolist()

    def _load(self, scene_id: str, frame_id: int) -> Item:
        features = self.store.load(scene_id, frame_id, None if self.num_points is None else self._choose)
        path = self.store.path(scene_id, frame_id)
        item: Item = {
            "scene_id": scene_id,
            "frame_id": torch.tensor([frame_id]),
            "pts_feat": torch.from_numpy(features.pts_feat).to(self.dtype),
            "xyz": torch.from_numpy(features.xyz),
            "uv_idx": torch.from_numpy(features.uv_idx),
            "conf_2d": torch.from_numpy(features.conf_2d),
            "pts_idx": torch.from_numpy(features.pts_idx),
        }
        for name in features.attributes if self.attributes is None else self.attributes:
            item[name] = _attribute(path, features, name)
        if features.clip_global is not None:
            item["clip_global"] = torch.from_numpy(features.clip_global)[None]
        return item

    def _choose(self, count: int) -> NDArray[np.int64]:
        # A permutation of all points by torch would take longer than reading the file.
        rng = np.random.default_rng(int(torch.randint(2**63 - 1, ())))
        return choose(np.arange(count), self.num_points, rng)


def collate_points(items: Sequence[Item]) -> Item:
    """Joins items of uneven N to one batch, as sparse convolutions take it: for ``DataLoader(collate_fn=…)``.

    Args:
        items: B of them, of one ``FeatureDataset``.

    Returns:
        The arrays of all items, one after the other, and beside them ``batch`` (ΣN,) int64, the item that a point is
        of, and ``offset`` (B,) int64, where each item's points end. ``view`` counts on from item to item, so that
        ``frame_id[view]`` (of ΣV) is the frame of each point. ``scene_id`` is a list of B names. In a worker process
        the tensors are in shared memory from the start.

    Raises:
        DataError: If some items have an attribute that others have not.
    """
    parts = _by_name(items)
    views = np.cumsum([0] + [len(item["frame_id"]) for item in items])
    counts = torch.tensor([len(item["pts_idx"]) for item in items])
    parts["view"] = [item["view"] + before for item, before in zip(items, views, strict=False)]
    parts["batch"] = [torch.repeat_interleave(counts)]
    parts["offset"] = [counts.cumsum(0)]
    return {"scene_id": [item["scene_id"] for item in items], **_in_one_block(parts)}


def _by_name(items: Sequence[Item]) -> dict[str, list[torch.Tensor]]:
    """The tensors of all items by their names."""
    names = set().union(*items)
    for item in items:
        if missing := names - item.keys():
            frames = ", ".join(map(str, item["frame_id"].tolist()))
            raise DataError(
                f"{item['scene_id']} frame {frames}: has no {', '.join(sorted(missing))}, which another frame of the "
                f"batch has; name the attributes that all frames have, as FeatureDataset(…, attributes=[…])"
            )
    return {name: [item[name] for item in items] for name in items[0] if name != "scene_id"}


def _in_one_block(parts: dict[str, list[torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Concatenates the tensors of each name, all of them in one block of memory.

    From a worker to the main process, each block of memory takes a file descriptor of its own, which is asked for and
    sent: that took longer than reading a frame. In a worker the block is shared memory, which is what it would be
    copied to otherwise (``default_collate`` does the same).
    """
    shapes = {name: (sum(map(len, tensors)), *tensors[0].shape[1:]) for name, tensors in parts.items()}
    dtypes = {name: reduce(torch.promote_types, (t.dtype for t in tensors)) for name, tensors in parts.items()}
    sizes = {name: math.prod(shapes[name]) * dtypes[name].itemsize for name in parts}
    begins = np.cumsum([0] + [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes.values()]).tolist()
    new = torch.UntypedStorage if get_worker_info() is None else torch.UntypedStorage._new_shared
    block = torch.empty(0, dtype=torch.uint8).set_(new(begins[-1]))
    joined = {}
    for (name, tensors), begin in zip(parts.items(), begins, strict=False):
        out = block[begin : begin + sizes[name]].view(dtypes[name]).view(shapes[name])
        joined[name] = torch.cat(tensors, out=out)
    return joined


def _attribute(path: Path, features: PointFeatures, name: str) -> torch.Tensor:
    """An attribute as a type that torch computes with; ``path`` is the features' file."""
    if name not in features.attributes:
        raise DataError(
            f"{path}: its points have no attribute {name}, but {', '.join(features.attributes) or 'none at all'}"
        )
    if name in _OWN_NAMES:
        raise DataError(
            f"{path}: an attribute of its points is called {name}, as something of FeatureDataset's own is; name those "
            f"that you need, as FeatureDataset(…, attributes=[…])"
        )
    values = features.attributes[name]
    if values.dtype.kind == "u" and values.dtype.itemsize > 1:
        values = values.astype(np.int64)
    try:
        return torch.from_numpy(np.asarray(values, values.dtype.newbyteorder("=")))
    except TypeError as error:
        raise DataError(
            f"{path}: the attribute {name} of its points is of type {values.dtype}, which torch has not; name those "
            f"that you need, as FeatureDataset(…, attributes=[…])"
        ) from error
