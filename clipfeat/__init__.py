"""Lift frozen CLIP features from posed RGB-D frames onto 3D points.

What is here is imported when it is asked for, so that ``import clipfeat`` and ``clipfeat --help`` wait for nothing.
"""

from typing import TYPE_CHECKING

from clipfeat.system.faces import lazily

if TYPE_CHECKING:
    from clipfeat.camera.projection import build_uv_index, unproject_depth
    from clipfeat.camera.visibility import project_frame
    from clipfeat.cli.api import extract, fuse, load_model, query
    from clipfeat.errors import ClipfeatError
    from clipfeat.mapping.map3d import FeatureMap3D
    from clipfeat.output.dataset import FeatureDataset, collate_points
    from clipfeat.output.store import FeatureStore
    from clipfeat.sampling.bilinear import sample_img_feat

__all__ = [
    "ClipfeatError",
    "FeatureDataset",
    "FeatureMap3D",
    "FeatureStore",
    "__version__",
    "build_uv_index",
    "collate_points",
    "extract",
    "fuse",
    "load_model",
    "project_frame",
    "query",
    "sample_img_feat",
    "unproject_depth",
]

__version__ = "0.1.0"

__getattr__, _ = lazily(
    __name__,
    **{
        "camera.projection": ["build_uv_index", "unproject_depth"],
        "camera.visibility": ["project_frame"],
        "cli.api": ["extract", "fuse", "load_model", "query"],
        "errors": ["ClipfeatError"],
        "mapping.map3d": ["FeatureMap3D"],
        "output.dataset": ["FeatureDataset", "collate_points"],
        "output.store": ["FeatureStore"],
        "sampling.bilinear": ["sample_img_feat"],
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
