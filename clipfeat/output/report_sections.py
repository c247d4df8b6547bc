"""The parts of a report that stand around its pictures, each as HTML."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from clipfeat.output.records import visible_share
from clipfeat.output.report_run import Run, as_dict, value_at
from clipfeat.output.summary import least_share, low_shares, name_of, own_points, reason_of, warnings_of
from clipfeat.vis.page import Bar, Markup, bar_chart, folded, histogram, joined, pairs, table, tag

_MAX_BARS = 30
_MAX_REASONS = 30
_MAX_ROWS = 5000
_LONG = 20
"""Rows of a table that is shown without a click."""

_LONG_TEXT = 5
"""The same of a list of sentences."""


def heading(title: str, run: Run) -> Markup:
    """The page's head: whose it is, and what must not be overlooked."""
    parts = [tag("h1", title), tag("p", f"{run.folder.path.resolve()} · {run.ended or 'not ended'}", class_="faint")]
    if run.summary["model"].get("weights") == "random":
        said = ": the arithmetic is right, the features mean nothing."
        parts.append(tag("p", tag("b", "weights=random"), said, class_="loud"))
    if not run.ended or run.summary["run"].get("interrupted"):
        said = " before its end. The same command again does what is missing."
        parts.append(tag("p", tag("b", "The run was stopped"), said, class_="loud"))
    return tag("header", joined(parts))


def _points(summary: dict[str, Any]) -> tuple[str, str]:
    points = summary["points"]
    if points and own_points(points, summary["sampling"]):
        return "points, of the frames' depth", f"{sum(points.values()):,}"
    return "points visible", f"{visible_share(points):.1%}" if points else ""


def summary_tiles(run: Run) -> Markup:
    """The few numbers that one looks for first."""
    summary, now = run.summary, run.summary["run"]
    rows = [
        ("frames done", f"{summary['frames']:,}"),
        ("frames failed", f"{summary['failed']:,}"),
        ("scenes", f"{len(summary['visible_share']):,}"),
        ("scenes left out", f"{summary['scenes_left_out']:,}" if summary["scenes_left_out"] else ""),
        _points(summary),
        ("all features", size_of(summary["bytes"])),
        ("features of a frame", size_of(summary["bytes_per_frame"])),
        ("seconds before the first frame", _number(now.get("seconds_before_frames"), 1)),
        ("frames a second", _number(now.get("frames_per_second"), 2)),
        ("seconds, last run", _number(now.get("seconds"), 1)),
        ("frames, last run", _number(now.get("frames"), 0)),
        ("peak memory", size_of(now.get("peak_memory_bytes"))),
        ("peak GPU memory", size_of(now.get("peak_gpu_memory_bytes"))),
    ]
    return pairs(rows, "tiles")


def what_was_run(run: Run) -> Markup:
    """What the run was of: data, model, points, machine."""
    config, model = run.config, run.summary["model"]
    machine, versions = run.summary["machine"], run.summary["versions"]
    size = model.get("input_size")
    window = f", windows of {model['window']} px every {model.get('stride')}" if model.get("window") else ""
    refined = "" if model.get("refine", "none") == "none" else f"refine {model['refine']}"
    by = "" if model.get("backend", "torch") == "torch" else f"by {model['backend']}"
    points, dtype = value_at(config, "sampling.num_points"), value_at(config, "output.dtype")
    rows = [
        ("data", _words(value_at(config, "data.name"), value_at(config, "data.root"))),
        ("scenes", value_at(config, "scenes_file")),
        ("frames", _frames_chosen(config)),
        (
            "model",
            _words(
                model.get("arch"), f"attention {model.get('attention', 'vanilla')}", refined, model.get("precision"), by
            ),
        ),
        ("weights", _weights(model)),
        ("input", _words(f"{size} px{window}", model.get("resize_mode")) if size else ""),
        ("head", _words(model.get("head"), model.get("head_sha256"))),
        (
            "points",
            _words(value_at(config, "sampling.name"), f"{points:,} a frame" if isinstance(points, int) else "all"),
        ),
        (
            "tolerance",
            f"{value_at(config, 'camera.depth_tolerance')} m or {value_at(config, 'camera.depth_tolerance_rel')} of z",
        ),
        (
            "output",
            _words(value_at(config, "output.name"), dtype if value_at(config, "output.name") != "grid" else "float16"),
        ),
        ("seed", value_at(config, "seed")),
        ("machine", _words(machine.get("cpu"), machine.get("gpu"), machine.get("system"))),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return pairs(rows, "facts")


def _weights(model: dict[str, Any]) -> object:
    said = _words(model.get("weights"), model.get("weights_sha256"))
    return tag("b", f"weights={said}") if model.get("weights") == "random" else said


def _frames_chosen(config: dict[str, Any]) -> str:
    most, stride, selection = (config.get(key) for key in ("frames_per_scene", "frame_stride", "frame_selection"))
    return _words(
        f"{most} a scene ({selection})" if most else "all",
        f"every {stride}th" if isinstance(stride, int) and stride > 1 else "",
    )


def warnings(run: Run) -> Markup:
    """What a user should look at before trusting the features; failures have a part of the page of their own."""
    found = [tag("li", line) for line in warnings_of(run.summary | {"failures": []})]
    if not found:
        return Markup()
    items = tag("ul", joined(found[:_MAX_BARS]))
    more = len(found) - _MAX_BARS
    note = tag("p", f"… and {more} more; all scenes are in the table below.", class_="faint") if more > 0 else Markup()
    return folded(count_of(len(found), "warning"), joined([items, note]), fold=len(found) > _LONG_TEXT)


def failures_by_reason(failures: Sequence[dict[str, Any]]) -> Markup:
    """Frames that failed, by their reason, the most common first, each with an example."""
    if not failures:
        return tag("p", "None.")
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for failure in failures:
        groups[reason_of(failure)].append(failure)
    largest_first = sorted(groups.items(), key=lambda group: -len(group[1]))
    items = []
    for reason, of_reason in largest_first[:_MAX_REASONS]:
        scenes, example = {failure["scene_id"] for failure in of_reason}, of_reason[0]
        items.append(
            tag(
                "li",
                tag("b", f"{len(of_reason)} × {reason}"),
                tag("p", f"in {count_of(len(scenes), 'scene')}, such as {name_of(example)}:"),
                tag("p", example["why"], class_="faint"),
            )
        )
    more = sum(len(of_reason) for _, of_reason in largest_first[_MAX_REASONS:])
    note = f"{f'… and {more} for other reasons. ' if more else ''}All are listed in frames.jsonl."
    return joined([tag("ul", joined(items), class_="failures"), tag("p", note, class_="faint")])


def seconds_a_stage(run: Run) -> Markup:
    """Where the time went."""
    seconds = {
        name: value
        for name, value in as_dict(run.summary["run"].get("seconds_a_stage")).items()
        if isinstance(value, int | float)
    }
    if not seconds:
        return Markup()
    longest_first = sorted(seconds.items(), key=lambda item: -item[1])
    bars = [Bar(name, max(value, 0), f"{value:.1f} s") for name, value in longest_first]
    note = "Of the last run, added up over the threads that work side by side: the sum may exceed the time it took."
    return joined([bar_chart(bars), tag("p", note, class_="faint")])


def visible_points(run: Run) -> Markup:
    """Points by what became of them, and the share that is visible by scene; nothing where it is all by itself."""
    summary = run.summary
    total = sum(summary["points"].values())
    if not total or own_points(summary["points"], summary["sampling"]):
        return Markup()
    by_status = [
        Bar(name.replace("_", " "), count, f"{count / total:.1%}") for name, count in summary["points"].items() if count
    ]
    shares, low = summary["visible_share"], low_shares(summary)
    worst = sorted(shares.items(), key=lambda item: item[1])[:_MAX_BARS]
    bars = [Bar(scene, share, f"{share:.0%}{' low' if scene in low else ''}", scene in low) for scene, share in worst]
    parts = [bar_chart(by_status, total)]
    limit = least_share(summary)
    if len(shares) > _MAX_BARS:
        parts += [
            tag("h3", f"All {len(shares):,} scenes, by the share of their points that is visible"),
            histogram(list(shares.values()), bins=10, low=limit),
            tag("h3", f"The {_MAX_BARS} scenes with the lowest shares"),
        ]
    else:
        parts.append(tag("h3", "By scene, lowest first"))
    parts.append(bar_chart(bars, 1))
    if low:
        note = f"{len(low):,} of {len(shares):,} scenes are low: below {limit:.0%}."
        parts.append(tag("p", note, class_="faint"))
    return joined(parts)


def scene_table(run: Run) -> Markup:
    """All scenes, a row each."""
    rows = [
        (
            scene_id,
            f"{scene.frames:,}",
            f"{scene.failed:,}" if scene.failed else "",
            f"{scene.points.get('visible', 0):,}",
            f"{visible_share(scene.points):.1%}" if scene.points else "",
            size_of(scene.size),
        )
        for scene_id, scene in list(run.scenes.items())[:_MAX_ROWS]
    ]
    if not rows:
        return Markup()
    content = table(("scene", "frames", "failed", "visible points", "share visible", "bytes"), rows)
    more = len(run.scenes) - len(rows)
    if more:
        content = joined([content, tag("p", f"… and {more:,} more, in frames.jsonl.", class_="faint")])
    return folded(count_of(len(run.scenes), "scene"), content, fold=len(run.scenes) > _LONG)


def _words(*words: object) -> str:
    return " · ".join(str(word) for word in words if word not in (None, ""))


def count_of(number: int, what: str) -> str:
    """A number with its noun, such as 1 scene, 2 scenes."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _number(value: object, digits: int) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else ""


def size_of(value: object) -> str:
    """Bytes, to be read; empty where nobody knows."""
    if not isinstance(value, int | float):
        return ""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:,.1f} {unit}"
    return f"{value:.0f} B"
