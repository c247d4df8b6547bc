"""Frozen CLIP: pictures to dense maps. Encoder, heads, the cache of maps; and texts, for what to compare them to.

To add a head, say ``mine``:

1. File: clipfeat/model/mine_head.py with a subclass of ``Head`` (heads.py) that is made of the width of the tokens. It
   says its ``scale`` if its map is finer than they are; its weights are seeded, or read from ``model.head.weights``.
2. Row: ``HEADS`` in config.py.
3. YAML: conf/model/head/mine.yaml with ``name: mine``. That is ``model/head=mine``.
"""

from clipfeat.system.faces import lazily

__getattr__, __all__ = lazily(
    __name__,
    base=["Model"],
    build=["build_model"],
    clip_model=["ClipModel"],
    load=["load_model", "resolve_device"],
)
