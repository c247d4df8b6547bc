"""Lift frozen CLIP features from posed RGB-D frames onto 3D points."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipfeat.output import FeatureStore

__all__ = ["FeatureStore", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``clipfeat.FeatureStore``, imported when it is first asked for: it needs torch, and the command line may not."""
    if name == "FeatureStore":
        from clipfeat.output import FeatureStore

        return FeatureStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
