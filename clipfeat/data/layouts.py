"""The table of layouts: what each configuration of ``data=…`` opens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipfeat.data.base import Dataset, MaskedDataset
from clipfeat.data.config import DataConfig, DemoConfig, PosedRgbdConfig, ScanNet200MvConfig, ScanNetConfig, SensConfig
from clipfeat.data.posed_rgbd import PosedRgbdDataset
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.data.scannet200_mv import ScanNet200MvDataset
from clipfeat.data.sens import SensDataset
from clipfeat.errors import ConfigError


def _size(value: list[int] | None) -> tuple[int, int] | None:
    return None if value is None else (value[0], value[1])


def _scannet(cfg: ScanNetConfig, scene_ids: list[str] | None = None) -> Dataset:
    return ScanNetDataset(
        Path(cfg.root), cfg.depth_scale, _size(cfg.color_intrinsics_size), _size(cfg.depth_intrinsics_size), scene_ids
    )


def _sens(cfg: SensConfig) -> Dataset:
    return SensDataset(Path(cfg.root))


def _demo(cfg: DemoConfig) -> Dataset:
    from clipfeat.data.demo import SceneOptions, demo_scene_id, render_scenes

    options = SceneOptions(
        num_frames=cfg.num_frames,
        color_size=(cfg.color_size[0], cfg.color_size[1]),
        depth_size=(cfg.depth_size[0], cfg.depth_size[1]),
        depth_noise=cfg.depth_noise,
        depth_holes=cfg.depth_holes,
        lost_poses=cfg.lost_poses,
        mesh_spacing=cfg.mesh_spacing,
        seed=cfg.seed,
    )
    render_scenes(Path(cfg.root), cfg.num_scenes, options)
    # The folder may hold more rooms, rendered for another run.
    return _scannet(cfg, [demo_scene_id(index) for index in range(cfg.num_scenes)])


def _posed_rgbd(cfg: PosedRgbdConfig) -> Dataset:
    return PosedRgbdDataset(cfg)


def _scannet200_mv(cfg: ScanNet200MvConfig) -> Dataset:
    return ScanNet200MvDataset(Path(cfg.root), cfg.intrinsics or "", _size(cfg.intrinsics_size), cfg.depth_scale)


DATASETS: dict[str, Callable[[Any], Dataset]] = {
    "scannet": _scannet,
    "sens": _sens,
    "demo": _demo,
    "posed_rgbd": _posed_rgbd,
    "scannet200_mv": _scannet200_mv,
}


def build_dataset(cfg: DataConfig) -> Dataset:
    """The data set that ``data=…`` names.

    Raises:
        ConfigError: If there is no such layout.
        DataError: If its root can't be read.
    """
    if cfg.name not in DATASETS:
        raise ConfigError(f"data.name={cfg.name}: expected one of {', '.join(DATASETS)}")
    if cfg.masks is not None and "{frame}" not in cfg.masks:
        raise ConfigError(f"data.masks={cfg.masks}: expected a path with {{scene}} and {{frame}} in it")
    dataset = DATASETS[cfg.name](cfg)
    return dataset if cfg.masks is None else MaskedDataset(dataset, cfg.masks)
