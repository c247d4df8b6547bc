"""What a report knows of a run: what is in its folder, counted anew."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from clipfeat.output.folders import read_config
from clipfeat.output.frame_files import natural_key
from clipfeat.output.run_folder import RunFolder
from clipfeat.output.summary import Stopwatch, summarize
from clipfeat.output.totals import SceneTotals, Totals, add_up


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
    scenes: dict[str, SceneTotals]


def read_run(folder: RunFolder, totals: Totals | None = None) -> Run:
    """Reads what is in a run's folder.

    Args:
        folder: where it is.
        totals: what its record adds up to, if that is known already.

    Raises:
        OutputError: If its configuration can't be read.
        DataError: If the folder can't be listed.
    """
    config, stored = read_config(folder.path), folder.read_summary()
    totals = totals or add_up(folder.records())
    about = {"model": folder.read_model(), "sampling": value_at(config, "sampling.name")}
    # Counted anew: a run that was killed has no summary, and that of another shard may be older than the record.
    summary = summarize(totals, Stopwatch(), 0, about, interrupted=False)
    summary |= {key: as_dict(stored.get(key)) for key in ("run", "machine", "versions")}
    ended = ""
    with suppress(OSError):
        changed = (folder.path / "summary.json").stat().st_mtime
        ended = f"{datetime.fromtimestamp(changed, UTC):%Y-%m-%d %H:%M} UTC"
    return Run(
        folder, config, summary, ended, dict(sorted(totals.scenes.items(), key=lambda item: natural_key(item[0])))
    )


def value_at(config: dict[str, Any], key: str) -> Any:
    """What stands under a dotted key; None if nothing does."""
    found: Any = config
    for part in key.split("."):
        found = as_dict(found).get(part)
    return found


def as_dict(value: Any) -> dict[str, Any]:
    """A part of a file that anybody may have changed."""
    return value if isinstance(value, dict) else {}
