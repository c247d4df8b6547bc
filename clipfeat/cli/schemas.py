"""The register: what each command's configuration holds, and what Hydra is told of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.config_store import ConfigStore

from clipfeat.cli.config import ComposerConfig
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


def register_schemas() -> None:
    """Tells Hydra the schema, so that a misspelt key or a wrong type fails while composing."""
    store = ConfigStore.instance()
    for group, name, schema in _schemas():
        store.store(group=group, name=name, node=schema)


@contextmanager
def schemas_lent() -> Iterator[None]:
    """Tells Hydra the schema for so long; what a caller has told it under the same names is there again afterwards."""
    repo = ConfigStore.instance().repo
    places = [(group, f"{name}.yaml") for group, name, _ in _schemas()]
    before = {group: dict(repo if group is None else repo.get(group, {})) for group, _ in places}
    register_schemas()
    try:
        yield
    finally:
        for group, file in places:
            folder = repo if group is None else repo[group]
            if file in before[group]:
                folder[file] = before[group][file]
            else:
                del folder[file]
        for group in before:
            if group is not None and not repo[group]:
                del repo[group]
