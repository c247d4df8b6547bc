"""The register: what each command's configuration holds, and what Hydra is told of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import DictConfig, OmegaConf

from clipfeat.cli.config import ComposerConfig
from clipfeat.data.config import LAYOUTS
from clipfeat.evaluate.config import EvaluateConfig
from clipfeat.extraction.config import ExtractConfig
from clipfeat.fusion.config import FitHeadConfig, TrainConfig
from clipfeat.mapping.config import MapConfig
from clipfeat.protocols.config import ProtocolConfig
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
    "protocol": ProtocolConfig,
    "fit-head": FitHeadConfig,
    "map": MapConfig,
}
"""What each primary configuration holds: those of ``clipfeat-<name>``, composer's, and that of
``clipfeat-evaluate protocol=…``."""


def _schemas() -> Iterator[tuple[str | None, str, type[Any]]]:
    """Group, name and node of all that Hydra is told."""
    for name, schema in COMMANDS.items():
        yield None, f"{name}_schema", schema
    for name, (schema, _) in LAYOUTS.items():
        yield "data", f"{name}_schema", schema
    yield "sampling", "mesh_schema", MeshSamplingConfig


def schemas_of() -> Iterator[tuple[str, type[Any]]]:
    """Group and node of the choices that have keys of their own."""
    yield from ((group, schema) for group, _, schema in _schemas() if group is not None)


def _nodes() -> list[ConfigNode]:
    """All that Hydra is told."""
    return [
        ConfigNode(f"{name}.yaml", _node(schema), group, package=None, provider=None)
        for group, name, schema in _schemas()
    ]


_made: dict[type[Any], DictConfig] = {}


def _node(schema: type[Any]) -> DictConfig:
    """Made once, which takes longer than to compose; Hydra copies what it takes from its store."""
    if schema not in _made:
        _made[schema] = OmegaConf.structured(schema)
    return _made[schema]


def register_schemas() -> None:
    """Tells Hydra the schema, so that a misspelt key or a wrong type fails while composing."""
    repo = ConfigStore.instance().repo
    for node in _nodes():
        folder = repo if node.group is None else repo.setdefault(node.group, {})
        folder[node.name] = node


@contextmanager
def store_shared() -> Iterator[None]:
    """Lets Hydra look its store up where it is: it copies all of it a hundred times for a help, which takes seconds."""
    ConfigStore.__deepcopy__ = lambda store, _memo: store  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del ConfigStore.__deepcopy__  # type: ignore[attr-defined]


@contextmanager
def schemas_lent() -> Iterator[None]:
    """Tells Hydra the schema for so long; what a caller has told it under the same names is there again afterwards."""
    repo = ConfigStore.instance().repo
    groups = {node.group for node in _nodes()}
    before = {group: dict(repo if group is None else repo.get(group, {})) for group in groups}
    register_schemas()
    try:
        with store_shared():
            yield
    finally:
        for node in _nodes():
            folder = repo if node.group is None else repo[node.group]
            if node.name in before[node.group]:
                folder[node.name] = before[node.group][node.name]
            else:
                del folder[node.name]
        for group in groups:
            if group is not None and not repo[group]:
                del repo[group]
