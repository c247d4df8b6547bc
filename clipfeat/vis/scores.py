"""What a query has found, painted over the pictures: a heat map a frame, and the best frames on one sheet."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipfeat.types import FloatArray
from clipfeat.vis import figure as fig
from clipfeat.vis.overlay import paint

if TYPE_CHECKING:
    from matplotlib.cm import ScalarMappable

SCORE_COLORS = "plasma"


_COLUMNS = 3
_FAINTEST, _STRONGEST = 0.1, 0.9
_GREY = 0.6
"""Of a picture under the scores, in the colour bar."""


@dataclass(frozen=True, eq=False)
class ScoredFrame:
    """A frame and how much it looks like one prompt.

    Attributes:
        name: of the frame, for a title.
        thumbnail: (h, w, 3) uint8 RGB.
        painted: (h, w, 3) uint8 RGB, the same with the scores of its points over it.
        best: mean of its best scores, by which frames are ranked.
        example: (K, 2) pixels of the thumbnail that the prompt was taken from: one, or two corners of a box; K is 0
            where it was not.
    """

    name: str
    thumbnail: NDArray[np.uint8]
    painted: NDArray[np.uint8]
    best: float
    example: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)))


@dataclass(frozen=True)
class ScorePainter:
    """Draws what was found of one prompt, in one scale of colours. Only ``paint`` may be called by threads at once.

    Attributes:
        prompt: the title.
        limits: scores at the ends of the colour bar.
        unit: of the scores, beside the colour bar.
        notes: bottom left and bottom right: how the scores were made, and of which features.
        dpi: pixels an inch.
    """

    prompt: str
    limits: tuple[float, float]
    unit: str
    notes: tuple[str, str]
    dpi: int

    def paint(self, thumbnail: NDArray[np.uint8], uv: FloatArray, scores: FloatArray) -> NDArray[np.uint8]:
        """Paints the scores (n,) of points over the (h, w, 3) picture; ``uv`` (n, 2) are its pixels."""
        shades = score_shades(self.limits)
        # What looks least like it stays a picture: a dark veil over it would say nothing.
        opacity = _FAINTEST + (_STRONGEST - _FAINTEST) * np.asarray(shades.norm(scores))
        return paint(thumbnail, uv, shades.to_rgba(scores)[:, :3], opacity)

    def heat_map(self, frame: ScoredFrame) -> NDArray[np.uint8]:
        """The (h, w, 3) RGB picture of one frame, 10 inches wide: as it is, and with its scores."""
        figure, axes = fig.new_figure(
            2,
            width_inches=10,
            dpi=self.dpi,
            aspect=_aspect(frame),
            title=f"{self.prompt} · {frame.name}",
            notes=self.notes,
            side_inches=fig.COLOR_BAR,
        )
        fig.show_picture(axes[0], frame.thumbnail)
        fig.panel_title(axes[0], "picture")
        fig.show_picture(axes[1], frame.painted)
        fig.panel_title(axes[1], f"score (best 1 %: {frame.best:.3f})")
        for ax in axes:
            fig.mark(ax, frame.example)
        fig.color_bar(figure, axes[1], painted_shades(self.limits), self.unit)
        return fig.render(figure)

    def sheet(self, frames: Sequence[ScoredFrame]) -> NDArray[np.uint8]:
        """The (h, w, 3) RGB contact sheet of one frame or more, the best first, 5 to 12 inches wide."""
        columns = min(_COLUMNS, len(frames))
        rows = -(-len(frames) // columns)
        figure, axes = fig.new_figure(
            columns,
            width_inches=(5, 8.5, 12)[columns - 1],
            dpi=self.dpi,
            aspect=max(_aspect(frame) for frame in frames),
            title=self.prompt,
            notes=self.notes,
            side_inches=fig.COLOR_BAR,
            rows=rows,
        )
        for ax, frame in zip(axes, frames, strict=False):
            fig.show_picture(ax, frame.painted)
            fig.mark(ax, frame.example)
            fig.panel_title(ax, f"{frame.name} · {frame.best:.3f}")
        for ax in axes[len(frames) :]:
            ax.set_axis_off()
        fig.color_bar(figure, axes[columns - 1], painted_shades(self.limits), self.unit, lowest=axes[-1])
        return fig.render(figure)


def score_shades(limits: tuple[float, float]) -> "ScalarMappable":
    """From scores to colours; beyond the limits they stay those of the ends."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(*limits, clip=True), colormaps[SCORE_COLORS])


def painted_shades(limits: tuple[float, float]) -> "ScalarMappable":
    """The colours as they look over a grey picture: the lower a score, the more of the picture is seen through it."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap

    shades = score_shades(limits)
    place = np.linspace(0, 1, 256)
    share = (_FAINTEST + (_STRONGEST - _FAINTEST) * place)[:, None]
    colors = share * shades.cmap(place)[:, :3] + (1 - share) * _GREY
    return ScalarMappable(shades.norm, ListedColormap(colors))


def score_rgb(scores: FloatArray, limits: tuple[float, float]) -> NDArray[np.uint8]:
    """(N, 3) RGB of N scores, as the colour bars have them."""
    return np.asarray(score_shades(limits).to_rgba(scores, bytes=True)[:, :3])


def _aspect(frame: ScoredFrame) -> float:
    height, width = frame.thumbnail.shape[:2]
    return height / width
