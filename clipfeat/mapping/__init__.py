"""A scene as one map of features in memory, which grows frame by frame and can be asked at any time."""

from clipfeat.system.faces import lazily

__getattr__, __all__ = lazily(__name__, map3d=["FeatureMap3D"])
