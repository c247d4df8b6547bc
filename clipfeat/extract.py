"""The loop that joins the stages: frames in, features at points out."""

import dataclasses
import logging
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import chain, groupby
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from clipfeat.check import check_scenes
from clipfeat.config import ExtractConfig, VisConfig
from clipfeat.data import Dataset, build_dataset
from clipfeat.direct import PageBuffer
from clipfeat.errors import DataError, OutputError, tell_how_far
from clipfeat.lane import Lane, default_lanes
from clipfeat.locate import FrameKey, Locator, build_locator, list_frames, locate_some
from clipfeat.model import Model, build_model, resolve_device
from clipfeat.output import FORMATS, RunFolder, build_cache
from clipfeat.output.files import FrameSize
from clipfeat.output.space import DiskSpace
from clipfeat.output.summary import Stopwatch, summarize, summary_table, visible_share, warnings_of
from clipfeat.prepare import Failed, FramePreparer
from clipfeat.report import try_report
from clipfeat.streaming import prefetch, shares
from clipfeat.uv_index import open_uv_index
from clipfeat.vis import PICTURE_BYTES, Pictures, build_pictures, pictured_frames

log = logging.getLogger(__name__)


def extract(cfg: ExtractConfig, model: Model | None = None) -> dict[str, Any]:
    """Runs ``clipfeat-extract``.

    Args:
        cfg: what to run.
        model: that ``cfg.model`` describes, if it is loaded already.

    Returns:
        What ``summary.json`` holds.

    Raises:
        ClipfeatError: On anything that the user can mend; what was written before stays.
    """
    stopwatch = Stopwatch()
    device = resolve_device(cfg.device)
    locate = build_locator(cfg) if cfg.uv_index is None else open_uv_index(cfg)
    folder = RunFolder(Path(cfg.output_dir), cfg.output.name, cfg.output.dtype)
    dataset = build_dataset(cfg.data)
    bad_scenes: dict[str, str] = {}
    frames = list_frames(cfg, dataset, bad_scenes)
    for why in bad_scenes.values():
        log.warning("WARNING a scene is left out: %s", why)
    config, overwrite = dataclasses.asdict(cfg), cfg.resume == "overwrite"
    pictured = pictured_frames(cfg.vis.name, frames, cfg.vis.max_frames)
    folder.remove_leftovers(dict.fromkeys(scene_id for scene_id, _ in frames))
    done_before = set() if overwrite else folder.done_before(frames, config)
    todo = frames if overwrite else folder.missing(frames, done_before, pictured)
    folder.finish_scenes(frames, todo)
    if not todo:
        log.info("all %d frames are done already in %s", len(frames), folder.path)
        summary = _summary_of_nothing(folder, stopwatch, cfg.sampling.name)
        if cfg.report:
            try_report(folder)
        return summary
    if cfg.check == "yes":
        with stopwatch.stage("check"):
            check_scenes(cfg, dataset, frames)
    with stopwatch.stage("load model"):
        model = model or build_model(cfg.model, device, cfg.seed, build_cache(cfg.cache))
    space = _disk_space(cfg, folder, dataset, locate, model, todo, done_before, pictured)
    folder.claim(config, model.describe(), frames, overwrite=overwrite)
    for scene_id, why in bad_scenes.items():
        folder.append_record({"scene_id": scene_id, "frame_id": None, "status": "failed", "why": why})
    folder.write_head(model.head_name, model.head.state_dict())

    lanes = cfg.num_workers or default_lanes()
    about = {"model": model.describe(), "sampling": cfg.sampling.name}
    pictures = _build_pictures(cfg.vis, cfg.seed, model, frames, todo, lanes)
    prepare = FramePreparer(dataset, locate, model.preprocess, model.network_input, stopwatch)
    writers = ThreadPoolExecutor(lanes, thread_name_prefix="clipfeat-write")
    buffers: SimpleQueue[PageBuffer] = SimpleQueue()
    for _ in range(2 * lanes):
        buffers.put(PageBuffer())
    threads = max(1, default_lanes() // lanes)
    lane = Lane(prepare, model, folder, pictures, about, threads, writers, buffers, stopwatch)
    batches = shares(todo, cfg.batch_size or model.default_batch, lanes)
    finished, finishing = 0, []
    log.info("%d frames to do, %d done already, into %s", len(todo), len(frames) - len(todo), folder.path)
    try:
        with (
            closing(prefetch(lane, batches, lanes, ahead=lanes + 1)) as done,  # an error ends the lanes' work too
            logging_redirect_tqdm(),
            tqdm(total=len(todo), unit="frame", disable=None) as bar,
        ):
            outcomes = (o.result() if isinstance(o, Future) else o for o in chain.from_iterable(done))
            for scene_id, of_scene in groupby(outcomes, lambda outcome: outcome.key[0]):
                points: Counter[str] = Counter()
                sampled = []
                for outcome in of_scene:
                    if isinstance(outcome, Failed):
                        if cfg.on_bad_frame == "fail":
                            raise outcome.error
                    else:
                        finished += 1
                        if outcome.key not in done_before:  # or its file took the place of another
                            space.wrote(outcome.size)
                        points.update(outcome.counts)
                        sampled += [outcome.picture] if outcome.picture is not None else []
                    bar.set_description(f"{scene_id}, {visible_share(points):.0%} visible", refresh=False)
                    bar.update()
                with stopwatch.stage("draw"):
                    pictures.draw(scene_id, sampled)
                finishing.append(writers.submit(folder.files.finish_scene, scene_id))
                if bar.disable:
                    log.info("%s: %.0f %% of the points visible", scene_id, 100 * visible_share(points))
        with stopwatch.stage("draw"):
            pictures.close()
        for scene in finishing:
            scene.result()
    except BaseException as error:
        pictures.cancel()
        writers.shutdown()  # what is on its way is still written
        with suppress(OutputError):  # the error on its way up matters more, and may be the same full disk
            folder.write_summary(summarize(folder.records(), stopwatch, finished, about, interrupted=True))
        done_now = len(folder.done(frames))
        tell_how_far(error, done_now, len(frames), folder.path, overwrite=overwrite)
        raise
    finally:
        writers.shutdown()
        model.close()
    summary = summarize(folder.records(), stopwatch, finished, about, interrupted=False)
    folder.write_summary(summary)
    log.info("%s", summary_table(summary))
    for warning in warnings_of(summary):
        log.warning("WARNING %s", warning)
    if cfg.report:
        try_report(folder)
    if not summary["frames"]:
        raise DataError(f"all {summary['failed']} frames failed; {folder.path / 'frames.jsonl'} says why")
    return summary


def _summary_of_nothing(folder: RunFolder, stopwatch: Stopwatch, sampling: str) -> dict[str, Any]:
    """The summary that is there; a new one if a run was stopped, or killed, before it could say that all is done."""
    summary, records = folder.read_summary(), folder.records()
    done = sum(record["status"] == "done" for record in records)
    if summary.get("frames") != done or summary.get("run", {}).get("interrupted", True):
        about = {"model": folder.read_model(), "sampling": sampling}
        summary = summarize(records, stopwatch, 0, about, interrupted=False)
        folder.write_summary(summary)
    return summary


def _disk_space(
    cfg: ExtractConfig,
    folder: RunFolder,
    dataset: Dataset,
    locate: Locator,
    model: Model,
    todo: list[FrameKey],
    done_before: set[FrameKey],
    pictured: set[FrameKey],
) -> DiskSpace:
    """Looks whether the new files will fit on the disk; a few frames tell how many points they have."""
    new = [key for key in todo if key not in done_before]  # the others' files take the place of those that are there
    space = DiskSpace(folder.path, len(new), len(pictured.intersection(todo)) * PICTURE_BYTES * cfg.vis.dpi**2)
    some = locate_some(locate, dataset, new)
    if new and not some:
        log.info("how much there is to write can't be told: the frames that were tried can't be used")
        return space
    points = sum(len(located.uv_idx) for located in some)
    carried = sum(values.nbytes for located in some for values in located.points.attributes.values())
    size = FrameSize(
        points=points / max(len(some), 1),
        channels=model.channels,
        dtype=cfg.output.dtype,
        attribute_bytes=carried / max(points, 1),
        map_values=model.map_values,
    )
    # Frames differ where a mesh, masks or a crop decide what is seen, or the depth how many points there are.
    certain = cfg.sampling.name == "depth" and cfg.sampling.num_points is not None
    certain &= cfg.data.masks is None and cfg.model.resize_mode != "crop"
    # Nor is a map's size known where it depends on the picture's, or on a text space.
    certain &= cfg.model.window is None and not model.head.projected
    freed = 0
    if cfg.resume == "overwrite":
        replaced = folder.replaced(dataclasses.asdict(cfg), model.describe(), new)
        freed = sum(path.stat().st_size for path in replaced)
    space.check(FORMATS[cfg.output.name].bytes_of(size), certain=certain, freed=freed)
    return space


def _build_pictures(
    cfg: VisConfig, seed: int, model: Model, frames: list[FrameKey], todo: list[FrameKey], processes: int
) -> Pictures:
    # Frames that are tried again alone get no picture: it would not share the colours of their scene's others.
    of_scenes = {scene_id: [i for _, i in keys] for scene_id, keys in groupby(frames, lambda key: key[0])}
    still = Counter(scene_id for scene_id, _ in todo)
    return build_pictures(
        cfg.name,
        {scene_id: frame_ids for scene_id, frame_ids in of_scenes.items() if still[scene_id] == len(frame_ids)},
        max_frames=cfg.max_frames,
        points_per_frame=cfg.points_per_frame,
        overlay_points=cfg.overlay_points,
        perplexity=cfg.perplexity,
        dpi=cfg.dpi,
        seed=seed,
        weights_note=f"{model.arch} · {model.head_name} · weights={model.describe()['weights']}",
        processes=processes,
    )
