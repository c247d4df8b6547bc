"""The frame around the panels of a picture: title, footer, fonts. All that knows matplotlib's text and axes.

Only matplotlib's objects are used, never pyplot: no global state, no window, safe in a thread.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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


def new_figure(
    panels: int,
    *,
    width_inches: float,
    dpi: int,
    aspect: float,
    title: str,
    notes: tuple[str, str],
    side_inches: float = 0.0,
) -> "tuple[Figure, list[Axes]]":
    """An empty figure with panels side by side.

    Args:
        panels: how many.
        width_inches: of the whole figure; its height follows from the panels.
        dpi: pixels an inch.
        aspect: height of a panel over its width.
        title: top left.
        notes: bottom left and bottom right, in small type.
        side_inches: left free at the right of the panels.
    """
    from matplotlib.figure import Figure

    panel_width = (width_inches - side_inches - 2 * MARGIN - (panels - 1) * GAP) / panels
    # A very tall or very flat picture is shown smaller instead of making a figure that no slide holds.
    panel_height = min(max(panel_width * aspect, 1.5), width_inches)
    height_inches = TITLE + PANEL_TITLE + panel_height + FOOTER
    figure = Figure(figsize=(width_inches, height_inches), dpi=dpi, facecolor="white")
    axes = []
    for i in range(panels):
        left = MARGIN + i * (panel_width + GAP)
        ax = figure.add_axes(
            (left / width_inches, FOOTER / height_inches, panel_width / width_inches, panel_height / height_inches)
        )
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set_color(RULE)
        axes.append(ax)

    left, right = MARGIN / width_inches, 1 - MARGIN / width_inches
    write(figure, left, 1 - 0.5 * TITLE / height_inches, title, size=17, weight="bold", va="center")
    # A letter is about 0.56 of its size wide, and an inch has 72 points: the notes never run into each other.
    letters = sum(len(note) for note in notes) + 4
    size = min(11.0, (width_inches - 2 * MARGIN) * 72 / (0.56 * letters))
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


def color_bar(figure: "Figure", ax: "Axes", shades: "ScalarMappable", label: str) -> None:
    """A colour bar as high as the panel, at its right, ``COLOR_BAR`` inches wide with its numbers."""
    from matplotlib.ticker import MaxNLocator

    # Ends at least 0.01 apart and these steps: numbers of three decimals at most, for which the room suffices.
    ticks = MaxNLocator(6, steps=[1, 2, 5, 10])
    bar = figure.colorbar(shades, cax=ax.inset_axes((1.025, 0.0, 0.035, 1.0)), ticks=ticks)
    bar.outline.set_visible(False)
    bar.set_label(label, fontsize=12, fontfamily=FONT, color=INK)
    bar.ax.tick_params(labelsize=11, labelcolor=INK, labelfontfamily=FONT, length=3)


def printable(text: str) -> str:
    """The text with a question mark for each letter that the font lacks, which matplotlib would warn of."""
    known = _letters()
    return "".join(letter if ord(letter) in known else "?" for letter in text)


@cache
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(FONT)).get_charmap())
