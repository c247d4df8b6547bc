"""Which points get a feature, and how it is read off the map."""

from clipfeat.system.faces import lazily

__getattr__, __all__ = lazily(
    __name__, bilinear=["sample_img_feat"], points=["POINT_SOURCES", "PointSource", "build_point_source"]
)
