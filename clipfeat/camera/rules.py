"""Where 3D points fall in a picture, and whether they are seen there."""

from pathlib import Path

from clipfeat.camera.config import CameraConfig
from clipfeat.camera.masks import MaskRule, read_instance_mapping
from clipfeat.camera.projection import build_uv_index, unproject_depth, world_to_cam
from clipfeat.camera.visibility import VisibilityRule, project_frame, project_views

__all__ = [
    "MaskRule",
    "VisibilityRule",
    "build_rules",
    "build_uv_index",
    "project_frame",
    "project_views",
    "unproject_depth",
    "world_to_cam",
]


def build_rules(cfg: CameraConfig) -> tuple[VisibilityRule, MaskRule]:
    """What ``camera=…`` sets: when a point counts as seen, and what an instance mask does to it.

    Raises:
        ConfigError: If the file of the instance mapping can't be read.
    """
    visibility = VisibilityRule(
        near=cfg.near,
        far=cfg.far,
        border=cfg.border,
        tolerance=cfg.depth_tolerance,
        tolerance_rel=cfg.depth_tolerance_rel,
        keep_holes=cfg.holes == "keep",
        zbuffer=cfg.zbuffer,
    )
    same = cfg.mask_instances == "same"
    mapping = read_instance_mapping(Path(cfg.mask_instances)) if cfg.mask_instances and not same else None
    return visibility, MaskRule(cfg.mask_edge_px, cfg.mask_edge == "weight", same, mapping)
