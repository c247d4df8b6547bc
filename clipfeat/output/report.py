"""The report of a run: ``report.html``, one page that needs no other file and no network."""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from clipfeat.data.images import read_picture
from clipfeat.errors import DataError, FrameError, one_line
from clipfeat.output.files import FORMATS
from clipfeat.output.folders import read_config
from clipfeat.output.report_run import Run, read_run
from clipfeat.output.report_sections import (
    count_of,
    failures_by_reason,
    heading,
    scene_table,
    seconds_a_stage,
    size_of,
    summary_tiles,
    visible_points,
    warnings,
    what_was_run,
)
from clipfeat.output.run_folder import RunFolder
from clipfeat.output.totals import Totals
from clipfeat.system.atomic import atomic_file
from clipfeat.system.shards import WHOLE, Shard
from clipfeat.vis.page import Markup, joined, page, picture, section, tag
from clipfeat.vis.pictures import spread_evenly

log = logging.getLogger(__name__)

MAX_PICTURES = 24
MAX_BYTES = 5_000_000
"""Of the page: it is sent by mail."""

_NOTES_BYTES = 1000
"""Of what stands around the pictures."""

_PICTURE_NAME = re.compile(r"vis_(\d+)\.png")


def open_run(path: Path, shard: Shard = WHOLE) -> RunFolder:
    """The folder of a run that has ended, or of which one shard has.

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
    return RunFolder(path, name, "float32", shard)


def try_report(folder: RunFolder, totals: Totals | None = None) -> None:
    """Writes the report at the end of a run, whose results it can't spoil: whatever goes wrong is a warning."""
    try:
        log.info("report: %s", write_report(folder, totals))
    except Exception as error:  # noqa: BLE001 - the features are there; no picture of them is worth failing for
        log.warning("WARNING no report is written (%s: %s)", type(error).__name__, one_line(str(error)))


def write_report(folder: RunFolder, totals: Totals | None = None) -> Path:
    """Writes ``report.html`` from what a run has left in its folder: frames.jsonl, summary.json, pictures.

    One picture at a time is in memory.

    Args:
        folder: where they are.
        totals: what frames.jsonl adds up to, if that is known already.

    Returns:
        Where it is.

    Raises:
        OutputError: If it can't be written, or the configuration not be read.
        DataError: If the folder can't be listed.
    """
    run = read_run(folder, totals)
    title = f"clipfeat: {folder.path.resolve().name}"
    before = [
        heading(title, run),
        section("Summary", summary_tiles(run)),
        section("What was run", what_was_run(run)),
        section("Warnings", warnings(run)),
        section("Failures", failures_by_reason(run.summary["failures"])),
        section("Seconds a stage", seconds_a_stage(run)),
        section("Visible points", visible_points(run)),
    ]
    scenes = section("Scenes", scene_table(run))
    left = MAX_BYTES - len(page(title, *before, scenes).encode())
    content = page(title, *before, section("Pictures", _pictures(run, left)), scenes)
    path = folder.path / "report.html"
    with atomic_file(path) as file:
        file.write(content.encode())
    return path


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
        said = f"{count_of(left_out, 'more picture')} would make this page larger than {size_of(MAX_BYTES)}."
        parts.append(tag("p", said, class_="faint"))
    if unreadable:
        parts.append(tag("p", f"{count_of(unreadable, 'picture')} can't be read.", class_="faint"))
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
