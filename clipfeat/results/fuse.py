"""All frames of a scene merged onto its mesh, or onto the voxels that they measured: ``clipfeat-fuse``."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from clipfeat.data.base import read_scenes_file
from clipfeat.data.selection import FrameKey
from clipfeat.errors import DataError, FrameError, tell_how_far
from clipfeat.extraction.scans import read_run_config
from clipfeat.output.files import read_meta
from clipfeat.output.fused import FusedScene, read_fused, write_fused, write_openscene
from clipfeat.output.ply import UNSEEN, write_ply
from clipfeat.output.run_folder import (
    check_config,
    different_keys,
    make_writable,
    read_config,
    remove_files,
    write_config,
)
from clipfeat.output.store import FeatureStore
from clipfeat.results.config import FuseConfig
from clipfeat.results.fused_points import choose_points, mesh_pattern
from clipfeat.results.scene_picture import scene_picture, up_axis
from clipfeat.results.views import build_views
from clipfeat.sampling.config import MeshSamplingConfig, PointsConfig
from clipfeat.sampling.merge import BestViews, ViewMerger
from clipfeat.sampling.point_files import read_faces
from clipfeat.sampling.points import scene_points
from clipfeat.sampling.voxels import VoxelCloud
from clipfeat.system.atomic import remove_leftovers
from clipfeat.system.shards import usable_cores
from clipfeat.system.streaming import prefetch
from clipfeat.types import FloatArray, Points
from clipfeat.vis.pca import fit_pca_colors
from clipfeat.vis.pictures import save_png

log = logging.getLogger(__name__)

Result = TypeVar("Result")

LOW_SEEN_SHARE = 0.5

_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} frames [{elapsed}<{remaining}, {rate_fmt}]"

_COLORED = 10_000
"""Points that colours are fitted to, and that are coloured at a time: of all points at once, the float64 copies would
take more memory than the fusion."""


def fuse(cfg: FuseConfig, scenes: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs ``clipfeat-fuse``.

    Args:
        cfg: what to run.
        scenes: in place of those of ``cfg.scenes_file``; such as the store does not hold are left out. Other processes
            may fuse the others into the same folder.

    Returns:
        ``scenes``: by name the meta of each that is done, now or before; ``failed``: by name why the others are not;
        ``fused``, ``bytes`` and ``seconds``: scenes, bytes and seconds of this run.

    Raises:
        ClipfeatError: On anything that the user can mend; what was written before stays.
    """
    begin = time.perf_counter()
    store = FeatureStore(cfg.store)
    run = read_run_config(store.folder, cfg.data_root)
    folder = Path(cfg.output_dir or store.folder / "fused")
    asked, cfg = cfg, replace(cfg, points=choose_points(cfg, run, store.scenes))
    if asked.points == "auto" and cfg.points == "voxel":
        log.warning(
            "no scene has a mesh (%s): fusing onto voxels of %g m; points_file=…/{scene}….ply says where meshes are",
            mesh_pattern(cfg, run), cfg.voxel_size,
        )  # fmt: skip
    replaced = store.scenes  # by resume=overwrite
    if scenes is not None:
        replaced = scenes = [scene_id for scene_id in scenes if scene_id in store.scenes]
    else:
        scenes = read_scenes_file(Path(cfg.scenes_file)) if cfg.scenes_file else store.scenes
    frames = {scene_id: store.frames(scene_id) for scene_id in scenes}
    made_of = read_config(store.folder)  # where the scans were, and not where they are now
    how = asdict(cfg) | {"model": store.model, "camera": made_of["camera"], "sampling": made_of["sampling"]}
    _claim(folder, replaced, how, overwrite=cfg.resume == "overwrite")
    done = {s: meta for s in scenes if (meta := _meta_if_done(folder, s, frames[s], how)) is not None}
    todo = [scene_id for scene_id in scenes if scene_id not in done]
    log.info("%d scenes to fuse, %d done already, into %s", len(todo), len(done), folder)
    failed: dict[str, str] = {}
    written = 0
    try:
        written += sum(_write_formats(folder, scene_id, cfg.formats) for scene_id in done)
        if todo:  # or the scans need not be there
            fuser = SceneFuser(cfg, store, run)
            written += _fuse_scenes(fuser, {scene_id: frames[scene_id] for scene_id in todo}, folder, how, done, failed)
    except BaseException as error:
        tell_how_far(error, len(done), len(scenes), folder, overwrite=cfg.resume == "overwrite", unit="scenes")
        raise
    seconds = round(time.perf_counter() - begin, 3)
    summary = {"scenes": done, "failed": failed, "fused": len(todo) - len(failed), "bytes": written, "seconds": seconds}
    log.info("%s", summary_table(summary))
    for warning in warnings_of(summary):
        log.warning("WARNING %s", warning)
    if not done:
        raise DataError(f"all {len(failed)} scenes failed; the first: {next(iter(failed.values()))}")
    return summary


def _fuse_scenes(
    fuser: "SceneFuser",
    frames: dict[str, list[int]],
    folder: Path,
    how: dict[str, Any],
    done: dict[str, dict[str, Any]],
    failed: dict[str, str],
) -> int:
    """Fuses and writes scene after scene, puts the meta of each into ``done`` or why not into ``failed``; the bytes."""
    written = 0
    total = sum(map(len, frames.values()))
    with logging_redirect_tqdm(), tqdm(total=total, unit="frame", bar_format=_BAR, disable=None) as bar:
        for scene_id, frame_ids in frames.items():
            bar.set_description(scene_id)
            try:
                # A frame that is gone through twice is done when it has been gone through twice.
                fused = fuser(scene_id, frame_ids, lambda frames: bar.update(frames / fuser.passes))
            except DataError as error:
                if fuser.cfg.on_bad_frame == "fail":
                    raise
                failed[scene_id] = str(error)
                continue
            fused.meta.update(how)
            written += _write_scene(folder, fused, fuser.cfg.formats)
            done[scene_id] = fused.meta
            del fused  # or two scenes would be in memory
            if bar.disable:
                log.info("%s: %s", scene_id, _in_short(done[scene_id]))
    return written


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
        points, faces = (
            self._mesh(scene_id) if self.cfg.points == "mesh" else (self._voxels(scene_id, frames, good), None)
        )
        view_of = self._views.of(points)
        best = None if self.cfg.best_views is None else BestViews(len(points.xyz), self.cfg.best_views)
        if best is not None:
            for number, view in good.each(view_of):
                best.add(number, view.rows, view.weight)
        merger = None
        for number, view in good.each(view_of):
            merger = merger or ViewMerger(len(points.xyz), view.channels)
            view.add_to(merger, None if best is None else best.chosen(number, view.rows))
        if merger is None or not merger.views.any():
            why = next(iter(good.failed.values()), "the points lie where no frame looks, or behind what it measured")
            raise DataError(f"{scene_id}: none of its {len(frames)} frames sees a point of it ({why})")
        pts_feat = self._views.finish(merger.mean, view)
        pts_feat[merger.views == 0] = 0
        seen = merger.views > 0
        return FusedScene(
            points=points,
            pts_feat=_as_stored(scene_id, pts_feat, self.cfg.dtype),
            views=merger.views,
            weight=merger.weight.astype(np.float32),
            faces=faces,
            meta={
                "scene_id": scene_id,
                "frames": [frame_id for frame_id in frames if frame_id not in good.failed],
                "failed": [{"frame_id": frame_id, "why": why} for frame_id, why in good.failed.items()],
                "num_points": len(seen),
                "num_seen": int(seen.sum()),
                "up": up_axis(
                    [self._store.meta(scene_id, frame)["cam_to_world"] for frame in frames[:: 1 + len(frames) // 20]]
                ),
                "mean_views": round(float(merger.views[seen].mean()), 3),
                "seconds": round(time.perf_counter() - begin, 3),
            },
        )

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


def pca_rgb(fused: FusedScene) -> NDArray[np.uint8]:
    """Colours (N, 3) of a scene's points: the principal components of the features; grey where nothing is seen."""
    rgb = np.full((len(fused.views), 3), UNSEEN, np.uint8)
    rows = np.flatnonzero(fused.seen)
    fitted = np.random.default_rng(0).permutation(rows)[:_COLORED]
    colors = fit_pca_colors(fused.pts_feat[fitted])
    for begin in range(0, len(rows), _COLORED):
        some = rows[begin : begin + _COLORED]
        rgb[some] = np.round(255 * colors.colors(fused.pts_feat[some]))
    return rgb


def _write_pca_ply(path: Path, fused: FusedScene) -> int:
    model = fused.meta["model"]
    comments = [
        f"clipfeat: {fused.meta['scene_id']}, features in PCA colours, grey where no frame sees the point",
        f"{model['arch']} {model['head']} weights={model['weights']}",
    ]
    return write_ply(path, fused.points.xyz, pca_rgb(fused), fused.faces, comments)


def _write_png(path: Path, fused: FusedScene) -> int:
    up = fused.meta.get("up") or up_axis([])
    picture = scene_picture(fused.points.xyz, pca_rgb(fused), up, fused.points.xyz[fused.seen])
    save_png(picture, path)
    return path.stat().st_size


FORMATS: dict[str, tuple[str, Callable[[Path, FusedScene], int]]] = {
    "openscene": ("_0.pt", lambda path, fused: write_openscene(path, fused.pts_feat, fused.seen)),
    "ply": (".ply", _write_pca_ply),
    "png": (".png", _write_png),
}
"""What can be written of a fused scene beside its npz: how its name ends, and what writes it."""


def _scene_path(folder: Path, scene_id: str, ending: str = ".npz") -> Path:
    return folder / f"{scene_id}{ending}"


def _write_scene(folder: Path, fused: FusedScene, formats: Sequence[str]) -> int:
    """Writes a scene in all formats and returns the bytes."""
    scene_id = fused.meta["scene_id"]
    # What was made of an earlier npz must not stand beside a new one.
    remove_files(_scene_path(folder, scene_id, ending) for ending, _ in FORMATS.values())
    size = write_fused(_scene_path(folder, scene_id), fused)
    return size + _write_formats(folder, scene_id, formats, fused)


def _write_formats(folder: Path, scene_id: str, formats: Sequence[str], fused: FusedScene | None = None) -> int:
    """Writes what is not there yet and returns the bytes; the scene is read only if it is needed."""
    written = 0
    for ending, write in (FORMATS[name] for name in formats):
        path = _scene_path(folder, scene_id, ending)
        if not path.is_file():
            fused = fused or read_fused(_scene_path(folder, scene_id))
            written += write(path, fused)
    return written


def _claim(folder: Path, scenes: Sequence[str], how: dict[str, Any], *, overwrite: bool) -> None:
    """Writes ``config.yaml``, unless the folder holds scenes that were fused in another way."""
    make_writable(folder, "output_dir")
    remove_leftovers([folder])
    if overwrite:
        _remove_scenes(folder, scenes)
    else:
        check_config(folder, how)
    write_config(folder, how)


def remove_fused(cfg: FuseConfig, scenes: Sequence[str]) -> None:
    """Takes away what was written of some scenes, and of which configuration it was.

    Raises:
        OutputError: If a file can't be removed.
    """
    folder = Path(cfg.output_dir or Path(cfg.store) / "fused")
    _remove_scenes(folder, scenes)
    remove_files([folder / "config.yaml"])


def _remove_scenes(folder: Path, scenes: Sequence[str]) -> None:
    endings = [".npz", *(ending for ending, _ in FORMATS.values())]
    remove_files(_scene_path(folder, scene_id, ending) for scene_id in scenes for ending in endings)


def _meta_if_done(folder: Path, scene_id: str, frames: Sequence[int], how: dict[str, Any]) -> dict[str, Any] | None:
    """What a scene's file says, if it was fused in the same way and of the frames that the store has now."""
    try:
        meta = read_meta(_scene_path(folder, scene_id))
        fused_of = meta["frames"] + [failure["frame_id"] for failure in meta["failed"]]
    except (DataError, KeyError):
        return None
    same = sorted(fused_of) == list(frames) and not different_keys({key: meta.get(key) for key in how}, how)
    return meta if same else None


def _in_short(*metas: dict[str, Any]) -> str:
    points, seen = sum(meta["num_points"] for meta in metas), sum(meta["num_seen"] for meta in metas)
    views = sum(meta["mean_views"] * meta["num_seen"] for meta in metas) / max(seen, 1)
    return f"{points} points, {100 * seen / max(points, 1):.1f} % seen, in {views:.1f} views on average"


def summary_table(summary: dict[str, Any]) -> str:
    """The few lines that end a run."""
    metas = list(summary["scenes"].values())
    frames, bad = sum(len(meta["frames"]) for meta in metas), sum(len(meta["failed"]) for meta in metas)
    rows = [
        ("scenes", f"{len(metas)} done ({summary['fused']} now), {len(summary['failed'])} failed"),
        ("frames", f"{frames} fused, {bad} skipped"),
        ("points", _in_short(*metas)),
        ("size", f"{summary['bytes'] / 1e6:.1f} MB written"),
        ("time", f"{summary['seconds']:.1f} s"),
    ]
    if metas:
        rows.append(("weights", "{weights} ({weights_sha256}), head {head}".format(**metas[0]["model"])))
    return "\n".join(f"  {name:<16} {value}" for name, value in rows)


def warnings_of(summary: dict[str, Any]) -> list[str]:
    """What a user should look at before trusting the features."""
    found = []
    for scene_id, meta in summary["scenes"].items():
        share = meta["num_seen"] / meta["num_points"]
        if share < LOW_SEEN_SHARE:
            found.append(
                f"{scene_id}: only {share:.0%} of its points are seen by any of its {len(meta['frames'])} frames; few "
                f"frames, few stored points, a mesh in other axes than the poses, or a wrong K look like this"
            )
    failures = [f"{scene_id}: {why}" for scene_id, why in summary["failed"].items()]
    failures += [
        f"{scene_id} frame {failure['frame_id']}: {failure['why']}"
        for scene_id, meta in summary["scenes"].items()
        for failure in meta["failed"]
    ]
    found += [f"failed: {line}" for line in failures[:5]]
    found += [f"… and {len(failures) - 5} more, in the meta of the scenes' files"] if len(failures) > 5 else []
    return found
