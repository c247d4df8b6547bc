"""The curve of a training: loss and held-out figures over its steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipfeat.vis.figure import FAINT_INK, INK, new_figure, panel_title, render
from clipfeat.vis.pictures import save_png

_SMOOTH = 0.05
"""Share of the steps that the loss is averaged over."""


def draw_curve(path: Path, history: Sequence[dict[str, Any]], title: str, note: str) -> None:
    """Draws two panels: the loss of each step and its running mean; mIoU and accuracy of the held-out scenes.

    Args:
        path: the PNG.
        history: a record a step with ``step`` and ``loss``, and ``miou`` and ``accuracy`` where they were taken.
        title: above.
        note: below, such as whose features they are.

    Raises:
        OutputError: If it can't be written.
    """
    ends = f"{len(history)} steps", note
    figure, (left, right) = new_figure(2, width_inches=10, dpi=110, aspect=0.6, title=title, notes=ends)
    steps, loss = (np.array([record[name] for record in history]) for name in ("step", "loss"))
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
        ax.tick_params(axis="x", direction="in", pad=-14, labelsize=9)
        ax.tick_params(axis="y", direction="in", pad=-26, labelsize=9)
        ax.locator_params(nbins=5)
    save_png(render(figure), path)
