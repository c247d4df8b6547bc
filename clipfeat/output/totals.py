"""What the record of a run adds up to."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clipfeat.output.record_table import SceneRecord


@dataclass
class SceneTotals:
    """What a scene adds up to.

    Attributes:
        points: of all its frames, by status.
        frames: that are done.
        failed: that are not; a scene that could not be read counts as one.
        size: bytes of the files.
        without_depth: frames that are done and had no depth file.
    """

    points: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    failed: int = 0
    size: int = 0
    without_depth: int = 0


@dataclass
class Totals:
    """What a run adds up to.

    Attributes:
        scenes: of which a frame is done or has failed, in the order of their first frames that are done.
        failures: scene_id, frame_id (None for a scene that could not be read) and why, in the order of the record.
        unsettled: of the frames that were asked for, those that are neither done nor have failed.
        unlisted: feature files that no line calls done.
    """

    scenes: dict[str, SceneTotals]
    failures: list[dict[str, Any]]
    unsettled: int
    unlisted: int


def add_up(records: Iterable[SceneRecord], asked: Mapping[str, Collection[int]] | None = None) -> Totals:
    """Adds up the records of scenes, one after another.

    Args:
        records: of each scene.
        asked: the frames of each scene that ``unsettled`` is about.
    """
    asked = asked or {}
    unsettled, unlisted = sum(map(len, asked.values())), 0
    scenes: list[tuple[float, str, SceneTotals]] = []
    failures: list[tuple[int, dict[str, Any]]] = []
    for record in records:
        scene_id, frames, failed = record.scene_id, record.frames, record.failed
        unlisted += record.unlisted
        if scene_id in asked:
            unsettled -= len({*frames, *(frame_id for _, frame_id, _ in failed)}.intersection(asked[scene_id]))
        failures += [
            (place, {"scene_id": scene_id, "frame_id": frame_id, "why": why}) for place, frame_id, why in failed
        ]
        if not frames and not failed:
            continue
        found = SceneTotals(frames=len(frames), failed=len(failed), size=sum(record.sizes.tolist()))
        if frames:
            found.points.update({name: int(counts.sum(dtype="int64")) for name, counts in record.points.items()})
            found.without_depth = int((~record.has_depth).sum())
        scenes.append((record.places[0] if frames else float("inf"), scene_id, found))
    scenes.sort(key=lambda scene: scene[0])
    failures.sort(key=lambda failure: failure[0])
    return Totals({scene_id: found for _, scene_id, found in scenes}, [f for _, f in failures], unsettled, unlisted)
