"""A PNG per frame from the sampled point features. It needs no model and no feature map."""

from clipfeat.system.faces import lazily

__getattr__, __all__ = lazily(__name__, build=["build_pictures"], pictures=["Painter"])
