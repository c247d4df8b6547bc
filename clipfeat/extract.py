"""The loop that joins the stages: frames in, features at points out."""

import dataclasses
import logging
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from clipfeat.atomic import locked
from clipfeat.check import check_scenes
from clipfeat.config import ExtractConfig, VisConfig
from clipfeat.data import build_dataset
from clipfeat.direct import page_buffers, reuse_memory
from clipfeat.errors import DataError, OutputError, tell_how_far
from clipfeat.lane import Lane, default_lanes
from clipfeat.locate import build_locator
from clipfeat.model import Model, build_model, resolve_device
from clipfeat.output import RunFolder, build_cache
from clipfeat.output.summary import Stopwatch, merge_runs, summarize, summary_table, visible_share, warnings_of
from clipfeat.plan import Plan, check_space, plan_run
from clipfeat.prepare import Failed, FramePreparer
from clipfeat.report import try_report
from clipfeat.shards import WHOLE, Shard, begun_file, local_count, local_rank, this_shard
from clipfeat.streaming import prefetch, shares
from clipfeat.uv_index import open_uv_index
from clipfeat.vis import Pictures, build_pictures, model_note

log = logging.getLogger(__name__)


def extract(cfg: ExtractConfig, model: Model | None = None) -> dict[str, Any]:
    """Runs ``clipfeat-extract``.

    Args:
        cfg: what to run.
        model: that ``cfg.model`` describes, if it is loaded already.

    Returns:
        What ``summary.json`` holds; of several shards, what this one's own summary holds.

    Raises:
        ClipfeatError: On anything that the user can mend; what was written before stays.
    """
    stopwatch = Stopwatch()
    device = resolve_device(cfg.device, local_rank())
    if device.index:
        torch.cuda.set_device(device)  # whose memory the summary tells
    locate = build_locator(cfg) if cfg.uv_index is None else open_uv_index(cfg)
    folder = RunFolder(Path(cfg.output_dir), cfg.output.name, cfg.output.dtype, this_shard(cfg.shard))
    dataset = build_dataset(cfg.data)
    plan = plan_run(cfg, folder, dataset)
    folder.remove_leftovers(plan.scenes)
    folder.finish_scenes(plan.frames, plan.todo)
    if not plan.todo:
        log.info("all %d frames are done already in %s", len(plan.frames), folder.path)
        summary = _summary_of_nothing(folder, plan, stopwatch, cfg.sampling.name)
        _end(cfg, folder, plan)
        return summary
    if cfg.check == "yes":
        with stopwatch.stage("check"):
            check_scenes(cfg, dataset, plan.frames)
    with stopwatch.stage("load model"):
        model = model or build_model(cfg.model, device, cfg.seed, build_cache(cfg.cache))
    space = check_space(cfg, plan, folder, dataset, locate, model)
    folder.claim(dataclasses.asdict(cfg), model.describe(), plan.frames, overwrite=cfg.resume == "overwrite")
    if begun := begun_file(cfg.output_dir):
        begun.touch()
    _record_bad_scenes(folder, plan)
    folder.write_head(model.head_name, model.head.state_dict())

    reuse_memory()
    lanes = cfg.num_workers or default_lanes()
    about = {"model": model.describe(), "sampling": cfg.sampling.name}
    pictures = _build_pictures(cfg.vis, cfg.seed, model, plan, lanes)
    prepare = FramePreparer(dataset, locate, model.preprocess, model.network_input, stopwatch)
    writers = ThreadPoolExecutor(lanes, thread_name_prefix="clipfeat-write")
    batch_size = cfg.batch_size or model.default_batch
    # A lane samples all frames of its batch at once: as many may wait to be written, or it would wait for the disk.
    threads, buffers = max(1, default_lanes() // lanes), page_buffers(batch_size + lanes)
    lane = Lane(model, folder, pictures, about, threads, writers, buffers, stopwatch)
    todo, total = plan.todo, len(plan.frames)
    batches = shares(todo, batch_size, lanes)
    # Ahead of the lanes, or they would wait where a disk or a network is slow.
    prepared = prefetch(lambda keys: [prepare(key) for key in keys], batches, lanes, ahead=lanes + 1)
    finished, finishing = 0, []
    log.info("%d frames to do, %d done already, into %s", len(todo), total - len(todo), folder.path)
    try:
        with (
            closing(prepared),
            closing(prefetch(lane, prepared, lanes, ahead=lanes + 1)) as done,  # an error ends the lanes' work too
            logging_redirect_tqdm(),
            # Of several processes on one terminal each says a line a scene instead.
            tqdm(total=len(todo), unit="frame", disable=True if local_count() > 1 else None) as bar,
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
                        if outcome.key not in plan.done_before:  # or its file took the place of another
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
            _sum_up(folder, plan, stopwatch, finished, about, interrupted=True)
        tell_how_far(error, len(folder.done(plan.frames)), total, folder.path, overwrite=cfg.resume == "overwrite")
        raise
    finally:
        writers.shutdown()
        model.close()
    summary = _sum_up(folder, plan, stopwatch, finished, about, interrupted=False)
    log.info("%s", summary_table(summary))
    for warning in warnings_of(summary):
        log.warning("WARNING %s", warning)
    _end(cfg, folder, plan)
    if not summary["frames"] and folder.shard.is_whole:  # a shard may well have bad scenes only
        raise DataError(f"all {summary['failed']} frames failed; {folder.path / 'frames.jsonl'} says why")
    return summary


def _record_bad_scenes(folder: RunFolder, plan: Plan) -> None:
    for scene_id, why in plan.bad_scenes.items():
        folder.append_record({"scene_id": scene_id, "frame_id": None, "status": "failed", "why": why})


def _sum_up(
    folder: RunFolder, plan: Plan, stopwatch: Stopwatch, finished: int, about: dict[str, Any], *, interrupted: bool
) -> dict[str, Any]:
    """Writes the summary of all that is in the folder; that of a shard is of its own scenes."""
    summary = summarize(_own_records(folder, plan), stopwatch, finished, about, interrupted=interrupted)
    if not folder.shard.is_whole:
        summary["shard"] = dataclasses.asdict(folder.shard)
    folder.write_summary(summary, folder.shard)
    return summary


def _own_records(folder: RunFolder, plan: Plan) -> list[dict[str, Any]]:
    own = {*plan.scenes, *plan.bad_scenes}
    return [record for record in folder.records() if folder.shard.is_whole or record["scene_id"] in own]


def _summary_of_nothing(folder: RunFolder, plan: Plan, stopwatch: Stopwatch, sampling: str) -> dict[str, Any]:
    """The summary that is there; a new one if a run was stopped, or killed, before it could say that all is done."""
    if not plan.frames:
        _record_bad_scenes(folder, plan)  # of a shard that has no others
    summary, done = folder.read_summary(folder.shard), sum(r["status"] == "done" for r in _own_records(folder, plan))
    of_another = summary.get("shard", dataclasses.asdict(WHOLE)) != dataclasses.asdict(folder.shard)
    if of_another or summary.get("frames") != done or summary.get("run", {}).get("interrupted", True):
        about = {"model": folder.read_model(), "sampling": sampling}
        summary = _sum_up(folder, plan, stopwatch, 0, about, interrupted=False)
    return summary


def _end(cfg: ExtractConfig, folder: RunFolder, plan: Plan) -> None:
    """Writes the report. Of several shards, only one that finds all frames settled does, and sums up the whole first.

    Two shards that end at one moment both see the whole, or the later one does; and what the later one writes stays.
    """
    if folder.shard.is_whole:
        if cfg.report:
            try_report(folder)
        return
    with locked(folder.path):
        if not folder.settled(plan.everything):
            log.info("shard %d is done; the last one to end writes summary.json and the report", folder.shard.index)
            return
        about = {"model": folder.read_model(), "sampling": cfg.sampling.name}
        whole = summarize(folder.records(), Stopwatch(), 0, about, interrupted=False)
        folder.write_summary(whole | {"run": merge_runs(_runs_of_shards(folder))})
        log.info("all %d frames of all shards are done or have failed", len(plan.everything))
        if cfg.report:
            try_report(folder)
        if not whole["frames"]:
            raise DataError(f"all {whole['failed']} frames failed; {folder.path / 'frames.*.jsonl'} say why")


def _runs_of_shards(folder: RunFolder) -> list[dict[str, Any]]:
    """What the last run of each shard says of itself, as far as it could."""
    shards = [Shard(index, folder.shard.count) for index in range(folder.shard.count)]
    summaries = [(shard, folder.read_summary(shard)) for shard in shards]
    return [found["run"] for shard, found in summaries if found.get("shard") == dataclasses.asdict(shard)]


def _build_pictures(cfg: VisConfig, seed: int, model: Model, plan: Plan, processes: int) -> Pictures:
    return build_pictures(
        cfg.name,
        plan.drawn,
        max_frames=cfg.max_frames,
        points_per_frame=cfg.points_per_frame,
        overlay_points=cfg.overlay_points,
        perplexity=cfg.perplexity,
        dpi=cfg.dpi,
        seed=seed,
        weights_note=model_note(model.describe()),
        processes=processes,
    )
