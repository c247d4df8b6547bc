"""Whether poses, K and depth of a recording fit each other: what two frames say of the same surface.

Depth carried from one frame into another must meet the depth measured there. That is tried with the calibration as it
is given, and again under each thing that is often wrong: poses the other way round, of other axes or another frame,
K of another resolution or with other focal lengths, depth along the ray or in other units. A hypothesis names the cause
if it agrees far better than what is given, and as well as right recordings do; where two explain the frames alike, both
are named. What no hypothesis changes can't be told from these frames, and is not guessed: a camera that only turns says
nothing of the unit of depth, one that stands still nothing at all.

Measured on two demo rooms, three scans of an office and Open3D's five frames, each with its conventions broken in turn,
as the median of |z - depth| / z: 0.1 to 0.3 % under the true hypothesis; as given 2.2 % and more, but 1.4 % and more
for depth × 2, and 0.6 % and more for focal lengths × 1.1. In Open3D's frames, which move by 2 cm, it is 0.5 % and more.
The table is in docs/check.md.

Source of the formulas: the photo-consistency and depth-consistency of registered views, Hartley and Zisserman, Multiple
View Geometry (2004), chapter 6 (the camera model) and 8.4 (pure rotation leaves the scale of depth open).
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np

from clipfeat.calibration.advice import Keys, advise, one_k
from clipfeat.calibration.agreement import (  # fmt: skip
    FramePair,
    Neighbour,
    PairAgreement,
    agreement,
    pair_agreement,
    systematic_error,
)
from clipfeat.calibration.hypotheses import (  # fmt: skip
    FAMILIES,
    FIXED,
    Change,
    Hypothesis,
    candidate_sizes,
    depth_camera,
    depth_of,
    invert,
    of_size,
    with_depth_scaled,
    with_focal_scaled,
    with_poses,
    with_principal_point_moved,
    with_translation_scaled,
)
from clipfeat.camera.projection import valid_depth

CLEARLY = 1.5
"""A hypothesis must be better than what is given by this factor, not by a hair."""
SMALLEST_GAIN = 0.001
"""And by this much of the depth: 2 mm at 2 m is less than any depth sensor can tell."""
FITS = 0.015
"""No cause is named whose own error is above this: five times what right recordings have under the true one."""
ROUGH = 0.02
"""Depths that are off by more than this in whole parts of the picture are wrong even where nothing explains it. Right
recordings have 0.0004 to 0.0017."""
_SUSPECT = 0.005
"""Where the error is below, no poses of other frames are read: right recordings have up to 0.003."""

_NEAR_TIE = 1.2
"""Within this factor of the best, a hypothesis explains the frames as well."""

_COARSE_FOCAL = (0.4, 0.5, 0.62, 0.75, 0.85, 0.92, 0.96, 1.04, 1.09, 1.18, 1.33, 1.6, 2.0, 2.5)
_COARSE_DEPTH = (
    1e-3, 0.01, 0.1, 0.2, 0.25, 0.35, 0.5, 0.7, 0.85, 0.93, 1.07, 1.18, 1.4, 2.0, 2.8, 4.0, 5.0, 10.0, 1e2, 1e3,
)  # fmt: skip
_PLAUSIBLE_M = 0.1, 50.0
"""Median depth in metres that a recording has. Depths or poses in other units fit alike; this tells them apart."""
_MOVED = (-0.1, -0.05, -0.02, 0.02, 0.05, 0.1)
"""Of the picture's width or height."""
_COARSE_STEP, _FINE_STEP = 0.02, 0.002
"""The same: 1 px of a picture of 640 is what the fit can tell."""
_LEAST_CHANGE = {"focal length": 0.03, "depth scale": 0.05}
"""Smaller changes are within what real recordings are off by."""


_USUAL_MISTAKES: dict[str, tuple[Change, ...]] = {
    "pose direction": (invert,),
    "focal length": (with_focal_scaled(0.8), with_focal_scaled(1.25)),
    "depth scale": (with_depth_scaled(0.5), with_depth_scaled(2.0)),
}
"""If none of these would spoil the agreement, it says nothing of them."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """The best hypothesis of one family.

    Attributes:
        family: what is thought to be wrong: one of ``FAMILIES``.
        value: the factor, size or shift that fits best, in words.
        error: median |z - depth| / z under it; inf where too little overlaps.
        overlap: share of points that both frames see under it.
        advice: what to do if it is true.
    """

    family: str
    value: str
    error: float
    overlap: float
    advice: str


@dataclasses.dataclass(frozen=True)
class CalibrationReport:
    """What could be said of the depth, the poses and K of one scene.

    Attributes:
        scene_id: name of the scene.
        verdict: ok, warning or unknown.
        cause: what is likely wrong or why nothing can be said; empty if ok.
        advice: what to do about it; empty if ok.
        error: median |z - depth| / z as given; inf where the frames do not meet at all.
        overlap: share of points that both frames see as given.
        pairs: each pair of frames.
        findings: the best hypothesis of each family, the best first.
        can_tell: whether an inverted pose, a focal length off by a quarter, a depth scale off by a factor of two
            would have been seen. Means something where the verdict is not a warning.
    """

    scene_id: str
    verdict: str
    cause: str
    advice: str
    error: float
    overlap: float
    pairs: tuple[PairAgreement, ...]
    findings: tuple[Finding, ...]
    can_tell: dict[str, bool]


def judge(
    pairs: Sequence[FramePair], keys: Keys | None = None, neighbour: Neighbour | None = None
) -> CalibrationReport:
    """Tries all hypotheses on the pairs of one scene.

    Args:
        pairs: of one scene; with enough motion and overlap, or little can be told.
        keys: of the layout, for the advice.
        neighbour: for whether poses belong to the next frame; only asked where something is wrong.

    Raises:
        ValueError: If there are none.
    """
    if not pairs:
        raise ValueError("no pair of frames to judge")
    keys = keys or {}
    error, overlap = agreement(pairs)
    found = [_finding(pairs, hypothesis, keys) for hypothesis in _hypotheses(pairs, keys)]
    if neighbour is not None and error > _SUSPECT:
        found += _offsets(pairs, keys, neighbour)
    found = _best_of_each([f for f in found if f.overlap >= 0.5 * overlap])
    can_tell = {
        name: all(agreement(pairs, mistake)[0] > CLEARLY * error for mistake in mistakes)
        for name, mistakes in _USUAL_MISTAKES.items()
    }
    better = [f for f in found if error > CLEARLY * f.error and error - f.error > SMALLEST_GAIN and f.error < FITS]
    verdict, cause, advice = "ok", "", ""
    if better:
        # Two at most: where three fit alike, the frames tell nothing, and a list helps nobody.
        near = [f for f in better if f.error <= _NEAR_TIE * better[0].error + SMALLEST_GAIN / 4]
        likely = sorted(near, key=lambda f: FAMILIES.index(f.family))[:2]
        verdict, cause = "warning", ", or ".join(f"{f.family}: {f.value}" for f in likely)
        advice = ", or ".join(f.advice for f in likely)
    elif systematic_error(pairs) > ROUGH or not np.isfinite(error):
        verdict, cause = "warning", "depths do not agree, and no single mistake explains it"
        scale = " and at data.depth_scale" if "depth_scale" in keys else " and at the unit of depth"
        advice = f"look at the poses (axes, units, which frame they belong to), at K{scale}"
    elif not any(can_tell.values()):
        verdict, cause = "unknown", "the frames hardly move: every calibration would look the same"
        advice = "nothing to do; a scan with more motion would tell"
    measured = tuple(pair_agreement(pair) for pair in pairs)
    scene_id = pairs[0].a.scene_id
    return CalibrationReport(scene_id, verdict, cause, advice, error, overlap, measured, tuple(found), can_tell)


def _finding(pairs: Sequence[FramePair], hypothesis: Hypothesis, keys: Keys) -> Finding:
    family, value, change, numbers = hypothesis
    return Finding(family, value, *agreement(pairs, change), advise(family, numbers, keys))


def _best_of_each(findings: Sequence[Finding]) -> list[Finding]:
    """The best of each family, the best first."""
    best = {f.family: f for f in sorted(findings, key=lambda f: -f.error)}
    return sorted(best.values(), key=lambda f: f.error)


def _hypotheses(pairs: Sequence[FramePair], keys: Keys) -> Iterator[Hypothesis]:
    """The fixed ones, and those whose number has been looked for."""
    yield from FIXED
    yield from _resolutions(pairs, keys)
    s = _best_factor(pairs, with_focal_scaled, _COARSE_FOCAL)
    if abs(np.log(s)) > _LEAST_CHANGE["focal length"]:
        yield Hypothesis("focal length", f"fx and fy × {s:.3g} agree", with_focal_scaled(s), (s,))
    s = _best_factor(pairs, with_depth_scaled, _COARSE_DEPTH)
    if abs(np.log(s)) > _LEAST_CHANGE["depth scale"]:
        yield from _units(pairs, s)
    du, dv = _best_center(pairs)
    words = f"cx {du:+.3g}, cy {dv:+.3g} px agrees"
    yield Hypothesis("principal point", words, with_principal_point_moved(du, dv), (du, dv))


def _units(pairs: Sequence[FramePair], s: float) -> Iterator[Hypothesis]:
    """Depths × s, or translations / s: the same to two frames, but not to who knows how large rooms are."""
    depth = depth_of(pairs[0].a)
    median = float(np.median(depth[valid_depth(depth)]))
    low, high = _PLAUSIBLE_M
    of_depth, of_poses = (low < median * factor < high for factor in (s, 1))
    if of_depth or not of_poses:
        yield Hypothesis("depth scale", f"depths × {s:.3g} agree", with_depth_scaled(s), (s,))
    if of_poses or not of_depth:
        words = f"translations × {1 / s:.3g} agree"
        yield Hypothesis("pose units", words, with_translation_scaled(1 / s), (1 / s,))


def _offsets(pairs: Sequence[FramePair], keys: Keys, neighbour: Neighbour) -> Iterator[Finding]:
    """Poses of the frames before and after, on the pairs whose frames both have such a neighbour."""
    for offset, words in ((-1, "before"), (1, "after")):
        frames = {frame.frame_id for pair in pairs for frame in (pair.a, pair.b)}
        others = {frame_id: other for frame_id in frames if (other := neighbour(frame_id, offset)) is not None}
        poses = {frame_id: other.cam_to_world for frame_id, other in others.items()}
        whole = [pair for pair in pairs if pair.a.frame_id in poses and pair.b.frame_id in poses]
        if whole:
            first = whole[0].a.frame_id
            numbers = (float(others[first].frame_id - first),)
            value = f"the poses of the frames {words} agree"
            finding = _finding(whole, Hypothesis("frame offset", value, with_poses(poses), numbers), keys)
            if agreement(whole)[0] > CLEARLY * finding.error:  # few pairs may agree better than all do, as given too
                yield finding


def _resolutions(pairs: Sequence[FramePair], keys: Keys) -> list[Hypothesis]:
    """The likeliest of the sizes that K might belong to and that fit about equally well."""
    depth, color = depth_camera(pairs[0].a), pairs[0].a.color_camera
    shared = one_k(keys)  # depth has colour's K, brought to its own size: what is to be said is a size of colour's
    asked, other = (color, depth) if shared else (depth, color)
    sx, sy = (depth.width / color.width, depth.height / color.height) if shared else (1.0, 1.0)
    found = []
    for width, height in candidate_sizes(asked, other):
        change = of_size((width * sx, height * sy))
        value = f"K as that of {width}×{height} pictures agrees"
        numbers = (width, height, asked.width, asked.height)
        found.append((agreement(pairs, change)[0], Hypothesis("K of another resolution", value, change, numbers)))
    lowest = min((error for error, _ in found), default=0.0)
    return [hypothesis for error, hypothesis in found if error <= _NEAR_TIE * lowest][:1]


def _best_center(pairs: Sequence[FramePair]) -> tuple[float, float]:
    """Pixels that cx and cy are to be moved by; looked for more closely where that mends anything."""
    camera = depth_camera(pairs[0].a)
    size = camera.width, camera.height

    @cache
    def error(x: float, y: float) -> float:
        return agreement(pairs, with_principal_point_moved(x * size[0], y * size[1]))[0]

    x, y = min([(m, 0.0) for m in _MOVED] + [(0.0, m) for m in _MOVED], key=lambda at: error(*at))
    step = _COARSE_STEP if error(x, y) < min(FITS, error(0.0, 0.0)) else 0.0
    while step > _FINE_STEP:
        around = [(x + i * step, y + j * step) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        best = min(around, key=lambda at: error(*at))
        if error(*best) < error(x, y):
            x, y = best
        else:
            step /= 2
    return x * size[0], y * size[1]


def _best_factor(pairs: Sequence[FramePair], change: Callable[[float], Change], coarse: Sequence[float]) -> float:
    """The best factor, looked for on a coarse grid that holds 1 and then twice on a finer one."""
    grid = sorted({*coarse, 1.0})
    errors = {s: agreement(pairs, change(s))[0] for s in grid}
    best = min(grid, key=errors.__getitem__)
    at = grid.index(best)
    low, high = np.log(grid[max(at - 1, 0)]), np.log(grid[min(at + 1, len(grid) - 1)])
    for _ in range(2):
        fine = [float(s) for s in np.exp(np.linspace(low, high, 7)[1:-1])]
        errors.update({s: agreement(pairs, change(s))[0] for s in fine})
        best = min(errors, key=errors.__getitem__)
        reach = (high - low) / 6
        low, high = np.log(best) - reach, np.log(best) + reach
    return best
