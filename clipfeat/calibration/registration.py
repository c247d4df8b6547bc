"""Whether colour lies on depth: the same surface must have the same colour in two frames.

Points that two frames see are looked up in both colour pictures. If colour is registered to depth, the two agree best
where the colour camera's K puts them; if the pictures are shifted against the depth, they agree better a few pixels
beside it, in both pictures alike, if K is another camera's, at another focal length, and if they stand on their head,
where they are turned. Colour of another moment agrees nowhere.

The measure is 1 - r, r being the correlation of the two lists of grey values: blind to exposure and white balance.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from clipfeat.calibration.advice import Keys, advise
from clipfeat.calibration.agreement import FramePair, visible_points
from clipfeat.calibration.hypotheses import candidate_sizes, depth_camera
from clipfeat.camera.projection import build_uv_index, world_to_cam
from clipfeat.types import Camera, resize_affine

_NOMINAL_WIDTH = 640
"""Shifts are looked for in steps of a pixel of a picture this wide."""
_LEAST_SHIFT = 2.5
_REACH, _STEP = 24, 4
_FOCALS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.05, 1.11, 1.25, 1.43, 1.67, 2.0)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Rec. ITU-R BT.601."""
_FEWEST_POINTS = 200
_BEST = 2e-3
"""1 - r below this is as good as perfect; a factor of next to nothing is no evidence."""
_FEWEST_PAIRS, _MANY_PAIRS = 3, 5
_FACTOR, _FACTOR_OF_FEW = 1.5, 2.2
"""How much better a hypothesis must be. In pairs of real frames taken at random, all registered, the best shift made it
1.4 times better at most with six of them, and twice with three; colour moved by 8 pixels gave 1.95 in the median."""
_FACTOR_OF_TURN = 4.0
"""Pictures on their head or flipped: 17 to 90 where they are, 2 where frames that hardly move have others' colours."""
_MOST = 0.75
_LOW_CORRELATION = 0.7
"""Below this the pictures are not of what the depth shows, and no hypothesis that stays below it is believed. Right
ones have 0.93 to 0.997 in the demo's rooms and on four real recordings; those of another moment, upside down or flipped
-0.18 to 0.19 in the office, 0.23 to 0.64 in the demo's rooms: 1 - r is at most 0.07 against at least 0.36. Only frames
that hardly move, and so show nearly the same picture, have 0.79 to 0.88 with each other's colours."""
_ENOUGH_CONTRAST = 12.0
"""Grey values that points at random are apart, 41 to 64 on those recordings: of bare walls alone, the noise decides."""


@dataclasses.dataclass(frozen=True)
class ColorAgreement:
    """How well the colours of two or more pairs of frames agree.

    Attributes:
        verdict: ok, warning or unknown.
        cause: what is likely wrong, or why nothing can be said; empty if ok.
        advice: what to do about it; empty if ok.
        correlation: mean correlation of the grey values of the same points in two frames, as given.
        correlation_best: the same under the hypothesis that fits best.
        gray_difference: median absolute grey difference (0 to 255) of the same points in two frames.
        gray_difference_random: the same of points that were paired at random.
        shift_px: (right, down) pixels of the colour picture by which a shift fits best.
    """

    verdict: str
    cause: str
    advice: str
    correlation: float
    correlation_best: float
    gray_difference: float
    gray_difference_random: float
    shift_px: tuple[float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class ColorPair:
    """The same points in two pictures.

    Attributes:
        gray_a: (H, W) float32, smoothed.
        gray_b: (H, W) float32, smoothed.
        uv_a: (N, 2) pixels of the first picture.
        uv_b: (N, 2) pixels of the second.
    """

    gray_a: NDArray[np.float32]
    gray_b: NDArray[np.float32]
    uv_a: NDArray[np.float64]
    uv_b: NDArray[np.float64]


Affine = tuple[float, float, float, float]
"""(sx, sy, tx, ty): what moves uv to (sx·u + tx, sy·v + ty)."""


class _Hypothesis(NamedTuple):
    """What may be wrong with colour.

    Attributes:
        family: as ``advise`` knows it.
        value: what agrees instead, in words.
        affine: moves uv to where the colour is then.
        numbers: for ``advise``.
        factor: by which it must mend the pairs at least.
    """

    family: str
    value: str
    affine: Affine
    numbers: tuple[float, ...] = ()
    factor: float = _FACTOR


_AS_GIVEN: Affine = (1.0, 1.0, 0.0, 0.0)


def color_pair(pair: FramePair) -> ColorPair | None:
    """Looks for the points that both frames of a pair see; None where they are too few."""
    a, b = pair.a, pair.b
    points = visible_points(pair)[::4]  # every fourth is plenty, and four times as fast
    if len(points) < _FEWEST_POINTS:
        return None
    uv_a, uv_b = (
        build_uv_index(
            points, f.color_camera.intrinsics, world_to_cam(f.cam_to_world), distortion=f.color_camera.distortion
        ).uv.astype(np.float64)
        for f in (a, b)
    )
    smooth = _unit(a.color_camera)
    gray_a, gray_b = (gaussian_filter(f.image @ _LUMA, smooth) for f in (a, b))
    return ColorPair(gray_a, gray_b, uv_a, uv_b)


def correlations(pairs: Iterable[ColorPair], affine: Affine = _AS_GIVEN) -> NDArray[np.float64]:
    """(P,) correlation of the grey values of each pair; -1 where too few points stay inside the pictures."""
    found = []
    for pair in pairs:
        gray_a, gray_b = _grays(pair, affine)
        if len(gray_a) < _FEWEST_POINTS / 2 or gray_a.std() < 1e-3 or gray_b.std() < 1e-3:
            found.append(-1.0)
        else:
            found.append(float(np.corrcoef(gray_a, gray_b)[0, 1]))
    return np.array(found)


def disagreement(pairs: Iterable[ColorPair], affine: Affine = _AS_GIVEN) -> float:
    """Mean of log(1 - r): each pair counts by the factor that a hypothesis mends it by, not by how bad it is.

    Shine and exposure spoil some pairs of every real recording, and would else decide alone.
    """
    return float(np.log(np.maximum(1 - correlations(pairs, affine), _BEST)).mean())


def judge_color(pairs: Sequence[FramePair], keys: Keys | None = None) -> ColorAgreement:
    """Tries shifts, focal lengths, resolutions and turns of the colour on pairs whose depth agrees.

    Args:
        pairs: of one scene. If their depth does not agree, colour says nothing.
        keys: of the layout, for the advice.
    """
    ready = [c for c in map(color_pair, pairs) if c is not None]
    if not ready:
        return ColorAgreement("unknown", "colour: no points that two frames see", "", -1.0, -1.0, 0.0, 0.0, (0.0, 0.0))
    camera = pairs[0].a.color_camera
    given = correlations(ready)
    shift = _best_shift(ready, camera)
    others = [_best_focal(ready, camera), *_sizes(camera, depth_camera(pairs[0].a)), *_turns(camera)]
    found = min((shift, *others), key=lambda h: disagreement(ready, h.affine))
    best = correlations(ready, found.affine)
    moved = shift.affine[2:]
    gray_a, gray_b = np.concatenate([_grays(pair, _AS_GIVEN) for pair in ready], axis=1)
    apart = np.abs(gray_a - np.random.default_rng(0).permutation(gray_b))
    verdict, cause, advice = "ok", "", ""
    large = found is not shift or np.hypot(*moved) > _LEAST_SHIFT * _unit(camera)
    if len(ready) < _FEWEST_PAIRS:
        verdict, cause = "unknown", f"colour: {len(ready)} pairs of frames are too few"
    elif large and _clearly_better(given, best, found.factor) and best.mean() > _LOW_CORRELATION:
        verdict, cause = "warning", f"{found.family}: {found.value}"
        advice = advise(found.family, found.numbers, keys or {})
    elif given.mean() < _LOW_CORRELATION and np.median(apart) > _ENOUGH_CONTRAST:
        verdict = "warning"
        cause = f"colour is not of what depth shows: the same points correlate by {given.mean():.2f}, not by 0.9"
        advice = "look whether colour and depth are of the same moment and frame, and whether colour is turned"
    return ColorAgreement(
        verdict,
        cause,
        advice,
        round(float(given.mean()), 4),
        round(float(best.mean()), 4),
        round(float(np.median(np.abs(gray_a - gray_b))), 2),
        round(float(np.median(apart)), 2),
        (round(moved[0], 1), round(moved[1], 1)),
    )


def _clearly_better(given: NDArray[np.float64], best: NDArray[np.float64], factor: float) -> bool:
    """Whether a hypothesis mends the pairs by a large factor, and nearly all of them: one alone may do so by chance."""
    gains = np.log(np.maximum(1 - given, _BEST) / np.maximum(1 - best, _BEST))
    if len(gains) < _MANY_PAIRS:
        factor = max(factor, _FACTOR_OF_FEW)
    return bool(gains.mean() > np.log(factor) and (gains > 0.05).mean() >= _MOST)


def _unit(camera: Camera) -> float:
    return max(1.0, camera.width / _NOMINAL_WIDTH)


def _grays(pair: ColorPair, affine: Affine) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    scale, move = np.array(affine[:2]), np.array(affine[2:])
    uv_a, uv_b = pair.uv_a * scale + move, pair.uv_b * scale + move
    height, width = pair.gray_a.shape
    inside = ((uv_a >= 0) & (uv_b >= 0) & (uv_a <= (width - 1, height - 1)) & (uv_b <= (width - 1, height - 1))).all(1)
    gray_a = map_coordinates(pair.gray_a, uv_a[inside].T[::-1], order=1)
    gray_b = map_coordinates(pair.gray_b, uv_b[inside].T[::-1], order=1)
    return gray_a, gray_b


def _best_shift(pairs: Sequence[ColorPair], camera: Camera) -> _Hypothesis:
    unit = _unit(camera)
    coarse = np.arange(-_REACH, _REACH + 1, _STEP)
    scores = {(x, y): disagreement(pairs, (1, 1, x * unit, y * unit)) for x in coarse for y in coarse}
    x0, y0 = min(scores, key=scores.__getitem__)
    near = np.arange(-_STEP + 1, _STEP)
    for dx in near:
        for dy in near:
            x, y = x0 + dx, y0 + dy
            scores[x, y] = disagreement(pairs, (1, 1, x * unit, y * unit))
    x, y = min(scores, key=scores.__getitem__)
    tx, ty = float(x * unit), float(y * unit)
    value = f"moved by ({tx:+.0f}, {ty:+.0f}) px the pictures agree"
    return _Hypothesis("unregistered colour", value, (1.0, 1.0, tx, ty), (tx, ty))


def _best_focal(pairs: Sequence[ColorPair], camera: Camera) -> _Hypothesis:
    cx, cy = camera.intrinsics[:2, 2]
    tried: list[Affine] = [(s, s, float((1 - s) * cx), float((1 - s) * cy)) for s in _FOCALS]
    best = min(tried, key=lambda affine: disagreement(pairs, affine))
    value = f"focal length: fx and fy × {best[0]:.3g} agree"
    return _Hypothesis("colour K", value, best, (best[0],))


def _sizes(camera: Camera, depth: Camera) -> list[_Hypothesis]:
    """The sizes that the colour K might belong to."""
    found = []
    size = camera.width, camera.height
    for width, height in candidate_sizes(camera, depth):
        (sx, _, tx), (_, sy, ty) = resize_affine((width, height), size).tolist()
        value = f"as that of {width}×{height} pictures it agrees"
        found.append(_Hypothesis("colour K of another resolution", value, (sx, sy, tx, ty), (width, height, *size)))
    return found


def _turns(camera: Camera) -> list[_Hypothesis]:
    """Pictures on their head, or flipped: on their side they have another shape, which the layouts refuse."""
    right, down = float(camera.width - 1), float(camera.height - 1)
    turns: tuple[tuple[str, str, Affine], ...] = (
        ("colour turned", "by 180° the pictures agree", (-1.0, -1.0, right, down)),
        ("colour flipped", "left for right the pictures agree", (-1.0, 1.0, right, 0.0)),
        ("colour flipped", "top for bottom the pictures agree", (1.0, -1.0, 0.0, down)),
    )
    return [_Hypothesis(*turn, factor=_FACTOR_OF_TURN) for turn in turns]
