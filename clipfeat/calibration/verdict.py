"""Whether poses, K and depth of a recording fit each other: what two frames say of the same surface.

Depth carried from one frame into another must meet the depth measured there. That is tried with the calibration as it
is given, and again under each thing that is often wrong: the pose the other way round, K with other focal lengths, K
of another resolution, a moved principal point, depth in other units. A hypothesis that agrees far better than what is
given names the cause. What no hypothesis changes can't be told from these frames, and is not guessed: a camera that
only turns says nothing of the unit of depth, one that stands still nothing at all.

Source of the formulas: the photo-consistency and depth-consistency of registered views, Hartley and Zisserman, Multiple
View Geometry (2004), chapter 6 (the camera model) and 8.4 (pure rotation leaves the scale of depth open).
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from clipfeat.calibration.agreement import FramePair, PairAgreement, agreement, pair_agreement, systematic_error
from clipfeat.calibration.hypotheses import (  # fmt: skip
    Change,
    candidate_sizes,
    depth_camera,
    invert,
    of_size,
    with_depth_scaled,
    with_focal_scaled,
    with_principal_point_moved,
)
from clipfeat.types import Frame

CLEARLY = 1.5
"""A hypothesis must be better than what is given by this factor, not by a hair."""
SMALLEST_GAIN = 0.001
"""And by this much of the depth: 2 mm at 2 m is less than any depth sensor can tell."""
ROUGH = 0.03
"""Depths that are off by more than this in whole parts of the picture are wrong even where nothing explains it."""

_NEAR_TIE = 1.2
"""Within this factor of the best, the more usual mistake is named: the order of ``_FAMILIES``."""

_FAMILIES = ("pose inverted", "K of another resolution", "depth scale", "focal length", "principal point")
_COARSE_FOCAL = (0.4, 0.5, 0.62, 0.75, 0.85, 0.92, 0.96, 1.04, 1.09, 1.18, 1.33, 1.6, 2.0, 2.5)
_COARSE_DEPTH = (
    1e-3,
    0.01,
    0.1,
    0.2,
    0.25,
    0.35,
    0.5,
    0.7,
    0.85,
    0.93,
    1.07,
    1.18,
    1.4,
    2.0,
    2.8,
    4.0,
    5.0,
    10.0,
    1e2,
    1e3,
)
_MOVED = (-0.1, -0.05, -0.02, 0.02, 0.05, 0.1)
"""Of the picture's width or height."""
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
        family: what is thought to be wrong: one of ``_FAMILIES``.
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


def judge(pairs: Sequence[FramePair]) -> CalibrationReport:
    """Tries all hypotheses on the pairs of one scene.

    Args:
        pairs: of one scene; with enough motion and overlap, or little can be told.

    Raises:
        ValueError: If there are none.
    """
    if not pairs:
        raise ValueError("no pair of frames to judge")
    error, overlap = agreement(pairs)
    found = _findings(pairs, overlap)
    can_tell = {
        name: all(agreement(pairs, mistake)[0] > CLEARLY * error for mistake in mistakes)
        for name, mistakes in _USUAL_MISTAKES.items()
    }
    better = [f for f in found if error > CLEARLY * f.error and error - f.error > SMALLEST_GAIN]
    verdict, cause, advice = "ok", "", ""
    if better:
        near = [f for f in better if f.error <= _NEAR_TIE * better[0].error + SMALLEST_GAIN / 4]
        best = min(near, key=lambda f: _FAMILIES.index(f.family))
        verdict, cause, advice = "warning", f"{best.family}: {best.value}", best.advice
    elif systematic_error(pairs) > ROUGH or not np.isfinite(error):
        verdict, cause = "warning", "depths do not agree, and no single mistake explains it"
        advice = "look at the poses (axes, units, which frame they belong to), at K and at data.depth_scale"
    elif not any(can_tell.values()):
        verdict, cause = "unknown", "the frames hardly move: every calibration would look the same"
        advice = "nothing to do; a scan with more motion would tell"
    measured = tuple(pair_agreement(pair) for pair in pairs)
    scene_id = pairs[0].a.scene_id
    return CalibrationReport(scene_id, verdict, cause, advice, error, overlap, measured, tuple(found), can_tell)


def _findings(pairs: Sequence[FramePair], overlap: float) -> list[Finding]:
    """The best of each family; one whose frames meet far less than they do as given has nothing to say."""
    found = [_finding(pairs, "pose inverted", "world-to-camera poses agree", invert, "invert the pose files")]
    found += _resolution_findings(pairs)
    s = _best_factor(pairs, with_focal_scaled, _COARSE_FOCAL)
    if abs(np.log(s)) > _LEAST_CHANGE["focal length"]:
        words, advice = f"fx and fy × {s:.3g} agree", "look at the focal lengths of the depth camera's K"
        found.append(_finding(pairs, "focal length", words, with_focal_scaled(s), advice))
    s = _best_factor(pairs, with_depth_scaled, _COARSE_DEPTH)
    if abs(np.log(s)) > _LEAST_CHANGE["depth scale"]:
        words, advice = f"depths × {s:.3g} agree", f"set data.depth_scale to {1 / s:.3g} times what it is"
        found.append(_finding(pairs, "depth scale", words, with_depth_scaled(s), advice))
    camera = depth_camera(pairs[0].a)
    for du, dv in [(m * camera.width, 0.0) for m in _MOVED] + [(0.0, m * camera.height) for m in _MOVED]:
        words = f"cx {du:+.3g}, cy {dv:+.3g} px agrees"
        change, advice = with_principal_point_moved(du, dv), "look at cx and cy of the depth camera's K"
        found.append(_finding(pairs, "principal point", words, change, advice))
    enough = [f for f in found if f.overlap >= 0.5 * overlap]
    best = {f.family: f for f in sorted(enough, key=lambda f: -f.error)}
    return sorted(best.values(), key=lambda f: f.error)


def _finding(pairs: Sequence[FramePair], family: str, value: str, change: Change, advice: str) -> Finding:
    error, overlap = agreement(pairs, change)
    return Finding(family, value, error, overlap, advice)


def _resolution_findings(pairs: Sequence[FramePair]) -> list[Finding]:
    """The likeliest of the sizes that K might belong to and that fit about equally well."""
    found = [
        _finding(
            pairs,
            "K of another resolution",
            f"K as that of {size[0]}×{size[1]} pictures agrees",
            of_size(size),
            _advice_of_size(pairs[0].a, size),
        )
        for size in candidate_sizes(depth_camera(pairs[0].a), pairs[0].a.color_camera)
    ]
    lowest = min((f.error for f in found), default=0.0)
    return [f for f in found if f.error <= _NEAR_TIE * lowest][:1]


def _advice_of_size(frame: Frame, size: tuple[int, int]) -> str:
    """Which key says it: depth without a K of its own has colour's, whose size is another."""
    depth, color = depth_camera(frame), frame.color_camera
    advice = f"say so by data.depth_intrinsics_size=[{size[0]},{size[1]}]"
    if not np.allclose(depth.intrinsics, color.resized(depth.width, depth.height).intrinsics):
        return advice
    width, height = round(size[0] * color.width / depth.width), round(size[1] * color.height / depth.height)
    return f"{advice}, or where one K is for both by data.intrinsics_size=[{width},{height}]"


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
