"""The record of a run, line by line and in plain dictionaries: the slow twin of ``output/record_table.py``."""

import json
import math

from clipfeat.output.record_table import latest_lines
from clipfeat.output.records import record_files
from clipfeat.output.totals import add_up


def write_lines(path, records):
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def totals_of(folder, records):
    """What lines add up to that a run has written into a folder."""
    write_lines(folder / "frames.jsonl", records)
    return add_up(latest_lines(record_files(folder)))


def twin_latest(folder):
    """The latest line of each frame, and of each scene that could not be read, in the order of their first lines."""
    files = record_files(folder)
    records = [record for path in files for record in _whole_lines(path)]
    latest = {}
    for record in records if len(files) < 2 else sorted(records, key=_written_at):
        latest.pop((record["scene_id"], None), None)
        latest[record["scene_id"], record["frame_id"]] = record
    return list(latest.values())


def _whole_lines(path):
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            done = record["status"] == "done"
            numbers = [record["bytes"], *record["points"].values()] if done else []
            whole = done or (record["status"] == "failed" and isinstance(record["why"], str))
            whole &= isinstance(record["frame_id"], int) or (record["frame_id"] is None and not done)
            if whole and isinstance(record["scene_id"], str) and all(isinstance(n, int) and n >= 0 for n in numbers):
                yield record
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue


def _written_at(record):
    at = record.get("time")
    return at if isinstance(at, (int, float)) and math.isfinite(at) else 0.0


def plain(records):
    """Scenes' records as such dictionaries, in the order of the lines; points that none are of are left out."""
    found = []
    for record in records:
        for row, frame_id in enumerate(record.frames):
            points = {name: int(counts[row]) for name, counts in record.points.items() if counts[row]}
            line = {"scene_id": record.scene_id, "frame_id": frame_id, "status": "done", "points": points}
            line |= {"bytes": int(record.sizes[row])} | ({} if record.has_depth[row] else {"depth": False})
            found.append((int(record.places[row]), line))
        for place, frame_id, why in record.failed:
            line = {"scene_id": record.scene_id, "frame_id": frame_id, "status": "failed", "why": why}
            found.append((place, line))
    return [line for _, line in sorted(found, key=lambda item: item[0])]
