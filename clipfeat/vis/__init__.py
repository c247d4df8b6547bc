"""A PNG per frame from the sampled point features. It needs no model and no feature map.

To add a kind of picture, say ``mine``:

1. File: clipfeat/vis/mine.py with a class that has ``draw`` as ``Painter`` (pictures.py) has it, and what makes one of
   ``VisConfig``, the footer's note and the seed: as painters.py has them.
2. Row: ``PAINTERS`` in config.py.
3. YAML: conf/vis/mine.yaml with ``name: mine``. That is ``vis=mine``.
"""

from clipfeat.system.faces import lazily

__getattr__, __all__ = lazily(__name__, build=["build_pictures"], pictures=["Painter"])
