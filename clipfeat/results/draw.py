"""The pictures of a run, drawn again or in another way from its features, without the model: ``clipfeat-vis``."""

import logging
import time
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from clipfeat.data.selection import FrameKey
from clipfeat.errors import DataError, FrameError
from clipfeat.extraction.scans import Scans, read_run_config
from clipfeat.output.folders import make_writable, picture_path
from clipfeat.output.store import FeatureStore
from clipfeat.results.config import PicturesConfig
from clipfeat.system.shards import usable_cores
from clipfeat.system.streaming import prefetch
from clipfeat.vis.build import build_pictures, model_note
from clipfeat.vis.pictures import SampledFrame, spread_evenly

log = logging.getLogger(__name__)


def draw(cfg: PicturesConfig) -> dict[str, Any]:
    """Runs ``clipfeat-vis``.

    The pictures are those that clipfeat-extract draws with the same ``vis`` keys: of the same points, in the same
    colours.

    Args:
        cfg: what to run.

    Returns:
        ``drawn`` and ``kept``: numbers of pictures; ``failed``: the frames that got none, and why; ``seconds``.

    Raises:
        ClipfeatError: On anything that the user can mend; what was drawn before stays.
    """
    begin = time.perf_counter()
    store = FeatureStore(cfg.store)
    run = read_run_config(store.folder, cfg.data_root)
    folder = Path(cfg.output_dir or cfg.store)
    make_writable(folder, "output_dir")
    wanted = list_pictures(cfg, store)
    there = {key for key in wanted if cfg.resume == "true" and picture_path(folder, *key).is_file()}
    # Colours are shared by the frames of a scene: where one of its pictures is missing, all of them are looked at.
    scenes = {key[0] for key in wanted if key not in there}
    todo = [key for key in wanted if key[0] in scenes]
    log.info("%d pictures to draw, %d are there already, into %s", len(wanted) - len(there), len(there), folder)
    failed: dict[FrameKey, str] = {}
    if todo:
        _draw(cfg, store, Scans(store, run.data), run.seed, folder, todo, failed)
    drawn = len(wanted) - len(there) - len(failed.keys() - there)
    seconds = round(time.perf_counter() - begin, 3)
    log.info("  drawn            %d pictures (%s), in %.1f s", drawn, model_note(store.model), seconds)
    if there:
        log.info("  kept             %d pictures; resume=overwrite draws them again", len(there))
    for (scene_id, frame_id), why in list(failed.items())[:5]:
        log.warning("WARNING failed: %s frame %d: %s", scene_id, frame_id, why)
    if len(failed) > 5:
        log.warning("WARNING … and %d more failed frames", len(failed) - 5)
    if wanted and not drawn and not there:
        raise DataError(f"all {len(failed)} frames failed; the first: {next(iter(failed.values()))}")
    reasons = [{"scene_id": scene_id, "frame_id": frame_id, "why": why} for (scene_id, frame_id), why in failed.items()]
    return {"drawn": drawn, "kept": len(there), "failed": reasons, "seconds": seconds}


def list_pictures(cfg: PicturesConfig, store: FeatureStore) -> list[FrameKey]:
    """The frames that get a picture, scene after scene: ``vis.max_frames`` a scene at most, spread evenly.

    Raises:
        DataError: If there is no such scene, or no such frame in any of them.
    """
    frames = {scene_id: store.frames(scene_id) for scene_id in cfg.scenes or store.scenes}
    missing = set(cfg.frames).difference(*frames.values())
    if missing:
        raise DataError(
            f"frames={cfg.frames}: {store.folder} holds no frame {min(missing)} in {', '.join(list(frames)[:5])}"
            f"{' …' if len(frames) > 5 else ''}; see the names of its files"
        )
    asked = {scene_id: [i for i in ids if not cfg.frames or i in cfg.frames] for scene_id, ids in frames.items()}
    return [(scene_id, i) for scene_id, ids in asked.items() for i in spread_evenly(ids, cfg.vis.max_frames)]


def _draw(
    cfg: PicturesConfig,
    store: FeatureStore,
    scans: Scans,
    seed: int,
    folder: Path,
    todo: list[FrameKey],
    failed: dict[FrameKey, str],
) -> None:
    workers = cfg.num_workers or usable_cores()
    pictures = build_pictures(
        cfg.vis,
        {scene_id: [frame_id for _, frame_id in keys] for scene_id, keys in groupby(todo, lambda key: key[0])},
        seed=seed,
        weights_note=model_note(store.model),
        processes=workers,
        keep=cfg.resume == "true",
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
                    elif cfg.on_bad_frame == "fail":
                        raise result
                    else:
                        failed[key] = str(result)
                    bar.update()
                pictures.draw(scene_id, sampled)
        pictures.close()
    except BaseException:
        pictures.cancel()
        raise
