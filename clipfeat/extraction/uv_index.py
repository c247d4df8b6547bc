"""The uv index: points, pixels, status and confidence of all frames, written ahead and without a model."""

import dataclasses
import logging
import re
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from clipfeat.data.base import Dataset
from clipfeat.data.layouts import build_dataset
from clipfeat.data.selection import FrameKey, list_frames
from clipfeat.errors import DataError, FrameError, OutputError, process_died, tell_how_far
from clipfeat.extraction.config import ExtractConfig
from clipfeat.output.files import read_arrays, write_arrays, wrong_rows
from clipfeat.output.folders import (
    check_config,
    different_keys,
    holds_another,
    make_writable,
    read_config,
    remove_files,
    scene_files,
    write_config,
)
from clipfeat.output.summary import points_said, status_counts
from clipfeat.sampling.config import PointsConfig
from clipfeat.sampling.locate import Located, Locator, build_locator
from clipfeat.system.atomic import locked, remove_leftovers, sync_to_disk
from clipfeat.system.messages import KeptWarnings, WarningsOnce
from clipfeat.system.processes import FreshContext
from clipfeat.system.shards import this_shard, usable_cores
from clipfeat.system.streaming import end_with_parent, in_order
from clipfeat.types import Frame, Points, PointStatus

log = logging.getLogger(__name__)

_ROWS: dict[str, tuple[int | None, ...]] = {"uv_idx": (2,), "conf_2d": (), "xyz": (3,), "pts_idx": ()}
"""The arrays of the visible points, and the shape of their rows."""

_INDEX_FILE = re.compile(r"uv_\d+\.npz")


def index_path(folder: Path, key: FrameKey) -> Path:
    """Where a frame's part of the index is."""
    return folder / key[0] / f"uv_{key[1]}.npz"


def index_config(cfg: PointsConfig) -> dict[str, Any]:
    """The part of a configuration that shapes the index; it must be the same for the run that uses it."""
    return {name: dataclasses.asdict(getattr(cfg, name)) for name in ("data", "camera", "sampling")} | {
        "seed": cfg.seed
    }


def write_located(folder: Path, key: FrameKey, located: Located) -> None:
    """Writes one frame: of the visible points all that ``Located`` holds, of all points their status.

    Raises:
        OutputError: If it can't be written.
    """
    arrays: dict[str, np.ndarray] = {
        "uv_idx": located.uv_idx,
        "conf_2d": located.conf_2d,
        "xyz": located.points.xyz,
        "pts_idx": located.points.idx,
        "status": located.status,
    }
    meta = {"scene_id": key[0], "frame_id": key[1], "points": status_counts(located.status)}
    write_arrays(index_path(folder, key), "npz", arrays | located.points.attributes, meta, one_of_many=True)


def read_located(folder: Path, key: FrameKey) -> Located:
    """Reads what ``write_located`` wrote.

    Raises:
        DataError: If it is missing, damaged, or another frame's.
    """
    path = index_path(folder, key)
    arrays, meta = read_arrays(path)
    found = meta.get("scene_id"), meta.get("frame_id")
    if found != key:
        raise DataError(
            f"{path}: holds {found[0]} frame {found[1]}, not this frame's points; delete it and build it again"
        )
    if why := _wrong_arrays(arrays):
        raise DataError(f"{path}: no uv index ({why}); delete it and build it again")
    uv_idx, conf_2d, xyz, pts_idx, status = (arrays.pop(name) for name in (*_ROWS, "status"))
    return Located(Points(xyz, pts_idx, arrays), uv_idx, conf_2d, status)


def _wrong_arrays(arrays: dict[str, np.ndarray]) -> str:
    """What keeps arrays from being those of ``write_located``; empty if nothing does."""
    if "status" not in arrays:
        return "no status"
    if why := wrong_rows(arrays, _ROWS):
        return why
    status, count = arrays["status"], len(arrays["pts_idx"])
    if status.dtype != np.uint8 or status.ndim != 1 or np.count_nonzero(status == PointStatus.VISIBLE) != count:
        return f"its status is not that of {count} visible points"
    if status.max(initial=0) >= len(PointStatus):
        return "its status has values that mean nothing"
    if any(array.shape[:1] != (count,) for name, array in arrays.items() if name != "status"):
        return f"not all of its arrays have {count} rows"
    if not all(np.isfinite(arrays[name]).all() for name in _ROWS):
        return "it holds inf or NaN"
    return ""


def open_uv_index(cfg: PointsConfig, folder: Path) -> Locator:
    """A locator that reads the index of ``uv_index=…``; frames that are not in it are located anew.

    Raises:
        OutputError: If the index was built with another configuration.
        DataError: If there is none.
    """
    if not (folder / "config.yaml").is_file():
        raise DataError(f"uv_index={folder}: holds no uv index; build it by scripts/build_uv_index.py")
    differing = different_keys(read_config(folder), index_config(cfg))
    if differing:
        raise OutputError(
            f"uv_index={folder} was built with another configuration, which differs in {'; '.join(differing)}"
        )
    locate = build_locator(cfg)

    def read(frame: Frame) -> Located:
        key = frame.scene_id, frame.frame_id
        return read_located(folder, key) if index_path(folder, key).is_file() else locate(frame)

    return read


_Result = tuple[FrameKey, dict[str, int], str]
"""A frame, its points by status, and why it failed or ''."""


@dataclass
class _Worker:
    """What a process needs; made once in each."""

    dataset: Dataset
    locate: Locator
    folder: Path
    config: dict[str, Any]
    claimed: bool = False

    def __call__(self, key: FrameKey) -> _Result:
        """Does a frame."""
        try:
            located = self.locate(self.dataset.load(*key))
        except (FrameError, DataError) as error:
            return key, {}, str(error)
        self._write(key, located)
        return key, status_counts(located.status), ""

    def _write(self, key: FrameKey, located: Located) -> None:
        if self.claimed:
            write_located(self.folder, key, located)
            return
        with locked(self.folder):  # another run may have claimed a folder in which nothing was finished yet
            check_config(self.folder, self.config)
            write_located(self.folder, key, located)
        self.claimed = True


_worker: _Worker | None = None
_warnings: KeptWarnings | None = None


def _start_worker(cfg: PointsConfig, folder: Path) -> None:
    global _worker, _warnings
    _warnings = KeptWarnings()
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers
    _worker = _Worker(build_dataset(cfg.data), build_locator(cfg), folder, index_config(cfg))


def _work(key: FrameKey) -> tuple[_Result, list[str]]:
    """What became of a frame, and the warnings that were given on the way."""
    if _worker is None or _warnings is None:
        raise RuntimeError("a worker that was not started")
    return _worker(key), _warnings.take()


def write_uv_index(cfg: ExtractConfig) -> dict[str, Any]:
    """Writes the index of all frames that the configuration asks for; those that are there already are left.

    Args:
        cfg: of ``clipfeat-extract``; ``uv_index`` says where to (or ``<output_dir>/uv_index``), ``num_workers`` how
            many processes. The keys of the model and the pictures are not looked at.

    Returns:
        Numbers of frames done, there already and failed, and the points by status.

    Raises:
        ClipfeatError: On anything that the user can mend; what was written before stays.
    """
    folder = Path(cfg.uv_index or Path(cfg.output_dir) / "uv_index")
    make_writable(folder, "uv_index")
    warnings = WarningsOnce()
    build_locator(cfg)  # a wrong key is to be told before any process starts
    bad_scenes: dict[str, str] = {}
    frames = list_frames(cfg, build_dataset(cfg.data), bad_scenes, this_shard(cfg.shard.index, cfg.shard.count))
    config, overwrite = index_config(cfg), cfg.resume == "overwrite"
    remove_leftovers([folder, *(folder / scene_id for scene_id in dict.fromkeys(scene for scene, _ in frames))])
    _claim(folder, config, frames, overwrite=overwrite)
    todo = [key for key in frames if not index_path(folder, key).is_file()]
    log.info("%d frames to index, %d there already, into %s", len(todo), len(frames) - len(todo), folder)
    points: Counter[str] = Counter()
    failures = [f"{scene_id}: {why}" for scene_id, why in bad_scenes.items()]
    try:
        with tqdm(total=len(todo), unit="frame", desc="uv index", disable=None) as bar:
            for key, counts, why in _results(cfg, folder, todo, warnings):
                if why:
                    failures.append(f"{key[0]} frame {key[1]}: {why}")
                    if cfg.on_bad_frame == "fail":
                        raise DataError(why)
                points.update(counts)
                bar.set_description(f"{key[0]}, {points_said(points, cfg.sampling.name)}", refresh=False)
                bar.update()
    except BaseException as error:
        done = sum(index_path(folder, key).is_file() for key in frames)
        tell_how_far(error, done, len(frames), folder, overwrite=overwrite)
        raise
    finally:
        warnings.close()
    for scene_id in {scene_id for scene_id, _ in todo}:
        sync_to_disk(folder / scene_id)
    failed = len(failures) - len(bad_scenes)
    said = points_said(points, cfg.sampling.name)
    log.info("%d frames indexed, %d failed, %s", len(todo) - failed, failed, said)
    for failure in failures[:5]:
        log.warning("WARNING failed: %s", failure)
    if failed == len(frames):  # those that failed before are tried again, and in most cases fail again
        raise DataError(f"all {failed} frames failed; the first: {failures[len(bad_scenes)]}")
    return {
        "done": len(todo) - failed,
        "there": len(frames) - len(todo),
        "failed": failures,
        "points": dict(points),
    }


def _claim(folder: Path, config: dict[str, Any], frames: list[FrameKey], *, overwrite: bool) -> None:
    """As ``RunFolder.claim``, for an index."""
    with locked(folder):
        if overwrite:
            own = [path for path in (index_path(folder, key) for key in frames) if path.is_file()]
            remove_files(scene_files(folder, _INDEX_FILE) if holds_another(folder, config) else own)
        elif holds_another(folder, config) and scene_files(folder, _INDEX_FILE):
            check_config(folder, config)
        write_config(folder, config)


def _results(cfg: ExtractConfig, folder: Path, todo: list[FrameKey], warnings: WarningsOnce) -> Iterator[_Result]:
    """Works through the frames in ``num_workers`` processes, a bounded number of them in waiting."""
    workers = cfg.num_workers or usable_cores()
    if workers == 1 or len(todo) < 2 * workers:
        worker = _Worker(build_dataset(cfg.data), build_locator(cfg), folder, index_config(cfg))
        yield from map(worker, todo)
        return
    try:
        with ProcessPoolExecutor(workers, FreshContext(), _start_worker, (cfg, folder)) as pool:
            for result, given in in_order(pool, _work, todo, ahead=8 * workers):
                warnings.pass_on(given)
                yield result
    except BrokenProcessPool as error:
        raise process_died(f"{folder}: a process of the uv index", "num_workers=1 does without processes") from error
