"""The model that ``model=…`` names, behind the cache that ``cache=…`` names."""

import torch

from clipfeat.model.base import Model
from clipfeat.model.cache import MapCache
from clipfeat.model.cached import CachedModel
from clipfeat.model.config import ModelConfig
from clipfeat.model.load import load_model


def build_model(cfg: ModelConfig, device: torch.device, seed: int, cache: MapCache | None = None) -> Model:
    """The model that ``model=…`` names; with a cache, one that is loaded only for frames that aren't in there.

    Raises:
        WeightsError: If the weights can't be had or don't fit.
        ConfigError: If the input's size does not fit the model's patches.
        OutputError: If the cache can't be used.
    """
    if cache is None:
        return load_model(cfg, device, seed)
    return CachedModel(cfg, device, seed, cache)
