"""The record of a run, ``frames.jsonl``: a line for each frame that is done or has failed."""

import json
import math
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from clipfeat.output.summary import visible_share

_RECORD_FILE = re.compile(r"frames(\.\d+)?\.jsonl")


def record_files(folder: Path) -> list[Path]:
    """The ``frames.jsonl`` of a folder, and those of its shards."""
    return sorted(path for path in folder.glob("frames*.jsonl") if _RECORD_FILE.fullmatch(path.name) and path.is_file())


def latest_lines(folder: Path) -> dict[tuple[str, int | None], dict[str, Any]]:
    """The latest line of each frame, and of each scene (frame None) that could not be read, in whichever record.

    A damaged line is passed over.
    """
    latest: dict[tuple[str, int | None], dict[str, Any]] = {}
    files = record_files(folder)
    records = chain.from_iterable(map(_whole_lines, files))
    # Within one file the order stands, whatever its clock did.
    for record in records if len(files) < 2 else sorted(records, key=_written_at):
        record.pop("time", None)
        latest.pop((record["scene_id"], None), None)  # by now it can be read, or its reason is another
        latest[record["scene_id"], record["frame_id"]] = record
    return latest


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            hash((record["scene_id"], record["frame_id"]))
            if _is_whole(record):
                yield record
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue


def _is_whole(record: dict[str, Any]) -> bool:
    """Whether a line holds what the summary needs of it; may raise what damaged lines bring about."""
    if record["status"] == "failed":
        return isinstance(record["why"], str)
    numbers = [record["frame_id"], record["bytes"], *record["points"].values()]
    return record["status"] == "done" and all(isinstance(number, int) for number in numbers)


def _written_at(record: dict[str, Any]) -> float:
    """Seconds since 1970; 0 of a line that does not tell."""
    at = record.get("time")
    return at if isinstance(at, (int, float)) and math.isfinite(at) else 0.0


def done_record(
    scene_id: str, frame_id: int, meta: dict[str, Any], size: int, seconds: dict[str, float]
) -> dict[str, Any]:
    """The line of a frame that is done.

    Args:
        scene_id: scene.
        frame_id: frame number.
        meta: of its file.
        size: bytes of its file.
        seconds: spent on it, by stage; empty where nobody knows any more.
    """
    points = meta.get("points", {})
    return {
        "scene_id": scene_id,
        "frame_id": frame_id,
        "status": "done",
        "points": points,
        "visible_share": round(visible_share(points), 4),
        "depth": meta.get("depth", True),
        "bytes": size,
        "seconds": seconds,
    }
