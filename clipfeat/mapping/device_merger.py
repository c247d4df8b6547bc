"""Running means on a GPU, or in half precision: what ``ViewMerger`` does by a compiled loop, by index operations."""

import numpy as np
import torch
from numpy.typing import NDArray

from clipfeat.sampling.bilinear import sample_img_feat
from clipfeat.sampling.merge import with_room
from clipfeat.types import FeatureMap


class DeviceMerger:
    """As ``ViewMerger``, with the means as a tensor on any device; weights, which are small, stay on the host.

    Args:
        count: N.
        channels: C.
        most: see ``ViewMerger``.
        device: where the means are.
        dtype: of the means. They are computed in float32; of float16 a mean no longer moves when a view's share is
            below some 0.0005, which ``most`` can prevent.

    Attributes:
        mean: (N, C) tensor, 0 where no view has been added.
        weight: (N,) float64 sum of the weights.
        views: (N,) int32 how many views were added.
    """

    def __init__(
        self, count: int, channels: int, most: float | None, device: torch.device, dtype: torch.dtype = torch.float32
    ):
        self.mean = torch.zeros((count, channels), dtype=dtype, device=device)
        self.weight = np.zeros(count)
        self.views = np.zeros(count, np.int32)
        self._most = np.inf if most is None else most

    def make_room(self, count: int) -> None:
        """See ``ViewMerger``."""
        larger = torch.zeros((count, self.mean.shape[1]), dtype=self.mean.dtype, device=self.mean.device)
        larger[: len(self.mean)] = self.mean
        self.mean, self.weight, self.views = larger, with_room(self.weight, count), with_room(self.views, count)

    def forget(self, rows: NDArray[np.int64]) -> None:
        """See ``ViewMerger``."""
        self.mean[torch.from_numpy(rows).to(self.mean.device)] = 0
        self.weight[rows], self.views[rows] = 0, 0

    def add_map(
        self,
        feature_map: FeatureMap,
        rows: NDArray[np.int64],
        uv: NDArray[np.floating],
        weight: NDArray[np.floating],
    ) -> None:
        """See ``ViewMerger``; each row comes once, and every weight is above 0."""
        if feature_map.values.is_cuda:
            # It may be of another stream, which must not have its memory back before it was read here.
            feature_map.values.record_stream(torch.cuda.current_stream(feature_map.values.device))
        self._add(sample_img_feat(feature_map, uv), rows, weight)

    def add_points(self, features: NDArray[np.floating], rows: NDArray[np.int64], weight: NDArray[np.floating]) -> None:
        """See ``ViewMerger``; each row comes once, and every weight is above 0."""
        self._add(torch.from_numpy(np.ascontiguousarray(features, np.float32)), rows, weight)

    @torch.inference_mode()
    def _add(self, samples: torch.Tensor, rows: NDArray[np.int64], weight: NDArray[np.floating]) -> None:
        total = self.weight[rows] + weight
        share = torch.from_numpy((weight / total).astype(np.float32)).to(self.mean.device)
        where = torch.from_numpy(rows).to(self.mean.device)
        before = self.mean[where].float()
        after = before + share[:, None] * (samples.to(self.mean.device) - before)
        self.mean[where] = after.to(self.mean.dtype)
        self.weight[rows] = np.minimum(total, self._most)
        self.views[rows] += 1
