"""A run's look at its calibration: before the frames, or in their place."""

import logging
from collections.abc import Sequence
from pathlib import Path

from clipfeat.calibration.check import SceneCheck, SceneMesh, check_scenes, require_calibration
from clipfeat.data.base import Dataset
from clipfeat.data.layouts import build_dataset
from clipfeat.data.selection import FrameKey, list_frames
from clipfeat.errors import DataError
from clipfeat.extraction.config import ExtractConfig
from clipfeat.extraction.plan import check_output
from clipfeat.output.run_folder import RunFolder
from clipfeat.sampling.config import MeshSamplingConfig
from clipfeat.system.shards import this_shard

log = logging.getLogger(__name__)


def check(cfg: ExtractConfig, dataset: Dataset, frames: Sequence[FrameKey]) -> list[SceneCheck]:
    """Looks whether poses, K, depth and colour fit each other, and says what of each scene."""
    return check_scenes(dataset, frames, _mesh(cfg), Path(cfg.output_dir), vars(cfg.data))


def check_only(cfg: ExtractConfig) -> None:
    """Checks the calibration and does nothing else; other results in ``output_dir`` stay as they are.

    Raises:
        CheckError: If a scene's calibration looks wrong, so that scripts see it.
        CannotTellError: If nothing could be told of any scene; the same.
        DataError: If a scene can't be read; the others were looked at.
        ClipfeatError: If the data set can't be read or ``output_dir`` not be written.
    """
    check_output(cfg)
    RunFolder(Path(cfg.output_dir), cfg.output.name, cfg.output.dtype)  # finds out before the work
    dataset = build_dataset(cfg.data)
    bad_scenes: dict[str, str] = {}
    frames = list_frames(cfg, dataset, bad_scenes, this_shard(cfg.shard.index, cfg.shard.count))
    for scene_id, why in bad_scenes.items():
        log.warning("check %s: can't be read: %s", scene_id, why)
    require_calibration(check(cfg, dataset, frames))
    if bad_scenes:
        why = next(iter(bad_scenes.values()))
        raise DataError(f"{len(bad_scenes)} of the scenes can't be read, the others are well; the first: {why}")


def _mesh(cfg: ExtractConfig) -> SceneMesh:
    """The mesh that the calibration is held against: that of the run's points, or else ScanNet's, where it lies."""
    if isinstance(cfg.sampling, MeshSamplingConfig):
        return SceneMesh(cfg.sampling.points_file, sampled=True)
    return SceneMesh(f"{cfg.data.root}/{{scene}}/{{scene}}_vh_clean_2.ply", sampled=False)
