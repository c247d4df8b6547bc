"""Where 3D points fall in a picture, and whether they are seen there."""

from clipfeat.system.faces import lazily

__getattr__, __all__ = lazily(
    __name__,
    masks=["MaskRule"],
    projection=["build_uv_index", "unproject_depth", "world_to_cam"],
    rules=["build_rules"],
    visibility=["VisibilityRule", "project_frame", "project_views"],
)
