"""The features of a run, read frame by frame and on demand, whatever format it wrote."""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipfeat.camera.projection import build_uv_index, world_to_cam
from clipfeat.camera.visibility import VisibilityRule, project_frame
from clipfeat.errors import DamagedFileError, DataError, WeightsError
from clipfeat.model.heads import Head, build_head
from clipfeat.model.pretrained import state_hash
from clipfeat.output.files import FORMATS, point_features
from clipfeat.output.folders import different_keys
from clipfeat.output.frame_files import FrameFiles, SceneFiles, detect_format
from clipfeat.output.grid import GridFrame, grid_frame
from clipfeat.output.segments import SegmentFrame, segment_frame
from clipfeat.sampling.bilinear import sample_img_feat
from clipfeat.types import FeatureMap, FloatArray, Frame, PointFeatures

_READERS = 16
"""Threads that look at the scenes when a store is opened: on a network disk each look is a wait."""


class FeatureStore:
    """The features below an ``output_dir`` of ``clipfeat-extract``.

    Opening it lists the scenes and reads the meta of one frame of each; everything else is read when it is asked for.
    All features of a store are of one model: other weights, another head or another schema are refused, at opening or
    when the frame is loaded. No file stays open, so a store may be pickled, forked and used from several threads; to
    sample maps in a forked process, call ``torch.set_num_threads(1)`` there first, as DataLoader does.

    A store of ``output=grid`` holds maps, and samples them when it is asked: at the points of the run, as the other
    formats hold them to float16's rounding, or at any others. One of ``output=segments`` gives each point the feature
    of its segment.

    Args:
        path: the folder.

    Attributes:
        folder: the folder.
        format: name of its format, such as npz.
        scenes: its scenes as they were at opening, in natural order.
        model: what must be the same for features to be comparable: architecture, weights, head, input.

    Raises:
        DataError: If it can't be listed, holds no features, or those of two formats, models or schemas.
    """

    def __init__(self, path: str | Path):
        self.folder = Path(path)
        self.format = detect_format(self.folder)
        # What looks like h5 may be a run of h5_scene that has not finished a scene yet.
        kind = SceneFiles if self.format in ("h5", "h5_scene") else FrameFiles
        self._files = kind(self.folder, self.format)
        self.scenes = self._files.scenes()
        with ThreadPoolExecutor(_READERS) as pool:
            looked_at = [found for found in pool.map(self._look_at, self.scenes) if found is not None]
        if not looked_at:
            scene_id, frame_id = self.scenes[0], self.frames(self.scenes[0])[0]
            looked_at = [(scene_id, frame_id, self._files.read(scene_id, frame_id, only_meta=True)[1])]  # says why
        self.model: dict[str, Any] = dict(looked_at[0][2].get("model") or {})
        for scene_id, frame_id, meta in looked_at:
            self._check_model(scene_id, frame_id, meta)
        self._head: Head | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_head": None}  # each process reads its own

    @property
    def keeps_maps(self) -> bool:
        """Whether the frames hold maps (``map``, ``sample``) and not features at points."""
        return FORMATS[self.format].holds == "map"

    def frames(self, scene_id: str) -> list[int]:
        """The numbers of a scene's frames that are done now, ascending.

        Raises:
            DataError: If there is no such scene, it can't be listed, or holds files of another format too.
        """
        found = self._files.frames(scene_id)
        if not found:
            there = self.scenes
            some = ", ".join(there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
            raise DataError(f"{self.folder}: holds no frame of a scene {scene_id}, but of {some or 'none'}")
        return found

    def frame_numbers(self, scene_id: str) -> NDArray[np.int64]:
        """As ``frames``, in an array.

        Raises:
            DataError: Also if a number is larger than arrays can hold, as in stores of early versions.
        """
        found = self.frames(scene_id)
        if found[-1] >= 1 << 63:
            raise DataError(
                f"{self.path(scene_id, found[-1])}: a number above 64 bits, which no array of frames holds; extract "
                f"again, from files whose numbers have 18 digits at most"
            )
        return np.array(found, np.int64)

    def path(self, scene_id: str, frame_id: int) -> Path:
        """The file that holds a frame."""
        return self._files.path(scene_id, frame_id)

    def meta(self, scene_id: str, frame_id: int) -> dict[str, Any]:
        """What a frame's file says of it: camera, pose, ``image_to_map``, points by status, model.

        Raises:
            DataError: If it is missing, damaged, or of another model or schema.
        """
        return self._read(scene_id, frame_id, only_meta=True)[1]

    def load(
        self, scene_id: str, frame_id: int, choose: Callable[[int], NDArray[np.integer]] | None = None
    ) -> PointFeatures:
        """Features at the frame's visible points.

        Args:
            scene_id: the scene.
            frame_id: the frame.
            choose: from the number N of points to the rows that are wanted; all of them without it. Of a map, only
                these are sampled.

        Returns:
            ``pts_feat`` as it was written; float32 where it is sampled.

        Raises:
            DataError: If it, or the head's weights, are missing, damaged, or of another model or schema.
        """
        if self.keeps_maps:
            grid = self.map(scene_id, frame_id)
            grid = grid if choose is None else grid.take(choose(len(grid.pts_idx)))
            return self._sampled(grid)
        arrays, meta = self._read(scene_id, frame_id)
        features = point_features(self.path(scene_id, frame_id), arrays, meta)
        return features if choose is None else features.take(choose(len(features.pts_idx)))

    def map(self, scene_id: str, frame_id: int) -> GridFrame:
        """The feature map of a frame, its camera and pose, and where its points lie. Only ``output=grid`` has it.

        The map is what the head makes of a picture; ``proj128`` goes on at the sampled points, see ``load``.

        Raises:
            DataError: If the store keeps no maps, or the frame is missing, damaged, or of another model or schema.
        """
        if not self.keeps_maps:
            raise DataError(
                f"{self.folder}: output={self.format} keeps features at points and no maps; extract with output=grid"
            )
        arrays, meta = self._read(scene_id, frame_id)
        return grid_frame(self.path(scene_id, frame_id), arrays, meta)

    def segments(self, scene_id: str, frame_id: int) -> SegmentFrame:
        """The segments of a frame with their features, and where its points lie. Only ``output=segments`` has them.

        Raises:
            DataError: If the store keeps no segments, or the frame is missing, damaged, or of another model or schema.
        """
        if FORMATS[self.format].holds != "segments":
            raise DataError(f"{self.folder}: output={self.format} keeps no segments; extract with output=segments")
        arrays, meta = self._read(scene_id, frame_id)
        return segment_frame(self.path(scene_id, frame_id), arrays, meta)

    def dense(self, grid: GridFrame) -> FeatureMap:
        """A frame's map with the features that ``load`` has at points in every cell.

        It differs from the map itself for heads that go on at the points. Where that is linear, as in ``proj128``, to
        sample it gives what ``load`` gives.

        Args:
            grid: what ``map`` returned.

        Returns:
            Values (C, h, w) float32.

        Raises:
            DataError: If the head's weights are missing or others.
        """
        feature_map = grid.feature_map
        channels, height, width = feature_map.values.shape
        cells = feature_map.values.permute(1, 2, 0).reshape(height * width, channels).float()
        with torch.inference_mode():
            values = self.head_for(feature_map).to_points(cells).T.reshape(-1, height, width)
        return dataclasses.replace(feature_map, values=values)

    def sample(
        self,
        scene_id: str,
        frame_id: int,
        points: FloatArray,
        frame: Frame | None = None,
        rule: VisibilityRule | None = None,
    ) -> PointFeatures:
        """Features of a frame at any world points, not only the run's. ``output=grid`` and ``segments`` can do it.

        Without depth nobody can tell which points are hidden behind others: all in view then get the features of what
        hides them too. Give the frame itself (``Dataset.load``), and its depth decides.

        Args:
            scene_id: the scene.
            frame_id: the frame.
            points: (M, 3) world metres.
            frame: the same frame with its depth; without it every point in view, between near and far, is taken.
            rule: when a point counts as seen; without ``frame`` only its near and far are looked at.

        Returns:
            The N of them that are seen; ``pts_idx`` are their rows in ``points``, ``conf_2d`` is 1 without depth.

        Raises:
            DataError: As for ``map``, or if the head's weights are missing or others.
            ValueError: If points is not (M, 3), or ``frame`` is another one.
        """
        of_segments = FORMATS[self.format].holds == "segments"
        kept: GridFrame | SegmentFrame = (
            self.segments(scene_id, frame_id) if of_segments else self.map(scene_id, frame_id)
        )
        rule = rule or VisibilityRule()
        world = np.asarray(points, np.float64)
        size = (kept.camera.width, kept.camera.height)
        if frame is None:
            to_cam = world_to_cam(kept.cam_to_world)
            k, lens = kept.camera.intrinsics, kept.camera.distortion
            seen = build_uv_index(world, k, to_cam, size, rule.near, rule.far, distortion=lens)
        else:
            given = (frame.scene_id, frame.frame_id, (frame.color_camera.width, frame.color_camera.height))
            if given != (scene_id, frame_id, size):
                raise ValueError(f"frame is {given}, expected {(scene_id, frame_id, size)}")
            seen = project_frame(world, frame, rule)
        rows = np.flatnonzero(seen.visible)
        if isinstance(kept, GridFrame):
            rows = rows[kept.feature_map.covers(seen.uv[rows])]
        placed = dataclasses.replace(
            kept,
            uv_idx=seen.uv[rows],
            depth_m=seen.depth_m[rows],
            conf_2d=seen.conf_2d[rows],
            pts_idx=rows,
            attributes={},
        )
        found = placed.features() if isinstance(placed, SegmentFrame) else self._sampled(placed)
        return dataclasses.replace(found, xyz=world[rows].astype(np.float32))

    def _sampled(self, grid: GridFrame) -> PointFeatures:
        """The features at all of its points."""
        feature_map, clip_global = grid.feature_map, grid.feature_map.clip_global
        with torch.inference_mode():
            pts_feat = self.head_for(feature_map).to_points(sample_img_feat(feature_map, grid.uv_idx)).numpy()
        return PointFeatures(
            pts_feat=pts_feat,
            uv_idx=grid.uv_idx,
            conf_2d=grid.conf_2d,
            xyz=grid.xyz,
            pts_idx=grid.pts_idx,
            attributes=grid.attributes,
            clip_global=None if clip_global is None else clip_global.numpy(),
        )

    def head_for(self, feature_map: FeatureMap) -> Head:
        """The head of the run, which makes features of what is sampled off its maps; its weights lie in the folder.

        Args:
            feature_map: one of the store's.

        Raises:
            DataError: If the weights are missing or others.
        """
        if self._head is None:
            name, expected = self.model["head"], self.model["head_sha256"]
            path = self.folder / f"head_{name}.safetensors" if expected else None
            # The class token has the encoder's width, which heads are built for.
            width = len(feature_map.values if feature_map.clip_global is None else feature_map.clip_global)
            try:
                head = build_head(name, width, path, seed=0)
            except WeightsError as error:
                raise DataError(f"{path}: the maps are of no use without the head's weights ({error})") from error
            if path is not None and state_hash(head) != expected:
                raise DataError(
                    f"{path}: weights {state_hash(head)}, but the maps were made with {expected}; "
                    f"copy that run's file here"
                )
            self._head = head
        return self._head

    def _read(
        self, scene_id: str, frame_id: int, *, only_meta: bool = False
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, meta = self._files.read(scene_id, frame_id, only_meta=only_meta)
        self._check_model(scene_id, frame_id, meta)
        return arrays, meta

    def _look_at(self, scene_id: str) -> tuple[str, int, dict[str, Any]] | None:
        """Scene, number and meta of a readable frame of a scene; the others are left for the one who loads them."""
        with suppress(DamagedFileError):
            for frame_id in self._files.scan(scene_id):
                with suppress(DamagedFileError):
                    return scene_id, frame_id, self._files.read(scene_id, frame_id, only_meta=True)[1]
        return None

    def _check_model(self, scene_id: str, frame_id: int, meta: dict[str, Any]) -> None:
        differing = different_keys(self.model, meta.get("model") or {})
        if differing:
            raise DataError(
                f"{self.path(scene_id, frame_id)}: features of another model than the rest of {self.folder}, which "
                f"differs in {'; '.join(differing)}; give each model a folder of its own"
            )
