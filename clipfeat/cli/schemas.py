"""The register: what each command's configuration holds, and what Hydra is told of it."""

from typing import Any

from hydra.core.config_store import ConfigStore

from clipfeat.cli.config import ComposerConfig
from clipfeat.data.config import DATA_CONFIGS
from clipfeat.evaluate.config import EvaluateConfig
from clipfeat.extraction.config import ExtractConfig
from clipfeat.fusion.config import FitHeadConfig, TrainConfig
from clipfeat.queries.config import QueryConfig
from clipfeat.results.config import ExportConfig, FuseConfig, PicturesConfig
from clipfeat.sampling.config import MeshSamplingConfig

COMMANDS: dict[str, type[Any]] = {
    "extract": ExtractConfig,
    "composer": ComposerConfig,
    "export": ExportConfig,
    "fuse": FuseConfig,
    "query": QueryConfig,
    "train": TrainConfig,
    "vis": PicturesConfig,
    "evaluate": EvaluateConfig,
    "fit-head": FitHeadConfig,
}
"""What each primary configuration holds: those of ``clipfeat-<name>``, and composer's."""


def register_schemas() -> None:
    """Tells Hydra the schema, so that a misspelt key or a wrong type fails while composing."""
    store = ConfigStore.instance()
    for name, schema in COMMANDS.items():
        store.store(name=f"{name}_schema", node=schema)
    for layout in DATA_CONFIGS:
        store.store(group="data", name=f"{layout.name}_schema", node=layout)
    store.store(group="sampling", name="mesh_schema", node=MeshSamplingConfig)
