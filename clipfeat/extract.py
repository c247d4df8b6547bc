"""The loop that joins the stages: frames in, features at points out."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from clipfeat.camera import build_rules
from clipfeat.config import ExtractConfig, VisConfig
from clipfeat.data import build_dataset
from clipfeat.errors import DataError, FrameError, OutputError
from clipfeat.model import Model, build_model, resolve_device
from clipfeat.output import RunFolder, build_cache
from clipfeat.output.summary import Stopwatch, summarize, summary_table, visible_share, warnings_of
from clipfeat.prepare import Failed, FrameKey, FramePreparer, Prepared, list_frames
from clipfeat.sampling import build_point_source, sample_img_feat
from clipfeat.streaming import batched, prefetch
from clipfeat.types import PointFeatures
from clipfeat.vis import Pictures, build_pictures

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Lifted:
    """A frame, the features of its visible points, and the affine map from its pixels to the cells they come from."""

    frame: Prepared
    features: PointFeatures
    image_to_map: NDArray[np.float64]

    @property
    def key(self) -> FrameKey:
        """Scene and frame number."""
        return self.frame.key


def extract(cfg: ExtractConfig) -> dict[str, Any]:
    """Runs ``clipfeat-extract``.

    Returns:
        What ``summary.json`` holds.

    Raises:
        ClipfeatError: On anything that the user can mend; what was written before stays.
    """
    stopwatch = Stopwatch()
    device = resolve_device(cfg.device)
    point_source = build_point_source(cfg.sampling, cfg.seed)
    folder = RunFolder(Path(cfg.output_dir), cfg.output.name, cfg.output.dtype)
    dataset = build_dataset(cfg.data)
    frames = list_frames(cfg, dataset)
    folder.claim(dataclasses.asdict(cfg), overwrite=not cfg.resume)
    todo = folder.missing(frames, with_pictures=cfg.vis.name != "none") if cfg.resume else frames
    if not todo:
        log.info("all %d frames are done already in %s", len(frames), folder.path)
        return folder.read_summary()
    with stopwatch.stage("load model"):
        model = build_model(cfg.model, device, cfg.seed, build_cache(cfg.cache))
    folder.check_model(sorted(set(frames) - set(todo)), model.describe())
    folder.write_head(model.head_name, model.head.state_dict())
    pictures = _build_pictures(cfg.vis, cfg.seed, model)
    prepare = FramePreparer(
        dataset, point_source, model.preprocess, model.network_input, *build_rules(cfg.camera), cfg.seed, stopwatch
    )
    log.info("%d frames to do, %d done already, into %s", len(todo), len(frames) - len(todo), folder.path)

    # As many wait as fill the next batch while this one runs; no more, so that memory stays flat.
    prepared = prefetch(prepare, todo, cfg.num_workers, ahead=2 * cfg.batch_size)
    about = {"model": model.describe(), "sampling": cfg.sampling.name}
    frames_of = {scene_id: [key[1] for key in keys] for scene_id, keys in groupby(todo, lambda key: key[0])}
    finished = 0

    def summary_now(*, interrupted: bool) -> dict[str, Any]:
        return summarize(folder.records(), stopwatch, finished, model.describe(), interrupted=interrupted)

    try:
        with logging_redirect_tqdm(), tqdm(total=len(todo), unit="frame", disable=None) as bar:
            for scene_id, outcomes in groupby(lift(prepared, model, cfg.batch_size, stopwatch), lambda o: o.key[0]):
                pictures.start_scene(scene_id, frames_of[scene_id])
                points: Counter[str] = Counter()
                for outcome in outcomes:
                    if isinstance(outcome, Failed):
                        if cfg.on_bad_frame == "fail":
                            raise outcome.error
                        folder.append_record(failed_record(outcome))
                    else:
                        with stopwatch.stage("write", outcome.frame.seconds):
                            size = folder.write(*outcome.key, outcome.features, {**file_meta(outcome), **about})
                        folder.append_record(done_record(outcome, size))
                        picture_path = folder.picture_path(*outcome.key)
                        if pictures.wants(outcome.key[1]):  # else the picture need not be decoded
                            pictures.add(outcome.key[1], outcome.frame.frame.image, outcome.features, picture_path)
                        points.update(outcome.frame.counts)
                        finished += 1
                    bar.set_description(f"{scene_id}, {visible_share(points):.0%} visible")
                    bar.update()
                with stopwatch.stage("draw"):
                    pictures.finish_scene()
                if bar.disable:
                    log.info("%s: %.0f %% of the points visible", scene_id, 100 * visible_share(points))
    except BaseException:
        with suppress(OutputError):  # the error on its way up matters more, and may be the same full disk
            folder.write_summary(summary_now(interrupted=True))
        raise
    finally:
        model.close()
    summary = summary_now(interrupted=False)
    folder.write_summary(summary)
    log.info("%s", summary_table(summary))
    for warning in warnings_of(summary):
        log.warning("WARNING %s", warning)
    if frames and not summary["frames"]:
        raise DataError(f"all {summary['failed']} frames failed; {folder.path / 'frames.jsonl'} says why")
    return summary


def lift(
    prepared: Iterable[Prepared | Failed], model: Model, batch_size: int, stopwatch: Stopwatch
) -> Iterator[Lifted | Failed]:
    """Runs the frames through the network in batches and samples their points; order is kept."""
    for batch in batched(prepared, batch_size):
        ready = [frame for frame in batch if isinstance(frame, Prepared)]
        with stopwatch.stage("model"):
            inputs, sizes = [f.network_input for f in ready], [f.image_size for f in ready]
            maps = iter(model.feature_maps(inputs, sizes) if ready else [])
        for frame in batch:
            if isinstance(frame, Failed):
                yield frame
                continue
            feature_map = next(maps)
            with stopwatch.stage("sample", frame.seconds):
                features = model.point_features(sample_img_feat(feature_map, frame.uv_idx))
            if not np.isfinite(features).all():
                why = f"{frame.key[0]} frame {frame.key[1]}: the features hold inf or NaN; try model.precision=fp32"
                yield Failed(frame.key, FrameError(why))
                continue
            points = frame.points
            at_points = PointFeatures(
                features, frame.uv_idx, frame.conf_2d, points.xyz.astype(np.float32), points.idx, points.attributes
            )
            yield Lifted(frame, at_points, feature_map.image_to_map)


def file_meta(lifted: Lifted) -> dict[str, Any]:
    """What a feature file says of its frame; the model is added to it."""
    frame = lifted.frame.frame
    camera = frame.color_camera
    return {
        "scene_id": frame.scene_id,
        "frame_id": frame.frame_id,
        "camera": {"intrinsics": camera.intrinsics.tolist(), "width": camera.width, "height": camera.height},
        "cam_to_world": frame.cam_to_world.tolist(),
        "image_to_map": lifted.image_to_map.tolist(),
        "points": lifted.frame.counts,
    }


def done_record(lifted: Lifted, size: int) -> dict[str, Any]:
    """The line of a finished frame in ``frames.jsonl``."""
    scene_id, frame_id = lifted.key
    return {
        "scene_id": scene_id,
        "frame_id": frame_id,
        "status": "done",
        "points": lifted.frame.counts,
        "visible_share": round(visible_share(lifted.frame.counts), 4),
        "bytes": size,
        "seconds": lifted.frame.seconds,
    }


def failed_record(failed: Failed) -> dict[str, Any]:
    """The line of a frame that could not be used."""
    scene_id, frame_id = failed.key
    return {"scene_id": scene_id, "frame_id": frame_id, "status": "failed", "why": str(failed.error)}


def _build_pictures(cfg: VisConfig, seed: int, model: Model) -> Pictures:
    return build_pictures(
        cfg.name,
        max_frames=cfg.max_frames,
        points_per_frame=cfg.points_per_frame,
        overlay_points=cfg.overlay_points,
        perplexity=cfg.perplexity,
        dpi=cfg.dpi,
        seed=seed,
        weights_note=f"{model.arch} · {model.head_name} · weights={model.describe()['weights']}",
    )
