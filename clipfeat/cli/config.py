"""All of ``clipfeat-extract --config-name composer``, which joins several commands."""

from dataclasses import dataclass, field

from clipfeat.extraction.config import ExtractConfig
from clipfeat.results.config import FuseConfig


@dataclass
class ComposerConfig(ExtractConfig):
    """All of ``clipfeat-extract --config-name composer``: an extraction, and what is made of it.

    Attributes:
        uv_index: as for the extraction, but filled here where it is of use, which is for sampling=mesh; null for none.
        fuse: see FuseConfig; its ``store`` is the ``output_dir`` of the extraction.
    """

    fuse: FuseConfig = field(default_factory=FuseConfig)
