"""Frames into maps, one after another, and the maps onto the disk again and again: ``clipfeat-map``."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clipfeat.data.layouts import build_dataset
from clipfeat.data.selection import FrameKey, frame_keys, list_scenes
from clipfeat.errors import ConfigError, DataError, OutputError, tell_how_far
from clipfeat.extraction.prepare import Failed, FrameSource
from clipfeat.mapping.config import MapConfig
from clipfeat.mapping.json_frames import JsonFrames
from clipfeat.mapping.open_maps import OpenMaps, claimed_maps
from clipfeat.mapping.pipeline import Pipeline
from clipfeat.mapping.sources import LiveFrames, Patience, WatchedFrames
from clipfeat.model.base import Model
from clipfeat.model.build import build_model
from clipfeat.model.cache import build_cache
from clipfeat.model.load import resolve_device
from clipfeat.output.fused import seen_in_short
from clipfeat.output.summary import Stopwatch
from clipfeat.system.progress import progress_bar

log = logging.getLogger(__name__)

_LINES = 64
"""Lines of a stream that are in work at once."""


def make_maps(cfg: MapConfig, model: Model | None = None) -> dict[str, Any]:
    """Runs ``clipfeat-map``.

    Args:
        cfg: what to run.
        model: that ``cfg.model`` describes, if it is loaded already.

    Returns:
        ``scenes``: by name, what the meta of each map says that this run has looked at; ``added``: frames of this run;
        ``failed``: by name why others could not be; ``seconds``, ``frames_per_second`` and ``stages`` (seconds of all
        threads) from the first frame on.

    Raises:
        ClipfeatError: On anything that the user can mend; the maps that are there stay, and what was added is in them.
    """
    stopwatch = Stopwatch()
    folder, device = Path(cfg.output_dir), resolve_device(cfg.device)
    if folder.resolve() == Path(cfg.data.root).resolve():
        raise ConfigError(f"output_dir={folder}: is data.root, the folder of the recordings; choose another")
    maps = OpenMaps(cfg, device)
    live = _live(cfg, maps)
    listed, frames = ({}, live) if live is not None else _listed(cfg)
    with claimed_maps(cfg, listed):
        todo = [key for key in frame_keys(listed) if key[1] not in maps.known(key[0])]
        failed: dict[str, str] = {}
        if todo or live is not None:
            model = model or build_model(cfg.model, device, cfg.seed, build_cache(cfg.cache))
            maps.model = model
            pipeline = Pipeline(cfg, model, frames, maps.look, stopwatch)
            stopwatch.begin()
            try:
                with progress_bar(None if live else len(todo), "frame") as bar:
                    if live is None:
                        _add(cfg, pipeline, maps, todo, failed, bar)
                    else:
                        _follow(cfg, pipeline, maps, live, failed, bar)
                with stopwatch.stage("save"):
                    maps.save()
            except BaseException as error:
                maps.save_if_possible()
                total = None if live else sum(map(len, listed.values()))
                _tell_how_far(error, maps.count(), total, folder, overwrite=cfg.resume == "overwrite")
                raise
            finally:
                pipeline.close()
                maps.close()
        else:
            log.info("all %d frames are in the maps already, in %s", sum(map(len, listed.values())), folder)
        metas = maps.metas(listed)
        with stopwatch.stage("save"):
            maps.draw_missing(metas)
        seconds = stopwatch.total() - stopwatch.before
        summary = {
            "scenes": metas,
            "added": maps.added,
            "failed": failed,
            "seconds": round(seconds, 3),
            "frames_per_second": round(maps.added / max(seconds, 1e-3), 3),
            "stages": {name: round(spent, 3) for name, spent in stopwatch.seconds.items()},
        }
        log.info("%s", summary_table(summary))
        for warning in warnings_of(summary):
            log.warning("WARNING %s", warning)
        if not summary["scenes"]:
            why = next(iter(failed.values()), getattr(live, "why", "") or "there was none")
            raise DataError(f"no frame could be added to a map; the first: {why}")
        return summary


def _listed(cfg: MapConfig) -> tuple[dict[str, list[int]], FrameSource]:
    """The frames of all scenes that are there, and where they come from."""
    dataset, bad_scenes = build_dataset(cfg.data), dict[str, str]()
    listed = list_scenes(cfg, dataset, bad_scenes)
    for why in bad_scenes.values():
        log.warning("WARNING a scene is left out: %s", why)
    return listed, dataset


def _live(cfg: MapConfig, maps: OpenMaps) -> LiveFrames | None:
    """Where frames come from that are not all there yet."""
    if cfg.source == "data":
        return None
    if cfg.source == "watch":
        return WatchedFrames(cfg)
    return JsonFrames(sys.stdin.fileno(), Path(cfg.data.root), maps.known, _LINES)


def _follow(
    cfg: MapConfig, pipeline: Pipeline, maps: OpenMaps, live: LiveFrames, failed: dict[str, str], bar: "tqdm[Any]"
) -> None:
    """Adds frames as they come, until no more do."""
    patience = Patience(live, cfg.poll_s, cfg.idle_s if cfg.source == "watch" else None, cfg.retry_s)
    for keys in patience:
        new = [key for key in keys if key[1] not in maps.known(key[0])]
        for key in set(keys) - set(new):
            patience.done(key)
        _add(cfg, pipeline, maps, new, failed, bar, patience)
        _take_bad_lines(cfg, live, failed)
        maps.save_if_due()
    _take_bad_lines(cfg, live, failed)


def _take_bad_lines(cfg: MapConfig, live: LiveFrames, failed: dict[str, str]) -> None:
    while live.bad:
        why = live.bad.pop(0)
        if cfg.on_bad_frame == "fail":
            raise DataError(why)
        failed[why] = why


def _add(
    cfg: MapConfig,
    pipeline: Pipeline,
    maps: OpenMaps,
    keys: Sequence[FrameKey],
    failed: dict[str, str],
    bar: "tqdm[Any]",
    patience: Patience | None = None,
) -> None:
    """Adds frames, in their order; what can't be used is noted, tried again later, or ends it."""
    for outcome in pipeline.work(keys):
        scene_id, frame_id = outcome.key
        if not isinstance(outcome, Failed):
            with pipeline.stopwatch.stage("add"):
                maps.add(outcome)
        elif patience is not None and patience.again(outcome.key):
            continue
        elif cfg.on_bad_frame == "fail":
            raise outcome.error
        else:
            failed[f"{scene_id} frame {frame_id}"] = str(outcome.error)
            maps.fail(outcome.key, str(outcome.error))
        if patience is not None:
            patience.done(outcome.key)
        bar.set_description(maps.said(), refresh=False)
        bar.update()
        maps.save_if_due()


def _tell_how_far(error: BaseException, done: int, total: int | None, folder: Path, *, overwrite: bool) -> None:
    if total is not None:
        tell_how_far(error, done, total, folder, overwrite=overwrite)
    elif isinstance(error, KeyboardInterrupt):
        raise KeyboardInterrupt(f"{done} frames are in the maps in {folder}") from error
    elif isinstance(error, OutputError):
        raise OutputError(f"{error}; {done} frames are in the maps in {folder}") from error


def summary_table(summary: dict[str, Any]) -> str:
    """The few lines that end a run."""
    metas = list(summary["scenes"].values())
    frames = sum(len(meta["frames"]) for meta in metas)
    rows = [
        ("maps", f"{len(metas)}"),
        ("frames", f"{frames} in them ({summary['added']} now), {len(summary['failed'])} could not be used"),
        ("points", seen_in_short(metas)),
        ("speed", f"{summary['frames_per_second']:.2f} frames/s, {summary['seconds']:.1f} s"),
        ("seconds a stage", ", ".join(f"{name} {spent:.1f}" for name, spent in summary["stages"].items())),
    ]
    if metas:
        rows.append(("weights", "{weights} ({weights_sha256}), head {head}".format(**metas[0]["model"])))
    return "\n".join(f"  {name:<16} {value}" for name, value in rows)


def warnings_of(summary: dict[str, Any]) -> list[str]:
    """What a user should look at before trusting the maps."""
    found = [
        f"{scene_id}: {meta['dropped']} points had to go, for want of room; a larger max_points keeps them"
        for scene_id, meta in summary["scenes"].items()
        if meta["dropped"]
    ]
    failures = [why if name == why else f"{name}: {why}" for name, why in summary["failed"].items()]
    found += [f"failed: {line}" for line in failures[:5]]
    return found + ([f"… and {len(failures) - 5} more"] if len(failures) > 5 else [])
