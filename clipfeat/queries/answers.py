"""Who is asked by a query, and what is drawn of the answers: the frames of a run, or fused scenes."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipfeat.errors import DataError, FrameError, OutputError
from clipfeat.extraction.scans import Scans, read_run_config
from clipfeat.model.kept_texts import WeightsFrom
from clipfeat.output.files import read_meta, write_arrays
from clipfeat.output.folders import different_keys, read_config
from clipfeat.output.fused import FusedScene, read_fused
from clipfeat.output.ply import UNSEEN, write_ply
from clipfeat.output.store import FeatureStore
from clipfeat.queries.config import QueryConfig
from clipfeat.queries.pixel_features import pixel_features
from clipfeat.queries.prompts import Prompts, best_mean
from clipfeat.system.progress import progress_bar
from clipfeat.system.shards import usable_cores
from clipfeat.system.streaming import prefetch
from clipfeat.types import resize_affine
from clipfeat.vis.build import model_note
from clipfeat.vis.pictures import save_png, thumbnail
from clipfeat.vis.scores import ScoredFrame, ScorePainter, score_rgb

Result = TypeVar("Result")

Key = tuple[str, int | None]
"""Scene and frame number; None for a fused scene as a whole."""

SCORES = "scores"
"""Folder of the scores themselves. Beside ``query.json`` they could take the place of the fused scenes."""

LEAST_RANGE = 0.01
"""Of scores, from one end of the colour bar to the other: noise must not shine."""


@dataclass(frozen=True, eq=False)
class Answer:
    """How much a frame, or a fused scene, looks like each of the P prompts.

    Attributes:
        key: which.
        points: how many were compared; one at least.
        best: (P,) mean of the best 1 % of their scores.
        highest: (P,) the highest score.
        mean: (P,) of all scores.
    """

    key: Key
    points: int
    best: NDArray[np.float64]
    highest: NDArray[np.float32]
    mean: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Found:
    """All that was found of one prompt.

    Attributes:
        prompt: its name.
        index: its place among the prompts.
        ranked: the answers, the best first.
        limits: scores at the ends of its colour bar: the mean of all, and the best of the best answer.
    """

    prompt: str
    index: int
    ranked: list[Answer]
    limits: tuple[float, float]

    @property
    def folder(self) -> str:
        """Name of the folder of its files: the prompt, as far as it can stand in a file's name."""
        readable = re.sub(r"[^a-z0-9]+", "-", self.prompt.lower()).strip("-")[:60]
        if readable.replace("-", " ") == self.prompt:
            return readable
        return f"{readable}-{sha256(self.prompt.encode()).hexdigest()[:8]}".lstrip("-")


def rank(prompt: str, index: int, answers: Sequence[Answer]) -> Found:
    """Sorts the answers, of which there is one at least, by how much they look like one prompt."""
    ranked = sorted(answers, key=lambda answer: -answer.best[index])
    low = float(np.average([a.mean[index] for a in answers], weights=[a.points for a in answers]))
    return Found(prompt, index, ranked, (low, max(float(ranked[0].best[index]), low + LEAST_RANGE)))


@dataclass(frozen=True)
class Drawn:
    """Names of the files that a query has written, below its folder.

    Attributes:
        of_prompts: for each prompt, its own.
        scores: those that hold the scores of all prompts.
    """

    of_prompts: list[list[str]]
    scores: list[str] = field(default_factory=list)


class Source(Protocol):
    """Who is asked.

    Attributes:
        noun: what a key stands for.
        keys: all that there is.
        model: of the features.
        failed: what can't be used, and why.
    """

    noun: str
    keys: list[Key]
    model: dict[str, Any]
    failed: dict[Key, str]

    @property
    def run(self) -> FeatureStore:
        """The features of the run, frame by frame.

        Raises:
            DataError: If they can't be read.
        """

    @property
    def weights_from(self) -> WeightsFrom:
        """Where the weights of the model that made the features came from.

        Raises:
            DataError: If nobody says it.
        """

    def ask(self, prompts: Prompts) -> Iterator[Answer]:
        """Compares everything that has points.

        Raises:
            FrameError: For a bad frame, if ``on_bad_frame=fail``.
            DataError: The same.
        """

    def draw(self, prompts: Prompts, found: Sequence[Found], folder: Path) -> Drawn:
        """Writes what was found of each prompt, and the scores themselves where nothing else holds them.

        Raises:
            FrameError: For a bad frame, if ``on_bad_frame=fail``.
            DataError: The same.
            OutputError: If a file can't be written.
        """


class Frames:
    """The frames of a run.

    Args:
        cfg: of the query.
        store: their features.

    Raises:
        DataError: If there is no such scene, or the pictures are needed and not there.
    """

    noun = "frame"

    def __init__(self, cfg: QueryConfig, store: FeatureStore):
        self.run = store
        self.model = store.model
        self.keys: list[Key] = [(s, frame_id) for s in cfg.scenes or store.scenes for frame_id in store.frames(s)]
        self.failed: dict[Key, str] = {}
        self._cfg = cfg
        self._workers = cfg.num_workers or usable_cores()
        self._pixels = pixel_features(store)
        self._scans = None
        if cfg.heatmaps != "none":
            self._scans = Scans(store, read_run_config(store.folder, cfg.data_root).data)

    @property
    def weights_from(self) -> WeightsFrom:
        """As the run's configuration says it."""
        return _weights_from(self.run)

    def ask(self, prompts: Prompts) -> Iterator[Answer]:
        """Compares the features of each frame."""

        def compare(key: Key) -> Answer | None:
            features, _ = self._pixels.everywhere(_frame(key))
            return _answer(key, prompts.scores(features))

        return self._each(self.keys, compare, "comparing")

    def draw(self, prompts: Prompts, found: Sequence[Found], folder: Path) -> Drawn:
        """Draws heat maps, and a contact sheet a prompt."""
        if self._scans is None:
            return Drawn([[] for _ in found])
        return Drawn([self._draw(self._scans, prompts, one, folder) for one in found])

    def _draw(self, scans: Scans, prompts: Prompts, found: Found, folder: Path) -> list[str]:
        painter = ScorePainter(found.prompt, found.limits, prompts.score, notes(prompts, self.model), self._cfg.dpi)
        best = {answer.key: float(answer.best[found.index]) for answer in found.ranked}
        shown = list(best) if self._cfg.heatmaps == "all" else list(best)[: self._cfg.top]

        def scored(key: Key) -> tuple[Key, ScoredFrame]:
            frame = scans.load(*_frame(key))
            features, uv = self._pixels.everywhere(_frame(key))
            small = thumbnail(frame.image)
            to_small = resize_affine((frame.picture.width, frame.picture.height), (small.shape[1], small.shape[0]))
            scores = prompts.scores(features)[:, found.index]
            painted = painter.paint(small, uv @ to_small[:, :2].T + to_small[:, 2], scores)
            place = self._cfg.example.place if key == (self._cfg.example.scene, self._cfg.example.frame) else []
            corners = np.reshape(place, (-1, 2)) @ to_small[:, :2].T + to_small[:, 2]
            return key, ScoredFrame(f"{key[0]} · frame {key[1]}", small, painted, best[key], corners)

        names: list[str] = []
        of_sheet: list[ScoredFrame] = []
        for (scene_id, frame_id), frame in self._each(shown, scored, f"drawing {found.prompt}"):
            names.append(f"{found.folder}/{scene_id}_{frame_id}.png")
            save_png(painter.heat_map(frame), folder / names[-1])
            if len(of_sheet) < self._cfg.top:
                of_sheet.append(frame)
        if of_sheet:
            names.insert(0, f"{found.folder}/best.png")
            save_png(painter.sheet(of_sheet), folder / names[0])
        return names

    def _each(self, keys: Sequence[Key], work: Callable[[Key], Result | None], doing: str) -> Iterator[Result]:
        """What ``work`` makes of each of the keys, in order, with a bar; what can't be used is noted, or ends it."""

        def attempt(key: Key) -> Result | FrameError | DataError | None:
            try:
                return work(key)
            except (FrameError, DataError) as error:
                return error

        with (
            closing(prefetch(attempt, keys, self._workers, ahead=self._workers + 1)) as results,
            progress_bar(len(keys), "frame", doing) as bar,
        ):
            for key, result in zip(keys, results, strict=True):
                if isinstance(result, FrameError | DataError):
                    if self._cfg.on_bad_frame == "fail":
                        raise result
                    self.failed[key] = str(result)
                elif result is not None:
                    yield result
                bar.update()


class FusedScenes:
    """Scenes that clipfeat-fuse has written. One that can't be read is an error: there are few.

    Args:
        cfg: of the query.
        files: by scene.

    Attributes:
        files: by scene those that are asked.

    Raises:
        DataError: If there is no such scene, or the files are of different models.
    """

    noun = "scene"

    def __init__(self, cfg: QueryConfig, files: dict[str, Path]):
        missing = [scene_id for scene_id in cfg.scenes if scene_id not in files]
        if missing:
            raise DataError(f"{cfg.store}: holds no fused scene {missing[0]}, but {', '.join(files)}")
        self._cfg = cfg
        self.files = {scene_id: path for scene_id, path in files.items() if scene_id in (cfg.scenes or files)}
        self.keys: list[Key] = [(scene_id, None) for scene_id in self.files]
        self.failed: dict[Key, str] = {}
        metas = {path: read_meta(path) for path in self.files.values()}
        models = {path: dict(meta.get("model") or {}) for path, meta in metas.items()}
        self.model = next(iter(models.values()))
        self._told = next(iter(metas.values())).get("weights_from")  # of maps, which are of no run
        for path, model in models.items():
            if differing := different_keys(self.model, model):
                raise DataError(
                    f"{path}: features of another model than the other scenes, which differs in "
                    f"{'; '.join(differing)}; name the scenes that belong together, as scenes=[…]"
                )

    @property
    def run(self) -> FeatureStore:
        """The run that was fused."""
        folder = next(iter(self.files.values())).parent
        if self._told and not self._cfg.run:
            raise DataError(f"{folder}: maps of clipfeat-map keep no frames; give a run of the same scans, as run=…")
        try:
            path = self._cfg.run or read_config(folder)["store"]
            store = FeatureStore(path)
        except (KeyError, OutputError) as error:
            raise DataError(
                f"{folder}/config.yaml: does not say which run was fused; give its folder, as run=…"
            ) from error
        except DataError as error:
            raise DataError(f"{error} (the run that was fused; if it is elsewhere now, say so by run=…)") from error
        if differing := different_keys(self.model, store.model):
            raise DataError(f"run={path}: of another model than the fused scenes, in {'; '.join(differing)}")
        return store

    @property
    def weights_from(self) -> WeightsFrom:
        """As the files say it, or the configuration of the run that was fused."""
        return WeightsFrom(**self._told) if self._told else _weights_from(self.run)

    def ask(self, prompts: Prompts) -> Iterator[Answer]:
        """Compares the features of all points that a frame sees, a scene at a time."""
        for scene_id, fused in self._each("comparing"):
            answer = _answer((scene_id, None), prompts.scores(fused.pts_feat[fused.seen]))
            if answer is not None:
                yield answer

    def draw(self, prompts: Prompts, found: Sequence[Found], folder: Path) -> Drawn:
        """Writes a PLY of each scene a prompt, with its scores and their colours, and all scores as one npz a scene."""
        drawn = Drawn([[] for _ in found])
        for scene_id, fused in self._each("drawing"):
            scores = prompts.scores(fused.pts_feat)
            drawn.scores.append(f"{SCORES}/{scene_id}.npz")
            meta = {"scene_id": scene_id, "prompts": list(prompts.names), **prompts.describe(), "model": self.model}
            arrays: dict[str, NDArray[Any]] = {"scores": scores, "pts_idx": fused.points.idx, "views": fused.views}
            write_arrays(folder / drawn.scores[-1], "npz", arrays, meta)
            for one, names in zip(found, drawn.of_prompts, strict=True):
                rgb = score_rgb(scores[:, one.index], one.limits)
                rgb[~fused.seen] = UNSEEN
                comments = [
                    f"clipfeat: {scene_id}, {one.prompt}",
                    "colours from {:.4f} to {:.4f}, grey where no frame sees the point".format(*one.limits),
                    *(note.replace(" · ", ", ") for note in notes(prompts, self.model)),
                ]
                names.append(f"{one.folder}/{scene_id}.ply")
                values = {"score": scores[:, one.index]}
                write_ply(folder / names[-1], fused.points.xyz, rgb, fused.faces, comments, values)
        return drawn

    def _each(self, doing: str) -> Iterator[tuple[str, FusedScene]]:
        with progress_bar(len(self.files), "scene", doing) as bar:
            for scene_id, path in self.files.items():
                yield scene_id, read_fused(path)
                bar.update()


def open_source(cfg: QueryConfig) -> Source:
    """What ``store=…`` names: a run's folder, one of clipfeat-fuse, or a file of it.

    Raises:
        DataError: If it is none of them.
    """
    path = Path(cfg.store)
    # A run has no npz in its own folder: its scenes have folders of theirs.
    fused = {file.stem: file for file in ([path] if path.is_file() else sorted(path.glob("*.npz")))}
    source: Source = FusedScenes(cfg, fused) if fused else Frames(cfg, FeatureStore(path))
    if not {"arch", "head", "weights", "weights_sha256"} <= source.model.keys():
        raise DataError(f"{path}: its files do not say which model made them; extract again")
    return source


def notes(prompts: Prompts, model: dict[str, Any]) -> tuple[str, str]:
    """How the scores were made, and of which features."""
    about = prompts.describe()
    against = f" against {', '.join(prompts.other_names)}" if prompts.other_names else ""
    numbers = [f"{key} {about[key]:g}" for key in ("temperature", "bias") if about[key] is not None]
    return " · ".join([f"score: {prompts.score}{against}", *numbers]), model_note(model)


def _weights_from(store: FeatureStore) -> WeightsFrom:
    run = read_run_config(store.folder)
    return WeightsFrom(run.model.arch, run.model.pretrained, run.seed)


def _answer(key: Key, scores: NDArray[np.float32]) -> Answer | None:
    if len(scores) == 0:
        return None
    return Answer(key, len(scores), best_mean(scores), scores.max(axis=0), scores.mean(axis=0, dtype=np.float64))


def _frame(key: Key) -> tuple[str, int]:
    scene_id, frame_id = key
    if frame_id is None:
        raise TypeError(f"{scene_id}: a frame was expected")
    return scene_id, frame_id
