"""``check=…``: looks at a few frames of a few scenes and says whether their calibration can be right.

Nothing is changed by it, and no model is needed. ``clipfeat.camera`` does the arithmetic; here frames are chosen, and
what was found is printed and written to ``check.json``.
"""

import dataclasses
import itertools
import json
import logging
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.calibration.agreement import FramePair, agreement, make_pair, parallax
from clipfeat.calibration.hypotheses import invert
from clipfeat.calibration.registration import ColorAgreement, judge_color
from clipfeat.calibration.surface_fit import SurfaceReport, judge_surface
from clipfeat.calibration.verdict import CalibrationReport, judge
from clipfeat.camera.projection import valid_depth
from clipfeat.data.base import Dataset
from clipfeat.data.selection import FrameKey
from clipfeat.errors import CheckError, DataError, FrameError
from clipfeat.system.atomic import atomic_file
from clipfeat.system.ply_reader import coordinates, read_ply
from clipfeat.types import Frame

log = logging.getLogger(__name__)

MAX_SCENES = 3
PAIRS_A_SCENE = 6

_ENOUGH_OVERLAP = 0.3
_ENOUGH_PARALLAX = 0.08
_GAPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""How many frames away a partner is looked for; 64 are two seconds of a video."""


@dataclasses.dataclass(frozen=True)
class SceneCheck:
    """What was found of one scene.

    Attributes:
        scene_id: name of the scene.
        verdict: ok, warning or unknown.
        findings: what is wrong or could not be told, a line each.
        depth: depth against depth; None where no two frames could be compared.
        color: colour against colour; None where depth does not agree.
        mesh: the mesh against depth; None where there is none, or depth does not agree.
        skipped: frames and files that could not be used, and why.
    """

    scene_id: str
    verdict: str
    findings: list[str]
    depth: CalibrationReport | None
    color: ColorAgreement | None
    mesh: SurfaceReport | None
    skipped: list[str]


def check_scenes(dataset: Dataset, frames: Sequence[FrameKey], root: Path, output_dir: Path) -> list[SceneCheck]:
    """Checks scenes spread over those of the run, prints a table of each, and writes ``check.json``.

    Args:
        dataset: where frames come from.
        frames: of the run.
        root: folder of the scenes, where meshes may lie.
        output_dir: where ``check.json`` goes.

    Raises:
        OutputError: If ``check.json`` can't be written.
    """
    scenes = list(dict.fromkeys(scene_id for scene_id, _ in frames))
    chosen = [scenes[i] for i in _spread(len(scenes), MAX_SCENES)]
    checks = []
    for scene_id in chosen:
        of_run = [frame_id for scene, frame_id in frames if scene == scene_id]
        check = check_scene(dataset, scene_id, of_run, root, PAIRS_A_SCENE)
        log.info("%s", scene_table(check))
        level = logging.WARNING if check.verdict == "warning" else logging.INFO
        for line in check.findings:
            log.log(level, "%s%s: %s", "WARNING " if check.verdict == "warning" else "", scene_id, line)
        checks.append(check)
    verdicts = [check.verdict for check in checks]
    if set(verdicts) <= {"unknown"}:
        log.warning("WARNING the check could tell nothing: no two frames of it show the same place from two places")
    report = {"scenes_in_run": len(scenes), "checks": [_plain(dataclasses.asdict(check)) for check in checks]}
    with atomic_file(output_dir / "check.json") as file:
        file.write(json.dumps(report, indent=2, allow_nan=False).encode())
    return checks


def require_calibration(checks: Sequence[SceneCheck]) -> None:
    """Lets scripts see what the check found.

    Raises:
        CheckError: If a scene's calibration looks wrong.
    """
    wrong = [check for check in checks if check.verdict == "warning"]
    if wrong:
        raise CheckError(f"the calibration looks wrong in {len(wrong)} of {len(checks)} scenes: {wrong[0].findings[0]}")


def check_scene(dataset: Dataset, scene_id: str, of_run: Sequence[int], root: Path, num_pairs: int) -> SceneCheck:
    """Checks one scene: depth first, colour and mesh only where depth agrees, for else they say nothing.

    Args:
        dataset: where frames come from.
        scene_id: the scene.
        of_run: the numbers of the frames that the run would use.
        root: folder of the scenes, where a mesh may lie.
        num_pairs: how many pairs of frames to look at.
    """
    skipped: list[str] = []

    @lru_cache(maxsize=12)
    def load(frame_id: int) -> Frame | None:
        try:
            frame = dataset.load(scene_id, frame_id)
        except (FrameError, DataError) as error:
            skipped.append(str(error))
            return None
        if frame.depth_m is None or not valid_depth(frame.depth_m).any():
            skipped.append(f"{scene_id} frame {frame_id}: no depth")
            return None
        return frame

    pairs = choose_pairs(load, dataset.frame_ids(scene_id), of_run, num_pairs)
    if not pairs:
        why = f"nothing could be checked: no two frames with depth and a pose that see the same{_first(skipped)}"
        return SceneCheck(scene_id, "unknown", [why], None, None, None, skipped)
    depth = judge(pairs)
    color = mesh = None
    if depth.verdict != "warning":
        color = judge_color(pairs)
        points = mesh_points(root / scene_id / f"{scene_id}_vh_clean_2.ply", skipped)
        mesh = None if points is None else judge_surface([pair.a for pair in pairs[:4]], points)
    reports = [r for r in (depth, color, mesh) if r is not None]
    findings = [f"{r.cause}; {r.advice}" if r.advice else r.cause for r in reports if r.verdict == "warning"]
    verdict = "warning" if findings else depth.verdict
    findings += [f"{r.cause}" for r in reports if r.verdict == "unknown"]
    hidden = [name for name, shown in depth.can_tell.items() if not shown]
    if depth.verdict == "ok" and hidden:
        findings.append(f"these frames can't tell: {', '.join(hidden)}")
    return SceneCheck(scene_id, verdict, findings, depth, color, mesh, skipped)


def choose_pairs(
    load: Callable[[int], Frame | None], frame_ids: Sequence[int], of_run: Sequence[int], count: int
) -> list[FramePair]:
    """Pairs of frames that move enough to tell something, and still see the same.

    Each starts at a frame of the run; its partner is looked for among all frames of the scene, ever farther away, until
    the cameras are some way apart. Poses that are the wrong way round must be paired too, so that it can be seen that
    they are: overlap counts under either direction.

    Args:
        load: reads a frame; None if it can't be used.
        frame_ids: all of the scene, ascending.
        of_run: those that the run would use.
        count: how many pairs at most.
    """
    place = {frame_id: i for i, frame_id in enumerate(frame_ids)}
    starts = [of_run[i] for i in _spread(len(of_run), 2 * count)]
    found: dict[tuple[int, int], FramePair] = {}
    # Every second start first: if all are fine, they are spread over the scene; if not, the others fill in, and where
    # the scene has few frames, partners that are nearer.
    ways = itertools.product((_ENOUGH_PARALLAX, _ENOUGH_PARALLAX / 4), [*starts[::2], *starts[1::2]])
    for enough, start in ways:
        a = load(start)
        partner = None if a is None else _partner(a, place[start], load, frame_ids, enough)
        if a is not None and partner is not None:
            key = min(start, partner.frame_id), max(start, partner.frame_id)
            found.setdefault(key, make_pair(a, partner))
        if len(found) == count:
            break
    return [found[key] for key in sorted(found)]


def _partner(
    a: Frame, at: int, load: Callable[[int], Frame | None], frame_ids: Sequence[int], enough: float
) -> Frame | None:
    """The nearest frame that is ``enough`` of the depth away, else the farthest that sees enough of the same."""
    best = None
    for gap in _GAPS:
        other = at + gap if at + gap < len(frame_ids) else at - gap
        b = load(frame_ids[other]) if 0 <= other < len(frame_ids) else None
        if b is not None:
            pair = make_pair(a, b, 500)
            if max(agreement([pair])[1], agreement([pair], invert)[1]) < _ENOUGH_OVERLAP:
                break
            best = b
            if parallax(a, b) > enough:
                break
    return best


def mesh_points(path: Path, skipped: list[str]) -> NDArray[np.float64] | None:
    """The (N, 3) vertices of a mesh; None where there is none or it can't be read, which ``skipped`` then says."""
    if not path.is_file():
        return None
    try:
        points = coordinates(read_ply(path)).astype(np.float64)
    except (OSError, ValueError) as error:
        skipped.append(f"{path}: can't be read as a mesh ({error})")
        return None
    points = points[np.isfinite(points).all(axis=1)]
    # A tenth of a million shows as much as all of a building, in a fraction of the time.
    return points[np.random.default_rng(0).permutation(len(points))[:100_000]]


def scene_table(check: SceneCheck) -> str:
    """The few lines that show what was measured in a scene."""
    lines = [f"check {check.scene_id}: {check.verdict}"]
    if check.depth is not None:
        lines.append(f"  {'frames':<14}{'apart':<18}{'overlap':<10}{'visible':<10}{'|Δz|':<12}pose inverted")
        for p in check.depth.pairs:
            apart = f"{p.motion_m:.2f} m {p.rotation_deg:.0f}°"
            overlap, visible = f"{p.overlap:.0%}", f"{p.visible:.0%}"
            own, inverted = _millimetres(p.depth_error_m), _millimetres(p.depth_error_inverted_m)
            lines.append(
                f"  {f'{p.frame_a} → {p.frame_b}':<14}{apart:<18}{overlap:<10}{visible:<10}{own:<12}{inverted}"
            )
        lines.append(f"  depth   {check.depth.error:.2%} off in the median; tried instead: {_tried(check.depth)}")
    if check.color is not None and check.color.verdict != "unknown":
        c = check.color
        lines.append(
            f"  colour  correlation {c.correlation:.3f} (best {c.correlation_best:.3f}), "
            f"grey values {c.gray_difference:.1f} apart (at random {c.gray_difference_random:.1f})"
        )
    if check.mesh is not None:
        m = check.mesh
        shift = f"{m.shift_px[0]:+.1f}, {m.shift_px[1]:+.1f} px"
        lines.append(f"  mesh    {m.error:.2%} off in the median; fits best at {shift}, focal × {m.focal_scale:.3f}")
    return "\n".join(lines)


def _tried(report: CalibrationReport) -> str:
    return ", ".join(f"{f.family} {f.error:.2%}" for f in report.findings if math.isfinite(f.error)) or "nothing fits"


def _millimetres(metres: float | None) -> str:
    return "-" if metres is None else f"{1000 * metres:.0f} mm"


def _first(skipped: list[str]) -> str:
    return f" ({len(skipped)} skipped, such as {skipped[0]})" if skipped else ""


def _spread(total: int, count: int) -> list[int]:
    """Up to ``count`` indices below ``total``, evenly spread, the ends included."""
    return sorted({int(i) for i in np.linspace(0, total - 1, min(count, total)).round()})


def _plain(value: Any) -> Any:
    """JSON knows no inf and no NaN: null instead."""
    if isinstance(value, dict):
        return {key: _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
