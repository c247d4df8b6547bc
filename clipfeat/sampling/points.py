"""Which 3D points of a frame get a feature: its depth pixels, the points stored with it, or a scene's mesh."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.camera.projection import measured_pixels, unproject_depth
from clipfeat.errors import ConfigError, DataError, FrameError
from clipfeat.sampling.config import MeshSamplingConfig, SamplingConfig
from clipfeat.sampling.point_files import read_points
from clipfeat.types import Frame, PointFeatures, Points

_SAME_VERTEX_M = 1e-3
"""How far a stored point may be from the vertex that it is: files keep float32, and a grid keeps pixel and depth."""

PointSource = Callable[[Frame, np.random.Generator], Points]
"""From a frame and its own random generator to the points that are looked for in it."""


def choose(candidates: NDArray[np.int64], count: int | None, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most ``count`` of the candidates, without replacement, in their own order (None: all)."""
    if count is None or count >= len(candidates):
        return candidates
    chosen = rng.choice(len(candidates), count, replace=False, shuffle=False)
    chosen.sort()
    return candidates[chosen]


def depth_points(frame: Frame, count: int | None, rng: np.random.Generator) -> Points:
    """World points of a random choice of a frame's measured depth pixels; idx is the flat pixel v·w + u, ascending.

    Raises:
        FrameError: If the frame has no depth, or no pixel of it was measured.
    """
    where = f"{frame.scene_id} frame {frame.frame_id}"
    if frame.depth_m is None or frame.depth_camera is None:
        raise FrameError(
            f"{where}: no depth file, and sampling=depth takes its points from it; sampling=mesh needs none"
        )
    measured = measured_pixels(frame.depth_m)
    if len(measured) == 0:
        raise FrameError(f"{where}: no depth pixel holds a measurement, so there are no points")
    pixels = choose(measured, count, rng)
    camera = frame.depth_camera
    return Points(
        *unproject_depth(frame.depth_m, camera.intrinsics, frame.cam_to_world, pixels, distortion=camera.distortion)
    )


def frame_points(frame: Frame, count: int | None, rng: np.random.Generator) -> Points:
    """A random choice of the points that the data set stores for the frame, with their attributes.

    Raises:
        FrameError: If it stores none for this frame.
    """
    if frame.points is None:
        where = f"{frame.scene_id} frame {frame.frame_id}"
        raise FrameError(f"{where}: the data set stores no points for it, and sampling=frame_points takes them")
    everything = Points(frame.points, np.arange(len(frame.points)), dict(frame.point_attributes or {}))
    return everything.take(choose(everything.idx, count, rng))


class ScenePoints:
    """The same points for every frame of a scene: the vertices of its mesh, or any stored cloud.

    Args:
        pattern: path of a PLY or npz file, with {scene} in it; ``point_files.read_points`` tells what they hold.
        labels: path of a second PLY whose vertices carry the labels, such as ScanNet's ``.labels.ply``; or None.
        count: points a scene, chosen once for all its frames; None for all.
        seed: of that choice.
    """

    def __init__(self, pattern: str, labels: str | None, count: int | None, seed: int):
        self.pattern = pattern
        self.labels = labels
        self.count = count
        self.seed = seed
        # Frames come scene after scene; two are in work where one scene's last frames meet the next one's first.
        self._points = lru_cache(maxsize=2)(self._read)

    def __call__(self, frame: Frame, _rng: np.random.Generator) -> Points:
        """The scene's points.

        Raises:
            DataError: If they can't be read.
        """
        return self._points(frame.scene_id)

    def _read(self, scene_id: str) -> Points:
        points = scene_points(scene_id, self.pattern, self.labels)
        rng = np.random.default_rng(self.seed)
        return points.take(choose(points.idx, self.count, rng))


def scene_points(scene_id: str, pattern: str, labels: str | None) -> Points:
    """All points of a scene.

    Args:
        scene_id: the scene.
        pattern: see ``ScenePoints``.
        labels: see ``ScenePoints``.

    Raises:
        DataError: If they can't be read, or the labels are those of another mesh.
    """
    path = Path(pattern.replace("{scene}", scene_id))
    points = read_points(path)
    if labels is not None:
        second_path = Path(labels.replace("{scene}", scene_id))
        second = read_points(second_path)
        if len(second.idx) != len(points.idx):
            raise DataError(
                f"{second_path}: {len(second.idx)} vertices, but {path} has {len(points.idx)}; "
                f"they must be those of the same mesh"
            )
        points.attributes.update({k: v for k, v in second.attributes.items() if k not in points.attributes})
    return points


def check_vertices(path: Path, features: PointFeatures, mesh: str, vertices: NDArray[np.float64]) -> None:
    """Refuses points that are not the vertices that their ``pts_idx`` says they are: the mesh is then another one.

    Args:
        path: the file of the features.
        features: of one frame.
        mesh: what the mesh is called.
        vertices: (V, 3) of it, in metres.

    Raises:
        DataError: If they are not.
    """
    rows = features.pts_idx
    if len(rows) == 0:
        return
    if rows.min() < 0 or rows.max() >= len(vertices):
        what = f"vertex {rows.max()} among them, it has {len(vertices)}"
    else:
        off = float(np.abs(vertices[rows] - features.xyz).max())
        if off <= _SAME_VERTEX_M:
            return
        what = f"one is {off:.3g} m away from its own"
    raise DataError(
        f"{path}: its points are not the vertices of {mesh} ({what}); say where the run's own meshes are, as "
        f"points_file=…/{{scene}}.ply"
    )


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
