"""What a run needs of a model, whatever is behind it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from clipfeat.config.checks import right_type
from clipfeat.model.heads import Head, HostMemory
from clipfeat.model.preprocess import Preprocess
from clipfeat.types import FeatureMap, FloatArray, Frame

Result = TypeVar("Result")


class Model(Protocol):
    """What the loop needs of a model: frames to feature maps, sampled features to point features."""

    @property
    def arch(self) -> str:
        """open_clip's name of the model."""

    @property
    def preprocess(self) -> Preprocess:
        """How a picture enters the network."""

    @property
    def head(self) -> Head:
        """What is made of the encoder's tokens."""

    @property
    def head_name(self) -> str:
        """The head's name in the configuration."""

    @property
    def channels(self) -> int:
        """Numbers of a point's feature."""

    @property
    def map_values(self) -> int:
        """Numbers of a feature map; about, where they depend on the picture's size."""

    def map_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Cells (h, w) of the map of a picture of (width, height)."""

    @property
    def default_batch(self) -> int:
        """Pictures a forward pass where nothing else is said."""

    @property
    def most_lanes(self) -> int | None:
        """Threads that should use it at once; None for as many as there are cores."""

    def with_memory(self, work: Callable[[], Result]) -> Result:
        """Does what needs some of a GPU's memory beside ``feature_maps``, again and alone if it was not enough.

        Raises:
            ConfigError: If it is not enough even then.
        """

    def stream(self) -> AbstractContextManager[Any]:
        """What a thread that uses the model runs in: on a GPU a stream of its own, so that copies overlap."""

    def network_input(self, frame: Frame) -> Any:
        """What ``feature_maps`` takes of a frame. Safe to call from several threads.

        Raises:
            FrameError: If the frame's picture is damaged.
        """

    def feature_maps(self, inputs: Sequence[Any], image_sizes: Sequence[tuple[int, int]]) -> list[FeatureMap]:
        """A map for each of the inputs; image_sizes are (width, height) of the original pictures.

        Raises:
            FrameError: If a picture is damaged, and was not decoded by ``network_input``.
        """

    def point_features(self, sampled: torch.Tensor, memory: HostMemory | None = None) -> FloatArray:
        """What is written for sampled features (N, C): (N, channels) on the host; see ``heads.point_features``."""

    def describe(self) -> dict[str, Any]:
        """What must be the same for features to be comparable; written into every file."""

    def close(self) -> None:
        """Gives back what the model holds open."""


@dataclass(frozen=True)
class ModelCard:
    """What a run's folder and its plan need to know of a model, wherever that runs.

    Attributes:
        description: ``Model.describe()``.
        channels: numbers of a point's feature.
        map_values: numbers of a feature map; about, where they depend on the picture's size.
        projected: whether its maps lie in a text space, whose size the model alone knows.
        head_name: the head's name in the configuration.
        head_weights: the head's weights, on the host; empty for a head without any.
    """

    description: dict[str, Any]
    channels: int
    map_values: int
    projected: bool
    head_name: str
    head_weights: dict[str, torch.Tensor]

    @classmethod
    def of(cls, model: Model) -> "ModelCard":
        """The card of a model."""
        weights = {name: value.detach().cpu() for name, value in model.head.state_dict().items()}
        projected = model.head.projected
        return cls(model.describe(), model.channels, model.map_values, projected, model.head_name, weights)


def check_loaded(model: Model) -> None:
    """Refuses what is no model, but the name of one.

    Raises:
        TypeError: If it is such.
    """
    right_type("model", model, hasattr(model, "feature_maps"), 'a loaded one, such as clipfeat.load_model("vit_b16")')
