"""What a report knows of a run: what is in its folder, counted anew."""

from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from clipfeat.output.folders import read_config
from clipfeat.output.frame_files import natural_key
from clipfeat.output.run_folder import RunFolder
from clipfeat.output.summary import Stopwatch, summarize


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


def read_run(folder: RunFolder) -> Run:
    """Reads what is in a run's folder.

    Raises:
        OutputError: If its configuration can't be read.
        DataError: If the folder can't be listed.
    """
    config, records, stored = read_config(folder.path), folder.records(), folder.read_summary()
    about = {"model": folder.read_model(), "sampling": value_at(config, "sampling.name")}
    # Counted anew: a run that was killed has no summary, and that of another shard may be older than the record.
    summary = summarize(records, Stopwatch(), 0, about, interrupted=False)
    summary |= {key: as_dict(stored.get(key)) for key in ("run", "machine", "versions")}
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


def value_at(config: dict[str, Any], key: str) -> Any:
    """What stands under a dotted key; None if nothing does."""
    found: Any = config
    for part in key.split("."):
        found = as_dict(found).get(part)
    return found


def as_dict(value: Any) -> dict[str, Any]:
    """A part of a file that anybody may have changed."""
    return value if isinstance(value, dict) else {}
