"""All of a frame's work that needs no network: read, place, project, choose. Runs ahead of the model, in threads."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from clipfeat.data.selection import FrameKey
from clipfeat.errors import DataError, FrameError
from clipfeat.model.preprocess import Preprocess
from clipfeat.output.summary import Stopwatch, status_counts
from clipfeat.sampling.colors import with_picture_colors
from clipfeat.sampling.locate import Located, Locator
from clipfeat.sampling.segments import Segments
from clipfeat.types import Frame, PointStatus


class FrameSource(Protocol):
    """Where frames come from: a ``Dataset``, or anything else that reads them."""

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """See ``Dataset``."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the forward pass, the sampling and the files take from one frame.

    Attributes:
        frame: as it was read.
        network_input: what the model takes of the picture: pixels, or a map that it knows already.
        located: its visible points and their pixels.
        segments: of its picture, if features are pooled over them.
        seconds: spent on this frame, by stage; the later stages add theirs.
    """

    frame: Frame
    network_input: Any
    located: Located
    segments: Segments | None
    seconds: dict[str, float]

    @property
    def counts(self) -> dict[str, int]:
        """Number of points that were looked at, by status."""
        return status_counts(self.located.status)

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
        locate: finds the pixels of a frame's points.
        preprocess: how its picture lies in the network's input.
        network_input: makes what the model takes of a frame.
        stopwatch: of the run.
        colored: whether the points take their colours from the picture, as ``rgb``.
        segments: parts the picture of a frame, if features are pooled over its segments.
    """

    dataset: FrameSource
    locate: Locator
    preprocess: Preprocess
    network_input: Callable[[Frame], Any]
    stopwatch: Stopwatch
    colored: bool = False
    segments: Callable[[Frame], Segments] | None = None

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
        with self.stopwatch.stage("project", seconds):
            located = self._seen_by_network(self.locate(frame), frame)
        with self.stopwatch.stage("preprocess", seconds):
            if self.colored:
                located = with_picture_colors(located, frame)  # keeps the decoded pixels, which the network takes too
            segments = self.segments(frame) if self.segments is not None else None  # so may this
            network_input = self.network_input(frame)
            frame.picture.forget()
        return Prepared(frame, network_input, located, segments, seconds)

    def _seen_by_network(self, located: Located, frame: Frame) -> Located:
        """What a centre crop cuts off has no features, so for the network it is out of view."""
        color = frame.color_camera
        covered = self.preprocess.covers(located.uv_idx, color.width, color.height)
        if covered.all():
            return located
        rows = np.flatnonzero(covered)
        status = located.status.copy()
        status[np.flatnonzero(status == PointStatus.VISIBLE)[~covered]] = PointStatus.OUT_OF_VIEW
        return dataclasses.replace(located.take(rows), status=status)
