"""All frames of a scene merged onto its mesh, or onto the voxels that they measured, together or each for itself."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from clipfeat.data.selection import FrameKey
from clipfeat.errors import DataError, FrameError
from clipfeat.mapping.map3d import FeatureMap3D
from clipfeat.output.fused import FusedScene, seen_counts
from clipfeat.output.store import FeatureStore
from clipfeat.results.config import FuseConfig
from clipfeat.results.fused_points import mesh_pattern
from clipfeat.results.views import build_views
from clipfeat.sampling.config import MeshSamplingConfig, PointsConfig
from clipfeat.sampling.merge import BestViews
from clipfeat.sampling.point_files import read_faces
from clipfeat.sampling.points import scene_points
from clipfeat.sampling.voxels import VoxelCloud
from clipfeat.system.shards import usable_cores
from clipfeat.system.streaming import prefetch
from clipfeat.types import FloatArray, Points
from clipfeat.vis.scene_picture import up_axis

Result = TypeVar("Result")


class SceneFuser:
    """Merges the frames of a scene.

    Args:
        cfg: how.
        store: where the features are.
        run: the configuration that they were extracted with.

    Attributes:
        cfg: how.
        passes: how often it goes through the frames of a scene.

    Raises:
        DataError: If the scans are needed and not there.
    """

    def __init__(self, cfg: FuseConfig, store: FeatureStore, run: PointsConfig):
        self.cfg = cfg
        self._store = store
        self.passes = 1 + (cfg.points == "voxel") + (cfg.best_views is not None)
        sampled = run.sampling if isinstance(run.sampling, MeshSamplingConfig) else None
        self._points_file = mesh_pattern(cfg, run)
        same = sampled is not None and cfg.points == "mesh" and self._points_file == sampled.points_file
        self._labels_file = cfg.labels_file or (sampled.labels_file if sampled and same else None)
        # Every stored point lies in a voxel, whose mean may be farther away than the voxel is wide.
        reach = cfg.voxel_size if cfg.points == "mesh" else math.inf
        self._views = build_views(store, run, reach, same_points=same)

    def __call__(self, scene_id: str, frames: Sequence[int], progress: Callable[[int], object]) -> FusedScene:
        """Merges one scene.

        Args:
            scene_id: the scene.
            frames: their numbers.
            progress: told how many frames more are done with, in each of the passes.

        Raises:
            DataError: If the scene's points can't be read, or none of its frames sees any of them.
            FrameError: If a frame is bad and ``on_bad_frame=fail``.
        """
        begin = time.perf_counter()
        good = _GoodFrames(self.cfg, [(scene_id, frame_id) for frame_id in frames], progress)
        faces = None
        if self.cfg.points == "measured":
            merged, view_of = FeatureMap3D(voxel_size=self.cfg.voxel_size), self._views.own(self.cfg.voxel_size)
        else:
            if self.cfg.points == "mesh":
                given, faces = self._mesh(scene_id)
            else:
                given = self._voxels(scene_id, frames, good)
            merged, view_of = FeatureMap3D(points=given), self._views.of(given)
        best = None if self.cfg.best_views is None else BestViews(len(merged), self.cfg.best_views)
        if best is not None:
            for number, view in good.each(view_of):
                best.add(number, view.rows, view.weight)
        for number, view in good.each(view_of):
            merged.add_view(view, chosen=None if best is None else best.chosen(number, view.rows))
        seen = merged.views > 0
        if not seen.any():
            why = next(iter(good.failed.values()), "the points lie where no frame looks, or behind what it measured")
            raise DataError(f"{scene_id}: none of its {len(frames)} frames sees a point of it ({why})")
        pts_feat = self._views.finish(merged.features(copy=False), view)
        pts_feat[~seen] = 0
        return FusedScene(
            points=merged.points(),
            pts_feat=_as_stored(scene_id, pts_feat, self.cfg.dtype),
            views=merged.views,
            weight=merged.weight.astype(np.float32),
            faces=faces,
            meta={
                "scene_id": scene_id,
                "frames": [frame_id for frame_id in frames if frame_id not in good.failed],
                "failed": [{"frame_id": frame_id, "why": why} for frame_id, why in good.failed.items()],
                **seen_counts(merged.views),
                "up": self._up(scene_id, [frame_id for frame_id in frames if frame_id not in good.failed]),
                "seconds": round(time.perf_counter() - begin, 3),
            },
        )

    def _up(self, scene_id: str, frames: Sequence[int]) -> list[float]:
        some = frames[:: 1 + len(frames) // 20]
        return up_axis([self._store.meta(scene_id, frame)["cam_to_world"] for frame in some])

    def _mesh(self, scene_id: str) -> tuple[Points, NDArray[np.int32] | None]:
        path = Path(self._points_file.replace("{scene}", scene_id))
        if not path.is_file():
            raise DataError(
                f"{path}: no such file, the mesh of {scene_id} was expected; say where it is by "
                f"points_file=…/{{scene}}….ply, or take points=voxel"
            )
        return scene_points(scene_id, self._points_file, self._labels_file), read_faces(path)

    def _voxels(self, scene_id: str, frames: Sequence[int], good: "_GoodFrames") -> Points:
        cloud = VoxelCloud(self.cfg.voxel_size)
        for number, measured in good.each(self._views.measured):
            try:
                cloud.add(*measured)
            except ValueError as error:
                raise DataError(f"{scene_id} frame {frames[number]}: {error}; take a larger voxel_size") from error
        return cloud.points()


class _GoodFrames:
    """The frames of a scene, gone through as often as one likes without those that failed before.

    Attributes:
        failed: frame number to why.
    """

    def __init__(self, cfg: FuseConfig, keys: Sequence[FrameKey], progress: Callable[[int], object]):
        self.failed: dict[int, str] = {}
        self._keys = keys
        self._fail = cfg.on_bad_frame == "fail"
        self._workers = cfg.num_workers or usable_cores()
        self._progress = progress

    def each(self, work: Callable[[FrameKey], Result]) -> Iterator[tuple[int, Result]]:
        """What ``work`` makes of each frame and the frame's place in the list; done ahead in threads, in order."""

        def attempt(key: FrameKey) -> Result | FrameError | DataError | None:
            if key[1] in self.failed:
                return None
            try:
                return work(key)
            except (FrameError, DataError) as error:
                return error

        results = prefetch(attempt, self._keys, self._workers, ahead=2 * self._workers)
        for number, result in enumerate(results):
            if isinstance(result, FrameError | DataError):
                if self._fail:
                    raise result
                self.failed[self._keys[number][1]] = str(result)
            elif result is not None:
                yield number, result
            self._progress(1)


def _as_stored(scene_id: str, pts_feat: NDArray[np.float32], dtype: str) -> FloatArray:
    stored: FloatArray = torch.from_numpy(pts_feat).half().numpy() if dtype == "float16" else pts_feat
    if not np.isfinite(stored).all():
        raise DataError(f"{scene_id}: the features hold inf, NaN or more than {dtype} can hold; try dtype=float32")
    return stored
