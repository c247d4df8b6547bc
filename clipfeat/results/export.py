"""The features of a run in the files that other projects read: ``clipfeat-export``."""

import io
import json
import logging
import zipfile
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from clipfeat.camera.distortion import lens_array
from clipfeat.errors import ConfigError, DataError, OutputError
from clipfeat.output.columns import Columns
from clipfeat.output.files import SCHEMA_VERSION
from clipfeat.output.folders import claimed, different_keys, make_writable, read_config
from clipfeat.output.fused import write_openscene
from clipfeat.output.grid import GridFrame
from clipfeat.output.store import FeatureStore
from clipfeat.results.config import ExportConfig
from clipfeat.results.export_scenes import ASKED_EXPORTERS, FUSED_EXPORTERS, AskedStore, File, FusedStore, open_scenes
from clipfeat.sampling.merge import ViewMerger
from clipfeat.sampling.point_files import read_points
from clipfeat.sampling.points import check_vertices
from clipfeat.system.atomic import atomic_file, remove_leftovers
from clipfeat.system.shards import usable_cores
from clipfeat.system.streaming import prefetch
from clipfeat.types import Distortion, resize_affine

log = logging.getLogger(__name__)

_SAME_CELL = 1e-3
"""How far a cell's centre may be from where it is in a map of the whole picture, in cells."""


class Exporter(Protocol):
    """One form of files.

    Attributes:
        folder: where they go.
        unit: what each of them is of.
    """

    folder: Path
    unit: str

    def files(self) -> list[File]:
        """All files, and for each what writes it, whole or not at all.

        Raises:
            DataError: If the store can't be listed, or lacks what the form needs.
        """
        ...


class OpenSceneExporter:
    """``<scene>_0.pt``, by the name and in the form that OpenScene's loader of fused features expects.

    ``{"feat": half (M, C), "mask_full": bool (n_points,)}``: of each of the M vertices of the scene's mesh that any
    frame sees, the mean over all frames, weighted by ``conf_2d``.

    Args:
        store: of a run with ``sampling=mesh``.
        cfg: where the meshes are, and where the files go.

    Raises:
        DataError: If the store's points are no vertices, or it is not known where the meshes are.
    """

    unit = "scene"

    def __init__(self, store: FeatureStore, cfg: ExportConfig):
        self.folder = Path(cfg.output_dir)
        self._store = store
        sampling = store.meta(*_first(store)).get("sampling")
        if sampling != "mesh":
            raise DataError(
                f"{store.folder}: holds features at points of sampling={sampling}, and format=openscene takes those at "
                f"the vertices of meshes; extract with sampling=mesh"
            )
        self._pattern = cfg.points_file or _run_config(store).get("sampling", {}).get("points_file")
        if not self._pattern:
            raise DataError(f"{store.folder}: no config.yaml says where the run's meshes are; say it, as points_file=…")

    def files(self) -> list[File]:
        """See ``Exporter``.

        Raises:
            DataError: If a mesh is not there.
        """
        found: list[File] = []
        for scene_id in self._store.scenes:
            mesh, path = Path(self._pattern.replace("{scene}", scene_id)), self.folder / f"{scene_id}_0.pt"
            if not mesh.is_file():
                raise DataError(
                    f"{mesh}: no such file, expected the mesh whose vertices the features of {scene_id} are at; say "
                    f"where the meshes are now, as points_file=…/{{scene}}.ply"
                )
            found.append((path, partial(self._write, path, scene_id, mesh)))
        return found

    def _write(self, path: Path, scene_id: str, mesh: Path) -> int:
        vertices = read_points(mesh).xyz
        merger: ViewMerger | None = None
        for frame_id in self._store.frames(scene_id):
            features = self._store.load(scene_id, frame_id)
            check_vertices(self._store.path(scene_id, frame_id), features, str(mesh), vertices)
            merger = merger or ViewMerger(len(vertices), features.pts_feat.shape[1])
            merger.add_points(features.pts_feat, features.pts_idx, features.conf_2d)
        if merger is None:
            raise DataError(f"{self._store.folder}: the frames of scene {scene_id} went away")
        _check_half(scene_id, merger.mean)
        return write_openscene(path, merger.mean, merger.weight > 0)


class EsamExporter:
    """``clip_feat/<scene>/color/<frame>.pt``, the name that follows from a picture's in ESAM's tree.

    ``{"pix": half (C, h, w), "global": float32 (D,)}``: the map of the whole picture, and what CLIP pools of it.

    Args:
        store: of a run with ``output=grid``.
        cfg: where the files go.

    Raises:
        DataError: If the store keeps no maps, or not of whole pictures.
    """

    unit = "frame"

    def __init__(self, store: FeatureStore, cfg: ExportConfig):
        self.folder = Path(cfg.output_dir) / "clip_feat"
        self._store = store
        first = _first(store)
        _check_whole_picture(store.path(*first), store.map(*first))  # before any work

    def files(self) -> list[File]:
        """See ``Exporter``."""
        found: list[File] = []
        for scene_id in self._store.scenes:
            for frame_id in self._store.frames(scene_id):
                path = self.folder / scene_id / "color" / f"{frame_id}.pt"
                found.append((path, partial(self._write, path, scene_id, frame_id)))
        return found

    def _write(self, path: Path, scene_id: str, frame_id: int) -> int:
        source, grid = self._store.path(scene_id, frame_id), self._store.map(scene_id, frame_id)
        _check_whole_picture(source, grid)
        values, clip_global = self._store.dense(grid).values, grid.feature_map.clip_global
        if clip_global is None:
            raise DataError(f"{source}: has no clip_global, which format=esam needs; extract the frame again")
        _check_half(str(source), values.numpy())
        data = io.BytesIO()
        torch.save({"pix": values.half().contiguous(), "global": clip_global.float()}, data)
        with atomic_file(path) as file:
            file.write(data.getbuffer())
        return len(data.getbuffer())


class SceneExporter:
    """``<scene>.npz`` or ``<scene>.pt``: the points of all F frames of a scene one after another, M in all.

    ``pts_feat`` (M, C), ``uv_idx`` (M, 2), ``conf_2d`` (M,), ``xyz`` (M, 3), ``pts_idx`` (M,) and what the points carry
    along, as in the frames' files. Of the frames, in ascending order: ``frame_id`` (F,) int64, ``offset`` (F,) int64
    (frame f has the rows from ``offset[f - 1]``, or 0, to ``offset[f]``), ``intrinsics`` (F, 3, 3), ``image_size``
    (F, 2) int64 width and height that they belong to, ``cam_to_world`` (F, 4, 4) and ``clip_global`` (F, D); where a
    lens distorts, ``distortion`` (F, 12), see ``clipfeat.types.Distortion``: fisheye (0 or 1), n1 to n4, d1 to d3, p1,
    p2, sx1, sy1. ``meta`` is JSON. A ``.pt`` is a dictionary of tensors, and ``meta`` a string.

    Memory is needed for a frame and not for the scene: a file grows on the disk, which meanwhile needs room for two of
    the largest.

    Args:
        store: of any run.
        cfg: which of the two, the features' type, and where the files go.
    """

    unit = "scene"

    def __init__(self, store: FeatureStore, cfg: ExportConfig):
        self.folder = Path(cfg.output_dir)
        self._store = store
        self._dtype = cfg.dtype
        self._suffix, self._save = _SCENE_FILES[cfg.format]

    def files(self) -> list[File]:
        """See ``Exporter``."""
        paths = {scene_id: self.folder / f"{scene_id}{self._suffix}" for scene_id in self._store.scenes}
        return [(path, partial(self._write, path, scene_id)) for scene_id, path in paths.items()]

    def _write(self, path: Path, scene_id: str) -> int:
        frame_ids = self._store.frame_numbers(scene_id).tolist()
        meta = {"schema_version": SCHEMA_VERSION, "scene_id": scene_id, "model": self._store.model}
        with atomic_file(path) as file, Columns(path.parent) as points, Columns(path.parent) as frames:
            end = 0
            for frame_id in frame_ids:
                rows, of_frame = self._rows(scene_id, frame_id)
                end += len(rows["pts_feat"])
                try:
                    points.add(rows)
                    frames.add(
                        {name: np.asarray(value)[None] for name, value in of_frame.items()}
                        | {"offset": np.array([end])}
                    )
                except ValueError as error:
                    source = self._store.path(scene_id, frame_id)
                    raise DataError(
                        f"{source}: does not fit the scene's other frames ({error}); extract the scene again"
                    ) from error
            self._save(file, points.arrays() | frames.arrays(), json.dumps(meta, allow_nan=False))
        return path.stat().st_size

    def _rows(self, scene_id: str, frame_id: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays of a frame's points, and what there is of the frame itself."""
        features, meta = self._store.load(scene_id, frame_id), self._store.meta(scene_id, frame_id)
        of_frame: dict[str, Any] = {"frame_id": frame_id}
        if "camera" in meta:
            camera = meta["camera"]
            of_frame |= {"intrinsics": camera["intrinsics"], "image_size": [camera["width"], camera["height"]]}
            if "distortion" in camera:
                of_frame["distortion"] = lens_array(Distortion.of_meta(camera["distortion"]))[:-1]
        if "cam_to_world" in meta:
            of_frame["cam_to_world"] = meta["cam_to_world"]
        if features.clip_global is not None:
            of_frame["clip_global"] = features.clip_global
        if self._dtype == "float16":
            _check_half(str(self._store.path(scene_id, frame_id)), features.pts_feat)
        own = {name: getattr(features, name) for name in ("uv_idx", "conf_2d", "xyz", "pts_idx")}
        carried = {name: values for name, values in features.attributes.items() if name not in _OF_FRAMES}
        pts_feat = features.pts_feat.astype(self._dtype or features.pts_feat.dtype, copy=False)
        return carried | {"pts_feat": pts_feat} | own, of_frame


def _save_npz(file: BinaryIO, arrays: dict[str, np.ndarray], meta: str) -> None:
    with zipfile.ZipFile(file, "w") as members:
        for name, array in (arrays | {"meta": np.array(meta)}).items():
            with members.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _save_pt(file: BinaryIO, arrays: dict[str, np.ndarray], meta: str) -> None:
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()} | {"meta": meta}, file)


_SCENE_FILES = {"scene_npz": (".npz", _save_npz), "scene_pt": (".pt", _save_pt)}

_OF_FRAMES = (
    "frame_id", "offset", "intrinsics", "image_size", "distortion", "cam_to_world", "clip_global", "meta",
)  # fmt: skip
"""Names that no array of the points can have in a scene's file; what is called so is left out."""

EXPORTERS: dict[str, Callable[[Any, ExportConfig], Exporter]] = {
    "openscene": OpenSceneExporter,
    "esam": EsamExporter,
    "scene_npz": SceneExporter,
    "scene_pt": SceneExporter,
}


def export(cfg: ExportConfig) -> dict[str, int]:
    """Runs ``clipfeat-export``.

    Files that are there are left, unless ``cfg.resume`` is overwrite. The folder's ``config.yaml`` says what its files
    were made of; those of another run are not mixed with them.

    Returns:
        ``written``, ``there`` (files that were there already) and ``bytes``.

    Raises:
        ClipfeatError: On anything that the user can mend; what was written before stays.
    """
    store: FeatureStore | FusedStore | AskedStore = open_scenes(cfg.store) or FeatureStore(cfg.store)
    exporter = _exporter(store, cfg)
    files = exporter.files()
    make_writable(exporter.folder, "output_dir")
    how = {"format": cfg.format, "features": store.model, "dtype": cfg.dtype}
    config = _run_config(store) if isinstance(store, FeatureStore) else store.config
    _check_folder(exporter.folder, config | how, files, cfg.resume)
    remove_leftovers({path.parent for path, _ in files})
    todo = [write for path, write in files if cfg.resume == "overwrite" or not path.is_file()]
    # Of whole scenes each would be in memory at once.
    workers = cfg.num_workers or (usable_cores() if isinstance(store, FeatureStore) else 1)
    written = 0
    with (
        claimed(exporter.folder, config | how, lambda: any(path.is_file() for path, _ in files)),
        closing(prefetch(_call, todo, workers, ahead=2 * workers)) as sizes,  # an error ends the other files' work too
        logging_redirect_tqdm(),
        tqdm(total=len(todo), unit=exporter.unit, disable=None) as bar,
    ):
        for size in sizes:
            written += size
            bar.update()
    there = len(files) - len(todo)
    log.info(
        "%d %ss written, %.1f MB; %d were there already; in %s",
        len(todo), exporter.unit, written / 1e6, there, exporter.folder,
    )  # fmt: skip
    return {"written": len(todo), "there": there, "bytes": written}


def _exporter(store: FeatureStore | FusedStore | AskedStore, cfg: ExportConfig) -> Exporter:
    """What writes the files of this format of what the store holds.

    Raises:
        ConfigError: If that has no such files.
    """
    noun, exporters = "frames of a run", EXPORTERS
    if not isinstance(store, FeatureStore):
        noun, exporters = store.noun, FUSED_EXPORTERS if isinstance(store, FusedStore) else ASKED_EXPORTERS
    if cfg.format not in exporters:
        more = "; others of fused scenes, which clipfeat-fuse makes" if isinstance(store, FeatureStore) else ""
        raise ConfigError(
            f"format={cfg.format}: {cfg.store} holds {noun}, of which {', '.join(exporters)} can be made{more}"
        )
    made: Exporter = exporters[cfg.format](store, cfg)
    return made


def _call(write: Callable[[], int]) -> int:
    return write()


def _first(store: FeatureStore) -> tuple[str, int]:
    return store.scenes[0], store.frames(store.scenes[0])[0]


def _run_config(store: FeatureStore) -> dict[str, Any]:
    """The configuration of the store's run; empty where it is not beside the features."""
    return read_config(store.folder) if (store.folder / "config.yaml").is_file() else {}


def _check_folder(folder: Path, config: dict[str, Any], files: list[File], resume: str) -> None:
    """Refuses a folder that holds files of something else.

    Raises:
        OutputError: If it is such.
    """
    if (folder / "config.yaml").is_file():
        differing = different_keys(read_config(folder), config)
        if differing and any(_is_exported(path) for path in folder.rglob("*")):
            raise OutputError(
                f"{folder}: holds files of other features, which differ in {'; '.join(differing)}; choose another "
                f"output_dir, or delete that folder"
            )
    elif resume != "overwrite" and (foreign := next((path for path, _ in files if path.is_file()), None)):
        raise OutputError(
            f"{foreign}: is there already, and clipfeat-export did not write it; choose another output_dir, or "
            f"resume=overwrite to replace such files"
        )


def _is_exported(path: Path) -> bool:
    return path.is_file() and path.name != "config.yaml" and not path.name.startswith(".")


def _check_whole_picture(path: Path, grid: GridFrame) -> None:
    """Refuses maps of a part of the picture, or of more: who reads them takes them for the whole.

    Raises:
        DataError: If the map is one.
    """
    height, width = grid.feature_map.values.shape[1:]
    size = (grid.camera.width, grid.camera.height)
    corners = np.array([[0, 0, 1], [size[0], 0, 1], [0, size[1], 1]]).T
    expected = resize_affine(size, (width, height)) @ corners
    if np.abs(grid.feature_map.image_to_map @ corners - expected).max() > _SAME_CELL:
        raise DataError(
            f"{path}: its map is not that of the whole picture, and format=esam has no place to say so; extract with "
            f"model.resize_mode=squash"
        )


def _check_half(what: str, values: NDArray[np.floating]) -> None:
    limit = float(np.finfo(np.float16).max)
    if values.size and not (values.max() <= limit and values.min() >= -limit):
        raise DataError(f"{what}: has features beyond ±{limit:g}, which the float16 of the exported files can't hold")
