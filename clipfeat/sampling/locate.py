"""Which points of a frame are seen, and on which pixels: all that needs neither the network nor its input."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.masks import MaskRule, apply_mask
from clipfeat.camera.rules import build_rules
from clipfeat.camera.visibility import VisibilityRule, project_frame
from clipfeat.data.base import Dataset, seeded_rng
from clipfeat.data.selection import FrameKey
from clipfeat.errors import DataError, FrameError
from clipfeat.sampling.config import PointsConfig
from clipfeat.sampling.points import PointSource, build_point_source
from clipfeat.types import Frame, Points


@dataclass(frozen=True, eq=False)
class Located:
    """The points of a frame and their pixels.

    Attributes:
        points: the N visible ones.
        uv_idx: (N, 2) float32 colour pixels.
        conf_2d: (N,) float32.
        status: (M,) uint8 of ``PointStatus``, of all points that were looked at.
    """

    points: Points
    uv_idx: NDArray[np.float32]
    conf_2d: NDArray[np.float32]
    status: NDArray[np.uint8]

    def take(self, rows: NDArray[np.integer]) -> "Located":
        """Some of the visible points."""
        return Located(self.points.take(rows), self.uv_idx[rows], self.conf_2d[rows], self.status)


Locator = Callable[[Frame], Located]


@dataclass(frozen=True)
class FrameLocator:
    """Projects a frame's points and tests which of them are seen.

    Attributes:
        points: which 3D points of a frame are looked at.
        rule: when a point counts as seen.
        mask_rule: what an external instance mask does to it.
        seed: of the choice of points.
    """

    points: PointSource
    rule: VisibilityRule
    mask_rule: MaskRule
    seed: int

    def __call__(self, frame: Frame) -> Located:
        """Locates one frame's points.

        Raises:
            FrameError: If the frame has none.
            DataError: If the scene's points can't be read.
        """
        points = self.points(frame, seeded_rng(self.seed, frame.scene_id, frame.frame_id))
        seen = project_frame(points.xyz, frame, self.rule)
        if frame.mask is not None:
            apply_mask(seen, frame.mask, self.mask_rule, frame.scene_id, points.attributes.get("instance"))
        everything = Located(points, seen.uv, seen.conf_2d, seen.status)
        visible = seen.visible
        return everything if visible.all() else everything.take(np.flatnonzero(visible))


def build_locator(cfg: PointsConfig) -> FrameLocator:
    """The locator that ``sampling=…``, ``camera=…`` and ``seed`` set.

    Raises:
        ConfigError: If one of them names what is not there.
    """
    return FrameLocator(build_point_source(cfg.sampling, cfg.seed), *build_rules(cfg.camera), cfg.seed)


def locate_some(locate: Locator, dataset: Dataset, frames: Sequence[FrameKey]) -> list[Located]:
    """One to three of the frames, spread evenly and located; in place of one that can't be, one of the next four."""
    count = min(3, 1 + len(frames) // 100)  # a short run need not wait for them
    some = []
    for i in range(count):
        begin = (2 * i + 1) * len(frames) // (2 * count)
        for scene_id, frame_id in frames[begin : begin + 5]:
            with suppress(FrameError, DataError):
                some.append(locate(dataset.load(scene_id, frame_id)))
                break
    return some
