"""Scene after scene merged and written, what is done left out: ``clipfeat-fuse``."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from clipfeat.data.base import read_scenes_file
from clipfeat.errors import DataError, tell_how_far
from clipfeat.extraction.scans import read_run_config
from clipfeat.output.config import PACKINGS
from clipfeat.output.files import read_meta
from clipfeat.output.folders import (
    check_config,
    claimed,
    different_keys,
    make_writable,
    read_config,
    remove_files,
    still_claimed,
)
from clipfeat.output.fused import seen_in_short
from clipfeat.output.packing import Packing, import_faiss
from clipfeat.output.store import FeatureStore
from clipfeat.results.config import FuseConfig
from clipfeat.results.fused_formats import FORMATS, scene_path, write_formats, write_scene
from clipfeat.results.fused_points import choose_points
from clipfeat.results.scene_fuser import SceneFuser
from clipfeat.system.atomic import remove_leftovers
from clipfeat.system.progress import progress_bar

log = logging.getLogger(__name__)

LOW_SEEN_SHARE = 0.5

_BAR = "{desc}{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} frames [{elapsed}<{remaining}, {rate_fmt}]"


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
    if cfg.packing == "pq":
        import_faiss()  # or a scene would be fused before it is missed
    store = FeatureStore(cfg.store)
    run = read_run_config(store.folder, cfg.data_root)
    folder = Path(cfg.output_dir or store.folder / "fused")
    cfg = replace(cfg, points=choose_points(cfg, run, store.scenes))
    replaced = store.scenes  # by resume=overwrite
    if scenes is not None:
        replaced = scenes = [scene_id for scene_id in scenes if scene_id in store.scenes]
    else:
        scenes = read_scenes_file(Path(cfg.scenes_file)) if cfg.scenes_file else store.scenes
    frames = {scene_id: store.frames(scene_id) for scene_id in scenes}
    made_of = read_config(store.folder)  # where the scans were, and not where they are now
    how = asdict(cfg) | {"model": store.model, "camera": made_of["camera"], "sampling": made_of["sampling"]}
    with _claimed(folder, replaced, how, overwrite=cfg.resume == "overwrite"):
        done = {s: meta for s in scenes if (meta := _meta_if_done(folder, s, frames[s], how)) is not None}
        todo = [scene_id for scene_id in scenes if scene_id not in done]
        log.info("%d scenes to fuse, %d done already, into %s", len(todo), len(done), folder)
        failed: dict[str, str] = {}
        written = 0
        try:
            written += sum(write_formats(folder, scene_id, cfg.formats) for scene_id in done)
            if todo:  # or the scans need not be there
                fuser = SceneFuser(cfg, store, run)
                left = {scene_id: frames[scene_id] for scene_id in todo}
                written += _fuse_scenes(fuser, left, folder, how, done, failed)
        except BaseException as error:
            tell_how_far(error, len(done), len(scenes), folder, overwrite=cfg.resume == "overwrite", unit="scenes")
            raise
        fused, seconds = len(todo) - len(failed), round(time.perf_counter() - begin, 3)
        summary = {"scenes": done, "failed": failed, "fused": fused, "bytes": written, "seconds": seconds}
        log.info("%s", summary_table(summary))
        for warning in warnings_of(summary):
            log.warning("WARNING %s", warning)
        if not done:
            raise DataError(f"all {len(failed)} scenes failed; the first: {next(iter(failed.values()))}")
        return summary


def _fuse_scenes(
    fuser: SceneFuser,
    frames: dict[str, list[int]],
    folder: Path,
    how: dict[str, Any],
    done: dict[str, dict[str, Any]],
    failed: dict[str, str],
) -> int:
    """Fuses and writes scene after scene, puts the meta of each into ``done`` or why not into ``failed``; the bytes."""
    written, packing = 0, _packing(fuser.cfg)
    total = sum(map(len, frames.values()))
    with progress_bar(total, "frame") as bar:
        bar.bar_format = _BAR
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
            bar.set_description(f"{scene_id}, writing")
            still_claimed(folder, how)
            written += write_scene(folder, fused, fuser.cfg.formats, packing)
            done[scene_id] = fused.meta
            del fused  # or two scenes would be in memory
            if bar.disable:
                log.info("%s: %s", scene_id, _in_short(done[scene_id]))
    return written


def _packing(cfg: FuseConfig) -> Packing | None:
    if (dims := cfg.packing_dims or PACKINGS[cfg.packing]) is None:
        return None
    return Packing(cfg.packing, dims)


@contextmanager
def _claimed(folder: Path, scenes: Sequence[str], how: dict[str, Any], *, overwrite: bool) -> Iterator[None]:
    """As ``claimed``, unless the folder holds scenes that were fused in another way."""
    make_writable(folder, "output_dir")
    remove_leftovers([folder])
    if overwrite:
        _remove_scenes(folder, scenes)
    elif any(folder.glob("*.npz")):  # else nothing was finished in the other way
        check_config(folder, how)
    with claimed(folder, how, lambda: any(folder.glob("*.npz"))):
        yield


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
    remove_files(scene_path(folder, scene_id, ending) for scene_id in scenes for ending in endings)


def _meta_if_done(folder: Path, scene_id: str, frames: Sequence[int], how: dict[str, Any]) -> dict[str, Any] | None:
    """What a scene's file says, if it was fused in the same way and of the frames that the store has now."""
    try:
        meta = read_meta(scene_path(folder, scene_id))
        fused_of = meta["frames"] + [failure["frame_id"] for failure in meta["failed"]]
    except (DataError, KeyError):
        return None
    same = sorted(fused_of) == list(frames) and not different_keys({key: meta.get(key) for key in how}, how)
    return meta if same else None


def _in_short(*metas: dict[str, Any]) -> str:
    medians = [meta["packed"]["cosine"]["median"] for meta in metas if meta.get("packed")]
    return seen_in_short(metas) + (f", packed at a cosine of {min(medians):.4f}" if medians else "")


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
