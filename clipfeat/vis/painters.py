"""The kinds of picture: which panels a figure has and what its scene's frames share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from clipfeat.vis import figure as fig
from clipfeat.vis.config import VisConfig
from clipfeat.vis.heatmap import shared_limits, similarity_to_mean
from clipfeat.vis.overlay import paint
from clipfeat.vis.pca import PcaColors, fit_pca_colors
from clipfeat.vis.pictures import SampledFrame
from clipfeat.vis.tsne import embed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIT_POINTS = 10_000
"""Points of a scene that its PCA is fitted to: enough for three axes, and a fit of any scene takes under a second."""

HEATMAP_COLORS = "viridis"


@dataclass(frozen=True)
class PcaPainter:
    """Two panels: the picture, and the features as PCA colours over it.

    Attributes:
        dpi: pixels an inch; the figure is 10 inches wide.
        weights_note: for the footer.
    """

    dpi: int
    weights_note: str

    @classmethod
    def of(cls, cfg: VisConfig, weights_note: str, _seed: int) -> Self:
        """The painter that the configuration describes."""
        return cls(cfg.dpi, weights_note)

    def draw(self, scene_id: str, frames: Sequence[SampledFrame]) -> Iterator[NDArray[np.uint8]]:
        """Fits one PCA to the scene, then yields the picture of each frame."""
        colors_of = fit_scene_colors(frames)
        for frame in frames:
            notes = (_shared("PCA colours", frames), self.weights_note)
            figure, axes = _new_figure(2, scene_id, frame, self.dpi, notes)
            draw_picture(axes[0], frame)
            draw_colors(axes[1], frame, colors_of.colors(frame.directions))
            yield fig.render(figure)


@dataclass(frozen=True)
class TsnePainter:
    """Three panels: the picture, the features as PCA colours over it, and their t-SNE in the same colours.

    Attributes:
        dpi: pixels an inch; the figure is 15 inches wide.
        weights_note: for the footer.
        points_per_frame: points of each frame in the t-SNE.
        perplexity: of the t-SNE.
        seed: of the t-SNE.
    """

    dpi: int
    weights_note: str
    points_per_frame: int
    perplexity: float
    seed: int

    @classmethod
    def of(cls, cfg: VisConfig, weights_note: str, seed: int) -> Self:
        """The painter that the configuration describes."""
        return cls(cfg.dpi, weights_note, cfg.points_per_frame, cfg.perplexity, seed)

    def draw(self, scene_id: str, frames: Sequence[SampledFrame]) -> Iterator[NDArray[np.uint8]]:
        """Fits one PCA and one t-SNE to the scene, then yields the picture of each frame."""
        colors_of = fit_scene_colors(frames)
        embedded = [frame.directions[: self.points_per_frame] for frame in frames]
        positions = embed(np.concatenate(embedded), self.perplexity, self.seed)
        scatter_colors = colors_of.colors(np.concatenate(embedded))
        ends = np.cumsum([0] + [len(part) for part in embedded])
        for frame, (start, end) in zip(frames, pairwise(ends), strict=True):
            notes = (_shared("PCA colours and t-SNE", frames), self.weights_note)
            figure, axes = _new_figure(3, scene_id, frame, self.dpi, notes)
            draw_picture(axes[0], frame)
            draw_colors(axes[1], frame, colors_of.colors(frame.directions))
            own = np.zeros(len(positions), bool)
            own[start:end] = True
            draw_scatter(axes[2], positions, scatter_colors, own)
            yield fig.render(figure)


@dataclass(frozen=True)
class HeatmapPainter:
    """Two panels: the picture, and the similarity of each point to the picture's mean feature, with a colour bar.

    The mean is that of the points that were kept, a random sample of the frame's.

    Attributes:
        dpi: pixels an inch; the figure is 10 inches wide.
        weights_note: for the footer.
    """

    dpi: int
    weights_note: str

    @classmethod
    def of(cls, cfg: VisConfig, weights_note: str, _seed: int) -> Self:
        """The painter that the configuration describes."""
        return cls(cfg.dpi, weights_note)

    def draw(self, scene_id: str, frames: Sequence[SampledFrame]) -> Iterator[NDArray[np.uint8]]:
        """Finds the range of the scene's similarities, then yields the picture of each frame."""
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        similarities = [similarity_to_mean(frame.directions) for frame in frames]
        low, high = shared_limits(np.concatenate(similarities))
        shades = ScalarMappable(Normalize(low, high, clip=True), colormaps[HEATMAP_COLORS])
        for frame, similarity in zip(frames, similarities, strict=True):
            notes = (_shared("colour scale", frames), self.weights_note)
            figure, axes = _new_figure(2, scene_id, frame, self.dpi, notes, side_inches=fig.COLOR_BAR)
            draw_picture(axes[0], frame)
            draw_colors(axes[1], frame, shades.to_rgba(similarity)[:, :3], "similarity to the picture's mean")
            fig.color_bar(figure, axes[1], shades, "cosine")
            yield fig.render(figure)


def fit_scene_colors(frames: Sequence[SampledFrame]) -> PcaColors:
    """One PCA for a scene, fitted to as many points of each frame, so that a colour means the same in all of them."""
    each = -(-FIT_POINTS // len(frames))
    return fit_pca_colors(np.concatenate([frame.directions[:each] for frame in frames]))


def draw_picture(ax: "Axes", frame: SampledFrame) -> None:
    """The colour picture."""
    fig.show_picture(ax, frame.thumbnail)
    fig.panel_title(ax, "picture")


def draw_colors(
    ax: "Axes", frame: SampledFrame, colors: NDArray[np.float32], title: str = "features (PCA colours; grey: no point)"
) -> None:
    """The (n, 3) colours of the frame's points over its picture in grey."""
    fig.show_picture(ax, paint(frame.thumbnail, frame.uv, colors))
    fig.panel_title(ax, title)
    if len(colors) == 0:
        fig.say(ax, "no visible points")


def draw_scatter(
    ax: "Axes", positions: NDArray[np.float32], colors: NDArray[np.float32], own: NDArray[np.bool_]
) -> None:
    """The scene's points in the plane: those of this frame large and in full colour, the others small and pale behind.

    Args:
        ax: where.
        positions: (N, 2).
        colors: (N, 3) RGB in [0, 1].
        own: (N,) whether the point is of this frame.
    """
    others, this = positions[~own], positions[own]
    ax.scatter(others[:, 0], others[:, 1], s=9, c=1 - 0.4 * (1 - colors[~own]), linewidths=0)
    ax.scatter(this[:, 0], this[:, 1], s=30, c=colors[own], linewidths=0.5, edgecolors="#00000066")
    ax.set_facecolor("#fafbfc")
    # An embedding has no unit, but one scale: a distance means the same in all directions.
    ax.set_aspect("equal", adjustable="datalim")
    ax.margins(0.06)
    fig.panel_title(ax, "t-SNE (pale: other frames)" if len(others) else "t-SNE")
    if len(this) == 0:
        fig.say(ax, "no visible points")


def _new_figure(
    panels: int, scene_id: str, frame: SampledFrame, dpi: int, notes: tuple[str, str], side_inches: float = 0
) -> "tuple[Figure, list[Axes]]":
    height, width = frame.thumbnail.shape[:2]
    return fig.new_figure(
        panels,
        width_inches=5 * panels,
        dpi=dpi,
        aspect=height / width,
        title=f"{scene_id} · frame {frame.frame_id}",
        notes=notes,
        side_inches=side_inches,
    )


def _shared(what: str, frames: Sequence[SampledFrame]) -> str:
    return f"{what} shared by the {len(frames)} frames of this scene" if len(frames) > 1 else f"{what} of this frame"
