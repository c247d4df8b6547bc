"""Lift frozen CLIP features from posed RGB-D frames onto 3D points."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipfeat.output.dataset import FeatureDataset, collate_points
    from clipfeat.output.store import FeatureStore

__all__ = ["FeatureDataset", "FeatureStore", "__version__", "collate_points"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``clipfeat.FeatureStore`` and the like, imported when asked for: they need torch, the command line may not."""
    if name in ("FeatureDataset", "FeatureStore", "collate_points"):
        import clipfeat.output

        return getattr(clipfeat.output, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
