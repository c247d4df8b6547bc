"""Everything in one go, each step by the function of its own command: ``clipfeat-extract --config-name composer``."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from clipfeat.cli.config import ComposerConfig
from clipfeat.data.layouts import build_dataset
from clipfeat.data.selection import FrameKey, frame_keys, list_scenes, own_scenes
from clipfeat.errors import ConfigError, DataError
from clipfeat.extraction.config import ExtractConfig
from clipfeat.extraction.extract import extract
from clipfeat.extraction.uv_index import write_uv_index
from clipfeat.output.report import open_run, write_report
from clipfeat.output.run_folder import RunFolder
from clipfeat.output.store import FeatureStore
from clipfeat.output.summary import points_said
from clipfeat.results.config import PicturesConfig
from clipfeat.results.draw import draw
from clipfeat.results.fuse import fuse, remove_fused
from clipfeat.results.fused_points import choose_points, mesh_pattern
from clipfeat.system.atomic import locked
from clipfeat.system.shards import Shard, this_shard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """One of the steps, which does only what is missing.

    Attributes:
        name: of the step.
        work: does it, and returns what there is to say of it.
    """

    name: str
    work: Callable[[], str]


def compose(cfg: ComposerConfig) -> None:
    """Runs uv index, extraction, fusion, pictures and report, one after another, and says what each has done.

    Every step does what is missing and looks at the disk for that, so whatever stopped the steps, the same call goes on
    from there.

    Args:
        cfg: what to run.

    Raises:
        ClipfeatError: On anything that the user can mend; what was written before stays.
    """
    begin = time.perf_counter()
    if cfg.fuse.store != cfg.output_dir:
        raise ConfigError(
            f"fuse.store={cfg.fuse.store}: the extraction's own features are fused, those of output_dir="
            f"{cfg.output_dir}; leave it out, or use clipfeat-fuse"
        )
    extraction = extraction_of(cfg)
    # Scenes that can't be read are told of, and counted, by the extraction.
    everything, shard = (
        list_scenes(extraction, build_dataset(cfg.data), {}),
        this_shard(cfg.shard.index, cfg.shard.count),
    )
    frames = frame_keys(own_scenes(everything, shard))
    scenes = list(dict.fromkeys(scene_id for scene_id, _ in frames))
    if not scenes:
        log.info("shard %d of %d has no scenes: there are too few", shard.index, shard.count)
        return
    _check_meshes(cfg, extraction, scenes)
    if cfg.resume == "overwrite":
        # First of all: if the steps are stopped, no scene that was fused of earlier features may pass for done.
        remove_fused(cfg.fuse, scenes)
    steps = [
        Step("extraction", lambda: _extract(extraction, frames)),
        Step("fusion", lambda: _fuse(cfg, scenes)),
    ]
    if extraction.uv_index is not None:
        steps.insert(0, Step("uv index", lambda: _index(extraction)))
    if cfg.vis.name != "none":
        steps.append(Step("pictures", lambda: _draw(cfg, scenes)))
    if cfg.report:
        steps.append(Step("report", lambda: _report(cfg, shard, everything)))
    for number, step in enumerate(steps, 1):
        began = time.perf_counter()
        said = step.work()
        spent = time.perf_counter() - began
        log.info("step %d of %d  %-10s %6.1f s  %s", number, len(steps), step.name, spent, said)
    log.info("all done in %.1f s: %s", time.perf_counter() - begin, ", ".join(_results(cfg)))


def extraction_of(cfg: ComposerConfig) -> ExtractConfig:
    """What the extraction is told; pictures and report have steps of their own.

    The uv index is left out where it costs more than it saves: own depth pixels are projected in no time.
    """
    own = {key.name: getattr(cfg, key.name) for key in fields(ExtractConfig)}
    uv_index = cfg.uv_index if cfg.sampling.name == "mesh" else None
    return ExtractConfig(**own | {"uv_index": uv_index, "report": False, "vis": replace(cfg.vis, name="none")})


def _check_meshes(cfg: ComposerConfig, extraction: ExtractConfig, scenes: Sequence[str]) -> None:
    """Tells of a mesh that the fusion will not find before hours are spent on the features.

    Raises:
        DataError: If a scene has none, and that would end the fusion.
    """
    if choose_points(cfg.fuse, extraction, scenes) != "mesh":
        return
    pattern = mesh_pattern(cfg.fuse, extraction)
    paths = [Path(pattern.replace("{scene}", scene_id)) for scene_id in scenes]
    missing = [path for path in paths if not path.is_file()]
    if len(missing) == len(paths) or (missing and cfg.fuse.on_bad_frame == "fail"):
        raise DataError(
            f"{missing[0]}: no such file, and {len(missing)} of {len(paths)} scenes have no mesh that their features "
            f"could be fused onto; say where it is by fuse.points_file=…/{{scene}}….ply, or take fuse.points=voxel"
        )


def _index(extraction: ExtractConfig) -> str:
    index = write_uv_index(extraction)
    return _counted("frame", index["done"], index["done"] + index["there"], len(index["failed"]))


def _extract(extraction: ExtractConfig, frames: Sequence[FrameKey]) -> str:
    before = len(RunFolder(Path(extraction.output_dir), extraction.output.name, extraction.output.dtype).done(frames))
    summary = extract(extraction)
    failed = summary["failed"] + summary["scenes_left_out"]
    points, model = points_said(summary["points"], extraction.sampling.name), summary["model"]
    counted = _counted("frame", summary["frames"] - before, summary["frames"], failed)
    return f"{counted}; {points}, head {model['head']}, weights={model['weights']}"


def _fuse(cfg: ComposerConfig, scenes: Sequence[str]) -> str:
    summary = fuse(cfg.fuse, scenes)
    return _counted("scene", summary["fused"], len(summary["scenes"]), len(summary["failed"]))


def _draw(cfg: ComposerConfig, scenes: Sequence[str]) -> str:
    there = FeatureStore(cfg.output_dir).scenes
    pictures = PicturesConfig(
        store=cfg.output_dir,
        vis=cfg.vis,
        scenes=[scene_id for scene_id in scenes if scene_id in there],
        num_workers=cfg.num_workers,
        resume=cfg.resume,
        on_bad_frame=cfg.on_bad_frame,
    )
    summary = draw(pictures)
    return _counted("picture", summary["drawn"], summary["drawn"] + summary["kept"], len(summary["failed"]))


def _report(cfg: ComposerConfig, shard: Shard, frames: Mapping[str, list[int]]) -> str:
    """Writes the report; of several shards, the last does, when all frames are settled."""
    folder = open_run(Path(cfg.output_dir), shard)
    totals = None if shard.is_whole else folder.totals_if_settled(frames)
    if totals is None and not shard.is_whole:
        return "left to the last shard"
    with locked(folder.path):
        return f"written into {write_report(folder, totals)}"


def _counted(noun: str, now: int, total: int, failed: int) -> str:
    when = f", {now} of them now" if now else " before"
    return f"{total} {noun}{'' if total == 1 else 's'} done{when}{f', {failed} failed' if failed else ''}"


def _results(cfg: ComposerConfig) -> list[str]:
    """Where a user finds what there is to look at."""
    run, fused = Path(cfg.output_dir), Path(cfg.fuse.output_dir or "")
    found = [f"report {run / 'report.html'}"] if cfg.report else []
    found.append(f"fused scenes {fused / '*'}.{'ply' if 'ply' in cfg.fuse.formats else 'npz'}")
    return found if cfg.vis.name == "none" else [*found, f"pictures {run / '*' / 'vis_*.png'}"]
