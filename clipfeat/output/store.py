"""The features of a run, read frame by frame and on demand, whatever format it wrote."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.errors import DataError, SchemaError
from clipfeat.output.files import point_features
from clipfeat.output.frame_files import FrameFiles, detect_format
from clipfeat.output.run_folder import different_keys
from clipfeat.types import PointFeatures

_READERS = 16
"""Threads that look at the scenes when a store is opened: on a network disk each look is a wait."""


class FeatureStore:
    """The features below an ``output_dir`` of ``clipfeat-extract``.

    Opening it lists the scenes and reads the meta of one frame of each; everything else is read when it is asked for.
    No file stays open, so a store may be pickled, forked, and used from several threads. All features of a store are
    of one model: other weights, another head or another schema are refused, at opening or when the frame is loaded.

    Args:
        path: the folder.

    Attributes:
        folder: the folder.
        format: name of its format: npz or h5.
        scenes: its scenes as they were at opening, in natural order.
        model: what must be the same for features to be comparable: architecture, weights, head, input.

    Raises:
        DataError: If it can't be listed, holds no features, or those of two formats, models or schemas.
    """

    def __init__(self, path: str | Path):
        self.folder = Path(path)
        self.format = detect_format(self.folder)
        self._files = FrameFiles(self.folder, self.format)
        self.scenes = self._files.scenes()
        with ThreadPoolExecutor(_READERS) as pool:
            looked_at = [found for found in pool.map(self._look_at, self.scenes) if found is not None]
        if not looked_at:  # say why
            self._files.read(self.scenes[0], self.frames(self.scenes[0])[0], only_meta=True)
        self.model: dict[str, Any] = dict(looked_at[0][2].get("model") or {})
        for scene_id, frame_id, meta in looked_at:
            self._check_model(scene_id, frame_id, meta)

    def frames(self, scene_id: str) -> list[int]:
        """The numbers of a scene's frames that are done now, ascending.

        Raises:
            DataError: If there is no such scene, it can't be listed, or holds files of another format too.
        """
        found = self._files.frames(scene_id)
        if not found:
            raise DataError(f"{self.folder}: holds no frame of a scene {scene_id}; see FeatureStore.scenes")
        return found

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
            choose: from the number N of points to the rows that are wanted; all of them without it.

        Returns:
            ``pts_feat`` as it was written.

        Raises:
            DataError: If it is missing, damaged, or of another model or schema.
        """
        arrays, _ = self._read(scene_id, frame_id)
        features = point_features(self.path(scene_id, frame_id), arrays)
        return features if choose is None else features.take(choose(len(features.pts_idx)))

    def _read(
        self, scene_id: str, frame_id: int, *, only_meta: bool = False
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, meta = self._files.read(scene_id, frame_id, only_meta=only_meta)
        self._check_model(scene_id, frame_id, meta)
        return arrays, meta

    def _look_at(self, scene_id: str) -> tuple[str, int, dict[str, Any]] | None:
        """Scene, number and meta of a readable frame of a scene; the others are left for the one who loads them."""
        for frame_id in self._files.scan(scene_id):
            try:
                return scene_id, frame_id, self._files.read(scene_id, frame_id, only_meta=True)[1]
            except SchemaError:
                raise
            except DataError:
                continue
        return None

    def _check_model(self, scene_id: str, frame_id: int, meta: dict[str, Any]) -> None:
        differing = different_keys(self.model, meta.get("model") or {})
        if differing:
            raise DataError(
                f"{self.path(scene_id, frame_id)}: features of another model than the rest of {self.folder}, which "
                f"differs in {'; '.join(differing)}; give each model a folder of its own"
            )
