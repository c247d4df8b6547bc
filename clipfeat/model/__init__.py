"""Frozen CLIP: pictures to dense maps. Encoder, heads, and the cache of maps."""

from clipfeat.system.faces import lazily

__getattr__, __all__ = lazily(
    __name__, clip_model=["ClipModel", "Model", "build_model", "load_model", "resolve_device"]
)
