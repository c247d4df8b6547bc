"""Which points get a feature, and how it is read off the map."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clipfeat.config import SamplingConfig
from clipfeat.errors import ConfigError
from clipfeat.sampling.bilinear import sample_img_feat
from clipfeat.sampling.points import depth_points
from clipfeat.types import Frame

__all__ = ["POINT_SOURCES", "PointSource", "build_point_source", "sample_img_feat"]

PointSource = Callable[[Frame, np.random.Generator], tuple[NDArray[np.float64], NDArray[np.int64]]]
"""From a frame to (N, 3) float64 world points and the (N,) int64 rows of their source."""


def _depth(cfg: SamplingConfig) -> PointSource:
    return lambda frame, rng: depth_points(frame, cfg.num_points, rng)


POINT_SOURCES: dict[str, Callable[[SamplingConfig], PointSource]] = {"depth": _depth}


def build_point_source(cfg: SamplingConfig) -> PointSource:
    """The source that ``sampling=…`` names.

    Raises:
        ConfigError: If there is no such source.
    """
    if cfg.name not in POINT_SOURCES:
        raise ConfigError(f"sampling.name={cfg.name}: expected one of {', '.join(POINT_SOURCES)}")
    return POINT_SOURCES[cfg.name](cfg)
