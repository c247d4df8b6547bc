"""What joins the stages: plan, claim the folder, let an engine do the frames, sum up."""

import dataclasses
import logging
from collections import Counter
from contextlib import closing, suppress
from typing import Any

from tqdm import tqdm

from clipfeat.errors import DataError, OutputError, tell_how_far
from clipfeat.extraction.config import ExtractConfig
from clipfeat.extraction.engine import build_engine
from clipfeat.extraction.plan import Plan, check_output, check_space, plan_run, try_frames
from clipfeat.extraction.prepare import Failed
from clipfeat.extraction.redraw import draw_missing
from clipfeat.extraction.worker import Outcome, open_job
from clipfeat.model.base import Model
from clipfeat.output.report import try_report
from clipfeat.output.run_folder import RunFolder
from clipfeat.output.space import DiskSpace
from clipfeat.output.summary import Stopwatch, merge_runs, points_said, summarize, summary_table, warnings_of
from clipfeat.output.totals import Totals
from clipfeat.system.atomic import locked
from clipfeat.system.progress import progress_bar
from clipfeat.system.shards import WHOLE, Shard, begun_file, local_count, this_shard

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
    check_output(cfg)
    engine = build_engine(cfg, model)
    job = open_job(cfg, this_shard(cfg.shard.index, cfg.shard.count))
    folder, stopwatch = job.folder, job.stopwatch
    plan = plan_run(cfg, folder, job.dataset)
    folder.remove_leftovers(plan.scenes)
    folder.finish_scenes(plan.frames, plan.todo)
    if not plan.todo:
        log.info("all %d frames are done already in %s", len(plan.frames), folder.path)
        with stopwatch.stage("draw"):
            draw_missing(cfg, folder, plan)
        if not plan.frames:
            _record_bad_scenes(folder, plan)  # of a shard that has no others
        totals = _own_totals(folder, plan)
        summary = _summary_of_nothing(folder, totals, stopwatch, cfg.sampling.name)
        _end(cfg, folder, plan, totals)
        return summary
    if cfg.check == "yes":
        with stopwatch.stage("check"):
            from clipfeat.extraction.checked import check  # a good part of scipy, which few runs need

            check(cfg, job.dataset, plan.frames)
    some = try_frames(plan, folder, job.dataset, job.locate)
    with closing(engine):
        card = engine.start(job, plan)
        space = check_space(cfg, plan, folder, some, card)
        folder.claim(dataclasses.asdict(cfg), card.description, plan.frames, overwrite=cfg.resume == "overwrite")
        if begun := begun_file(cfg.output_dir):
            begun.touch()
        _record_bad_scenes(folder, plan)
        folder.write_head(card.head_weights, card.description)
        about = {"model": card.description, "sampling": cfg.sampling.name}
        todo, total = len(plan.todo), len(plan.frames)
        log.info("%d frames to do, %d done already, into %s", todo, total - todo, folder.path)
        progress = Progress(plan, space, cfg.sampling.name)
        stopwatch.begin()
        try:
            with (
                closing(engine.work()) as outcomes,
                # Of several processes on one terminal each says a line a scene instead.
                progress_bar(todo, "frame", shown=local_count() == 1) as bar,
            ):
                for outcome in outcomes:
                    progress.tell(outcome, bar)
            with stopwatch.stage("draw"):
                draw_missing(cfg, folder, plan)
        except BaseException as error:
            engine.close()  # what is on its way is still written
            with suppress(OutputError):  # the error on its way up matters more, and may be the same full disk
                totals = _own_totals(folder, plan)
                _sum_up(folder, totals, stopwatch, progress.finished, about, interrupted=True, facts=engine.facts())
            tell_how_far(error, len(folder.done(plan.frames)), total, folder.path, overwrite=cfg.resume == "overwrite")
            raise
    totals = _own_totals(folder, plan)
    summary = _sum_up(folder, totals, stopwatch, progress.finished, about, interrupted=False, facts=engine.facts())
    log.info("%s", summary_table(summary))
    for warning in warnings_of(summary):
        log.warning("WARNING %s", warning)
    _end(cfg, folder, plan, totals)
    if not summary["frames"] and folder.shard.is_whole:  # a shard may well have bad scenes only
        raise DataError(f"all {summary['failed']} frames failed; {folder.path / 'frames.jsonl'} says why")
    return summary


class Progress:
    """Counts what becomes of the frames.

    Attributes:
        finished: frames done so far.

    Args:
        plan: of the run.
        space: is told what was written.
        sampling: name of the source of the points.
    """

    def __init__(self, plan: Plan, space: DiskSpace, sampling: str):
        self.finished = 0
        self._done_before = plan.done_before
        self._space = space
        self._sampling = sampling
        self._left = Counter(scene_id for scene_id, _ in plan.todo)
        self._points: dict[str, Counter[str]] = {}

    def tell(self, outcome: Outcome, bar: "tqdm[Any]") -> None:
        """Takes note of a frame, and shows it; where no terminal shows the bar, a scene's end is a line."""
        scene_id = outcome.key[0]
        points = self._points.setdefault(scene_id, Counter())
        if not isinstance(outcome, Failed):
            self.finished += 1
            if outcome.key not in self._done_before:  # or its file took the place of another
                self._space.wrote(outcome.size)
            points.update(outcome.counts)
        said = points_said(points, self._sampling)
        bar.set_description(f"{scene_id}, {said}", refresh=False)
        bar.update()
        self._left[scene_id] -= 1
        if not self._left[scene_id]:
            del self._points[scene_id]
            if bar.disable:
                log.info("%s: %s", scene_id, said)


def _record_bad_scenes(folder: RunFolder, plan: Plan) -> None:
    for scene_id, why in plan.bad_scenes.items():
        folder.append_record({"scene_id": scene_id, "frame_id": None, "status": "failed", "why": why})


def _own_totals(folder: RunFolder, plan: Plan) -> Totals:
    """What is in the folder; of a shard, what there is of its own scenes."""
    return folder.own_totals({*plan.scenes, *plan.bad_scenes})


def _sum_up(
    folder: RunFolder,
    totals: Totals,
    stopwatch: Stopwatch,
    finished: int,
    about: dict[str, Any],
    *,
    interrupted: bool,
    facts: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes the summary, of ``_own_totals``."""
    summary = summarize(totals, stopwatch, finished, about, interrupted=interrupted)
    for name, of_engine in (facts or {}).items():
        summary[name] |= of_engine
    if not folder.shard.is_whole:
        summary["shard"] = dataclasses.asdict(folder.shard)
    folder.write_summary(summary, folder.shard)
    return summary


def _summary_of_nothing(folder: RunFolder, totals: Totals, stopwatch: Stopwatch, sampling: str) -> dict[str, Any]:
    """The summary that is there; a new one if a run was stopped, or killed, before it could say that all is done."""
    summary, done = folder.read_summary(folder.shard), sum(scene.frames for scene in totals.scenes.values())
    of_another = summary.get("shard", dataclasses.asdict(WHOLE)) != dataclasses.asdict(folder.shard)
    if of_another or summary.get("frames") != done or summary.get("run", {}).get("interrupted", True):
        about = {"model": folder.read_model(), "sampling": sampling}
        summary = _sum_up(folder, totals, stopwatch, 0, about, interrupted=False)
    return summary


def _end(cfg: ExtractConfig, folder: RunFolder, plan: Plan, own: Totals) -> None:
    """Writes the report. Of several shards, only one that finds all frames settled does, and sums up the whole first.

    Each has written its own summary before it looks for those of the others. So two shards that end at one moment both
    see the whole, or the later one does; and what the later one writes stays.
    """
    if folder.shard.is_whole:
        if cfg.report:
            try_report(folder, own)
        return
    with locked(folder.path):
        totals = folder.totals_if_settled(plan.everything)
        if totals is None:
            log.info("shard %d is done; the last one to end writes summary.json and the report", folder.shard.index)
            return
        about = {"model": folder.read_model(), "sampling": cfg.sampling.name}
        whole = summarize(totals, Stopwatch(), 0, about, interrupted=False)
        folder.write_summary(whole | {"run": merge_runs(_runs_of_shards(folder))})
        count = sum(map(len, plan.everything.values()))
        log.info("all %d frames of all shards are done or have failed", count)
        if cfg.report:
            try_report(folder, totals)
        if not whole["frames"]:
            raise DataError(f"all {whole['failed']} frames failed; {folder.path / 'frames.*.jsonl'} say why")


def _runs_of_shards(folder: RunFolder) -> list[dict[str, Any]]:
    """What the last run of each shard says of itself, as far as it could."""
    shards = [Shard(index, folder.shard.count) for index in range(folder.shard.count)]
    summaries = [(shard, folder.read_summary(shard)) for shard in shards]
    return [found["run"] for shard, found in summaries if found.get("shard") == dataclasses.asdict(shard)]
