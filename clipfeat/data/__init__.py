"""Where frames come from: one file a layout, all behind ``Dataset``."""

from clipfeat.system.faces import lazily

__getattr__, __all__ = lazily(__name__, base=["Dataset"], layouts=["build_dataset"])
