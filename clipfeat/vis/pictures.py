"""Collects what the pictures of a scene need, frame by frame, and writes them when the scene is complete.

The colours and the t-SNE are fitted to all frames of a scene together, so nothing can be drawn before its last frame.
"""

import os
import signal
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from clipfeat.errors import process_died
from clipfeat.system.atomic import atomic_file, sync_to_disk
from clipfeat.system.processes import FreshContext
from clipfeat.system.progress import progress_bar
from clipfeat.system.shards import local_count
from clipfeat.system.streaming import end_with_parent
from clipfeat.types import PointFeatures, resize_affine
from clipfeat.vis.directions import unit_directions

T = TypeVar("T")

THUMBNAIL_WIDTH = 720
"""Pixels. A panel of a picture at the default dpi is about 530 pixels wide."""

PICTURE_BYTES = 55
"""Of a PNG for each squared dot an inch: 670 kB at 110 dpi. The kinds differ by a third."""


@dataclass(frozen=True, eq=False)
class SampledFrame:
    """What is kept of a frame until its scene is complete.

    Attributes:
        frame_id: the frame's own number in the recording.
        thumbnail: (h, w, 3) uint8 RGB, at most ``THUMBNAIL_WIDTH`` pixels wide.
        directions: (n, C) float16 features of length 1, in random order: the first k of them are a random sample too.
        uv: (n, 2) float32 pixels of the thumbnail.
        path: where the picture goes.
    """

    frame_id: int
    thumbnail: NDArray[np.uint8]
    directions: NDArray[np.float16]
    uv: NDArray[np.float32]
    path: Path


class Painter(Protocol):
    """One kind of picture."""

    def draw(self, scene_id: str, frames: Sequence[SampledFrame]) -> Iterator[NDArray[np.uint8]]:
        """Fits what the frames of a scene share, then yields the (h, w, 3) RGB picture of each frame, in order."""


class Pictures(Protocol):
    """What the extraction loop knows of the pictures."""

    def expect(self, frames_of: Mapping[str, Sequence[int]]) -> None:
        """Tells the frames of scenes before they come."""

    def choose(self, scene_id: str, frame_id: int, count: int) -> NDArray[np.int64] | None:
        """Rows of the frame's ``count`` points that its picture shows, in random order; None if it gets no picture."""

    def sample(
        self, scene_id: str, frame_id: int, image: NDArray[np.uint8], features: PointFeatures, path: Path
    ) -> SampledFrame:
        """What the frame's picture needs; features are those of the chosen points. Threads may call it at once."""

    def draw(self, scene_id: str, frames: Sequence[SampledFrame]) -> None:
        """Draws the pictures of a whole scene; may return before they are there."""

    def wait(self) -> None:
        """Returns when all pictures are there."""

    def close(self) -> None:
        """Returns when all pictures are there; no more are drawn."""

    def cancel(self) -> None:
        """Drops what has not begun."""


class NoPictures:
    """Draws nothing, so that the loop need not ask."""

    def expect(self, frames_of: Mapping[str, Sequence[int]]) -> None:
        """Does nothing."""

    def choose(self, scene_id: str, frame_id: int, count: int) -> None:
        """None: no frame gets a picture."""

    def sample(
        self, scene_id: str, frame_id: int, image: NDArray[np.uint8], features: PointFeatures, path: Path
    ) -> SampledFrame:
        """Is not called."""
        raise NotImplementedError

    def draw(self, scene_id: str, frames: Sequence[SampledFrame]) -> None:
        """Does nothing."""

    def wait(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""

    def cancel(self) -> None:
        """Does nothing."""


class ScenePictures:
    """Draws one scene after another, here or in processes of their own.

    A scene holds at most ``max_frames * (overlay_points * (2 C + 8) + 3 * 720 * h)`` bytes, h being the thumbnail's
    height: about 14 MB for 5 frames of C = 192, 140 MB for 50. At most two scenes a process wait to be drawn.

    Args:
        painter: draws the kind of picture.
        frames_of: the frames of each scene.
        max_frames: pictures a scene at most, spread evenly over its frames.
        overlay_points: points of each frame that are kept.
        seed: of the choice of points.
        processes: that draw; 0 draws in the caller.
        keep: whether pictures that are there already stay as they are.
    """

    def __init__(
        self,
        painter: Painter,
        frames_of: Mapping[str, Sequence[int]],
        *,
        max_frames: int,
        overlay_points: int,
        seed: int,
        processes: int = 0,
        keep: bool = False,
    ) -> None:
        self._painter = painter
        self._max_frames = max_frames
        self._wanted: dict[str, frozenset[int]] = {}
        self._overlay_points = overlay_points
        self._seed = seed
        self._processes = processes
        self._keep = keep
        self._pool: ProcessPoolExecutor | None = None
        self._drawing: dict[Future[None], int] = {}  # and how many pictures, in the order of their beginning
        self.expect(frames_of)

    def expect(self, frames_of: Mapping[str, Sequence[int]]) -> None:
        """Tells the frames of scenes before they come."""
        for scene_id, ids in frames_of.items():
            self._wanted[scene_id] = frozenset(spread_evenly(ids, self._max_frames))

    def choose(self, scene_id: str, frame_id: int, count: int) -> NDArray[np.int64] | None:
        """A random sample of the frame's points, ``overlay_points`` at most; None for a frame that gets no picture."""
        if frame_id not in self._wanted.get(scene_id, ()):
            return None
        # Seeded by the frame alone: the points do not depend on which other frames could be read.
        rng = np.random.default_rng([self._seed, zlib.crc32(scene_id.encode()), frame_id])
        # In random order: the first k of them are a random sample too.
        return rng.permutation(rng.choice(count, min(count, self._overlay_points), replace=False, shuffle=False))

    def sample(
        self, scene_id: str, frame_id: int, image: NDArray[np.uint8], features: PointFeatures, path: Path
    ) -> SampledFrame:
        """Keeps a thumbnail and the chosen points. Safe to call from several threads.

        Args:
            scene_id: the frame's scene.
            frame_id: one of the scene's frames.
            image: (H, W, 3) uint8 RGB, the picture that ``features.uv_idx`` counts pixels of.
            features: those of the points that ``choose`` chose, in its order; there may be none.
            path: where the picture goes.

        Returns:
            What ``draw`` takes.

        Raises:
            ValueError: If the image is not (H, W, 3) uint8, or a feature or a pixel is not finite.
        """
        where = f"scene {scene_id}, frame {frame_id}"
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"{where}: image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        feature, uv = features.pts_feat, features.uv_idx
        for name, values in (("pts_feat", feature), ("uv_idx", uv)):
            bad = int((~np.isfinite(values).all(axis=1)).sum())
            if bad:
                raise ValueError(f"{where}: {name} holds inf or NaN in {bad} of {len(values)} points")
        small = thumbnail(image)
        height, width = image.shape[:2]
        to_small = resize_affine((width, height), (small.shape[1], small.shape[0]))
        return SampledFrame(
            frame_id=frame_id,
            thumbnail=small,
            directions=unit_directions(feature).astype(np.float16),
            uv=(uv @ to_small[:, :2].T + to_small[:, 2]).astype(np.float32),
            path=path,
        )

    def draw(self, scene_id: str, frames: Sequence[SampledFrame]) -> None:
        """Writes the scene's pictures, each whole or not at all; in the background where there are processes.

        Raises:
            OutputError: If a picture of this scene or of one before can't be written.
        """
        if not frames:
            return
        if self._processes == 0:
            draw_scene(self._painter, scene_id, frames, keep=self._keep)
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._processes, FreshContext(), _start_process)
        while len(self._drawing) >= 2 * self._processes:
            self._wait()
        drawing = self._pool.submit(draw_scene, self._painter, scene_id, frames, keep=self._keep)
        self._drawing[drawing] = len(frames)

    def wait(self) -> None:
        """Returns when all pictures are there; on a terminal it shows a bar, for t-SNE takes longer than a model.

        Raises:
            OutputError: If one can't be written.
        """
        if not self._drawing:
            return
        with progress_bar(sum(self._drawing.values()), "picture", "drawing", shown=local_count() == 1) as bar:
            while self._drawing:
                bar.update(self._wait())

    def close(self) -> None:
        """Returns when all pictures are there, and ends the processes.

        Raises:
            OutputError: If one can't be written.
        """
        try:
            self.wait()
        finally:
            self.cancel()

    def _wait(self) -> int:
        """Waits for the pictures of the scene that was begun first; returns how many they are."""
        drawing = next(iter(self._drawing))
        count = self._drawing.pop(drawing)
        try:
            drawing.result()
        except BrokenProcessPool as error:
            raise process_died("a process that draws the pictures", "vis=none does without pictures") from error
        return count

    def cancel(self) -> None:
        """Drops what has not begun, and ends the processes."""
        self._drawing.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def draw_scene(painter: Painter, scene_id: str, frames: Sequence[SampledFrame], *, keep: bool = False) -> None:
    """Draws and writes the pictures of one scene; with ``keep`` those that are there already stay as they are.

    Raises:
        OutputError: If one can't be written.
    """
    for frame, picture in zip(frames, painter.draw(scene_id, frames), strict=True):
        if not (keep and frame.path.is_file()):
            save_png(picture, frame.path)
    for folder in {frame.path.parent for frame in frames}:
        sync_to_disk(folder)


def _start_process() -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its processes
    os.nice(5)  # the pictures wait for the features, not the other way round
    threadpool_limits(1)


def spread_evenly(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of some, the middle ones of as many equal stretches: 2 of (0, 1, 2, 3, 4, 5) are 1 and 4."""
    n = len(items)
    if n <= count:
        return list(items)
    return [items[(2 * i + 1) * n // (2 * count)] for i in range(count)]


def pictured_frames(kind: str, frames: Sequence[tuple[str, int]], max_frames: int) -> set[tuple[str, int]]:
    """Those of a run's frames, scene after scene, that get a picture if they get features; none for kind "none"."""
    if kind == "none":
        return set()
    of_scenes = groupby(frames, lambda key: key[0])
    return {(s, i) for s, keys in of_scenes for i in spread_evenly([i for _, i in keys], max_frames)}


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy of an (H, W, 3) picture, at most ``THUMBNAIL_WIDTH`` wide, with the same aspect ratio."""
    height, width = image.shape[:2]
    if width <= THUMBNAIL_WIDTH:
        return image.copy()
    size = (THUMBNAIL_WIDTH, max(1, round(height * THUMBNAIL_WIDTH / width)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def save_png(picture: NDArray[np.uint8], path: Path) -> None:
    """Writes an (h, w, 3) picture, whole or not at all; ``sync_to_disk`` makes the names of many last.

    Raises:
        OutputError: If the place cannot be written to.
    """
    with atomic_file(path, one_of_many=True) as file:
        # The default compression takes twice as long for files that are a tenth smaller.
        Image.fromarray(picture).save(file, format="PNG", compress_level=4)
