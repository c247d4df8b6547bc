"""Whole scenes as files that other projects read, and pictures of them: of clipfeat-fuse, or asked by clipfeat-query.

What OpenLex3D and ConceptGraphs read was looked up in their code: github.com/openlex3d/openlex3d 3dbad2b
openlex3d/core/io.py, github.com/concept-graphs/concept-graphs 5c4da70 conceptgraph/slam/slam_classes.py.
"""

import gzip
import io
import json
import logging
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipfeat.errors import DataError
from clipfeat.mapping.scene_colors import pca_rgb
from clipfeat.output.files import read_arrays
from clipfeat.output.folders import read_config, read_json
from clipfeat.output.fused import FusedScene, read_fused, write_openscene
from clipfeat.output.glb import write_glb
from clipfeat.output.ply import UNSEEN
from clipfeat.queries.answers import SCORES, FusedScenes, open_source
from clipfeat.queries.config import QueryConfig
from clipfeat.results.config import ExportConfig
from clipfeat.system.atomic import atomic_file
from clipfeat.system.pcd import write_pcd
from clipfeat.vis.build import model_note
from clipfeat.vis.directions import unit_directions
from clipfeat.vis.pictures import save_png
from clipfeat.vis.scene_picture import scene_picture, up_axis
from clipfeat.vis.scores import score_rgb

log = logging.getLogger(__name__)

File = tuple[Path, Callable[[], int]]
"""A file that is to be, and what writes it and returns its bytes."""

OBJECTS = ("instance", "object_id")
"""What the objects of points are called, the first one that is there."""

_TURNS, _TURN_WIDTH, _TURN_MS = 36, 640, 100
"""Pictures of a turntable, their width in pixels, and how long each is shown."""

_LEAST_POINTS, _LEAST_VOLUME = 5, 1e-6
"""Of an object, in points and in m³ of its box: ConceptGraphs keeps no smaller ones."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A scene in colours.

    Attributes:
        fused: the scene.
        rgb: (N, 3) of its points.
        scores: (N,) of its points, of an answer.
        about: what the colours are.
    """

    fused: FusedScene
    rgb: NDArray[np.uint8]
    scores: NDArray[np.float32] | None
    about: dict[str, Any]

    @property
    def up(self) -> list[float]:
        """Where up is in the world."""
        return list(self.fused.meta.get("up") or up_axis([]))


class FusedStore:
    """Scenes of clipfeat-fuse.

    Args:
        path: their folder, or one file of it.

    Raises:
        DataError: If the files are no fused scenes, or of different models.
    """

    noun = "fused scenes"

    def __init__(self, path: str):
        source = open_source(QueryConfig(path, heatmaps="none"))
        if not isinstance(source, FusedScenes):
            raise DataError(f"store={path}: holds no fused scenes")
        self.files, self.model = source.files, source.model
        folder = next(iter(self.files.values())).parent
        self.config = read_config(folder) if (folder / "config.yaml").is_file() else {}

    def shown(self) -> Iterator[tuple[str, Callable[[], Shown]]]:
        """Each scene in PCA colours: its name, and what reads it."""
        yield from ((scene_id, partial(_in_pca_colors, path)) for scene_id, path in self.files.items())


class AskedStore:
    """Answers of clipfeat-query about fused scenes.

    Args:
        path: the query's output_dir.

    Raises:
        DataError: If they are of frames, or the fused scenes are not where they were.
    """

    noun = "answers of clipfeat-query"

    def __init__(self, path: str):
        self._folder = Path(path)
        report = read_json(self._folder / "query.json")
        if "scenes" not in report or not report.get("scores"):
            raise DataError(f"{path}: answers about frames, which are pictures already; ask fused scenes for others")
        try:
            self.model, self._prompts = dict(report["model"]), report["prompts"]
            self.config = {key: report[key] for key in ("score", "against", "temperature", "templates")}
            fused = FusedStore(report["store"])
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}/query.json: damaged ({error}); ask again") from error
        except DataError as error:
            raise DataError(f"{error} (the fused scenes that were asked; ask again where they are now)") from error
        self.files = {scene: path for scene, path in fused.files.items() if self._scores(scene).is_file()}
        self.config |= {"prompts": [prompt["prompt"] for prompt in self._prompts]}

    def shown(self) -> Iterator[tuple[str, Callable[[], Shown]]]:
        """Each scene a prompt in the scores' colours: ``<prompt>/<scene>``, and what reads it."""
        for index, prompt in enumerate(self._prompts):
            for name in prompt["files"]:
                place = Path(name).with_suffix("")
                if place.name in self.files:
                    yield str(place), partial(self._in_score_colors, place.name, index, prompt)

    def _scores(self, scene_id: str) -> Path:
        return self._folder / SCORES / f"{scene_id}.npz"

    def _in_score_colors(self, scene_id: str, index: int, prompt: dict[str, Any]) -> Shown:
        fused, (arrays, meta) = read_fused(self.files[scene_id]), read_arrays(self._scores(scene_id))
        scores = arrays["scores"]
        if len(scores) != len(fused.seen) or meta["prompts"][index] != prompt["prompt"]:
            raise DataError(
                f"{self._scores(scene_id)}: of other points or prompts than {self.files[scene_id]}; ask again"
            )
        low, high = prompt["limits"]
        rgb = score_rgb(scores[:, index], (low, high))
        rgb[~fused.seen] = UNSEEN
        about = {"scene_id": scene_id, "prompt": prompt["prompt"], "limits": [low, high], "score": meta["score"]}
        return Shown(fused, rgb, scores[:, index], about | {"weights": self.model["weights"]})


def _in_pca_colors(path: Path) -> Shown:
    fused = read_fused(path)
    about = {"scene_id": fused.meta["scene_id"], "colours": "PCA", "weights": fused.meta["model"]["weights"]}
    return Shown(fused, pca_rgb(fused.pts_feat, fused.seen), None, about)


class _FusedExporter:
    """Files of each fused scene; see ``export.Exporter``.

    Args:
        store: of fused scenes.
        cfg: where the files go.

    Attributes:
        name: of a scene's file, or of the one that is written last.
    """

    unit = "scene"
    name = ""

    def __init__(self, store: FusedStore, cfg: ExportConfig):
        self.folder = Path(cfg.output_dir)
        self._store = store

    def files(self) -> list[File]:
        """See ``export.Exporter``."""
        paths = {scene_id: self.folder / self.name.format(scene=scene_id) for scene_id in self._store.files}
        return [(path, partial(self._write, path, self._store.files[scene_id])) for scene_id, path in paths.items()]

    def _write(self, path: Path, source: Path) -> int:
        raise NotImplementedError


class OpenLex3DExporter(_FusedExporter):
    """``<scene>/embeddings.npy`` (M, C) float32, ``index.npy`` (M,) int64 and ``point_cloud.pcd``, as OpenLex3D reads.

    They hold the M points that a frame sees; each is an object of its own, as of a dense method.
    """

    name = "{scene}/index.npy"

    def _write(self, path: Path, source: Path) -> int:
        fused = read_fused(source)
        if not fused.seen.any():
            raise DataError(f"{source}: no frame sees a point of it")
        xyz = fused.points.xyz[fused.seen]
        size = write_pcd(path.with_name("point_cloud.pcd"), xyz, _rgb(fused)[fused.seen])
        size += _write_npy(path.with_name("embeddings.npy"), fused.pts_feat[fused.seen].astype(np.float32))
        return size + _write_npy(path, np.arange(len(xyz)))


class ConceptGraphsExporter(_FusedExporter):
    """``<scene>.pkl.gz``, a map of objects as ConceptGraphs' ``MapObjectList.load_serializable`` reads it.

    A dictionary ``objects``, ``bg_objects`` (None), ``cfg`` (empty), ``class_names``, ``class_colors``. An object has
    ``clip_ft`` (C,) float32, the direction of the mean of its points' directions; ``text_ft`` (C,), zeros; ``pcd_np``
    (n, 3) metres; ``pcd_color_np`` (n, 3) from 0 to 1; ``bbox_np`` (8, 3), the corners of its box along the axes;
    ``num_detections``, the most frames that see one of its points; ``class_id`` and ``class_name``, all "item", as of
    ConceptGraphs' class-agnostic maps; and ``inst_color`` (3,). The pickle holds NumPy's arrays and Python's own types.
    The points of the fused scenes must bear ``instance`` (or ``object_id``).
    """

    name = "{scene}.pkl.gz"

    def _write(self, path: Path, source: Path) -> int:
        fused = read_fused(source)
        ids = next((fused.points.attributes[name] for name in OBJECTS if name in fused.points.attributes), None)
        if ids is None:
            raise DataError(
                f"{source}: its points bear no {' or '.join(OBJECTS)}, and a map of ConceptGraphs is one of objects; "
                f"fuse with a labels_file that has instances"
            )
        objects = [
            made for one in np.unique(ids[fused.seen]) if one > 0 and (made := _object(fused, ids == one, int(one)))
        ]
        if not objects:
            raise DataError(f"{source}: none of its objects has {_LEAST_POINTS} points that a frame sees")
        found = {
            "objects": objects,
            "bg_objects": None,
            "cfg": {},
            "class_names": ["item"],
            "class_colors": {"0": [0.5, 0.5, 0.5]},
        }
        with atomic_file(path) as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
            _PlainPickler(packed, protocol=4).dump(found)
        return path.stat().st_size


class _PlainPickler(pickle.Pickler):
    """Writes arrays by ``numpy.ndarray`` itself: NumPy's own way names a module that NumPy 1 and 2 call differently."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is np.ndarray:
            return np.ndarray, (obj.shape, obj.dtype.str, bytearray(np.ascontiguousarray(obj).tobytes()))
        return NotImplemented


def _object(fused: FusedScene, among: NDArray[np.bool_], number: int) -> dict[str, Any] | None:
    rows = np.flatnonzero(among & fused.seen)
    xyz = fused.points.xyz[rows]
    low, high = (xyz.min(0), xyz.max(0)) if len(rows) else (np.zeros(3), np.zeros(3))
    if len(rows) < _LEAST_POINTS or np.prod(high - low) < _LEAST_VOLUME:
        return None
    corners = np.stack(np.meshgrid(*np.stack([low, high], 1), indexing="ij"), -1).reshape(8, 3)
    mean = unit_directions(unit_directions(fused.pts_feat[rows]).mean(axis=0, keepdims=True))[0]
    return {
        "clip_ft": mean,
        "text_ft": np.zeros_like(mean),
        "pcd_np": xyz,
        "pcd_color_np": _rgb(fused)[rows] / 255.0,
        "bbox_np": corners,
        "num_detections": int(fused.views[rows].max()),
        "class_id": [0],
        "class_name": ["item"],
        "inst_color": np.random.default_rng(number).random(3),
    }


def _rgb(fused: FusedScene) -> NDArray[np.uint8]:
    """The points' own colours (N, 3), grey where none are known."""
    rgb = fused.points.attributes.get("rgb")
    return rgb if rgb is not None else np.full((len(fused.seen), 3), UNSEEN, np.uint8)


def _write_npy(path: Path, array: NDArray[Any]) -> int:
    with atomic_file(path) as file:
        np.save(file, array, allow_pickle=False)
    return path.stat().st_size


class OpenSceneFusedExporter(_FusedExporter):
    """``<scene>_0.pt``, as OpenScene reads fused features: ``{"feat": half (M, C), "mask_full": bool (N,)}``."""

    name = "{scene}_0.pt"

    def _write(self, path: Path, source: Path) -> int:
        fused = read_fused(source)
        return write_openscene(path, fused.pts_feat, fused.seen)


class ShownExporter:
    """A scene in colours: ``.glb`` (glTF), ``.png`` (a picture) or ``.gif`` (the camera goes around it).

    Of fused scenes ``<scene>…`` in PCA colours, of answers ``<prompt>/<scene>…`` in the scores' colours; a glTF then
    has the scores as ``_SCORE``. None needs a display.

    Args:
        store: of fused scenes, or of answers.
        cfg: which of them, and where the files go.
    """

    unit = "file"

    def __init__(self, store: "FusedStore | AskedStore", cfg: ExportConfig):
        self.folder = Path(cfg.output_dir)
        self._store = store
        self._suffix, self._write = SHOWN[cfg.format]

    def files(self) -> list[File]:
        """See ``export.Exporter``."""
        paths = [(self.folder / f"{name}{self._suffix}", read) for name, read in self._store.shown()]
        return [(path, partial(self._write, path, read)) for path, read in paths]


def _write_glb(path: Path, read: Callable[[], Shown]) -> int:
    shown = read()
    values = None if shown.scores is None else {"_SCORE": shown.scores}
    return write_glb(path, shown.fused.points.xyz, shown.rgb, shown.fused.faces, shown.up, values, shown.about)


def _write_png(path: Path, read: Callable[[], Shown]) -> int:
    save_png(_picture(read()), path)
    return path.stat().st_size


def _write_turntable(path: Path, read: Callable[[], Shown]) -> int:
    shown = read()
    turns = np.linspace(0, 2 * np.pi, _TURNS, endpoint=False)
    pictures = [Image.fromarray(_picture(shown, turn=float(turn), width=_TURN_WIDTH)) for turn in turns]
    # One palette for all, or colours would flicker.
    palette = Image.fromarray(np.concatenate([np.asarray(one) for one in pictures[:: _TURNS // 6]])).quantize(256)
    few = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in pictures]
    data = io.BytesIO()
    note = json.dumps(shown.about, ensure_ascii=True)
    few[0].save(data, "GIF", save_all=True, append_images=few[1:], duration=_TURN_MS, loop=0, comment=note)
    with atomic_file(path) as file:
        file.write(data.getbuffer())
    return path.stat().st_size


def _picture(shown: Shown, **view: Any) -> NDArray[np.uint8]:
    xyz, seen = shown.fused.points.xyz, shown.fused.seen
    note = model_note(shown.fused.meta["model"])
    return scene_picture(xyz, shown.rgb, shown.up, xyz[seen], note=note, **view)


SHOWN: dict[str, tuple[str, Callable[[Path, Callable[[], Shown]], int]]] = {
    "glb": (".glb", _write_glb),
    "png": (".png", _write_png),
    "turntable": (".gif", _write_turntable),
}
"""How a file's name ends, and what writes it."""

FUSED_EXPORTERS: dict[str, Callable[[Any, ExportConfig], Any]] = {
    "openscene": OpenSceneFusedExporter,
    "openlex3d": OpenLex3DExporter,
    "conceptgraphs": ConceptGraphsExporter,
    **dict.fromkeys(SHOWN, ShownExporter),
}
ASKED_EXPORTERS: dict[str, Callable[[Any, ExportConfig], Any]] = dict.fromkeys(SHOWN, ShownExporter)


def open_scenes(path: str) -> FusedStore | AskedStore | None:
    """The fused scenes, or the answers about such, that a folder or file holds; None if it is neither.

    Raises:
        DataError: If it is, and can't be used.
    """
    folder = Path(path)
    if (folder / "query.json").is_file():
        return AskedStore(path)
    # A run has no npz in its own folder: its scenes have folders of theirs.
    return FusedStore(path) if folder.is_file() or next(folder.glob("*.npz"), None) is not None else None
