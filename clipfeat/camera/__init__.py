"""Where 3D points fall in a picture, and whether they are seen there."""

from clipfeat.camera.projection import build_uv_index, unproject_depth, world_to_cam
from clipfeat.camera.visibility import project_frame

__all__ = ["build_uv_index", "project_frame", "unproject_depth", "world_to_cam"]
