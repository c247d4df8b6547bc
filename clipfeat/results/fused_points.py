"""Onto which points a scene is fused: those of its mesh where there are meshes, else the voxels that were measured."""

import logging
from collections.abc import Sequence
from pathlib import Path

from clipfeat.output.folders import read_config
from clipfeat.results.config import FuseConfig
from clipfeat.sampling.config import MeshSamplingConfig, PointsConfig

log = logging.getLogger(__name__)


def mesh_pattern(cfg: FuseConfig, run: PointsConfig) -> str:
    """Path of the meshes that ``points=mesh`` fuses onto, with {scene} in it."""
    if cfg.points_file is not None:
        return cfg.points_file
    if isinstance(run.sampling, MeshSamplingConfig):
        return run.sampling.points_file
    return f"{run.data.root}/{{scene}}/{{scene}}_vh_clean_2.ply"


def choose_points(cfg: FuseConfig, run: PointsConfig, scenes: Sequence[str]) -> str:
    """What ``points=auto`` stands for: mesh or voxel, the same for all scenes of a folder; else what was asked for.

    Args:
        cfg: what is asked for.
        run: the configuration that the features were extracted with.
        scenes: all of the run: processes that share a folder must agree.

    Raises:
        OutputError: If the folder's ``config.yaml`` can't be read.
    """
    if cfg.points != "auto":
        return cfg.points
    if cfg.points_file or cfg.labels_file or isinstance(run.sampling, MeshSamplingConfig):
        return "mesh"
    folder = Path(cfg.output_dir or Path(cfg.store) / "fused")
    if cfg.resume != "overwrite" and (folder / "config.yaml").is_file():
        before = read_config(folder).get("points")  # also where the scans have moved away since
        if before in ("mesh", "voxel"):
            return str(before)
    pattern = mesh_pattern(cfg, run)
    if any(Path(pattern.replace("{scene}", scene_id)).is_file() for scene_id in scenes):
        return "mesh"
    log.warning(
        "no scene has a mesh (%s): fusing onto voxels of %g m; points_file=…/{scene}….ply says where meshes are",
        pattern, cfg.voxel_size,
    )  # fmt: skip
    return "voxel"
