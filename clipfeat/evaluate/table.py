"""The rows as a Markdown table, a CSV table, a plot and one line of advice."""

import csv
import io
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from clipfeat.data.scannet200 import GROUPS
from clipfeat.vis.figure import FAINT_INK, FONT, INK, RULE

Row = dict[str, Any]

_TOLERANCE = 0.01
"""A candidate within this of the best mIoU is as good as it, for the advice."""

STAGES = ("read", "preprocess", "forward", "head and sampling")
"""Of a frame, one after another."""

_RANDOM = "weights=random: the arithmetic is right, the features mean nothing"


def markdown(rows: Sequence[Row], heading: str) -> str:
    """Two tables: what the features are worth, and what they cost."""
    first = rows[0]["candidate"]
    quality = [
        "candidate", "weights", "dim", "linear mIoU", f"Δ to {first}", "accuracy", *GROUPS, "kNN mIoU", f"Δ to {first}",
        "accuracy at edges", "inside", "same point", "random pair", "separation", "zero-shot mIoU",
    ]  # fmt: skip
    cost = ["candidate", "map, fp16", "points, fp32", *STAGES, "frames/s"]
    lines = [heading, "", *_table(quality, [_quality(row) for row in rows])]
    lines += ["", *_table(cost, [_cost(row) for row in rows]), "", advice(rows), ""]
    return "\n".join(lines)


def brief(rows: Sequence[Row]) -> str:
    """What a terminal has room for: the two probes with their intervals, what it costs, and the advice."""
    names = ["candidate", "linear mIoU", f"more than {rows[0]['candidate']}", "kNN mIoU", "MB a frame", "frames/s"]
    cells = [names] + [
        [
            row["candidate"], _interval(row["linear_miou"]), _interval(row["linear_miou_minus_first"], sign=True),
            _value(row["neighbours_miou"]), f"{row['map_bytes'] / 1e6:.2f}", f"{row['frames_per_s']:.2f}",
        ]
        for row in rows
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([*lines, "", *textwrap.wrap(advice(rows), 100)])


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *rows)]


def _quality(row: Row) -> list[str]:
    views = row["views"] or {}
    groups = row["linear_miou_of_groups"]
    return [
        row["candidate"], weights_of(row), str(row["channels"]),
        _interval(row["linear_miou"]), _interval(row["linear_miou_minus_first"], sign=True),
        _value(row["linear_accuracy"]), *(_number(groups[group]) for group in GROUPS),
        _interval(row["neighbours_miou"]), _interval(row["neighbours_miou_minus_first"], sign=True),
        _value(row["edge_accuracy"]), _value(row["inside_accuracy"]),
        *(_number(views.get(key)) for key in ("same", "random", "separation")),
        _interval(row["zero_shot_miou"]),
    ]  # fmt: skip


def _cost(row: Row) -> list[str]:
    stages = [f"{1000 * row['seconds'][name]:.0f} ms" for name in STAGES]
    sizes = [f"{row['map_bytes'] / 1e6:.2f} MB", f"{row['point_bytes'] / 1e6:.1f} MB"]
    return [row["candidate"], *sizes, *stages, f"{row['frames_per_s']:.2f}"]


def weights_of(row: Row) -> str:
    """Where the weights of a row come from: the encoder's and the head's."""
    return row["weights"] if row["head_weights"] is None else f"{row['weights']}, head {row['head_weights']}"


def _number(value: float | None, *, sign: bool = False) -> str:
    return "–" if value is None else f"{value:{'+' if sign else ''}.3f}"


def _value(estimate: dict[str, float | None] | None) -> str:
    return "–" if estimate is None else _number(estimate["value"])


def _interval(estimate: dict[str, float | None] | None, *, sign: bool = False) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    low, high = (_number(estimate[key], sign=sign) for key in ("low", "high"))
    return f"{_number(estimate['value'], sign=sign)} [{low}, {high}]"


def csv_table(rows: Sequence[Row]) -> str:
    """A column a number: nested keys are joined by a dot, what makes no sense is empty."""
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: Row, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            found[prefix + name] = value
    return found


def advice(rows: Sequence[Row]) -> str:
    """One line, what to use when: best by the linear probe, as good and smaller or faster, best for texts."""
    judged = sorted((row for row in rows if _miou(row) is not None), key=_miou, reverse=True)
    if not judged:
        return "Nothing can be said: no held-out point has a class."
    said = []
    offered = [row for row in judged if row["offered"]]
    if not judged[0]["offered"]:
        said.append(f"Best by the linear probe: {_named(judged[0])}, which clipfeat-extract does not offer.")
    if offered:
        first = next((row for row in offered if row is rows[0]), None)
        best = offered[0]
        if first is not None and best is not first and not _clearly_better(best):
            ahead = _interval(best["linear_miou_minus_first"], sign=True)
            said.append(f"Nothing beats {first['candidate']} clearly: {_named(best)} is ahead by {ahead}.")
            best = first
        said.append(f"Use {_named(best)}.")
        as_good = [row for row in offered if _miou(row) >= _miou(best) - _TOLERANCE]
        smallest = min(as_good, key=lambda row: row["map_bytes"])
        fastest = max(as_good, key=lambda row: row["frames_per_s"])
        if smallest["map_bytes"] < best["map_bytes"]:
            said.append(f"Where bytes matter, {_named(smallest)}: {smallest['map_bytes'] / 1e6:.2f} MB a frame.")
        if fastest["frames_per_s"] > best["frames_per_s"]:
            said.append(f"Where time matters, {_named(fastest)}: {fastest['frames_per_s']:.2f} frames/s.")
    texts = [row for row in offered if row["zero_shot_miou"] is not None]
    if texts:
        best = max(texts, key=lambda row: row["zero_shot_miou"]["value"] or 0)
        said.append(f"For texts, {best['candidate']} (zero-shot mIoU {best['zero_shot_miou']['value'] or 0:.3f}).")
    line = " ".join(said)
    return f"{line} {_RANDOM}." if any(row["weights"] == "random" for row in rows) else line


def _clearly_better(row: Row) -> bool:
    """Whether a candidate is better than the first over the whole interval of their difference."""
    low = (row.get("linear_miou_minus_first") or {}).get("low")
    return low is not None and low > 0


def _miou(row: Row) -> Any:
    return row["linear_miou"]["value"]


def _named(row: Row) -> str:
    return f"{row['candidate']} (mIoU {_miou(row):.3f})"


_NAMES_AT = 1.04
"""Where names begin at the right of a panel, in widths of it."""


def plot(rows: Sequence[Row], title: str) -> bytes:
    """Linear mIoU with its interval over the bytes of a map, and over the seconds a frame takes; a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    judged = sorted((row for row in rows if _miou(row) is not None), key=_miou)
    figure = Figure(figsize=(14, max(5.2, 1.6 + 0.21 * len(judged))), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    panels = (
        (left, [row["map_bytes"] / 1e6 for row in judged], "MB a frame (map in float16)"),
        (right, [1 / row["frames_per_s"] for row in judged], "seconds a frame"),
    )
    estimates = [row["linear_miou"] for row in judged]
    bottom = min((one["low"] for one in estimates), default=0.0)
    top = max((one["high"] for one in estimates), default=0.0)
    margin = 0.05 * (top - bottom) or 0.01
    left.set_ylim(bottom - margin, top + margin)
    heights = [(one["value"] - bottom + margin) / (top - bottom + 2 * margin) for one in estimates]
    labels = _apart(heights, 1 / max(len(judged), 18))
    for axes, along, name in panels:
        axes.set_xscale("log")
        for x, estimate in zip(along, estimates, strict=True):
            axes.plot([x, x], [estimate["low"], estimate["high"]], color=RULE, linewidth=1.5, zorder=1)
            axes.plot([x], [estimate["value"]], "o", color=INK, markersize=5, zorder=2)
        ends = np.log(axes.get_xlim())
        places = np.column_stack([(np.log(along) - ends[0]) / (ends[1] - ends[0]), heights])
        for x, row, estimate, label in zip(along, judged, estimates, uncrossed(places, labels), strict=True):
            # Points lie on each other, so all names stand beside the panel.
            axes.annotate(
                row["candidate"],
                (x, estimate["value"]),
                xytext=(_NAMES_AT, label),
                textcoords="axes fraction",
                va="center",
                fontsize=9,
                color=INK,
                family=FONT,
                arrowprops={
                    "arrowstyle": "-",
                    "color": FAINT_INK,
                    "linewidth": 0.4,
                    "shrinkA": 1,
                    "shrinkB": 3,
                    "relpos": (0, 0.5),
                },
            )
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set_xlabel(name, family=FONT, color=INK)
        axes.grid(color=RULE, linewidth=0.4)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("linear probe, mIoU (95 % interval over scenes)", family=FONT, color=INK)
    random = any(row["weights"] == "random" for row in rows)
    lines = textwrap.wrap(title, 170) + ([_RANDOM] if random else [])
    figure.suptitle("\n".join(lines), fontsize=10, family=FONT, color=INK)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def uncrossed(places: NDArray[np.float64], heights: Sequence[float]) -> list[float]:
    """Gives each point one of the heights at the right of the panel, so that no line to a name crosses another.

    Of two lines that cross, the ends could be exchanged for two shorter ones: the shortest of all have no crossing.

    Args:
        places: (N, 2) of the points, in shares of the panel.
        heights: N, in shares of the panel.
    """
    lengths = np.hypot(places[:, :1] - _NAMES_AT, places[:, 1:] - np.asarray(heights))
    return [heights[i] for i in linear_sum_assignment(lengths)[1]]


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights from 0 to 1, moved as little as need be so that they are ``gap`` apart."""
    found = list(heights)
    for i in range(1, len(found)):
        found[i] = max(found[i], found[i - 1] + gap)
    for i in range(len(found) - 1, -1, -1):
        found[i] = min(found[i], 1 - gap * (len(found) - 1 - i))
    return found
