"""CLIP features are compared by their direction; their length is brought to 1 before anything is drawn of them."""

import numpy as np
from numpy.typing import NDArray

from clipfeat.types import FloatArray


def unit_directions(features: FloatArray) -> NDArray[np.float32]:
    """Each row divided by its length (L2). A row of zeros stays as it is.

    Args:
        features: (N, C), finite.

    Returns:
        (N, C) float32.
    """
    features = features.astype(np.result_type(features.dtype, np.float32), copy=False)
    # The largest entry is divided out first: the square of a float32 may overflow or vanish.
    largest = np.abs(features).max(axis=1, keepdims=True, initial=0.0)
    scaled = np.asarray(features / np.where(largest > 0, largest, 1), dtype=np.float32)
    length = np.sqrt(np.einsum("nc,nc->n", scaled, scaled))[:, None]
    return np.asarray(scaled / np.where(length > 0, length, 1), dtype=np.float32)
