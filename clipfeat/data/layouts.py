"""Opens what ``data=…`` names."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import cast

from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf

from clipfeat.config.checks import one_of
from clipfeat.config.folder import config_dir
from clipfeat.data.base import Dataset, MaskedDataset
from clipfeat.data.config import LAYOUTS, DataConfig
from clipfeat.errors import ClipfeatError, ConfigError, DataError, FrameError
from clipfeat.types import Frame


def build_dataset(cfg: DataConfig) -> Dataset:
    """The data set that ``data=…`` names.

    Raises:
        ConfigError: If there is no such layout.
        DataError: If its root can't be read.
    """
    one_of("data.name", cfg.name, LAYOUTS)
    if cfg.masks is not None and "{frame}" not in cfg.masks:
        raise ConfigError(f"data.masks={cfg.masks}: expected a path with {{scene}} and {{frame}} in it")
    _, place = LAYOUTS[cfg.name]
    dataset: Dataset = GuardedDataset(resolve_name(place)(cfg), f"data={cfg.name}")
    return dataset if cfg.masks is None else MaskedDataset(dataset, cfg.masks, cfg.root)


def layouts() -> dict[str, DataConfig]:
    """Each layout that needs no key but ``data.root``, as it is by itself: what Hydra composes of ``data=…`` alone.

    Put together here, for Hydra takes a tenth of a second for each.
    """
    found: dict[str, DataConfig] = {}
    for path in sorted((config_dir() / "data").glob("*.yaml")):
        if path.stem == "demo":  # which would render its rooms
            continue
        cfg = _with_schema(path)
        cfg.root = "."
        with suppress(ConfigError, MissingMandatoryValue):  # posed_rgbd is described by its keys
            found[path.stem] = cast(DataConfig, OmegaConf.to_object(cfg))
    return found


def _with_schema(path: Path) -> DictConfig:
    """A layout's file, merged over what its list of defaults names: a schema, or files beside it."""
    if path.stem.endswith("_schema"):
        schema, _ = LAYOUTS[path.stem.removesuffix("_schema")]
        return OmegaConf.structured(schema)
    own = cast(DictConfig, OmegaConf.load(path))
    bases = [_with_schema(path.with_stem(name)) for name in own.pop("defaults")]
    return cast(DictConfig, OmegaConf.merge(*bases, own))


class GuardedDataset:
    """A data set that keeps the contract of ``Dataset``, whatever a layout of somebody else's raises.

    Args:
        dataset: where the frames come from.
        where: what it is called, for messages.
    """

    def __init__(self, dataset: Dataset, where: str):
        self.dataset = dataset
        self.where = where
        self.names_of = getattr(dataset, "names_of", None)

    def scenes(self) -> list[str]:
        """See ``Dataset``.

        Raises:
            DataError: Also if there is none: a run of nothing is no success.
        """
        with self._told(DataError, self.where):
            found = self.dataset.scenes()
        if not found:
            raise DataError(f"{self.where}: holds no scene; is data.root the folder that it expects?")
        return found

    def frame_ids(self, scene_id: str) -> list[int]:
        """See ``Dataset``."""
        with self._told(DataError, f"{self.where}, scene {scene_id}"):
            return self.dataset.frame_ids(scene_id)

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """See ``Dataset``."""
        with self._told(FrameError, f"{self.where}, scene {scene_id}, frame {frame_id}"):
            return self.dataset.load(scene_id, frame_id)

    @contextmanager
    def _told(self, kind: type[ClipfeatError], where: str) -> Iterator[None]:
        """Makes any error but ours one of ``kind``, so that ``on_bad_frame`` holds for it as well."""
        try:
            yield
        except (ClipfeatError, MemoryError):
            raise
        except Exception as error:
            raise kind(f"{where}: the layout's own code raised {type(error).__name__}: {error}") from error
