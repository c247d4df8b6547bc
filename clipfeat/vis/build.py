"""Builds what ``vis=…`` names."""

from collections.abc import Mapping, Sequence
from pkgutil import resolve_name
from typing import Any

from clipfeat.errors import ConfigError
from clipfeat.vis.config import PAINTERS, VisConfig
from clipfeat.vis.pictures import NoPictures, Painter, Pictures, ScenePictures


def build_pictures(
    cfg: VisConfig,
    frames_of: Mapping[str, Sequence[int]],
    *,
    seed: int = 0,
    weights_note: str = "",
    processes: int = 0,
    keep: bool = False,
) -> Pictures:
    """What draws the pictures of each scene.

    Args:
        cfg: which pictures, and how they look.
        frames_of: the frames of each scene.
        seed: of the choice of points and of the t-SNE.
        weights_note: which features these are, for the footer, such as "ViT-B-16 · pixelshuffle · weights=random".
        processes: that draw in the background; 0 draws in the caller.
        keep: whether pictures that are there already stay as they are.

    Raises:
        ConfigError: If there is no such kind of picture.
    """
    if cfg.name == "none":
        return NoPictures()
    if cfg.name not in PAINTERS:
        raise ConfigError(f"vis={cfg.name!r}: expected one of {', '.join([*PAINTERS, 'none'])}")
    painter: Painter = resolve_name(PAINTERS[cfg.name])(cfg, weights_note, seed)
    return ScenePictures(
        painter,
        frames_of,
        max_frames=cfg.max_frames,
        overlay_points=cfg.overlay_points,
        seed=seed,
        processes=processes,
        keep=keep,
    )


def model_note(model: Mapping[str, Any]) -> str:
    """Which features these are, for a footer; ``model`` is what ``describe()`` says of it."""
    return f"{model['arch']} · {model['head']} · weights={model['weights']}"
