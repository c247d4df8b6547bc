"""Rendered rooms in ScanNet's layout: quickstart, test data and ground truth in one."""

from clipfeat.data.demo.scans import SceneOptions, demo_scene_id, render_scene, render_scenes

__all__ = ["SceneOptions", "demo_scene_id", "render_scene", "render_scenes"]
