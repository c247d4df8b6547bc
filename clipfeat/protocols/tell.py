"""The numbers of a protocol as lines, a Markdown table, a table of classes, a picture and JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipfeat.protocols.counts import MEASURES
from clipfeat.protocols.openlex3d import CATEGORIES
from clipfeat.system.atomic import atomic_file
from clipfeat.vis.figure import FAINT_INK, FONT, INK, RULE, printable

LOW_SEEN_SHARE = 0.5

_RANDOM = "weights=random: the arithmetic is right, the numbers mean nothing"

_NAMES = {"miou": "mIoU", "fmiou": "f-mIoU", "macc": "mAcc", "accuracy": "accuracy"}

_DRAWN = 60
"""Classes whose names stand at the confusion matrix; of more it would be a grey."""


def write_numbers(folder: Path, report: Mapping[str, Any]) -> None:
    """Writes ``protocol.json``, ``.md`` and, where points have classes, ``.csv`` (a row a class) and ``.png``.

    The confusion matrix is ``protocol_confusion.csv``: a row a class, and what its points are predicted as.

    Raises:
        OutputError: If that fails.
    """
    told = {key: value for key, value in report.items() if key != "confusion"}
    files = {
        "protocol.json": json.dumps(told, indent=2, allow_nan=False, ensure_ascii=False).encode(),
        "protocol.md": markdown(report).encode(),
    }
    if "classes" in report:
        files |= {"protocol.csv": csv_table(report["classes"]).encode(), "protocol.png": plot(report)}
        files["protocol_confusion.csv"] = csv_table(confusion_rows(report)).encode()
    for name, content in files.items():
        with atomic_file(folder / name) as file:
            file.write(content)


def heading(report: Mapping[str, Any]) -> str:
    """One line: what is counted, over which scenes and points, of which features."""
    scenes, points = report["scenes"], report["points"]
    parts = [report["title"], over_scenes(scenes), f"{points['judged']} points"]
    if points.get("unseen"):
        parts[-1] += f", {100 * points['unseen'] / points['judged']:.1f} % seen by no frame"
    return "; ".join([*parts, f"weights={report['weights']}"])


def over_scenes(scenes: Mapping[str, Any]) -> str:
    """Which scenes numbers are over: "3 of 312 scenes"."""
    found = len(scenes["found"])
    if scenes["of"] == "protocol":
        return f"{found} of {scenes['wanted']} scenes"
    of = {"store": "all of the store", "scenes_file": "of scenes_file", "scenes": "that were named"}[scenes["of"]]
    return (
        f"{found} scene{'s' * (found != 1)}, {of}"
        if found == scenes["wanted"]
        else f"{found} of {scenes['wanted']} scenes, {of}"
    )


def numbers_table(report: Mapping[str, Any]) -> str:
    """What a terminal has room for: the numbers, in per cent."""
    lines = _lines(report)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([heading(report), *rows, *([_RANDOM] if report["weights"] == "random" else [])])


def _lines(report: Mapping[str, Any]) -> list[list[str]]:
    numbers = report["numbers"]
    if report["kind"] == "openlex3d":
        tops = [[top, *(_percent(numbers[top][name]) for name in CATEGORIES)] for top in numbers]
        return [["", *CATEGORIES], *tops]
    groups = numbers["groups"]
    names = ["", *(_NAMES[key] for key in MEASURES), *(f"{group} mIoU" for group in groups)]
    rows = [(report["protocol"], numbers)]
    if len(report["of_scenes"]) <= 8:
        rows += report["of_scenes"].items()
    return [names] + [
        [name, *(_percent(one[key]) for key in MEASURES), *(_percent(one["groups"][group]["miou"]) for group in groups)]
        for name, one in rows
    ]


def markdown(report: Mapping[str, Any]) -> str:
    """The numbers, how they were counted, and where that is from."""
    names, *rows = _lines(report)
    table = [f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *rows)]
    rules = [f"{key}={value}" for key, value in report["rules"].items()]
    changed = [f"changed: {', '.join(report['changed'])}"] if report["changed"] else []
    how = ["rules: " + ", ".join(rules), *changed, f"templates: {report['templates']}"]
    sources = [f"- {source}" for source in report["sources"]]
    lines = [heading(report), "", *table, "", *(f"- {one}" for one in how), "", *warnings_of(report), "", *sources, ""]
    return "\n".join(lines)


def confusion_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a class, and one of unlabelled points: how many of its seen points are predicted as which."""
    names = [row["name"] for row in report["classes"]]
    rows = zip([*names, "unlabelled"], report["confusion"], strict=True)
    return [{"truth": truth} | dict(zip([*names, "no class"], row, strict=True)) for truth, row in rows]


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table; what makes no sense is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: "" if value is None else value for key, value in row.items()} for row in rows])
    return text.getvalue()


def summary_table(report: Mapping[str, Any], folder: Path) -> str:
    """What was counted."""
    scenes, model = report["scenes"], report["model"]
    rows = [
        (
            "scenes",
            over_scenes(scenes) + (f"; {len(scenes['left_out'])} others left out" if scenes["left_out"] else ""),
        ),
        ("points", f"{report['points']['judged']} judged, in {report['seconds']:.1f} s"),
        ("weights", f"{model['weights']} ({model['weights_sha256']}), head {model['head']}"),
        ("written", f"protocol.json and others into {folder}"),
    ]
    return "\n".join(f"  {name:<16} {value}" for name, value in rows)


def warnings_of(report: Mapping[str, Any]) -> list[str]:
    """What a user should know before the numbers stand beside published ones."""
    found, scenes = [], report["scenes"]
    if scenes["missing"]:
        shown = ", ".join(scenes["missing"][:3]) + (", …" if len(scenes["missing"]) > 3 else "")
        found.append(f"numbers are over {over_scenes(scenes)}; missing: {shown}")
    if scenes["of"] != "protocol":
        found.append(f"numbers are over {over_scenes(scenes)}, not over those of published tables")
    if report["changed"]:
        found.append(f"rules other than the protocol's: {', '.join(report['changed'])}")
    judged, unseen = report["points"]["judged"], report["points"].get("unseen", 0)
    if unseen > (1 - LOW_SEEN_SHARE) * judged:
        found.append(
            f"{unseen / judged:.0%} of the points are seen by no frame (unseen={report['rules']['unseen']}); few "
            f"frames, or labels in other axes than the features, look like this"
        )
    if report["weights"] == "random":
        found.append(_RANDOM)
    return found


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def plot(report: Mapping[str, Any]) -> bytes:
    """IoU and accuracy of each class that has points, by group and IoU, and what its points are taken for; a PNG."""
    from matplotlib.figure import Figure

    order = {group: place for place, group in enumerate(report["numbers"]["groups"])}
    rows = [(k, row) for k, row in enumerate(report["classes"]) if row["judged"] and row["points"]]
    rows.sort(key=lambda pair: (order.get(pair[1]["group"], len(order)), -(pair[1]["iou"] or 0.0)))
    count = len(rows)
    names = [printable(f"{row['name']}  {row['group']}".rstrip()) for _, row in rows]
    figure = Figure(figsize=(15, max(5.0, 1.4 + 0.17 * count)), dpi=90, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    places = np.arange(count)
    left.barh(places, [100 * (row["accuracy"] or 0) for _, row in rows], 0.8, color=RULE, label="accuracy")
    left.barh(places, [100 * (row["iou"] or 0) for _, row in rows], 0.5, color="#1d6996", label="IoU")
    left.set_yticks(places, names, fontsize=7, fontfamily=FONT, parse_math=False)
    left.set_ylim(count - 0.5, -0.5)
    left.set_xlim(0, 100)
    left.set_xlabel("per cent", fontfamily=FONT, color=INK)
    figure.legend(frameon=False, loc="outside lower left", ncols=2)
    left.grid(axis="x", color=RULE, linewidth=0.4)
    left.spines[["top", "right"]].set_visible(False)
    confusion = np.array(report["confusion"], float)
    chosen = np.array([k for k, _ in rows], np.int64)
    others = np.setdiff1d(np.arange(len(confusion) - 1), chosen)
    columns = np.column_stack(
        [confusion[np.ix_(chosen, chosen)], confusion[np.ix_(chosen, others)].sum(1), confusion[chosen, -1]]
    )
    shares = columns / np.maximum(columns.sum(1, keepdims=True), 1)
    shown = right.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    if count <= _DRAWN:
        ends = [*(row["name"] for _, row in rows), "another class", "no class"]
        right.set_xticks(
            np.arange(count + 2), map(printable, ends), rotation=90, fontsize=7, fontfamily=FONT, parse_math=False
        )
    else:
        right.set_xticks([])
    right.set_yticks([])
    right.set_xlabel("predicted as, in the order of the left; then another class, and none", fontfamily=FONT, color=INK)
    right.set_title("share of a class's seen points", fontsize=10, fontfamily=FONT, color=FAINT_INK)
    figure.colorbar(shown, ax=right, shrink=min(1.0, 8 / max(count, 8)))
    notes = [numbers_line(report), *([_RANDOM] if report["weights"] == "random" else [])]
    figure.suptitle(
        "\n".join(map(printable, [heading(report), *notes])), fontsize=11, fontfamily=FONT, color=INK, parse_math=False
    )
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def numbers_line(report: Mapping[str, Any]) -> str:
    """The numbers in a line."""
    numbers = report["numbers"]
    found = [f"{_NAMES[key]} {_percent(numbers[key])}" for key in MEASURES]
    return ", ".join([*found, *(f"{group} {_percent(one['miou'])}" for group, one in numbers["groups"].items())])
