"""``output=segments``: one vector a segment, which segment each pixel is of, and the places of a frame's points.

A point's feature is that of the segment of its pixel. The file is a safetensors file as those of ``output=grid``, with
``segment_feat`` (S, C), ``segment_id`` (S,) the ids of the masks, ``segment_rows`` the segment of each pixel, and the
points as in ``placed``. The segments of pixels are (h, w) 16-bit numbers, each row exclusive-ored with the one above,
little-endian, packed by zlib: some 20 kB of a picture.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from clipfeat.errors import DataError
from clipfeat.output.grid import check_attributes
from clipfeat.output.placed import PlacedPoints, placed
from clipfeat.sampling.segments import Segments
from clipfeat.types import FloatArray, PointFeatures

_LEVEL = 3


@dataclass(frozen=True, eq=False)
class SegmentFrame(PlacedPoints):
    """A frame's segments with their features, and where its visible points lie.

    Attributes:
        segments: S of them.
        segment_feat: (S, C), at points what ``PointFeatures.pts_feat`` is.
        clip_global: (D,) float32, or None.
    """

    segments: Segments
    segment_feat: FloatArray
    clip_global: NDArray[np.float32] | None = None

    def features(self) -> PointFeatures:
        """Each point with the feature of its segment."""
        rows = self.segments.at(self.uv_idx, (self.camera.width, self.camera.height))
        return PointFeatures(
            pts_feat=self.segment_feat[rows],
            uv_idx=self.uv_idx,
            conf_2d=self.conf_2d,
            xyz=self.xyz,
            pts_idx=self.pts_idx,
            attributes=self.attributes,
            clip_global=self.clip_global,
        )


def segment_arrays(path: Path, frame: SegmentFrame, dtype: str) -> dict[str, np.ndarray]:
    """The arrays of a file, see the module; ``path`` is its, ``dtype`` that of the features.

    Raises:
        OutputError: If the format has no type for an attribute.
    """
    check_attributes(path, frame)
    rows = frame.segments.rows.astype("<u2")
    rows[1:] ^= rows[:-1].copy()
    arrays: dict[str, np.ndarray] = {
        "segment_feat": frame.segment_feat.astype(dtype, copy=False),
        "segment_id": frame.segments.ids,
        "segment_rows": np.frombuffer(isal_zlib.compress(rows.tobytes(), _LEVEL), np.uint8),
        "segment_shape": np.array(rows.shape, np.int32),
        **frame.arrays(),
    }
    return arrays if frame.clip_global is None else arrays | {"clip_global": frame.clip_global}


def segment_frame(path: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> SegmentFrame:
    """What the arrays and the meta of one file stand for; ``path`` is its.

    Raises:
        DataError: If something is missing, or does not fit.
    """
    left = dict(arrays)
    try:
        height, width = left.pop("segment_shape").tolist()
        packed = np.frombuffer(zlib.decompress(left.pop("segment_rows").tobytes()), "<u2")
        rows = np.bitwise_xor.accumulate(packed.reshape(height, width), axis=0).astype(np.uint16, copy=False)
        segments = Segments(rows, left.pop("segment_id"))
        features = left.pop("segment_feat")
        if len(features) != len(segments.ids) or rows.max(initial=0) >= len(features):
            raise ValueError(f"{len(features)} features of {len(segments.ids)} segments, numbered up to {rows.max()}")
        clip_global = left.pop("clip_global", None)
        return SegmentFrame(segments=segments, segment_feat=features, clip_global=clip_global, **placed(left, meta))
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: not a whole feature file ({error!r}); delete it and run the command again") from error
