"""Which frames, which of their points, and on which pixels: all that needs neither the network nor its input."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera import MaskRule, VisibilityRule, build_rules, project_frame
from clipfeat.camera.masks import apply_mask
from clipfeat.config import ExtractConfig
from clipfeat.data.base import Dataset, check_scene_name, read_scenes_file, seeded_rng, select_frames
from clipfeat.errors import DataError, FrameError
from clipfeat.sampling import PointSource, build_point_source
from clipfeat.shards import Shard, share_scenes, this_shard
from clipfeat.types import Frame, Points

FrameKey = tuple[str, int]
"""Scene and frame number."""


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


def build_locator(cfg: ExtractConfig) -> FrameLocator:
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


def list_frames(cfg: ExtractConfig, dataset: Dataset, bad_scenes: dict[str, str] | None = None) -> list[FrameKey]:
    """The frames that the configuration asks for, scene after scene; of several shards, those of this process's own.

    Args and errors are those of ``list_scenes``; of the bad scenes, too, only those of its own shard are told.
    """
    return frame_keys(own_scenes(list_scenes(cfg, dataset, bad_scenes), this_shard(cfg.shard), bad_scenes))


def own_scenes(
    scenes: Mapping[str, list[int]], shard: Shard, bad_scenes: dict[str, str] | None = None
) -> dict[str, list[int]]:
    """The scenes of a shard, out of those of all shards; the bad ones of the others are dropped from ``bad_scenes``."""
    own = share_scenes({scene_id: len(frame_ids) for scene_id, frame_ids in scenes.items()}, shard)
    if bad_scenes is not None:
        for scene_id in bad_scenes.keys() - own:
            del bad_scenes[scene_id]
    return {scene_id: scenes[scene_id] for scene_id in own}


def frame_keys(scenes: Mapping[str, Sequence[int]]) -> list[FrameKey]:
    """The frames of scenes, one scene after another."""
    return [(scene_id, frame_id) for scene_id, frame_ids in scenes.items() for frame_id in frame_ids]


def list_scenes(cfg: ExtractConfig, dataset: Dataset, bad_scenes: dict[str, str] | None = None) -> dict[str, list[int]]:
    """The frames of all scenes that the configuration asks for, whatever shards they are of; a bad scene has none.

    Args:
        cfg: what to run.
        dataset: where the frames come from.
        bad_scenes: takes the scenes that are there and can't be read, and why, unless ``on_bad_frame=fail``. Whoever
            gives it must tell of them.

    Raises:
        DataError: If a scene is not there, or its name is a path; if a scene can't be read and ``bad_scenes`` doesn't
            take it, or if none can.
    """
    scenes: Sequence[str] = read_scenes_file(Path(cfg.scenes_file)) if cfg.scenes_file else dataset.scenes()
    frames: dict[str, list[int]] = {}
    for scene_id in scenes:
        try:
            frame_ids = dataset.frame_ids(check_scene_name(scene_id, "scene"))
        except DataError as error:
            if scene_id not in dataset.scenes():
                raise DataError(f"scenes_file={cfg.scenes_file}: {error}" if cfg.scenes_file else str(error)) from error
            if bad_scenes is None or cfg.on_bad_frame == "fail":
                raise
            bad_scenes[scene_id], frames[scene_id] = str(error), []
            continue
        frames[scene_id] = select_frames(
            frame_ids,
            scene_id,
            stride=cfg.frame_stride,
            count=cfg.frames_per_scene,
            how=cfg.frame_selection,
            seed=cfg.seed,
        )
    if bad_scenes and not any(frames.values()):
        why = next(iter(bad_scenes.values()))
        raise DataError(f"none of the {len(bad_scenes)} scenes can be read; the first: {why}")
    return frames
