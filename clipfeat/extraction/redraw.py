"""Pictures from the files of a run, without its model: those that a run lacks, and those of ``clipfeat-vis``."""

import logging
from contextlib import closing
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from clipfeat.data.selection import FrameKey
from clipfeat.errors import DataError, FrameError
from clipfeat.extraction.config import ExtractConfig
from clipfeat.extraction.plan import Plan
from clipfeat.extraction.scans import Scans
from clipfeat.output.folders import picture_path
from clipfeat.output.run_folder import RunFolder
from clipfeat.output.store import FeatureStore
from clipfeat.system.shards import usable_cores
from clipfeat.system.streaming import prefetch
from clipfeat.vis.build import build_pictures, model_note
from clipfeat.vis.config import VisConfig
from clipfeat.vis.pictures import SampledFrame

log = logging.getLogger(__name__)


def draw_missing(cfg: ExtractConfig, folder: RunFolder, plan: Plan) -> None:
    """Draws the pictures that frames of a run lack although they are done, and the others of their scenes.

    A scene that was done in one go has its pictures already. Those of a scene share their colours, so where one is
    missing all are drawn anew: by their files, for the model needs much longer. Frames that can't be read any more are
    told of, and get none.

    Raises:
        FrameError: If one can't be read, and ``on_bad_frame=fail``.
        DataError: The same, or the scans are gone.
        OutputError: If a picture can't be written.
    """
    lacking = folder.undrawn(plan.pictured)
    if not lacking:
        return
    done = folder.done(plan.pictured)
    scenes = {scene_id for scene_id, _ in lacking}
    todo = [key for key in plan.frames if key in done and key[0] in scenes]
    log.info("%d pictures to draw, from the files of frames that are done", len(todo))
    store = FeatureStore(folder.path)
    failed = draw_from_files(
        cfg.vis, Scans(store, cfg.data), todo, folder.path, seed=cfg.seed, num_workers=cfg.num_workers,
        fail=cfg.on_bad_frame == "fail",
    )  # fmt: skip
    for (scene_id, frame_id), why in failed.items():
        log.warning("WARNING no picture of %s frame %d: %s", scene_id, frame_id, why)


def draw_from_files(
    cfg: VisConfig,
    scans: Scans,
    todo: list[FrameKey],
    folder: Path,
    *,
    seed: int,
    num_workers: int | None,
    fail: bool,
    keep: bool = False,
) -> dict[FrameKey, str]:
    """Draws pictures of frames whose features are in files.

    Args:
        cfg: which pictures.
        scans: the frames, and the store of their features.
        todo: the frames that get a picture, scene after scene.
        folder: where the pictures go.
        seed: of the run.
        num_workers: that read, and that draw; None is one a core.
        fail: whether a frame that can't be read ends it.
        keep: whether pictures that are there already stay as they are.

    Returns:
        The frames that could not be read, and why.

    Raises:
        FrameError: If one can't be read, and ``fail``.
        DataError: The same.
        OutputError: If a picture can't be written.
    """
    store, failed = scans.store, dict[FrameKey, str]()
    workers = num_workers or usable_cores()
    pictures = build_pictures(
        cfg,
        {scene_id: [frame_id for _, frame_id in keys] for scene_id, keys in groupby(todo, lambda key: key[0])},
        seed=seed,
        weights_note=model_note(store.model),
        processes=workers,
        keep=keep,
    )

    def sample(key: FrameKey) -> SampledFrame | FrameError | DataError:
        def choose(count: int) -> NDArray[np.integer]:
            rows = pictures.choose(*key, count)
            return np.arange(0) if rows is None else rows

        try:
            image = scans.load(*key).image
            return pictures.sample(*key, image, store.load(*key, choose), picture_path(folder, *key))
        except (FrameError, DataError) as error:
            return error

    try:
        with (
            closing(prefetch(sample, todo, workers, ahead=workers + 1)) as results,
            logging_redirect_tqdm(),
            tqdm(total=len(todo), unit="frame", disable=None) as bar,
        ):
            for scene_id, of_scene in groupby(zip(todo, results, strict=True), lambda item: item[0][0]):
                bar.set_description(scene_id, refresh=False)
                sampled = []
                for key, result in of_scene:
                    if isinstance(result, SampledFrame):
                        sampled.append(result)
                    elif fail:
                        raise result
                    else:
                        failed[key] = str(result)
                    bar.update()
                pictures.draw(scene_id, sampled)
        pictures.close()
    except BaseException:
        pictures.cancel()
        raise
    return failed
