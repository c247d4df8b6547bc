"""Features pooled over the segments of a picture: one vector a mask, in place of one a cell or a point."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from clipfeat.camera.visibility import nearest_pixels
from clipfeat.errors import ConfigError, FrameError
from clipfeat.sampling.bilinear import four_cells
from clipfeat.system.compiled import compiled
from clipfeat.types import FeatureMap, FloatArray, Frame, compose_affine, resize_affine

_MOST = 1 << 16

_SLIC_SIDE = 480
"""Pixels of the longer side of the pictures that SLIC parts: of 1296 it takes two seconds and a half a picture."""


@dataclass(frozen=True, eq=False)
class Segments:
    """A picture in segments; each pixel is of exactly one.

    Attributes:
        rows: (h, w) uint16, the segment of each pixel, from 0; of the colour picture, or of a smaller copy.
        ids: (S,) int64 of the mask that each is, 0 for those of pixels without one.
    """

    rows: NDArray[np.uint16]
    ids: NDArray[np.int64]

    def at(self, uv: FloatArray, size: tuple[int, int]) -> NDArray[np.intp]:
        """(N,) the segments of the pixels nearest to uv (N, 2), positions within the picture of (width, height)."""
        height, width = self.rows.shape
        affine = resize_affine(size, (width, height))
        row, column, _ = nearest_pixels(np.asarray(uv, np.float64) @ affine[:, :2].T + affine[:, 2], self.rows.shape)
        found: NDArray[np.intp] = self.rows[row, column].astype(np.intp)
        return found


def segments_of_mask(mask: NDArray[np.integer], least_px: float = 0.0) -> Segments:
    """One segment for each id of an instance mask, and one for each connected region of pixels that have none (0).

    Regions without a mask that are smaller than a cell of the map are nothing by themselves: they share one segment.

    Args:
        mask: (h, w) ids.
        least_px: pixels of the smallest region that is a segment of its own.

    Raises:
        FrameError: If there are more segments than 16 bits can number.
    """
    ids = np.flatnonzero(np.bincount(mask.ravel()))
    rows = _renumbered(mask, ids)
    if ids[0] == 0:
        regions, count = ndimage.label(mask == 0)
        large = np.flatnonzero(np.bincount(regions.ravel(), minlength=count + 1)[1:] >= least_px) + 1
        row_of = np.zeros(count + 1, np.int64)  # 0 becomes the shared one, which no pixel need be of
        row_of[large] = len(ids) + np.arange(len(large))
        rows = np.where(mask == 0, row_of[regions], rows)
        ids = np.concatenate((ids, np.zeros(len(large), ids.dtype)))
    if len(ids) > _MOST:
        raise FrameError(f"{len(ids)} segments in a picture, but 16 bits number {_MOST}")
    used = np.flatnonzero(np.bincount(rows.ravel(), minlength=len(ids)))
    return Segments(_renumbered(rows, used).astype(np.uint16), ids[used].astype(np.int64))


def _renumbered(values: NDArray[np.integer], used: NDArray[np.integer]) -> NDArray[np.int64]:
    """Each value as its place among ``used``, ascending; np.unique would sort all pixels for it."""
    places = np.zeros(used[-1] + 1, np.int64)
    places[used] = np.arange(len(used))
    found: NDArray[np.int64] = places[values]
    return found


def superpixels(image: NDArray[np.uint8], count: int) -> Segments:
    """About ``count`` segments of like colour (SLIC, Achanta et al. 2012), by scikit-image, of a smaller copy.

    Args:
        image: (h, w, 3) RGB.
        count: of segments.

    Raises:
        ConfigError: If scikit-image is not installed.
    """
    slic = import_slic()
    height, width = image.shape[:2]
    smaller = max(1, round(max(height, width) / _SLIC_SIDE))
    small = Image.fromarray(image).resize((width // smaller, height // smaller), Image.Resampling.BOX)
    labels = slic(np.asarray(small), n_segments=count, start_label=1, channel_axis=-1)
    return Segments((labels - 1).astype(np.uint16), np.arange(1, labels.max() + 1, dtype=np.int64))


def import_slic() -> Callable[..., Any]:
    """scikit-image's SLIC.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ConfigError(
            "output.segments=slic needs the package scikit-image: pip install 'clipfeat[segments]'"
        ) from error
    found: Callable[..., Any] = slic
    return found


@dataclass(frozen=True)
class SegmentRule:
    """What the segments of a picture are.

    Attributes:
        kind: masks or slic.
        count: of slic's segments.
    """

    kind: str
    count: int

    def __call__(self, frame: Frame, map_size: tuple[int, int]) -> Segments:
        """The segments of a frame's picture, whose feature map has (h, w) cells.

        Raises:
            FrameError: If it has no mask, or too many segments.
            ConfigError: If scikit-image is asked for and not installed.
        """
        if self.kind == "slic":
            return superpixels(frame.image, self.count)
        if frame.mask is None:
            raise FrameError(f"{frame.scene_id} frame {frame.frame_id}: has no mask, which output.segments=masks needs")
        return segments_of_mask(frame.mask, frame.mask.size / (map_size[0] * map_size[1]))


def pooled(feature_map: FeatureMap, segments: Segments, size: tuple[int, int]) -> NDArray[np.float32]:
    """The mean of a map over each segment's pixels, at which it is sampled bilinearly.

    That is the mean of the cells, weighted by how much of the segment's pixels each of them makes.

    Args:
        feature_map: values (C, h, w), on the CPU or not.
        segments: S of them.
        size: (width, height) of the colour picture.

    Returns:
        (S, C); 0 for a segment of which the network saw nothing.
    """
    channels, height, width = feature_map.values.shape
    cells = feature_map.values.permute(1, 2, 0).reshape(height * width, channels).float().cpu().numpy()
    rows, columns = segments.rows.shape
    to_map = compose_affine(feature_map.image_to_map, resize_affine((columns, rows), size))
    weights = np.zeros((len(segments.ids), height * width))
    _add_weights(segments.rows, width, height, to_map, weights)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1)
    return (weights.astype(np.float32) @ cells).astype(np.float32)


@compiled(error_model="numpy")
def _add_weights(
    rows: NDArray[np.uint16],
    width: int,
    height: int,
    to_map: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    """Adds up how much of each cell every segment's pixels take."""
    m = to_map
    for v in range(rows.shape[0]):
        for u in range(rows.shape[1]):
            x = m[0, 0] * u + m[0, 1] * v + m[0, 2]
            y = m[1, 0] * u + m[1, 1] * v + m[1, 2]
            if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):  # cropped away
                continue
            (a, b, c, d), (wa, wb, wc, wd) = four_cells(x, y, width, height)
            row = rows[v, u]
            weights[row, a] += wa
            weights[row, b] += wb
            weights[row, c] += wc
            weights[row, d] += wd
