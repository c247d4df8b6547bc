"""Collects what the pictures of a scene need, frame by frame, and writes them when the scene is complete.

The colours and the t-SNE are fitted to all frames of a scene together, so nothing can be drawn before its last frame.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipfeat.errors import OutputError
from clipfeat.types import PointFeatures, resize_affine
from clipfeat.vis.directions import unit_directions

THUMBNAIL_WIDTH = 720
"""Pixels. A panel of a picture at the default dpi is about 530 pixels wide."""


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

    def start_scene(self, scene_id: str, frame_ids: Sequence[int]) -> None:
        """Decides which of the scene's frames get a picture. What an unfinished scene had kept is dropped."""

    def wants(self, frame_id: int) -> bool:
        """Whether this frame of the scene gets a picture."""

    def add(self, frame_id: int, image: NDArray[np.uint8], features: PointFeatures, path: Path) -> None:
        """Keeps what the frame's picture needs. A frame that gets no picture is passed over."""

    def finish_scene(self) -> list[Path]:
        """Writes the scene's pictures and returns their paths, in the order in which the frames were added."""


class NoPictures:
    """Draws nothing, so that the loop need not ask."""

    def start_scene(self, scene_id: str, frame_ids: Sequence[int]) -> None:
        """Does nothing."""

    def wants(self, frame_id: int) -> bool:  # noqa: ARG002
        """No."""
        return False

    def add(self, frame_id: int, image: NDArray[np.uint8], features: PointFeatures, path: Path) -> None:
        """Does nothing."""

    def finish_scene(self) -> list[Path]:
        """No pictures."""
        return []


class ScenePictures:
    """Draws the frames of one scene after another.

    Holds at most ``max_frames * (overlay_points * (2 C + 8) + 3 * 720 * h)`` bytes, h being the thumbnail's height:
    about 14 MB for 5 frames of C = 192, 140 MB for 50.
    """

    def __init__(self, painter: Painter, *, max_frames: int, overlay_points: int, seed: int) -> None:
        self._painter = painter
        self._max_frames = max_frames
        self._overlay_points = overlay_points
        self._seed = seed
        self._scene_id = ""
        self._wanted: dict[int, int] = {}
        self._frames: dict[int, SampledFrame] = {}

    def start_scene(self, scene_id: str, frame_ids: Sequence[int]) -> None:
        """Decides which of the scene's frames get a picture. What an unfinished scene had kept is dropped."""
        self._scene_id = scene_id
        self._wanted = {frame_id: i for i, frame_id in enumerate(spread_evenly(frame_ids, self._max_frames))}
        self._frames = {}

    def wants(self, frame_id: int) -> bool:
        """Whether this frame of the scene gets a picture."""
        return frame_id in self._wanted

    def add(self, frame_id: int, image: NDArray[np.uint8], features: PointFeatures, path: Path) -> None:
        """Keeps a thumbnail and a random sample of the points. A frame that gets no picture is passed over.

        Args:
            frame_id: one of the scene's frames.
            image: (H, W, 3) uint8 RGB, the picture that ``features.uv_idx`` counts pixels of.
            features: the points of the frame; there may be none.
            path: where the picture goes.

        Raises:
            ValueError: If the image is not (H, W, 3) uint8, a feature or a pixel is not finite, or the features are of
                another length than those of the scene's other frames.
        """
        if not self.wants(frame_id):
            return
        where = f"scene {self._scene_id}, frame {frame_id}"
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"{where}: image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        for name, values in (("pts_feat", features.pts_feat), ("uv_idx", features.uv_idx)):
            bad = int((~np.isfinite(values).all(axis=1)).sum())
            if bad:
                raise ValueError(f"{where}: {name} holds inf or NaN in {bad} of {len(values)} points")
        channels = {f.directions.shape[1] for f in self._frames.values()} | {features.pts_feat.shape[1]}
        if len(channels) > 1:
            raise ValueError(f"{where}: frames of one scene have features of different lengths: {sorted(channels)}")

        # Seeded by the frame's place in the scene: the points do not depend on which other frames could be read.
        order = np.random.default_rng([self._seed, self._wanted[frame_id]]).permutation(len(features.pts_feat))
        chosen = order[: self._overlay_points]
        small = thumbnail(image)
        height, width = image.shape[:2]
        to_small = resize_affine((width, height), (small.shape[1], small.shape[0]))
        self._frames[frame_id] = SampledFrame(
            frame_id=frame_id,
            thumbnail=small,
            directions=unit_directions(features.pts_feat[chosen]).astype(np.float16),
            uv=(features.uv_idx[chosen] @ to_small[:, :2].T + to_small[:, 2]).astype(np.float32),
            path=path,
        )

    def finish_scene(self) -> list[Path]:
        """Writes the scene's pictures and returns their paths, in the order in which the frames were added.

        Each file appears whole or not at all.

        Raises:
            OutputError: If a picture cannot be written.
        """
        frames = list(self._frames.values())
        scene_id = self._scene_id
        self.start_scene("", ())
        if frames:
            for frame, picture in zip(frames, self._painter.draw(scene_id, frames), strict=True):
                save_png(picture, frame.path)
        return [frame.path for frame in frames]


def spread_evenly(frame_ids: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the ids, the middle ones of as many equal stretches: 2 of (0, 1, 2, 3, 4, 5) are 1 and 4."""
    n = len(frame_ids)
    if n <= count:
        return list(frame_ids)
    return [frame_ids[(2 * i + 1) * n // (2 * count)] for i in range(count)]


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy of an (H, W, 3) picture, at most ``THUMBNAIL_WIDTH`` wide, with the same aspect ratio."""
    height, width = image.shape[:2]
    if width <= THUMBNAIL_WIDTH:
        return image.copy()
    size = (THUMBNAIL_WIDTH, max(1, round(height * THUMBNAIL_WIDTH / width)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def save_png(picture: NDArray[np.uint8], path: Path) -> None:
    """Writes an (h, w, 3) picture under a temporary name in the same folder, then renames it.

    Raises:
        OutputError: If the place cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The default compression, 6, takes twice as long for files that are 2 % smaller.
        Image.fromarray(picture).save(temporary, format="PNG", compress_level=4)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write the picture {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
