"""The register: what each command's configuration holds, and what Hydra is told of it."""

from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from clipfeat.cli.config import ComposerConfig
from clipfeat.config.folder import config_dir
from clipfeat.data.config import LAYOUTS
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


def options(group: str) -> str:
    """The choices of a group, as ``--help`` lists them: the names of its YAML files."""
    return " | ".join(sorted(path.stem for path in (config_dir() / group).glob("*.yaml")))


def register_schemas() -> None:
    """Tells Hydra the schema, so that a misspelt key or a wrong type fails while composing, and what the help asks."""
    OmegaConf.register_new_resolver("options", options, replace=True)
    store = ConfigStore.instance()
    for name, schema in COMMANDS.items():
        store.store(name=f"{name}_schema", node=schema)
    for name, (schema, _) in LAYOUTS.items():
        store.store(group="data", name=f"{name}_schema", node=schema)
    store.store(group="sampling", name="mesh_schema", node=MeshSamplingConfig)
