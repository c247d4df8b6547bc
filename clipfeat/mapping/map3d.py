"""A map of a scene that is there while it is recorded: frame after frame goes in, and it can be asked at any time."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from clipfeat.camera.masks import MaskRule
from clipfeat.camera.visibility import VisibilityRule
from clipfeat.config.checks import right_type
from clipfeat.errors import ConfigError, DataError, FrameError
from clipfeat.mapping.array_frames import arrays_frame
from clipfeat.mapping.asking import Asker, Question
from clipfeat.mapping.frame_view import View, view_of
from clipfeat.mapping.map_points import GivenPoints, MapPoints, VoxelPoints
from clipfeat.mapping.saved import fused_map, read_map
from clipfeat.model.base import Model, check_loaded
from clipfeat.model.batches import is_finite
from clipfeat.model.kept_texts import WeightsFrom
from clipfeat.model.load import resolve_device
from clipfeat.model.text import Texts
from clipfeat.output.folders import different_keys
from clipfeat.output.fused import write_fused
from clipfeat.sampling.colors import with_picture_colors
from clipfeat.sampling.locate import FrameLocator, Located
from clipfeat.sampling.voxels import frame_voxels
from clipfeat.types import Distortion, FeatureMap, FloatArray, Frame, Points

_POINTS = "clipfeat.types.Points, such as Points(xyz, np.arange(len(xyz)))"


class FeatureMap3D:
    """The features of a scene's points, as the weighted mean of what its frames say of them.

    The points are voxels that the frames measured, or given ones, such as a mesh's vertices. What a frame says follows
    from the frame alone: its depth pixels become one point for each voxel, their mean; these points, or the given ones,
    are projected into its picture and looked for in its depth by the rules that hold everywhere (``VisibilityRule``);
    and of those that are seen, the feature map is sampled where they fall. Position, colour and feature of a voxel are
    means over its views, weighted by ``conf_2d``. So any order of frames gives the same map, to rounding, unless
    ``max_weight`` lets the old fade or ``max_points`` lets it go.

    Safe to call from several threads: only the adding itself is one at a time.

    Args:
        model: what makes feature maps, as ``clipfeat.load_model`` returns it; None where views are added ready-made, or
            the map is only asked.
        voxel_size: edge of a voxel in metres.
        points: points of the map in place of voxels.
        rule: when a point counts as seen.
        mask_rule: what an instance mask of a frame does to it.
        max_weight: greatest sum of weights of a point: with it, later views count for more than earlier ones; see
            ``ViewMerger``. None lets all count alike.
        max_points: most voxels; where a frame brings more, those go that were seen longest ago. None for any number.
        device: where the features are kept: auto, cpu, cuda or cuda:<n>.
        dtype: of the features in memory: float32 or float16.
        scene_id: the scene's name, for files and messages.
        texts: the model's text tower, if it is loaded already; else it is loaded when a text is asked for.

    Attributes:
        scene_id: see above.
        voxel_size: see above; None where the points were given.
        about: ``describe()`` of the model; empty where nobody said it.

    Raises:
        ConfigError: If an option can't be.
        TypeError: If the model is only a name, or the points are only an array.
    """

    def __init__(
        self,
        model: Model | None = None,
        *,
        voxel_size: float = 0.05,
        points: Points | None = None,
        rule: VisibilityRule | None = None,
        mask_rule: MaskRule | None = None,
        max_weight: float | None = None,
        max_points: int | None = None,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        scene_id: str = "map",
        texts: Texts | None = None,
    ):
        right_type("points", points, points is None or isinstance(points, Points), _POINTS)
        self.scene_id = scene_id
        self.voxel_size = voxel_size if points is None else None
        self._frames: dict[int, None] = {}  # in order, and soon found
        self._device = device if isinstance(device, torch.device) else resolve_device(device)
        self._points: MapPoints = (
            VoxelPoints(voxel_size, max_weight, max_points, self._device, dtype)
            if points is None
            else GivenPoints(points, max_weight, self._device, dtype)
        )
        if points is not None and max_points is not None:
            raise ConfigError(f"max_points={max_points}: given points stay as they are, leave it out")
        self.about: dict[str, Any] = {}
        self._rule = rule or VisibilityRule()
        self._mask_rule = mask_rule or MaskRule()
        self._down = np.zeros(3)
        self._lock = threading.RLock()
        self._asker = Asker(texts)
        self.model = model

    @property
    def model(self) -> Model | None:
        """What makes feature maps. A map that was loaded takes none but the one that it was made with.

        Raises:
            ConfigError: If it is another than that of the features that are there.
            TypeError: If it is no model.
        """
        return self._model

    @model.setter
    def model(self, model: Model | None) -> None:
        if model is not None:
            check_loaded(model)
            about = model.describe()
            if self.about and (differing := different_keys(self.about, about)):
                raise ConfigError(
                    f"{self.scene_id}: its features are of another model, which differs in {'; '.join(differing)}"
                )
            self.about = about
            self._asker.weights = WeightsFrom.of(model) or self._asker.weights
        self._model = model

    @property
    def frames(self) -> list[int]:
        """Numbers of the frames that were added, in that order."""
        return list(self._frames)

    def __len__(self) -> int:
        return len(self._points)

    @property
    def dropped(self) -> int:
        """Voxels that ``max_points`` has taken away so far."""
        return self._points.dropped

    @property
    def views(self) -> NDArray[np.int32]:
        """(N,) how many views each point has."""
        return self._points.views

    @property
    def weight(self) -> NDArray[np.float64]:
        """(N,) sum of their weights, cut to ``max_weight``."""
        return self._points.weight

    @property
    def down(self) -> NDArray[np.float64]:
        """(3,) sum over the frames of where down was in the world, by how the camera was held."""
        return self._down

    # Frames

    def add(
        self,
        rgb: NDArray[np.uint8],
        depth: FloatArray | None,
        K: ArrayLike,  # noqa: N803 - the field's own name
        pose: ArrayLike,
        *,
        depth_K: ArrayLike | None = None,  # noqa: N803
        distortion: Distortion | None = None,
        frame_id: int | None = None,
    ) -> int:
        """Adds a frame.

        Args:
            rgb: (H, W, 3) the colour picture.
            depth: (h, w) z-depth in metres, of floats, 0 where nothing was measured; None for none, for a map of given
                points.
            K: (3, 3) intrinsics of the colour picture, in its pixels.
            pose: (4, 4) cam_to_world.
            depth_K: (3, 3) of the depth; None for K, brought to the size of the depth.
            distortion: of the lens of both; None for a pinhole.
            frame_id: its number; None for the next one.

        Returns:
            How many points it sees.

        Raises:
            FrameError: If it can't be used; the map is as before.
            ConfigError: If the map has no model, or ``max_points`` is less than what one frame sees.
        """
        frame_id = max(self._frames, default=-1) + 1 if frame_id is None else frame_id
        if isinstance(frame_id, bool) or not isinstance(frame_id, int | np.integer):  # other keys would spoil the file
            raise FrameError(f"{self.scene_id}: frame_id={frame_id!r}: expected a whole number")
        frame = arrays_frame(rgb, depth, K, pose, depth_K, distortion, self.scene_id, int(frame_id))
        return self.add_frame(frame)

    def add_frame(self, frame: Frame) -> int:
        """Adds a frame as data sets read it; see ``add``."""
        model = self._model
        if model is None:
            raise ConfigError(f"{self.scene_id}: has no model to make features with; give one, as model=…")
        size = frame.color_camera.width, frame.color_camera.height
        [feature_map] = model.feature_maps([model.network_input(frame)], [size])
        return self.add_view(self.see(self.look(frame), feature_map), frame)

    def locate(self, frame: Frame) -> Located:
        """The points of the map, or those that the frame measured, that the frame sees.

        Raises:
            FrameError: If it has no depth that could be measured.
        """
        given = self._points.given
        rule, size = self._rule, self.voxel_size or 0.0
        return FrameLocator(
            lambda one, _rng: frame_voxels(one, size, rule.near, rule.far) if given is None else given,
            rule,
            self._mask_rule,
            seed=0,
        )(frame)

    def look(self, frame: Frame) -> Located:
        """As ``locate``, with the colours of the picture where the points are the frame's own.

        Raises:
            FrameError: Also if the picture is damaged.
        """
        located = self.locate(frame)
        return located if self.voxel_size is None else with_picture_colors(located, frame)

    def see(self, located: Located, feature_map: FeatureMap) -> View:
        """What a frame says, for ``add_view``; all that takes time is done here, and nothing is changed.

        Args:
            located: what ``look`` found.
            feature_map: of the frame's picture.

        Raises:
            FrameError: If the map holds inf or NaN.
        """
        if not is_finite(feature_map.values):
            raise FrameError("the features hold inf or NaN; try model.precision=fp32")
        if self._device.type != feature_map.values.device.type:
            feature_map = replace(feature_map, values=feature_map.values.to(self._device))
        model = self._model
        to_points = None if model is None or model.head.ends_at_map else model.point_features
        return view_of(located, feature_map, to_points, measured=self.voxel_size is not None)

    def add_view(self, view: View, frame: Frame | None = None, chosen: NDArray[np.bool_] | None = None) -> int:
        """Adds what a frame says.

        Args:
            view: of the map's points, or of voxels.
            frame: whose; None where nobody asks.
            chosen: (M,) which of its points are taken; None for all.

        Returns:
            How many points it sees.

        Raises:
            FrameError: If the frame is in the map already.
            ConfigError: If ``max_points`` is less than what it sees.
        """
        with self._lock:
            if frame is not None and frame.frame_id in self._frames:
                raise FrameError(f"{self.scene_id} frame {frame.frame_id}: is in the map already")
            with _told_of(self.scene_id if frame is None else f"{self.scene_id} frame {frame.frame_id}"):
                self._points.add(view, chosen)
            if frame is not None:
                self._frames[frame.frame_id] = None
                self._down += frame.cam_to_world[:3, 1]
            return len(view.rows)

    # What is known

    def points(self) -> Points:
        """The N points: xyz (N, 3) float64, and of voxels the attributes ``rgb`` (N, 3) uint8 and ``VOXEL``."""
        with self._lock:
            return self._points.points()

    def features(self, *, copy: bool = True) -> NDArray[np.floating]:
        """(N, C) of the points, 0 where no frame sees one.

        Without a copy it may be the map's own memory, which changes, or is left behind, as more is added.
        """
        with self._lock:
            found = self._points.features()
            return found.copy() if copy else found

    def query(
        self,
        asked: Question,
        *,
        score: str = "cosine",
        against: Sequence[str] = ("object", "things", "stuff", "texture"),
        templates: str = "plain",
    ) -> NDArray[np.float32]:
        """How much each point looks like something.

        Args:
            asked: a text or several, for features of ``model/head=text``; or vectors (C,) or (P, C) that were encoded
                already; or ``Prompts``, which bring a score of their own.
            score: cosine, softmax, relevancy or sigmoid, as clipfeat-query has them.
            against: what softmax and relevancy score each text against.
            templates: what is put around a text: plain, photo, indoor, or a file of templates.

        Returns:
            (N,) of one text or vector, (N, P) of several. 0 where no frame sees the point.

        Raises:
            ConfigError: If the features can't be compared to texts, or a text can't be used.
            WeightsError: If the text tower can't be had, or is another model's.
        """
        prompts = self._asker.prompts(asked, score, list(against), templates, self.about, self.scene_id)
        with self._lock:
            scores = self._points.scores(prompts)
        one = isinstance(asked, str) or (isinstance(asked, np.ndarray) and asked.ndim == 1)
        return scores[:, 0] if one else scores

    # Files

    def save(self, path: str | Path, meta: dict[str, Any] | None = None) -> int:
        """Writes the map as an npz that clipfeat-query, clipfeat-view and all else read as a fused scene, whole or not.

        Args:
            path: the file.
            meta: what is to be said beside; anything JSON can hold.

        Returns:
            Its bytes.

        Raises:
            OutputError: If it can't be written.
            DataError: If nothing was added yet, or the features are infinite.
        """
        with self._lock:
            weights = self._asker.weights
            state = {
                "scene_id": self.scene_id,
                "frames": self.frames,
                "voxel_size": self.voxel_size,
                "down": self._down.tolist(),
                "model": self.about,
                "weights_from": None if weights is None else asdict(weights),
            }
            return write_fused(Path(path), fused_map(self._points, (meta or {}) | state))

    @classmethod
    def load(cls, path: str | Path, model: Model | None = None, **options: Any) -> "FeatureMap3D":
        """Reads what ``save`` wrote, so that it goes on as if it had never stopped.

        Args:
            path: the file.
            model: as for a new map; it must be the one that the features are of.
            options: of a new map: rules, ``max_weight`` and so on, which the file does not hold. ``voxel_size`` and
                points are the file's.

        Raises:
            DataError: If it is missing, damaged or no such map.
            ConfigError: If the model is another, or ``max_points`` less than what is there.
        """
        saved = read_map(Path(path))
        if saved.voxel_size is None:
            options["points"] = saved.points
        else:
            options["voxel_size"] = saved.voxel_size
        found = cls(None, **{"scene_id": str(saved.meta["scene_id"])} | options)
        with _told_of(str(path)):
            found._points.restore(saved.features, saved.views, saved.state)
        found._points.dropped = int(saved.meta["dropped"])
        found._frames = dict.fromkeys(saved.meta["frames"])
        found._down = np.array(saved.meta["down"], np.float64)
        found.about = dict(saved.meta["model"])
        told = saved.meta["weights_from"]
        found._asker.weights = None if told is None else WeightsFrom(**told)
        found.model = model
        return found

    def merge(self, other: "FeatureMap3D") -> None:
        """Adds all that another map of the same scene knows, as what was seen after all that is here.

        Args:
            other: of the same voxels, or the same points, and the same model; it stays as it is. That both are in the
                same world nobody can tell but you.

        Raises:
            DataError: If they can't be one: another scene, other voxels, points or models, or a frame is in both.
            ConfigError: If ``max_points`` is less than what the other has.
            TypeError: If the other is no map, but a file of one.
        """
        right_type("other", other, isinstance(other, FeatureMap3D), "another map, as FeatureMap3D.load(path) reads it")
        if self.scene_id != other.scene_id:
            raise DataError(f"maps of two scenes, {self.scene_id} and {other.scene_id}, whose worlds differ")
        if differing := different_keys(self.about, other.about):
            raise DataError(f"{self.scene_id}: the other map is of another model, in {'; '.join(differing)}")
        if self.voxel_size != other.voxel_size:
            raise DataError(f"{self.scene_id}: voxel_size={self.voxel_size} here and {other.voxel_size} there")
        if both := sorted(self._frames.keys() & other._frames.keys()):
            raise DataError(
                f"{self.scene_id}: frame {both[0]} is in both maps ({len(both)} are), and would count twice"
            )
        first, second = sorted((self, other), key=id)  # or two that merge each other would wait for ever
        with first._lock, second._lock:
            with _told_of(f"{self.scene_id}, the other map"):
                self._points.merge(other._points)
            self._frames |= other._frames
            self._down += other._down


@contextmanager
def _told_of(what: str) -> Iterator[None]:
    """Lets an error of the points say what it happened at, which they don't know."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error
