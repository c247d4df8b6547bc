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

from clipfeat.calibration.advice import Keys
from clipfeat.calibration.agreement import FramePair, agreement, make_pair, parallax
from clipfeat.calibration.hypotheses import Change, invert, with_translation_scaled
from clipfeat.calibration.registration import ColorAgreement, judge_color
from clipfeat.calibration.surface_fit import SurfaceReport, judge_surface
from clipfeat.calibration.verdict import CalibrationReport, judge
from clipfeat.camera.projection import valid_depth
from clipfeat.data.base import Dataset
from clipfeat.data.selection import FrameKey
from clipfeat.errors import CannotTellError, CheckError, DataError, FrameError
from clipfeat.sampling.point_files import read_points
from clipfeat.system.atomic import atomic_file
from clipfeat.types import Frame

log = logging.getLogger(__name__)

MAX_SCENES = 3
PAIRS_A_SCENE = 6

_ENOUGH_OVERLAP = 0.3
_ENOUGH_PARALLAX = 0.08
_PAIRED_UNDER: tuple[Change, ...] = (lambda frame: frame, invert, with_translation_scaled(1e-3))
"""As given, and what undoes mistakes under which frames that see the same do not meet: these must be paired, too, so
that the mistake can be seen."""
_LOADED = 48
"""Frames kept: 12 of 6 pairs, and the neighbours of these."""
_GAPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""How many frames away a partner is looked for; 64 are two seconds of a video."""


@dataclasses.dataclass(frozen=True)
class SceneMesh:
    """Where a scene's mesh is.

    Attributes:
        pattern: path of a PLY or npz file, with {scene} in it.
        sampled: whether the run takes its points from it, and does not merely look whether it is there.
    """

    pattern: str
    sampled: bool


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


def check_scenes(
    dataset: Dataset, frames: Sequence[FrameKey], mesh: SceneMesh, output_dir: Path, keys: Keys
) -> list[SceneCheck]:
    """Checks scenes spread over those of the run, prints a table of each, and writes ``check.json``.

    Args:
        dataset: where frames come from.
        frames: of the run.
        mesh: where the meshes are.
        output_dir: where ``check.json`` goes.
        keys: what ``data.…`` is set to: advice names these.

    Raises:
        OutputError: If ``check.json`` can't be written.
    """
    scenes = list(dict.fromkeys(scene_id for scene_id, _ in frames))
    chosen = [scenes[i] for i in _spread(len(scenes), MAX_SCENES)]
    checks = []
    for scene_id in chosen:
        of_run = [frame_id for scene, frame_id in frames if scene == scene_id]
        check = check_scene(dataset, scene_id, of_run, mesh, PAIRS_A_SCENE, keys)
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
        CannotTellError: If none looks wrong, and none right.
    """
    wrong = [check for check in checks if check.verdict == "warning"]
    if wrong:
        raise CheckError(f"the calibration looks wrong in {len(wrong)} of {len(checks)} scenes: {wrong[0].findings[0]}")
    if not any(check.verdict == "ok" for check in checks):
        first = f": {checks[0].scene_id}: {'; '.join(checks[0].findings)}" if checks else ""
        raise CannotTellError(f"nothing could be told of the calibration of {len(checks)} scenes{first}")


def check_scene(
    dataset: Dataset, scene_id: str, of_run: Sequence[int], mesh: SceneMesh, num_pairs: int, keys: Keys
) -> SceneCheck:
    """Checks one scene: depth first, colour and mesh only where depth agrees, for else they say nothing.

    Args:
        dataset: where frames come from.
        scene_id: the scene.
        of_run: the numbers of the frames that the run would use.
        mesh: where its mesh is.
        num_pairs: how many pairs of frames to look at.
        keys: what ``data.…`` is set to.
    """
    skipped: list[str] = []

    @lru_cache(maxsize=_LOADED)
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

    frame_ids = dataset.frame_ids(scene_id)
    place = {frame_id: i for i, frame_id in enumerate(frame_ids)}

    def neighbour(frame_id: int, offset: int) -> Frame | None:
        at = place[frame_id] + offset
        return load(frame_ids[at]) if 0 <= at < len(frame_ids) else None

    pairs = choose_pairs(load, frame_ids, of_run, num_pairs)
    if not pairs:
        why = f"nothing could be checked: no two frames with depth and a pose that see the same{_first(skipped)}"
        return SceneCheck(scene_id, "unknown", [why], None, None, None, skipped)
    depth = judge(pairs, keys, neighbour)
    color = surface = None
    unmeshed: list[str] = []
    if depth.verdict != "warning":
        color = judge_color(pairs, keys)
        points = mesh_points(mesh, scene_id, unmeshed)
        surface = None if points is None else judge_surface([pair.a for pair in pairs[:4]], points)
        skipped += unmeshed
    reports = [r for r in (depth, color, surface) if r is not None]
    findings = [f"{r.cause}; {r.advice}" if r.advice else r.cause for r in reports if r.verdict == "warning"]
    if mesh.sampled:  # the run would get no points, or none that its frames see
        findings += unmeshed
        if surface is not None and surface.verdict == "unknown":
            path = mesh.pattern.replace("{scene}", scene_id)
            why = "is it of this scene, in metres, and in the axes of the poses?"
            findings.append(f"the frames see next to nothing of {path}: {why}")
    verdict = "warning" if findings else depth.verdict
    findings += [f"{r.cause}" for r in reports if r.verdict == "unknown"]
    hidden = [name for name, shown in depth.can_tell.items() if not shown]
    if depth.verdict == "ok" and hidden:
        findings.append(f"these frames can't tell: {', '.join(hidden)}")
    return SceneCheck(scene_id, verdict, findings, depth, color, surface, skipped)


def choose_pairs(
    load: Callable[[int], Frame | None], frame_ids: Sequence[int], of_run: Sequence[int], count: int
) -> list[FramePair]:
    """Pairs of frames that move enough to tell something, and still see the same.

    Each starts at a frame of the run; its partner is looked for among all frames of the scene, ever farther away, until
    the cameras are some way apart. Poses that are the wrong way round must be paired too, so that it can be seen that
    they are, and so must those in millimetres: overlap counts under ``_PAIRED_UNDER``.

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
            meets = (change for change in _PAIRED_UNDER if agreement([pair], change)[1] >= _ENOUGH_OVERLAP)
            change = next(meets, None)
            if change is None:
                break
            best = b
            if parallax(change(a), change(b)) > enough:
                break
    return best


def mesh_points(mesh: SceneMesh, scene_id: str, skipped: list[str]) -> NDArray[np.float64] | None:
    """The (N, 3) vertices of a scene's mesh; None where there is none or it can't be read, which ``skipped`` says.

    A mesh that only may be there, beside the frames, is not missed.
    """
    path = Path(mesh.pattern.replace("{scene}", scene_id))
    if not (mesh.sampled or path.is_file()):
        return None
    try:
        points = read_points(path).xyz
    except DataError as error:
        skipped.append(str(error))
        return None
    # A tenth of a million shows as much as all of a building, in a fraction of the time.
    return points[np.random.default_rng(0).permutation(len(points))[:100_000]]


def scene_table(check: SceneCheck) -> str:
    """The few lines that show what was measured in a scene."""
    lines = [f"check {check.scene_id}: {check.verdict}"]
    if check.depth is not None:
        named = [f"{p.frame_a} → {p.frame_b}" for p in check.depth.pairs]
        column = max(14, *(len(name) + 2 for name in named), 0)  # numbers that are times have 16 digits
        lines.append(f"  {'frames':<{column}}{'apart':<18}{'overlap':<10}{'visible':<10}{'|Δz|':<12}pose inverted")
        for name, p in zip(named, check.depth.pairs, strict=True):
            apart = f"{p.motion_m:.2f} m {p.rotation_deg:.0f}°"
            overlap, visible = f"{p.overlap:.0%}", f"{p.visible:.0%}"
            own, inverted = _millimetres(p.depth_error_m), _millimetres(p.depth_error_inverted_m)
            lines.append(f"  {name:<{column}}{apart:<18}{overlap:<10}{visible:<10}{own:<12}{inverted}")
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
