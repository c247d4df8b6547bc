"""The curve of a training: loss and held-out figures over its steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipfeat.vis.figure import FAINT_INK, FONT, INK, new_figure, panel_title, render
from clipfeat.vis.pictures import save_png

_SMOOTH = 0.05
"""Share of the steps that the loss is averaged over."""


def draw_curve(path: Path, history: Sequence[dict[str, Any]], title: str, note: str) -> None:
    """Draws two panels: the loss of each step and its running mean; mIoU and accuracy of the held-out scenes.

    Args:
        path: the PNG.
        history: a record a step with ``step`` and ``loss`` (None where it was not finite), and ``miou`` and
            ``accuracy`` where they were taken.
        title: above.
        note: below, such as whose features they are.

    Raises:
        OutputError: If it can't be written.
    """
    from matplotlib.ticker import MaxNLocator

    ends = f"{len(history)} steps", note
    figure, (left, right) = new_figure(2, width_inches=10, dpi=110, aspect=0.6, title=title, notes=ends)
    steps, loss = (np.array([record[name] for record in history], float) for name in ("step", "loss"))
    width = max(round(_SMOOTH * len(loss)), 1)
    mean = np.convolve(loss, np.ones(width) / width, mode="valid")
    panel_title(left, f"loss, and its mean over {width} steps")
    left.plot(steps, loss, color=FAINT_INK, linewidth=0.6, alpha=0.5)
    left.plot(steps[width - 1 :], mean, color=INK, linewidth=1.8)
    panel_title(right, "held-out scenes, per cent")
    known = [record for record in history if "miou" in record]
    for name, shown, color in (("accuracy", "accuracy", "#9a5b13"), ("miou", "mIoU", "#1d6996")):
        values = [100 * record[name] for record in known]
        right.plot([record["step"] for record in known], values, color=color, marker="o", markersize=4, label=shown)
    right.set_ylim(0, 100)
    right.legend(frameon=False)
    for ax in (left, right):
        ax.set_xlim(0, max(steps[-1], 1) * 1.03)
        for axis, pad in ((ax.xaxis, -15), (ax.yaxis, -5)):
            # Within the panel: the figure has no room beside it. The ends are left out, where both axes meet.
            axis.set_major_locator(MaxNLocator(5, prune="both"))
            axis.set_tick_params(direction="in", pad=pad, labelsize=9, labelcolor=INK, labelfontfamily=FONT)
        for label in ax.get_yticklabels():
            label.set_horizontalalignment("left")
    save_png(render(figure), path)
