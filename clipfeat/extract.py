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
from clipfeat.data import build_dataset
from clipfeat.direct import PageBuffer
from clipfeat.errors import DataError, OutputError
from clipfeat.lane import Lane, default_lanes
from clipfeat.locate import FrameKey, build_locator, list_frames
from clipfeat.model import Model, build_model, resolve_device
from clipfeat.output import RunFolder, build_cache
from clipfeat.output.summary import Stopwatch, summarize, summary_table, visible_share, warnings_of
from clipfeat.prepare import Failed, FramePreparer
from clipfeat.streaming import prefetch, shares
from clipfeat.uv_index import open_uv_index
from clipfeat.vis import Pictures, build_pictures

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
    frames = list_frames(cfg, dataset)
    folder.claim(dataclasses.asdict(cfg), overwrite=not cfg.resume)
    todo = folder.missing(frames, with_pictures=cfg.vis.name != "none") if cfg.resume else frames
    folder.finish_scenes(frames, todo)
    if not todo:
        log.info("all %d frames are done already in %s", len(frames), folder.path)
        return folder.read_summary()
    if cfg.check == "yes":
        with stopwatch.stage("check"):
            check_scenes(cfg, dataset, frames)
    with stopwatch.stage("load model"):
        model = model or build_model(cfg.model, device, cfg.seed, build_cache(cfg.cache))
    pending = set(todo)
    folder.check_model((key for key in frames if key not in pending), model.describe())
    folder.write_head(model.head_name, model.head.state_dict())
    log.info("%d frames to do, %d done already, into %s", len(todo), len(frames) - len(todo), folder.path)

    lanes = cfg.num_workers or default_lanes()
    about = {"model": model.describe(), "sampling": cfg.sampling.name}
    pictures = _build_pictures(cfg.vis, cfg.seed, model, todo, lanes)
    prepare = FramePreparer(dataset, locate, model.preprocess, model.network_input, stopwatch)
    writers = ThreadPoolExecutor(lanes, thread_name_prefix="clipfeat-write")
    buffers: SimpleQueue[PageBuffer] = SimpleQueue()
    for _ in range(2 * lanes):
        buffers.put(PageBuffer())
    threads = max(1, default_lanes() // lanes)
    lane = Lane(prepare, model, folder, pictures, about, threads, writers, buffers, stopwatch)
    batches = shares(todo, cfg.batch_size or model.default_batch, lanes)
    finished, finishing = 0, []
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
    except BaseException:
        pictures.cancel()
        with suppress(OutputError):  # the error on its way up matters more, and may be the same full disk
            folder.write_summary(summarize(folder.records(), stopwatch, finished, about, interrupted=True))
        raise
    finally:
        writers.shutdown()
        model.close()
    summary = summarize(folder.records(), stopwatch, finished, about, interrupted=False)
    folder.write_summary(summary)
    log.info("%s", summary_table(summary))
    for warning in warnings_of(summary):
        log.warning("WARNING %s", warning)
    if not summary["frames"]:
        raise DataError(f"all {summary['failed']} frames failed; {folder.path / 'frames.jsonl'} says why")
    return summary


def _build_pictures(cfg: VisConfig, seed: int, model: Model, todo: list[FrameKey], processes: int) -> Pictures:
    return build_pictures(
        cfg.name,
        {scene_id: [frame_id for _, frame_id in keys] for scene_id, keys in groupby(todo, lambda key: key[0])},
        max_frames=cfg.max_frames,
        points_per_frame=cfg.points_per_frame,
        overlay_points=cfg.overlay_points,
        perplexity=cfg.perplexity,
        dpi=cfg.dpi,
        seed=seed,
        weights_note=f"{model.arch} · {model.head_name} · weights={model.describe()['weights']}",
        processes=processes,
    )
