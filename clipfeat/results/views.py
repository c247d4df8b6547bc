"""What the frames of a store say of a scene's points: by their maps and depth, or by the features that they hold."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from clipfeat.camera.projection import unproject_depth
from clipfeat.camera.rules import build_rules
from clipfeat.data.selection import FrameKey
from clipfeat.extraction.scans import Scans
from clipfeat.mapping.frame_view import View, view_of
from clipfeat.output.store import FeatureStore
from clipfeat.sampling.colors import depth_pixel_colors, with_picture_colors
from clipfeat.sampling.config import PointsConfig
from clipfeat.sampling.locate import FrameLocator, Locator
from clipfeat.sampling.merge import ViewMerger
from clipfeat.sampling.points import check_vertices
from clipfeat.sampling.voxels import frame_voxels, in_voxels
from clipfeat.types import FeatureMap, FloatArray, Points

Measured = tuple[FloatArray, NDArray[np.uint8] | None, NDArray[np.bool_] | None]
"""World points (N, 3) in metres, their colours (N, 3), if these are known, and of which (N,); None is of all."""


class Views(Protocol):
    """The frames of a store as views. Safe to call from several threads."""

    def measured(self, key: FrameKey) -> Measured:
        """What a frame measured.

        Raises:
            FrameError: If the frame can't be used.
            DataError: If its file, or its scene, can't.
        """
        ...

    def of(self, points: Points) -> Callable[[FrameKey], View]:
        """From a frame to what it says of these points; raises what ``measured`` does."""
        ...

    def own(self, size: float) -> Callable[[FrameKey], View]:
        """From a frame to what it says of the voxels of this size that it measured; raises what ``measured`` does."""
        ...

    def finish(self, mean: NDArray[np.float32], view: View) -> NDArray[np.float32]:
        """Point features (N, C') of the weighted means (N, C) of what the views held; ``view`` is one of them."""
        ...


class PointViews:
    """Views of a store that holds features at points.

    Args:
        store: the store.
        same_points: whether ``pts_idx`` are rows of the points that are asked for. Otherwise each stored point counts
            for the nearest of them.
        reach: how far that may be, in metres.
    """

    def __init__(self, store: FeatureStore, reach: float, *, same_points: bool):
        self.store = store
        self.reach = reach
        self.same_points = same_points

    def measured(self, key: FrameKey) -> Measured:
        """The points that the frame has features for."""
        found = self.store.load(*key)
        return found.xyz, found.attributes.get("rgb"), None

    def of(self, points: Points) -> Callable[[FrameKey], View]:
        """A view's confidence in a point is the mean of what counts for it, its feature their weighted mean."""
        count = len(points.xyz)
        nearest = None if self.same_points else cKDTree(points.xyz)

        def view(key: FrameKey) -> View:
            found = self.store.load(*key)
            if nearest is None:
                check_vertices(self.store.path(*key), found, "the given mesh", points.xyz)
                rows = found.pts_idx
            else:
                _, rows = nearest.query(found.xyz, distance_upper_bound=self.reach)
            near = np.flatnonzero((rows < count) & (found.conf_2d > 0))
            unique, inverse = np.unique(rows[near], return_inverse=True)
            own = ViewMerger(len(unique), found.pts_feat.shape[1])
            own.add_points(found.pts_feat[near], inverse, found.conf_2d[near])
            return View(unique, own.weight / own.views, own.mean)

        return view

    def own(self, size: float) -> Callable[[FrameKey], View]:
        """Each stored point counts for the voxel that it lies in; else as ``of``."""

        def view(key: FrameKey) -> View:
            found = self.store.load(*key)
            near, rgb = np.flatnonzero(found.conf_2d > 0), found.attributes.get("rgb")
            points, rows = in_voxels(
                found.xyz[near], size, str(self.store.path(*key)), None if rgb is None else rgb[near]
            )
            own = ViewMerger(len(points.idx), found.pts_feat.shape[1])
            own.add_points(found.pts_feat[near], rows, found.conf_2d[near])
            return View(points.idx, own.weight / own.views, own.mean, None, points)

        return view

    def finish(self, mean: NDArray[np.float32], view: View) -> NDArray[np.float32]:  # noqa: ARG002
        """They are point features already."""
        return mean


class MapViews:
    """Views of a store that holds maps: the points are projected into each frame, and its depth tells which it sees.

    Args:
        store: the store.
        run: the configuration that it was extracted with; its camera rules hold.

    Raises:
        DataError: If the scans, which hold the depth, are not where the configuration says.
    """

    def __init__(self, store: FeatureStore, run: PointsConfig):
        self.store = store
        self.run = run
        self.scans = Scans(store, run.data)

    def measured(self, key: FrameKey) -> Measured:
        """All of the frame's depth between near and far, in the picture's colours; without depth the run's points."""
        frame, camera = self.scans.load(*key), self.run.camera
        if frame.depth_m is None or frame.depth_camera is None:
            grid = self.store.map(*key)
            return grid.xyz, grid.attributes.get("rgb"), None
        used = np.where((frame.depth_m >= camera.near) & (frame.depth_m <= camera.far), frame.depth_m, 0)
        lens = frame.depth_camera
        xyz, pixels = unproject_depth(used, lens.intrinsics, frame.cam_to_world, distortion=lens.distortion)
        return xyz, *depth_pixel_colors(frame, pixels)

    def of(self, points: Points) -> Callable[[FrameKey], View]:
        """A view's confidence in a point is ``conf_2d``."""
        # Of the attributes, a mask's rule asks for the instance. The others would be copied for each frame.
        known = {name: values for name, values in points.attributes.items() if name == "instance"}
        asked_for = Points(points.xyz, points.idx, known)
        locate = FrameLocator(lambda _frame, _rng: asked_for, *build_rules(self.run.camera), self.run.seed)
        return self._through(locate, measured=False)

    def own(self, size: float) -> Callable[[FrameKey], View]:
        """The voxels' means are projected into the frame, and looked for in its depth, as any other points are."""
        rule, mask_rule = build_rules(self.run.camera)
        locate = FrameLocator(
            lambda frame, _rng: frame_voxels(frame, size, rule.near, rule.far), rule, mask_rule, self.run.seed
        )
        return self._through(lambda frame: with_picture_colors(locate(frame), frame), measured=True)

    def _through(self, locate: Locator, *, measured: bool) -> Callable[[FrameKey], View]:
        def view(key: FrameKey) -> View:
            grid = self.store.map(*key)
            head = self.store.head_for(grid.feature_map)
            to_points = None if head.affine else lambda sampled: head.to_points(sampled).numpy()
            return view_of(locate(self.scans.load(*key)), grid.feature_map, to_points, measured=measured)

        return view

    def finish(self, mean: NDArray[np.float32], view: View) -> NDArray[np.float32]:
        """What the head makes of sampled features; where that is affine, the mean may come first."""
        if not isinstance(view.features, FeatureMap):
            return mean
        with torch.inference_mode():
            return self.store.head_for(view.features).to_points(torch.from_numpy(mean)).numpy()


def build_views(store: FeatureStore, run: PointsConfig, reach: float, *, same_points: bool) -> Views:
    """The views of a store, whatever it holds.

    Raises:
        DataError: As for ``MapViews``.
    """
    return MapViews(store, run) if store.keeps_maps else PointViews(store, reach, same_points=same_points)
