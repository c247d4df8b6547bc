"""The record of a run, ``frames.jsonl``: a line for each frame that is done or has failed."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import DecodeError, Meta, Struct
from msgspec.json import Decoder

_RECORD_FILE = re.compile(r"frames(\.\d+)?\.jsonl")
_BLOCK = 1 << 20
"""Bytes of a record that are in memory as text at a time."""

MOST_BYTES, MOST_POINTS = 2**63 - 1, 2**31 - 1
"""Of a frame: what is more is damage, and a table has no room for it."""

_Number = Annotated[int, Meta(ge=0, le=MOST_BYTES)]


class DoneLine(Struct, tag_field="status", tag="done", gc=False):
    """What counts of the line of a frame that is done; ``time`` is in seconds since 1970, 0 where it does not tell."""

    scene_id: str
    frame_id: _Number
    points: dict[str, Annotated[int, Meta(ge=0, le=MOST_POINTS)]]
    bytes: _Number
    depth: bool = True
    time: float = 0.0


class FailedLine(Struct, tag_field="status", tag="failed", gc=False):
    """The line of a frame that failed, or of a scene (frame None) that could not be read."""

    scene_id: str
    frame_id: _Number | None
    why: str
    time: float = 0.0


Line = DoneLine | FailedLine

_decoder: Decoder[Line] = Decoder(Line)


def record_files(folder: Path) -> list[Path]:
    """The ``frames.jsonl`` of a folder, and those of its shards."""
    return sorted(path for path in folder.glob("frames*.jsonl") if _RECORD_FILE.fullmatch(path.name) and path.is_file())


def read_lines(path: Path) -> Iterator[list[Line]]:
    """The lines of a record in their order, some thousands at a time; a damaged line is passed over."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            block += file.readline()
            try:
                yield _decoder.decode_lines(block)
            except (DecodeError, RecursionError):
                yield list(_lines_one_by_one(block.split(b"\n")))


def _lines_one_by_one(texts: Iterable[bytes]) -> Iterator[Line]:
    for text in texts:
        try:
            yield _decoder.decode(text)
        except (DecodeError, RecursionError):
            line = _unusual_line(text)
            if line is not None:
                yield line


def _unusual_line(text: bytes) -> Line | None:
    """A line that holds what counts, and beside it what no run of today writes; None if it is damaged."""
    try:
        record = json.loads(text.decode(errors="replace"))
        key, at = (record["scene_id"], record["frame_id"]), _written_at(record)
        if not isinstance(key[0], str):
            return None
        if record["status"] == "failed":
            whole = isinstance(record["why"], str) and (key[1] is None or isinstance(key[1], int))
            return FailedLine(*key, record["why"], at) if whole else None
        size, points = record["bytes"], record["points"]
        whole = record["status"] == "done" and isinstance(key[1], int)
        whole &= _fits(size, MOST_BYTES) and all(_fits(number, MOST_POINTS) for number in points.values())
        return DoneLine(*key, points, size, bool(record.get("depth", True)), at) if whole else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _fits(number: Any, most: int) -> bool:
    return isinstance(number, int) and 0 <= number <= most


def _written_at(record: dict[str, Any]) -> float:
    """Seconds since 1970; 0 of a line that does not tell."""
    at = record.get("time")
    return float(at) if isinstance(at, (int, float)) and math.isfinite(at) else 0.0


def visible_share(counts: Mapping[str, int]) -> float:
    """Visible points as a share of all that were looked at; 0 where there were none."""
    total = sum(counts.values())
    return counts.get("visible", 0) / total if total else 0.0


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
