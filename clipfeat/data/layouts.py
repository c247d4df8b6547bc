"""Opens what ``data=…`` names."""

from pkgutil import resolve_name

from clipfeat.config.checks import one_of
from clipfeat.data.base import Dataset, MaskedDataset
from clipfeat.data.config import LAYOUTS, DataConfig
from clipfeat.errors import ConfigError


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
    dataset: Dataset = resolve_name(place)(cfg)
    return dataset if cfg.masks is None else MaskedDataset(dataset, cfg.masks, cfg.root)
