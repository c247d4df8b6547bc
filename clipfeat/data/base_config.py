"""What the keys of all layouts begin with."""

from dataclasses import dataclass

from omegaconf import MISSING

from clipfeat.config.checks import at_least
from clipfeat.config.paths import path_key
from clipfeat.errors import ConfigError


@dataclass
class DataConfig:
    """Where frames come from.

    Attributes:
        name: layout of the data set.
        root: folder that holds one folder a scene.
        masks: path of external instance masks (8 or 16 bits, PNG, PGM, TIFF or NPY, of the colour picture's size, 0 for
            none), with {scene} and {frame} in it (padded or not) and perhaps {sequence}; null for none. The
            camera.mask_* keys say what they do.
    """

    name: str = MISSING
    root: str = path_key()
    masks: str | None = path_key(None)


def check_rotate(degrees: int | None) -> None:
    """The key ``data.rotate``.

    Raises:
        ConfigError: If it is no quarter turn.
    """
    if degrees not in (None, 0, 90, 180, 270):
        raise ConfigError(f"data.rotate={degrees}: expected 0, 90, 180 or 270 degrees clockwise, or null")


def check_confidence(least: int | None, full: int | None) -> None:
    """The keys ``data.confidence_min`` and ``data.confidence_full``.

    Raises:
        ConfigError: If one is out of its range.
    """
    at_least("data.confidence_min", least, 0)
    at_least("data.confidence_full", full, 1)
