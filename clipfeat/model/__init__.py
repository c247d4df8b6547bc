"""Frozen CLIP: pictures to dense maps. Encoder, heads, and the cache of maps."""

from clipfeat.system.faces import lazily

__getattr__, __all__ = lazily(
    __name__,
    base=["Model"],
    build=["build_model"],
    clip_model=["ClipModel"],
    load=["load_model", "resolve_device"],
)
