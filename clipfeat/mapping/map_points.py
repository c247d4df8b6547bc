"""The points of a map, and what is known of each: running means, in rows that grow as voxels are met."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipfeat.config.checks import at_least, one_of
from clipfeat.errors import ConfigError, DataError
from clipfeat.mapping.device_merger import DeviceMerger
from clipfeat.mapping.frame_view import View
from clipfeat.output.config import DTYPES
from clipfeat.queries.prompts import Prompts
from clipfeat.sampling.merge import ViewMerger, with_room
from clipfeat.sampling.voxel_table import VoxelTable
from clipfeat.sampling.voxels import VOXEL
from clipfeat.types import Points

Arrays = dict[str, NDArray[Any]]

_ROWS = 16_384
"""Features in half precision that are compared at a time."""


class MapPoints:
    """N points and the means of what their views say; not safe to use from several threads.

    Args:
        max_weight: see ``FeatureMap3D``.
        device: of the features.
        dtype: of the features in memory.

    Attributes:
        dropped: points that had to go so far.

    Raises:
        ConfigError: If an option can't be.
    """

    def __init__(self, max_weight: float | None, device: torch.device, dtype: str):
        at_least("max_weight", max_weight, 0, above=True)
        one_of("dtype", dtype, DTYPES)
        self.dropped = 0
        self._max_weight = max_weight
        self._device = device
        self._dtype = dtype
        self._merger: ViewMerger | DeviceMerger | None = None
        # Lengths of the features, which cosines need: each is found again only when its feature has changed.
        self._lengths = np.zeros(0, np.float32)
        self._changed = np.zeros(0, bool)

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def given(self) -> Points | None:
        """The points, where they were given."""
        return None

    @property
    def views(self) -> NDArray[np.int32]:
        """(N,) views of each point."""
        return np.zeros(len(self), np.int32) if self._merger is None else self._merger.views[: len(self)]

    @property
    def weight(self) -> NDArray[np.float64]:
        """(N,) sum of their weights."""
        return np.zeros(len(self)) if self._merger is None else self._merger.weight[: len(self)]

    def points(self) -> Points:
        """The points, with all that is known of them but the features."""
        raise NotImplementedError

    def state(self) -> Arrays:
        """(N, …) by name, what ``restore`` needs beside views and features."""
        return {"weight_sum": self.weight.copy()}

    def features(self) -> NDArray[np.floating]:
        """(N, C) on the host."""
        if self._merger is None:
            return np.zeros((len(self), 0), np.float32)
        mean = self._merger.mean[: len(self)]
        return mean.cpu().numpy() if isinstance(mean, torch.Tensor) else mean

    def add(self, view: View, chosen: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Adds a view, or the chosen (M,) of its points; the rows of all that it sees.

        Raises:
            ConfigError: If there can't be room for it.
        """
        view = self._placed(view)
        view.add_to(self._with_room(view.channels), chosen)
        self._changed[view.rows] = True
        return view.rows

    def scores(self, prompts: Prompts) -> NDArray[np.float32]:
        """(N, P), see ``Prompts.scores``.

        Raises:
            ConfigError: If they have another number of channels.
        """
        if self._merger is None:
            return np.zeros((len(self), len(prompts.names)), np.float32)
        count, channels = len(self), self._merger.mean.shape[1]
        if prompts.vectors.shape[1] != channels:
            raise ConfigError(
                f"vectors of {prompts.vectors.shape[1]} channels: the features of the map have {channels}"
            )
        with torch.inference_mode():
            mean = torch.as_tensor(self._merger.mean)[:count]
            changed = np.flatnonzero(self._changed[:count])
            if len(changed):
                some = mean if len(changed) == count else mean[torch.from_numpy(changed).to(mean.device)]
                self._lengths[changed] = torch.linalg.vector_norm(some.float(), dim=1).cpu().numpy()
                self._changed[changed] = False
            directions = torch.from_numpy(np.concatenate((prompts.vectors, prompts.others)).T).to(mean.device)
            # Of half precision a part at a time, in float32: a copy of all would take the memory that it saves.
            parts = [mean] if mean.dtype == torch.float32 else mean.split(_ROWS)
            products = torch.cat([part.float() @ directions for part in parts]).cpu().numpy()
        lengths = self._lengths[:count, None]
        cosines = np.asarray(products / np.where(lengths > 0, lengths, 1), np.float32)
        own = len(prompts.names)
        scores = prompts.of_cosines(cosines[:, :own], cosines[:, own:])
        scores[self.views == 0] = 0
        return scores

    def merge(self, other: "MapPoints") -> None:
        """Adds all that others know, as one view of each that came last.

        Raises:
            DataError: If they are no such points.
            ConfigError: If there can't be room for them.
        """
        seen = np.flatnonzero(other.views)
        if len(seen):
            view = View(seen, other.weight[seen], other.features()[seen], None, other.exact_points().take(seen))
            self._merged(other, seen, self.add(view))

    def exact_points(self) -> Points:
        """As ``points``, with means that are not rounded."""
        return self.points()

    def restore(self, features: NDArray[np.floating], views: NDArray[np.int32], state: Arrays) -> None:
        """Takes up what another object of this kind knew, with nothing in this one yet.

        Raises:
            ConfigError: If there is no room for it.
        """
        merger, count = self._with_room(features.shape[1]), len(self)
        if isinstance(merger, DeviceMerger):
            merger.mean[:count] = torch.from_numpy(features).to(merger.mean)
        else:
            merger.mean[:count] = features
        merger.views[:count], merger.weight[:count] = views, state["weight_sum"]
        self._changed[:count] = True

    def _placed(self, view: View) -> View:
        """The view with the rows of this map."""
        return view

    def _merged(self, other: "MapPoints", seen: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Takes note that one view was added where there were several; ``seen`` and ``rows`` are the same points."""
        if self._merger is not None:
            self._merger.views[rows] += other.views[seen] - 1

    def _capacity(self) -> int:
        """Points that there is to be room for."""
        return len(self)

    def _with_room(self, channels: int) -> ViewMerger | DeviceMerger:
        """The merger, as large as it has to be."""
        size, merger = self._capacity(), self._merger
        if merger is None:
            if self._device.type == "cpu" and self._dtype == "float32":
                merger = ViewMerger(size, channels, self._max_weight)
            else:
                dtype = torch.float16 if self._dtype == "float16" else torch.float32
                merger = DeviceMerger(size, channels, self._max_weight, self._device, dtype)
        elif len(merger.views) < size:
            merger.make_room(size)
        if len(self._lengths) < size:
            self._lengths, self._changed = with_room(self._lengths, size), with_room(self._changed, size)
        self._merger = merger
        return merger


class GivenPoints(MapPoints):
    """Points that stay as they are, such as a mesh's vertices.

    Args:
        points: the N points.
        max_weight: see ``MapPoints``.
        device: see ``MapPoints``.
        dtype: see ``MapPoints``.
    """

    def __init__(self, points: Points, max_weight: float | None, device: torch.device, dtype: str):
        super().__init__(max_weight, device, dtype)
        self._points = points
        # Of the attributes, a mask's rule asks for the instance. The others would be copied for each frame.
        known = {name: values for name, values in points.attributes.items() if name == "instance"}
        self._asked_for = Points(points.xyz, np.arange(len(points.xyz)), known)

    def __len__(self) -> int:
        return len(self._points.xyz)

    @property
    def given(self) -> Points:
        """The points that frames are asked for."""
        return self._asked_for

    def points(self) -> Points:
        """The points as they were given."""
        return self._points

    def state(self) -> Arrays:
        """See ``MapPoints``; files round the points."""
        return super().state() | {"xyz_mean": self._points.xyz}

    def merge(self, other: MapPoints) -> None:
        """See ``MapPoints``."""
        if not np.array_equal(self._points.xyz, other.points().xyz):
            raise DataError("the other map is of other points")
        super().merge(other)


class VoxelPoints(MapPoints):
    """Voxels that frames measure, each at the mean of what is measured in it.

    Args:
        size: edge of a voxel in metres.
        max_weight: see ``MapPoints``.
        max_points: most voxels; beyond it those go that were seen longest ago.
        device: see ``MapPoints``.
        dtype: see ``MapPoints``.

    Raises:
        ConfigError: If an option can't be.
    """

    def __init__(self, size: float, max_weight: float | None, max_points: int | None, device: torch.device, dtype: str):
        super().__init__(max_weight, device, dtype)
        at_least("voxel_size", size, 0, above=True)
        at_least("max_points", max_points, 1)
        self._most = max_points
        self._table = VoxelTable()
        self._xyz = np.zeros((0, 3))
        self._rgb = np.zeros((0, 3), np.float32)
        self._colored = False
        self._seen = np.zeros(0, np.int64)
        self._clock = 0

    def __len__(self) -> int:
        return self._table.count

    def points(self) -> Points:
        """See ``MapPoints``; attributes are ``VOXEL`` (N, 3) int32 and, where frames had any, ``rgb`` (N, 3) uint8."""
        exact = self.exact_points()
        if self._colored:
            exact.attributes["rgb"] = np.rint(exact.attributes["rgb"]).astype(np.uint8)
        return exact

    def exact_points(self) -> Points:
        """See ``MapPoints``."""
        count = len(self)
        attributes: Arrays = {VOXEL: self._table.cell[:count].copy()}
        if self._colored:
            attributes["rgb"] = self._rgb[:count].copy()
        return Points(self._xyz[:count].copy(), np.arange(count), attributes)

    def state(self) -> Arrays:
        """See ``MapPoints``."""
        count = len(self)
        state = super().state() | {"xyz_mean": self._xyz[:count].copy(), "seen_last": self._seen[:count].copy()}
        return state | ({"rgb_mean": self._rgb[:count].copy()} if self._colored else {})

    def restore(self, features: NDArray[np.floating], views: NDArray[np.int32], state: Arrays) -> None:
        """See ``MapPoints``."""
        if self._most is not None and len(views) > self._most:
            raise ConfigError(f"max_points={self._most}: {len(views)} voxels are there already; give room for these")
        rows = self._table.add(state[VOXEL])
        self._make_room()
        super().restore(features, views, state)
        self._xyz[rows], self._seen[rows] = state["xyz_mean"], state["seen_last"]
        self._clock = int(self._seen[rows].max(initial=-1)) + 1
        if "rgb_mean" in state:
            self._rgb[rows], self._colored = state["rgb_mean"], True

    def _placed(self, view: View) -> View:
        if view.points is None:
            raise ValueError("a view of given points, which a map of voxels has none of")
        rows = self._rows(view.points.attributes[VOXEL])
        self._make_room()
        # As the merger weighs the features; where a voxel is new the share is 1.
        share = (view.weight / (self.weight_of(rows) + view.weight))[:, None]
        self._xyz[rows] += share * (view.points.xyz - self._xyz[rows])
        if "rgb" in view.points.attributes:
            self._rgb[rows] += share * (view.points.attributes["rgb"] - self._rgb[rows])
            self._colored = True
        self._seen[rows] = self._clock
        self._clock += 1
        return replace(view, rows=rows)

    def weight_of(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(M,) sum of the weights so far; 0 of rows that are new."""
        weight = np.zeros(len(rows))
        if self._merger is not None:
            old = rows < len(self._merger.weight)
            weight[old] = self._merger.weight[rows[old]]
        return weight

    def _rows(self, cells: NDArray[np.int32]) -> NDArray[np.int64]:
        """The rows (M,) of voxels (M, 3), new ones among them; for want of room others go."""
        rows = self._table.find(cells)
        new = np.flatnonzero(rows < 0)
        excess = 0 if self._most is None else max(0, len(self) + len(new) - self._most)
        if excess:
            if self._most is not None and len(cells) > self._most:
                raise ConfigError(
                    f"max_points={self._most}: {len(cells)} voxels come at once; give room for those of several "
                    f"frames, or take a larger voxel_size"
                )
            seen = self._seen[: len(self)].copy()
            seen[rows[rows >= 0]] = self._clock
            oldest = np.argsort(seen, kind="stable")[:excess]
            self._table.replace(oldest, cells[new[:excess]])
            if self._merger is not None:
                self._merger.forget(oldest)
            self.dropped += excess
            rows[new[:excess]], new = oldest, new[excess:]
        rows[new] = self._table.add(cells[new])
        return rows

    def _make_room(self) -> None:
        size = len(self._table.cell)
        if len(self._xyz) < size:
            self._xyz, self._rgb, self._seen = (with_room(a, size) for a in (self._xyz, self._rgb, self._seen))

    def _capacity(self) -> int:
        return len(self._table.cell)

    def _merged(self, other: MapPoints, seen: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        super()._merged(other, seen, rows)
        if isinstance(other, VoxelPoints):
            self._clock -= 1  # which the one view has taken
            self._seen[rows] = self._clock + other._seen[seen]
            self._clock += other._clock
