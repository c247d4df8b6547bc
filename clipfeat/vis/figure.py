"""The frame around the panels of a picture: title, footer, fonts. All that knows matplotlib's text and axes.

Only matplotlib's objects are used, never pyplot: no global state, no window, safe in a thread.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

FONT = "DejaVu Sans"
"""Ships with matplotlib: another one may be missing, which matplotlib would warn of in every picture."""

INK = "#22262b"
FAINT_INK = "#5b6470"
RULE = "#c4cad1"

# Inches. Panels are placed by these alone, so that all pictures of a scene share one layout to the pixel.
TITLE = 0.5
PANEL_TITLE = 0.3
FOOTER = 0.36
MARGIN = 0.1
GAP = 0.14
COLOR_BAR = 1.05

LEAST_TITLE_SIZE = 9.0
"""Points."""


def new_figure(
    panels: int,
    *,
    width_inches: float,
    dpi: int,
    aspect: float,
    title: str,
    notes: tuple[str, str],
    side_inches: float = 0.0,
    rows: int = 1,
) -> "tuple[Figure, list[Axes]]":
    """An empty figure with panels side by side.

    Args:
        panels: how many a row.
        width_inches: of the whole figure; its height follows from the panels.
        dpi: pixels an inch.
        aspect: height of a panel over its width.
        title: top left; one that is too long for the figure becomes smaller, and is then cut.
        notes: bottom left and bottom right, in small type.
        side_inches: left free at the right of the panels.
        rows: how many rows of panels.

    Returns:
        The figure and its panels, row by row.
    """
    from matplotlib.figure import Figure

    panel_width = (width_inches - side_inches - 2 * MARGIN - (panels - 1) * GAP) / panels
    # A very tall or very flat picture is shown smaller instead of making a figure that no slide holds.
    panel_height = min(max(panel_width * aspect, 1.5), width_inches)
    row_height = PANEL_TITLE + panel_height
    height_inches = TITLE + rows * row_height + (rows - 1) * GAP + FOOTER
    figure = Figure(figsize=(width_inches, height_inches), dpi=dpi, facecolor="white")
    axes = []
    for i in range(rows * panels):
        left = MARGIN + i % panels * (panel_width + GAP)
        bottom = FOOTER + (rows - 1 - i // panels) * (row_height + GAP)
        ax = figure.add_axes(
            (left / width_inches, bottom / height_inches, panel_width / width_inches, panel_height / height_inches)
        )
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set_color(RULE)
        axes.append(ax)

    left, right = MARGIN / width_inches, 1 - MARGIN / width_inches
    points = (width_inches - 2 * MARGIN) * 72
    title, size = fit_title(title, points)
    write(figure, left, 1 - 0.5 * TITLE / height_inches, title, size=size, weight="bold", va="center")
    # A letter is about 0.56 of its size wide: the notes never run into each other.
    letters = sum(len(note) for note in notes) + 4
    size = min(11.0, points / (0.56 * letters))
    foot = 0.45 * FOOTER / height_inches
    write(figure, left, foot, notes[0], size=size, va="center", color=FAINT_INK)
    write(figure, right, foot, notes[1], size=size, va="center", ha="right", color=FAINT_INK)
    return figure, axes


def render(figure: "Figure") -> NDArray[np.uint8]:
    """The (h, w, 3) RGB pixels of a figure; w is its width in inches times its dpi.

    It is drawn here and not by ``savefig``, whose resolution and margins a user's matplotlibrc may change.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def write(place: "Figure | Axes", x: float, y: float, text: str, *, size: float, **style: Any) -> None:
    """Writes text as it stands: a dollar sign is no formula, and a letter that the font lacks is a question mark."""
    properties: dict[str, Any] = {"color": INK, "fontfamily": FONT, "fontsize": size, "parse_math": False}
    place.text(x, y, printable(text), **(properties | style))


def panel_title(ax: "Axes", text: str) -> None:
    """The heading of one panel."""
    ax.set_title(printable(text), fontsize=13, fontfamily=FONT, color=INK, parse_math=False, pad=6)


def show_picture(ax: "Axes", picture: NDArray[np.uint8]) -> None:
    """Fills a panel with an (h, w, 3) picture."""
    ax.imshow(picture, interpolation="antialiased", interpolation_stage="data")


def say(ax: "Axes", text: str) -> None:
    """Writes a line across the middle of a panel."""
    box = {"facecolor": "white", "edgecolor": RULE, "boxstyle": "round,pad=0.5", "alpha": 0.92}
    write(ax, 0.5, 0.5, text, size=14, ha="center", va="center", transform=ax.transAxes, bbox=box, zorder=9)


def mark(ax: "Axes", corners: FloatArray) -> None:
    """Marks a place of a picture: (1, 2) pixels by a ring, (2, 2) by the box between them, (0, 2) not at all."""
    from matplotlib.patches import Rectangle

    for color, width in (("black", 3.5), ("white", 1.5)):
        if len(corners) == 1:
            u, v = corners[0]
            style: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": color, "markeredgewidth": width}
            ax.plot(u, v, "o", markersize=13, scalex=False, scaley=False, **style)
        elif len(corners) == 2:
            size = corners[1] - corners[0]
            ax.add_patch(Rectangle(corners[0], *size, fill=False, edgecolor=color, linewidth=width))


def color_bar(figure: "Figure", ax: "Axes", shades: "ScalarMappable", label: str, lowest: "Axes | None" = None) -> None:
    """A colour bar at the right of a panel, ``COLOR_BAR`` inches wide with its numbers.

    It is as high as the panel, or reaches down to the bottom of ``lowest``.
    """
    from matplotlib.ticker import MaxNLocator

    # Ends at least 0.01 apart and these steps: numbers of three decimals at most, for which the room suffices.
    ticks = MaxNLocator(6, steps=[1, 2, 5, 10])
    panel = ax.get_position()
    down = (panel.y0 - lowest.get_position().y0) / panel.height if lowest else 0.0
    bar = figure.colorbar(shades, cax=ax.inset_axes((1.025, -down, 0.035, 1.0 + down)), ticks=ticks)
    bar.outline.set_visible(False)
    bar.set_label(label, fontsize=12, fontfamily=FONT, color=INK, labelpad=8)
    bar.ax.tick_params(labelsize=11, labelcolor=INK, labelfontfamily=FONT, length=3)


def fit_title(title: str, points: float) -> tuple[str, float]:
    """A title, cut if need be, and its size, so that both fit into a width of so many points (72 an inch)."""
    # A bold letter is about 0.68 of its size wide.
    most = int(points / (0.68 * LEAST_TITLE_SIZE))
    if len(title) > most:
        title = title[: most - 1].rstrip() + "…"
    return title, min(17.0, max(LEAST_TITLE_SIZE, points / (0.68 * max(len(title), 1))))


def printable(text: str) -> str:
    """The text with a question mark for each letter that the font lacks, which matplotlib would warn of."""
    known = _letters()
    return "".join(letter if ord(letter) in known else "?" for letter in text)


@cache
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(FONT)).get_charmap())
