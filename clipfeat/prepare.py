"""All of a frame's work that needs no network: read, place, project, choose. Runs ahead of the model, in threads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera import VisibilityRule, project_frame
from clipfeat.camera.masks import MaskRule, apply_mask
from clipfeat.config import ExtractConfig
from clipfeat.data.base import Dataset, check_scene_name, read_scenes_file, seeded_rng, select_frames
from clipfeat.errors import DataError, FrameError
from clipfeat.model.preprocess import Preprocess
from clipfeat.output.summary import Stopwatch, status_counts
from clipfeat.sampling import PointSource
from clipfeat.types import Frame, Points, PointStatus

FrameKey = tuple[str, int]
"""Scene and frame number."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the forward pass, the sampling and the files take from one frame.

    Attributes:
        frame: as it was read.
        network_input: what the model takes of the picture: pixels, or a map that it knows already.
        points: the N visible ones.
        uv_idx: (N, 2) float32 colour pixels.
        conf_2d: (N,) float32.
        counts: number of points looked at, by status.
        seconds: spent on this frame, by stage; the later stages add theirs.
    """

    frame: Frame
    network_input: Any
    points: Points
    uv_idx: NDArray[np.float32]
    conf_2d: NDArray[np.float32]
    counts: dict[str, int]
    seconds: dict[str, float]

    @property
    def key(self) -> FrameKey:
        """Scene and frame number."""
        return self.frame.scene_id, self.frame.frame_id

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of the colour picture."""
        return self.frame.color_camera.width, self.frame.color_camera.height


@dataclass(frozen=True)
class Failed:
    """A frame that can't be used, and why."""

    key: FrameKey
    error: FrameError | DataError


@dataclass(frozen=True)
class FramePreparer:
    """Reads frames and finds the pixels of their points.

    Attributes:
        dataset: where frames come from.
        points: which 3D points of a frame are looked at.
        preprocess: how its picture lies in the network's input.
        network_input: makes what the model takes of a frame.
        rule: when a point counts as seen.
        mask_rule: what an external instance mask does to it.
        seed: of the choice of points.
        stopwatch: of the run.
    """

    dataset: Dataset
    points: PointSource
    preprocess: Preprocess
    network_input: Callable[[Frame], Any]
    rule: VisibilityRule
    mask_rule: MaskRule
    seed: int
    stopwatch: Stopwatch

    def __call__(self, key: FrameKey) -> Prepared | Failed:
        """Prepares one frame; bad input comes back as ``Failed``, anything else is raised."""
        try:
            return self._prepare(*key)
        except (FrameError, DataError) as error:
            return Failed(key, error)

    def _prepare(self, scene_id: str, frame_id: int) -> Prepared:
        seconds: dict[str, float] = {}
        with self.stopwatch.stage("read", seconds):
            frame = self.dataset.load(scene_id, frame_id)
        size = frame.color_camera.width, frame.color_camera.height
        with self.stopwatch.stage("project", seconds):
            rng = seeded_rng(self.seed, scene_id, frame_id)
            points = self.points(frame, rng)
            seen = project_frame(points.xyz, frame, self.rule)
            if frame.mask is not None:
                apply_mask(seen, frame.mask, self.mask_rule, scene_id, points.attributes.get("instance"))
            # What a centre crop cuts off has no features, so for the network it is out of view.
            seen.status[seen.visible & ~self.preprocess.covers(seen.uv, *size)] = PointStatus.OUT_OF_VIEW
            visible = np.flatnonzero(seen.visible)
        with self.stopwatch.stage("preprocess", seconds):
            network_input = self.network_input(frame)
        return Prepared(
            frame=frame,
            network_input=network_input,
            points=points.take(visible),
            uv_idx=seen.uv[visible],
            conf_2d=seen.conf_2d[visible],
            counts=status_counts(seen.status),
            seconds=seconds,
        )


def list_frames(cfg: ExtractConfig, dataset: Dataset) -> list[FrameKey]:
    """The frames that the configuration asks for, scene after scene.

    Raises:
        DataError: If a scene is not there, or its name is a path.
    """
    scenes: Sequence[str] = read_scenes_file(Path(cfg.scenes_file)) if cfg.scenes_file else dataset.scenes()
    frames: list[FrameKey] = []
    for scene_id in scenes[cfg.shard.index :: cfg.shard.count]:
        chosen = select_frames(
            dataset.frame_ids(check_scene_name(scene_id, "scene")),
            scene_id,
            stride=cfg.frame_stride,
            count=cfg.frames_per_scene,
            how=cfg.frame_selection,
            seed=cfg.seed,
        )
        frames += [(scene_id, frame_id) for frame_id in chosen]
    return frames
