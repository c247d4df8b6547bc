"""What ``vis=…`` builds: the table of pictures."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from clipfeat.errors import ConfigError
from clipfeat.vis.painters import HeatmapPainter, PcaPainter, TsnePainter
from clipfeat.vis.pictures import NoPictures, Painter, Pictures, ScenePictures

KINDS = ("tsne", "pca", "heatmap", "none")


def build_pictures(
    kind: str,
    frames_of: Mapping[str, Sequence[int]],
    *,
    max_frames: int = 50,
    points_per_frame: int = 200,
    overlay_points: int = 4000,
    perplexity: float = 30.0,
    dpi: int = 110,
    seed: int = 0,
    weights_note: str = "",
    processes: int = 0,
    keep: bool = False,
) -> Pictures:
    """What draws the pictures of each scene.

    Args:
        kind: one of ``KINDS``.
        frames_of: the frames of each scene.
        max_frames: pictures a scene at most, spread evenly over its frames.
        points_per_frame: points of each frame in the joint t-SNE of a scene.
        overlay_points: points of each frame that are kept and painted over its picture.
        perplexity: t-SNE's.
        dpi: pixels an inch. A picture is 15 inches wide for tsne, 10 otherwise.
        seed: of the choice of points and of the t-SNE.
        weights_note: which features these are, for the footer, such as "ViT-B-16 · pixelshuffle · weights=random".
        processes: that draw in the background; 0 draws in the caller.
        keep: whether pictures that are there already stay as they are.

    Raises:
        ConfigError: If there is no such kind.
    """
    if kind == "none":
        return NoPictures()
    painters: dict[str, Callable[..., Painter]] = {
        "tsne": partial(TsnePainter, points_per_frame=points_per_frame, perplexity=perplexity, seed=seed),
        "pca": PcaPainter,
        "heatmap": HeatmapPainter,
    }
    if kind not in painters:
        raise ConfigError(f"vis={kind!r}: expected one of {', '.join(KINDS)}")
    painter = painters[kind](dpi=dpi, weights_note=weights_note)
    return ScenePictures(
        painter,
        frames_of,
        max_frames=max_frames,
        overlay_points=overlay_points,
        seed=seed,
        processes=processes,
        keep=keep,
    )


def model_note(model: Mapping[str, Any]) -> str:
    """Which features these are, for a footer; ``model`` is what ``describe()`` says of it."""
    return f"{model['arch']} · {model['head']} · weights={model['weights']}"
