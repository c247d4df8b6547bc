"""Which points get a feature, and how it is read off the map."""

from collections.abc import Callable
from typing import Any

from clipfeat.config import MeshSamplingConfig, SamplingConfig
from clipfeat.errors import ConfigError
from clipfeat.sampling.bilinear import sample_img_feat
from clipfeat.sampling.points import PointSource, ScenePoints, depth_points, frame_points

__all__ = ["POINT_SOURCES", "PointSource", "build_point_source", "sample_img_feat"]


def _depth(cfg: SamplingConfig, _seed: int) -> PointSource:
    return lambda frame, rng: depth_points(frame, cfg.num_points, rng)


def _frame_points(cfg: SamplingConfig, _seed: int) -> PointSource:
    return lambda frame, rng: frame_points(frame, cfg.num_points, rng)


def _mesh(cfg: MeshSamplingConfig, seed: int) -> PointSource:
    return ScenePoints(cfg.points_file, cfg.labels_file, cfg.num_points, seed)


POINT_SOURCES: dict[str, Callable[[Any, int], PointSource]] = {
    "depth": _depth,
    "frame_points": _frame_points,
    "mesh": _mesh,
}


def build_point_source(cfg: SamplingConfig, seed: int) -> PointSource:
    """The source that ``sampling=…`` names.

    Raises:
        ConfigError: If there is no such source.
    """
    if cfg.name not in POINT_SOURCES:
        raise ConfigError(f"sampling.name={cfg.name}: expected one of {', '.join(POINT_SOURCES)}")
    return POINT_SOURCES[cfg.name](cfg, seed)
