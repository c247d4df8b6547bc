"""Where frames come from: one file a layout, all behind ``Dataset``.

A layout whose files patterns can tell is a copy of conf/data/posed_rgbd.yaml under its own name, in which ``name:
posed_rgbd`` stays. For any other, say ``mine``:

1. File: clipfeat/data/mine.py with a class that keeps the contract of ``Dataset`` (base.py) and is made of its
   configuration, which has ``root``. What is wrong with one frame, such as a pose with inf, is a ``FrameError``,
   with a scene a ``DataError`` (clipfeat/errors.py), each in one line: any other exception is told as one of them.
2. Row: ``LAYOUTS`` in config.py; with ``DataConfig``, or with a dataclass of its own where it needs more keys.
3. YAML: conf/data/mine.yaml with ``defaults: [mine_schema]`` and ``name: mine``. That is ``data=mine``.
"""

from clipfeat.system.faces import lazily

__getattr__, __all__ = lazily(__name__, base=["Dataset"], layouts=["build_dataset"])
