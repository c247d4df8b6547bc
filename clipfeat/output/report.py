"""The report of a run: ``report.html``, one page that needs no other file and no network."""

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clipfeat.data.images import read_picture
from clipfeat.errors import DataError, FrameError, one_line
from clipfeat.output.files import FORMATS
from clipfeat.output.frame_files import natural_key
from clipfeat.output.run_folder import RunFolder, read_config
from clipfeat.output.summary import (
    LOW_VISIBLE_SHARE,
    Stopwatch,
    low_shares,
    name_of,
    reason_of,
    summarize,
    visible_share,
    warnings_of,
)
from clipfeat.system.atomic import atomic_file
from clipfeat.vis.page import (
    Bar,
    Markup,
    bar_chart,
    folded,
    histogram,
    joined,
    page,
    pairs,
    picture,
    section,
    table,
    tag,
)
from clipfeat.vis.pictures import spread_evenly

log = logging.getLogger(__name__)

MAX_PICTURES = 24
MAX_BYTES = 5_000_000
"""Of the page: it is sent by mail."""

_NOTES_BYTES = 1000
"""Of what stands around the pictures."""

_MAX_BARS = 30
_MAX_REASONS = 30
_MAX_ROWS = 5000
_LONG = 20
"""Rows of a table that is shown without a click."""

_LONG_TEXT = 5
"""The same of a list of sentences."""

_PICTURE_NAME = re.compile(r"vis_(\d+)\.png")


@dataclass
class Scene:
    """What the report says of a scene.

    Attributes:
        points: of all its frames, by status.
        frames: that are done.
        failed: that are not.
        size: bytes of the files.
    """

    points: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    failed: int = 0
    size: int = 0


@dataclass(frozen=True)
class Run:
    """What is known of a run.

    Attributes:
        folder: where it is.
        config: its configuration.
        summary: as ``summarize`` makes it of the record of the frames; what else ``summary.json`` says may be missing.
        ended: when ``summary.json`` was written; empty where there is none.
        scenes: by name.
    """

    folder: RunFolder
    config: dict[str, Any]
    summary: dict[str, Any]
    ended: str
    scenes: dict[str, Scene]


def open_run(path: Path) -> RunFolder:
    """The folder of a run that has ended.

    Raises:
        DataError: If there is none.
        OutputError: If its configuration can't be read, or the folder not written to.
    """
    if not (path / "config.yaml").is_file():
        raise DataError(f"{path}: holds no config.yaml of a run; give the output_dir of clipfeat-extract")
    output = read_config(path).get("output")
    name = output.get("name") if isinstance(output, dict) else None
    if name not in FORMATS:
        raise DataError(f"{path / 'config.yaml'}: is of no run of clipfeat-extract; give the output_dir of one")
    return RunFolder(path, name, "float32")


def try_report(folder: RunFolder) -> None:
    """Writes the report at the end of a run, whose results it can't spoil: whatever goes wrong is a warning."""
    try:
        log.info("report: %s", write_report(folder))
    except Exception as error:  # noqa: BLE001 - the features are there; no picture of them is worth failing for
        log.warning("WARNING no report is written (%s: %s)", type(error).__name__, one_line(str(error)))


def write_report(folder: RunFolder) -> Path:
    """Writes ``report.html`` from what a run has left in its folder: frames.jsonl, summary.json, pictures.

    One picture at a time is in memory.

    Returns:
        Where it is.

    Raises:
        OutputError: If it can't be written, or the configuration not be read.
        DataError: If the folder can't be listed.
    """
    run = _read_run(folder)
    title = f"clipfeat: {folder.path.resolve().name}"
    before = [
        _heading(title, run),
        section("Summary", _summary(run)),
        section("What was run", _what_was_run(run)),
        section("Warnings", _warnings(run)),
        section("Failures", _failures(run.summary["failures"])),
        section("Seconds a stage", _stages(run)),
        section("Visible points", _visible_points(run)),
    ]
    scenes = section("Scenes", _scenes(run))
    left = MAX_BYTES - len(page(title, *before, scenes).encode())
    content = page(title, *before, section("Pictures", _pictures(run, left)), scenes)
    path = folder.path / "report.html"
    with atomic_file(path) as file:
        file.write(content.encode())
    return path


def _read_run(folder: RunFolder) -> Run:
    config, records, stored = read_config(folder.path), folder.records(), folder.read_summary()
    about = {"model": folder.read_model(), "sampling": _at(config, "sampling.name")}
    # Counted anew: a run that was killed has no summary, and that of another shard may be older than the record.
    summary = summarize(records, Stopwatch(), 0, about, interrupted=False)
    summary |= {key: _dict(stored.get(key)) for key in ("run", "machine", "versions")}
    scenes: dict[str, Scene] = defaultdict(Scene)
    for record in records:
        scene = scenes[str(record["scene_id"])]
        if record["status"] == "failed":
            scene.failed += 1
        else:
            scene.frames += 1
            scene.size += record["bytes"]
            scene.points.update(record["points"])
    ended = ""
    with suppress(OSError):
        changed = (folder.path / "summary.json").stat().st_mtime
        ended = f"{datetime.fromtimestamp(changed, UTC):%Y-%m-%d %H:%M} UTC"
    return Run(folder, config, summary, ended, dict(sorted(scenes.items(), key=lambda item: natural_key(item[0]))))


def _heading(title: str, run: Run) -> Markup:
    parts = [tag("h1", title), tag("p", f"{run.folder.path.resolve()} · {run.ended or 'not ended'}", class_="faint")]
    if run.summary["model"].get("weights") == "random":
        said = ": the arithmetic is right, the features mean nothing."
        parts.append(tag("p", tag("b", "weights=random"), said, class_="loud"))
    if not run.ended or run.summary["run"].get("interrupted"):
        said = " before its end. The same command again does what is missing."
        parts.append(tag("p", tag("b", "The run was stopped"), said, class_="loud"))
    return tag("header", joined(parts))


def _summary(run: Run) -> Markup:
    summary, now = run.summary, run.summary["run"]
    rows = [
        ("frames done", f"{summary['frames']:,}"),
        ("frames failed", f"{summary['failed']:,}"),
        ("scenes", f"{len(summary['visible_share']):,}"),
        ("scenes left out", f"{summary['scenes_left_out']:,}" if summary["scenes_left_out"] else ""),
        ("points visible", f"{visible_share(summary['points']):.1%}" if summary["points"] else ""),
        ("all features", _size(summary["bytes"])),
        ("features of a frame", _size(summary["bytes_per_frame"])),
        ("seconds before the first frame", _number(now.get("seconds_before_frames"), 1)),
        ("frames a second", _number(now.get("frames_per_second"), 2)),
        ("seconds, last run", _number(now.get("seconds"), 1)),
        ("frames, last run", _number(now.get("frames"), 0)),
        ("peak memory", _size(now.get("peak_memory_bytes"))),
        ("peak GPU memory", _size(now.get("peak_gpu_memory_bytes"))),
    ]
    return pairs(rows, "tiles")


def _what_was_run(run: Run) -> Markup:
    config, model = run.config, run.summary["model"]
    machine, versions = run.summary["machine"], run.summary["versions"]
    size = model.get("input_size")
    window = f", windows of {model['window']} px every {model.get('stride')}" if model.get("window") else ""
    points, dtype = _at(config, "sampling.num_points"), _at(config, "output.dtype")
    rows = [
        ("data", _words(_at(config, "data.name"), _at(config, "data.root"))),
        ("scenes", _at(config, "scenes_file")),
        ("frames", _frames_chosen(config)),
        ("model", _words(model.get("arch"), f"attention {model.get('attention', 'vanilla')}", model.get("precision"))),
        ("weights", _weights(model)),
        ("input", _words(f"{size} px{window}", model.get("resize_mode")) if size else ""),
        ("head", _words(model.get("head"), model.get("head_sha256"))),
        ("points", _words(_at(config, "sampling.name"), f"{points:,} a frame" if isinstance(points, int) else "all")),
        ("tolerance", f"{_at(config, 'camera.depth_tolerance')} m or {_at(config, 'camera.depth_tolerance_rel')} of z"),
        ("output", _words(_at(config, "output.name"), dtype if _at(config, "output.name") != "grid" else "float16")),
        ("seed", _at(config, "seed")),
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


def _warnings(run: Run) -> Markup:
    # Failures have a part of the page of their own.
    found = [tag("li", line) for line in warnings_of(run.summary | {"failures": []})]
    if not found:
        return Markup()
    items = tag("ul", joined(found[:_MAX_BARS]))
    more = len(found) - _MAX_BARS
    note = tag("p", f"… and {more} more; all scenes are in the table below.", class_="faint") if more > 0 else Markup()
    return folded(_count(len(found), "warning"), joined([items, note]), fold=len(found) > _LONG_TEXT)


def _failures(failures: Sequence[dict[str, Any]]) -> Markup:
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
                tag("p", f"in {_count(len(scenes), 'scene')}, such as {name_of(example)}:"),
                tag("p", example["why"], class_="faint"),
            )
        )
    more = sum(len(of_reason) for _, of_reason in largest_first[_MAX_REASONS:])
    note = f"{f'… and {more} for other reasons. ' if more else ''}All are listed in frames.jsonl."
    return joined([tag("ul", joined(items), class_="failures"), tag("p", note, class_="faint")])


def _stages(run: Run) -> Markup:
    seconds = {
        name: value
        for name, value in _dict(run.summary["run"].get("seconds_a_stage")).items()
        if isinstance(value, int | float)
    }
    if not seconds:
        return Markup()
    longest_first = sorted(seconds.items(), key=lambda item: -item[1])
    bars = [Bar(name, max(value, 0), f"{value:.1f} s") for name, value in longest_first]
    note = "Of the last run, added up over the threads that work side by side: the sum may exceed the time it took."
    return joined([bar_chart(bars), tag("p", note, class_="faint")])


def _visible_points(run: Run) -> Markup:
    summary = run.summary
    total = sum(summary["points"].values())
    if not total:
        return Markup()
    by_status = [
        Bar(name.replace("_", " "), count, f"{count / total:.1%}") for name, count in summary["points"].items() if count
    ]
    shares, low = summary["visible_share"], low_shares(summary)
    worst = sorted(shares.items(), key=lambda item: item[1])[:_MAX_BARS]
    bars = [Bar(scene, share, f"{share:.0%}{' low' if scene in low else ''}", scene in low) for scene, share in worst]
    parts = [bar_chart(by_status, total)]
    limit = LOW_VISIBLE_SHARE if summary["sampling"] != "mesh" else 0.0
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
        note = f"{len(low):,} of {len(shares):,} scenes are low: below {LOW_VISIBLE_SHARE:.0%}."
        parts.append(tag("p", note, class_="faint"))
    return joined(parts)


def _pictures(run: Run, budget: int) -> Markup:
    """The pictures that fit into so many bytes; of the others the number."""
    shown: list[Markup] = []
    unreadable = left_out = 0
    for scene_id, path in _some_pictures(run):
        try:
            image = read_picture(path).pixels
        except FrameError:
            unreadable += 1
            continue
        caption = f"{scene_id} · frame {path.stem.removeprefix('vis_')}"
        one = picture(image, caption, quote(f"./{path.relative_to(run.folder.path).as_posix()}"))
        if len(one.encode()) > budget - _NOTES_BYTES:
            left_out += 1
            continue
        budget -= len(one.encode())
        shown.append(one)
    parts = [tag("div", joined(shown), class_="pictures")] if shown else []
    if shown:
        note = "A click opens the full picture, as long as this page lies in the folder of the run."
        parts.append(tag("p", note, class_="faint"))
    if left_out:
        said = f"{_count(left_out, 'more picture')} would make this page larger than {_size(MAX_BYTES)}."
        parts.append(tag("p", said, class_="faint"))
    if unreadable:
        parts.append(tag("p", f"{_count(unreadable, 'picture')} can't be read.", class_="faint"))
    return joined(parts)


def _some_pictures(run: Run) -> Iterator[tuple[str, Path]]:
    """Up to ``MAX_PICTURES``, spread evenly over the scenes and over the pictures of each."""
    found = {scene_id: _picture_numbers(run.folder.path / scene_id) for scene_id in run.scenes}
    pictured = [scene_id for scene_id, numbers in found.items() if numbers]
    for scene_id in spread_evenly(pictured, MAX_PICTURES):
        for number in spread_evenly(found[scene_id], max(1, MAX_PICTURES // len(pictured))):
            yield scene_id, run.folder.picture_path(scene_id, number)


def _picture_numbers(folder: Path) -> list[int]:
    try:
        with os.scandir(folder) as entries:
            return sorted(int(match[1]) for e in entries if (match := _PICTURE_NAME.fullmatch(e.name)) is not None)
    except (OSError, ValueError):  # a scene that could not be read has no folder, and its name may be any text
        return []


def _scenes(run: Run) -> Markup:
    rows = [
        (
            scene_id,
            f"{scene.frames:,}",
            f"{scene.failed:,}" if scene.failed else "",
            f"{scene.points.get('visible', 0):,}",
            f"{visible_share(scene.points):.1%}" if scene.points else "",
            _size(scene.size),
        )
        for scene_id, scene in list(run.scenes.items())[:_MAX_ROWS]
    ]
    if not rows:
        return Markup()
    content = table(("scene", "frames", "failed", "visible points", "share visible", "bytes"), rows)
    more = len(run.scenes) - len(rows)
    if more:
        content = joined([content, tag("p", f"… and {more:,} more, in frames.jsonl.", class_="faint")])
    return folded(_count(len(run.scenes), "scene"), content, fold=len(run.scenes) > _LONG)


def _at(config: dict[str, Any], key: str) -> Any:
    """What stands under a dotted key; None if nothing does."""
    found: Any = config
    for part in key.split("."):
        found = _dict(found).get(part)
    return found


def _dict(value: Any) -> dict[str, Any]:
    """A part of a file that anybody may have changed."""
    return value if isinstance(value, dict) else {}


def _words(*words: object) -> str:
    return " · ".join(str(word) for word in words if word not in (None, ""))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _number(value: object, digits: int) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else ""


def _size(value: object) -> str:
    if not isinstance(value, int | float):
        return ""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:,.1f} {unit}"
    return f"{value:.0f} B"
