"""The labelled points of frames that all candidates are judged at, and those of them that the frame before saw too."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.visibility import VisibilityRule, project_frame
from clipfeat.data.base import Dataset, seeded_rng
from clipfeat.data.frame_paths import FramePaths
from clipfeat.data.label_ids import check_ids
from clipfeat.data.rasters import read_labels
from clipfeat.data.scannet200 import UNLABELLED, LabelSet
from clipfeat.data.selection import FrameKey
from clipfeat.errors import DataError, FrameError
from clipfeat.evaluate.metrics import edge_distances
from clipfeat.sampling.locate import Located, Locator
from clipfeat.types import Frame, Points, resize_affine

LABEL_ATTRIBUTES = ("label", "semantic")
"""Names under which meshes and scannet200-mv's masks carry the ids of classes."""

Labeller = Callable[[Frame, Located], tuple[NDArray[np.int64], NDArray[np.float32]]]
"""From a frame and its N points to their raw labels (N,), and how many pixels they are from an edge of the labels."""


@dataclass(frozen=True)
class LabelPictures:
    """Labels of pixels.

    Attributes:
        path: of a frame's picture of 8 or 16 bits.
    """

    path: FramePaths

    def __call__(self, frame: Frame, located: Located) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The label of the pixel that each point is in, and pixels of the colour picture to the nearest edge.

        Raises:
            FrameError: If the picture can't be read, or has another aspect ratio than the colour picture.
        """
        path = self.path(frame.scene_id, frame.frame_id)
        picture = read_labels(path)
        color = frame.color_camera
        height, width = picture.shape
        if abs(width * color.height - height * color.width) > max(width, height, color.width, color.height):
            raise FrameError(
                f"{path}: {width}×{height} pixels, expected the aspect ratio of the colour picture, "
                f"{color.width}×{color.height}; export the labels again"
            )
        affine = resize_affine((color.width, color.height), (width, height))
        at = np.rint(located.uv_idx.astype(np.float64) @ affine[:, :2].T + affine[:, 2]).astype(int)
        u, v = at.clip(0, (width - 1, height - 1)).T
        return picture[v, u].astype(np.int64), edge_distances(picture)[v, u] / np.float32(affine[0, 0])


def labels_of_points(frame: Frame, located: Located) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The labels that points bear, and NaN in place of distances.

    Raises:
        FrameError: If they bear none.
    """
    for name in LABEL_ATTRIBUTES:
        if name in located.points.attributes:
            labels = np.asarray(located.points.attributes[name])
            return labels.astype(np.int64), np.full(len(labels), np.nan, np.float32)
    raise FrameError(
        f"{frame.scene_id} frame {frame.frame_id}: its points bear no {' or '.join(LABEL_ATTRIBUTES)}; give "
        "labels=… (pictures), or sampling=mesh with sampling.labels_file=…"
    )


@dataclass(frozen=True, eq=False)
class Judged:
    """What is left of a frame when its features are taken.

    Attributes:
        scene_id: its scene.
        classes: (n,) of the points that are judged.
        edge_px: (n,) pixels to the nearest edge of the labels; NaN where it is not known.
        sampled: how many points were sampled.
        seconds: see ``Labelled``.
    """

    scene_id: str
    classes: NDArray[np.int64]
    edge_px: NDArray[np.float32]
    sampled: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Labelled:
    """One frame and the points that its features are judged at.

    Attributes:
        frame: as it was read, its picture decoded.
        located: all of its visible points.
        rows: (n,) of them that are judged, all of them labelled.
        classes: (n,) of these.
        edge_px: (n,) pixels to the nearest edge of the labels; NaN where it is not known.
        before: (P,) rows of the frame before, within its n, that are seen here too.
        uv_again: (P, 2) where they are here.
        other: (P,) rows of these P, a random one for each.
        seconds: that an extraction would need too, to read the frame and to find its points' pixels.
    """

    frame: Frame
    located: Located
    rows: NDArray[np.int64]
    classes: NDArray[np.int64]
    edge_px: NDArray[np.float32]
    before: NDArray[np.int64]
    uv_again: NDArray[np.float32]
    other: NDArray[np.int64]
    seconds: float

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of the colour picture."""
        return self.frame.color_camera.width, self.frame.color_camera.height

    def summary(self) -> "Judged":
        """What is kept of it while other frames are read."""
        return Judged(self.frame.scene_id, self.classes, self.edge_px, len(self.located.uv_idx), self.seconds)


class FrameLabeller:
    """Reads frames in their order and chooses their points.

    Args:
        dataset: where frames come from.
        locate: finds a frame's points and their pixels.
        rule: when a point of the frame before counts as seen.
        labeller: tells their labels.
        classes: what the labels mean.
        count: points a frame that are judged, at most.
        seed: of the choice of points and pairs.
    """

    def __init__(
        self,
        dataset: Dataset,
        locate: Locator,
        rule: VisibilityRule,
        labeller: Labeller,
        classes: LabelSet,
        count: int,
        seed: int,
    ):
        self._dataset = dataset
        self._locate = locate
        self._rule = rule
        self._labeller = labeller
        self._classes = classes
        self._count = count
        self._seed = seed
        self._last: tuple[str, Points] | None = None

    def __call__(self, key: FrameKey) -> Labelled | FrameError | DataError:
        """One frame, or why it can't be used."""
        try:
            return self._read(*key)
        except (FrameError, DataError) as error:
            return error

    def _read(self, scene_id: str, frame_id: int) -> Labelled:
        begin = time.perf_counter()
        frame = self._dataset.load(scene_id, frame_id)
        located = self._locate(frame)
        _ = frame.image  # decoded once, for all candidates
        seconds = time.perf_counter() - begin
        labels, edge_px = self._labeller(frame, located)
        check_ids(labels, self._classes, f"{scene_id} frame {frame_id}")
        classes = self._classes.classes_of(labels)
        rng = seeded_rng(self._seed, "evaluate", scene_id, frame_id)
        labelled = np.flatnonzero(classes != UNLABELLED)
        if len(labelled) == 0:
            where = f"{scene_id} frame {frame_id}"
            raise FrameError(f"{where}: none of its {len(classes)} points has a class of {self._classes.title}")
        rows = np.sort(rng.choice(labelled, min(self._count, len(labelled)), replace=False))
        before, uv_again = self._seen_again(frame)
        self._last = scene_id, located.points.take(rows)
        other = rng.permutation(len(before))
        return Labelled(frame, located, rows, classes[rows], edge_px[rows], before, uv_again, other, seconds)

    def _seen_again(self, frame: Frame) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Which points of the last frame of the scene this one sees, and where."""
        if self._last is None or self._last[0] != frame.scene_id:
            return np.empty(0, np.int64), np.empty((0, 2), np.float32)
        seen = project_frame(self._last[1].xyz, frame, self._rule)
        return np.flatnonzero(seen.visible), seen.uv[seen.visible]
