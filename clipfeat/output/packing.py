"""The features of a whole scene in a sixteenth of their bytes: few coordinates of each direction, and these rounded.

What texts are compared to is the direction of a feature. Directions are packed, each with its length beside it: their
principal components (Jolliffe, Principal Component Analysis, 2002), as float16 or as int8 of a scale a coordinate, or
cut into short pieces of which each is the nearest of 256 (product quantisation: Jégou, Douze and Schmid 2011). The
basis is the scene's own and is stored with it. What that costs is measured on the scene itself when it is packed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.errors import ConfigError, DataError
from clipfeat.types import FloatArray
from clipfeat.vis.directions import unit_directions

_FITTED = 50_000
"""Directions that a basis is fitted to."""

_AT_ONCE = 10_000
"""Directions that are turned at a time: of all at once, the copies would take as much memory as the features."""

_PIECE = 2
"""Coordinates of a piece of product quantisation, which becomes a byte."""

_WORDS = 256

_EXAMPLES = 80
"""Points that a word is fitted to, on average: twice what faiss asks for."""

_PREFIX = "packed_"

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Packing:
    """How features are packed.

    Attributes:
        name: one of ``output.config.PACKINGS``, but none.
        dims: coordinates that are kept of each direction; of fewer channels or points all.
    """

    name: str
    dims: int

    def pack(self, features: FloatArray, seen: NDArray[np.bool_]) -> tuple[Arrays, dict[str, Any]]:
        """Packs the features of a scene.

        Args:
            features: (N, C) of its points.
            seen: (N,) which M of them have any; of the others nothing is kept.

        Returns:
            The arrays that ``unpacked`` takes; and what is told of them: ``name``, ``dims``, ``channels``, ``bytes`` a
            point that is seen, and ``cosine`` between the features and what is read back: its ``median``, ``p01``,
            which one in a hundred is below, and ``least``.

        Raises:
            ConfigError: If the package that it needs is not installed.
        """
        rows = np.flatnonzero(seen)
        length = np.linalg.norm(features[rows].astype(np.float32), axis=1).astype(np.float32)
        mean, basis = _fit(features, rows, self.dims)
        coordinates = np.empty((len(rows), len(basis)), np.float32)
        for part in _parts(len(rows)):
            coordinates[part] = (unit_directions(features[rows[part]]) - mean) @ basis.T
        arrays: Arrays = {"length": length, "mean": mean, "basis": basis} | _ROUND[self.name](coordinates)
        del coordinates
        arrays = {_PREFIX + key: values for key, values in arrays.items()}
        cosine = np.concatenate([np.empty(0), *(_cosines(arrays, features, rows, part) for part in _parts(len(rows)))])
        return arrays, {
            "name": self.name,
            "dims": len(basis),
            "channels": features.shape[1],
            "bytes": round(sum(v.nbytes for v in arrays.values()) / max(len(rows), 1), 1),
            "cosine": _told(cosine),
        }


def unpacked(arrays: Arrays, seen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Takes what ``Packing.pack`` made out of a file's arrays; gives (N, C) features, 0 where nothing is seen.

    Raises:
        DataError: If it is not all there, or does not fit together.
    """
    packed = {key: arrays.pop(key) for key in list(arrays) if key.startswith(_PREFIX)}
    rows = np.flatnonzero(seen)
    try:
        features = np.zeros((len(seen), packed[f"{_PREFIX}mean"].shape[0]), np.float32)
        if len(packed[f"{_PREFIX}length"]) != len(rows):
            raise ValueError(f"packed features of {len(packed[f'{_PREFIX}length'])} points, but {len(rows)} are seen")
        for part in _parts(len(rows)):
            features[rows[part]] = _read_back(packed, part)
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(f"its packed features are not whole ({error})") from error
    return features


def is_packed(arrays: Arrays) -> bool:
    """Whether the features in a file are packed."""
    return f"{_PREFIX}mean" in arrays


def import_faiss() -> Any:
    """The package that product quantisation is fitted by; what it fitted is read without it.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ConfigError("packing=pq needs the package faiss: pip install 'clipfeat[pq]'") from error
    return faiss


def _fit(features: FloatArray, rows: NDArray[np.int64], dims: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean (C,) of the directions and their ``dims`` principal axes (k, C); of few points, as many as they span."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:_FITTED])
    directions = unit_directions(features[rows[chosen]])
    if len(directions) < 2:
        return directions.sum(0, dtype=np.float32), np.zeros((0, features.shape[1]), np.float32)
    from sklearn.decomposition import PCA  # a second, which reading does without

    count = min(dims, *directions.shape)
    found = PCA(count, svd_solver="covariance_eigh").fit(directions)
    return found.mean_.astype(np.float32), np.ascontiguousarray(found.components_, np.float32)


def _as_float16(coordinates: NDArray[np.float32]) -> Arrays:
    return {"codes": coordinates.astype(np.float16)}


def _as_int8(coordinates: NDArray[np.float32]) -> Arrays:
    scale = np.abs(coordinates).max(0, initial=0) / 127
    return {"codes": np.rint(coordinates / np.where(scale > 0, scale, 1)).astype(np.int8), "scale": scale}


def _as_words(coordinates: NDArray[np.float32]) -> Arrays:
    faiss = import_faiss()
    points, dims = coordinates.shape
    if not coordinates.size:
        return {"codes": coordinates.astype(np.uint8)}
    pieces = max(1, dims // _PIECE)
    padded = np.pad(coordinates, ((0, 0), (0, -dims % pieces)))
    if points < _WORDS:  # as many words as there are points need no fit
        words = np.zeros((pieces, _WORDS, padded.shape[1] // pieces), np.float32)
        words[:, :points] = padded.reshape(points, pieces, -1).swapaxes(0, 1)
        return {"codes": np.repeat(np.arange(points, dtype=np.uint8)[:, None], pieces, 1), "words": words}
    quantizer = faiss.ProductQuantizer(padded.shape[1], pieces, 8)
    quantizer.cp.min_points_per_centroid = 1  # or it says on the terminal that more would be better
    quantizer.train(padded[np.random.default_rng(0).permutation(points)[: _WORDS * _EXAMPLES]])
    words = faiss.vector_to_array(quantizer.centroids).reshape(pieces, _WORDS, -1)
    return {"codes": quantizer.compute_codes(padded), "words": words}


_ROUND = {"pca": _as_float16, "int8": _as_int8, "pq": _as_words}


def _read_back(packed: Arrays, part: slice) -> NDArray[np.float32]:
    """Features (m, C) of some of the points that are seen."""
    codes, basis = packed[f"{_PREFIX}codes"][part], packed[f"{_PREFIX}basis"]
    if (words := packed.get(f"{_PREFIX}words")) is not None:
        coordinates = words[np.arange(len(words)), codes].reshape(len(codes), -1)[:, : len(basis)]
    else:
        coordinates = codes.astype(np.float32)
    if (scale := packed.get(f"{_PREFIX}scale")) is not None:
        coordinates = coordinates * scale
    directions = coordinates @ basis + packed[f"{_PREFIX}mean"]
    found = np.maximum(np.linalg.norm(directions, axis=1), 1e-12)
    result: NDArray[np.float32] = directions * (packed[f"{_PREFIX}length"][part] / found)[:, None]
    return result


def _cosines(arrays: Arrays, features: FloatArray, rows: NDArray[np.int64], part: slice) -> NDArray[np.float64]:
    """Of some points, those that have a direction."""
    before, after = features[rows[part]].astype(np.float64), _read_back(arrays, part).astype(np.float64)
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    found: NDArray[np.float64] = (before * after).sum(1)[lengths > 0] / lengths[lengths > 0]
    return found


def _told(cosine: NDArray[np.float64]) -> dict[str, float | None]:
    if not len(cosine):
        return dict.fromkeys(("median", "p01", "least"))
    values = np.median(cosine), np.quantile(cosine, 0.01), cosine.min()
    return {key: round(float(value), 5) for key, value in zip(("median", "p01", "least"), values, strict=True)}


def _parts(count: int) -> list[slice]:
    return [slice(begin, begin + _AT_ONCE) for begin in range(0, count, _AT_ONCE)]
