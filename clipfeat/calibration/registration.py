"""Whether colour lies on depth: the same surface must have the same colour in two frames.

Points that two frames see are looked up in both colour pictures. If colour is registered to depth, the two agree best
where the colour camera's K puts them; if the pictures are shifted against the depth, they agree better a few pixels
beside it, in both pictures alike, and if K is another camera's, at another focal length.

The measure is 1 - r, r being the correlation of the two lists of grey values: blind to exposure and white balance.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

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
_MOST = 0.75


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
_AS_GIVEN: Affine = (1.0, 1.0, 0.0, 0.0)


def color_pair(pair: FramePair) -> ColorPair | None:
    """Looks for the points that both frames of a pair see; None where they are too few."""
    a, b = pair.a, pair.b
    points = visible_points(pair)[::4]  # every fourth is plenty, and four times as fast
    if len(points) < _FEWEST_POINTS:
        return None
    uv_a, uv_b = (
        build_uv_index(points, f.color_camera.intrinsics, world_to_cam(f.cam_to_world)).uv.astype(np.float64)
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


def judge_color(pairs: Sequence[FramePair]) -> ColorAgreement:
    """Tries shifts, focal lengths and resolutions of the colour K on pairs whose depth agrees.

    Args:
        pairs: of one scene. If their depth does not agree, colour says nothing.
    """
    ready = [c for c in map(color_pair, pairs) if c is not None]
    if not ready:
        return ColorAgreement("unknown", "colour: no points that two frames see", "", -1.0, -1.0, 0.0, 0.0, (0.0, 0.0))
    camera = pairs[0].a.color_camera
    given = correlations(ready)
    hypotheses = [("shift", *_best_shift(ready, camera)), _best_focal(ready, camera)]
    hypotheses += _sizes(ready, camera, depth_camera(pairs[0].a))
    kind, (sx, sy, tx, ty), _ = min(hypotheses, key=lambda h: h[2])
    best = correlations(ready, (sx, sy, tx, ty))
    shift = hypotheses[0][1][2:]
    gray_a, gray_b = np.concatenate([_grays(pair, _AS_GIVEN) for pair in ready], axis=1)
    shuffled = np.random.default_rng(0).permutation(gray_b)
    verdict, cause, advice = "ok", "", ""
    large = kind != "shift" or np.hypot(*shift) > _LEAST_SHIFT * _unit(camera)
    if len(ready) < _FEWEST_PAIRS:
        verdict, cause = "unknown", f"colour: {len(ready)} pairs of frames are too few"
    elif large and _clearly_better(given, best):
        verdict = "warning"
        if kind == "shift":
            cause = f"unregistered colour: moved by ({tx:+.0f}, {ty:+.0f}) px the pictures agree"
            advice = "register depth to colour, or look at cx and cy of both cameras' K"
        elif kind == "focal":
            cause = f"colour K: focal length: fx and fy × {sx:.3g} agree"
            advice = "look at the focal lengths of both cameras' K"
        else:
            cause = f"colour K of another resolution: as that of {kind} pictures it agrees"
            advice = f"say so by data.color_intrinsics_size=[{kind.replace('×', ',')}]"
    return ColorAgreement(
        verdict,
        cause,
        advice,
        round(float(given.mean()), 4),
        round(float(best.mean()), 4),
        round(float(np.median(np.abs(gray_a - gray_b))), 2),
        round(float(np.median(np.abs(gray_a - shuffled))), 2),
        (round(shift[0], 1), round(shift[1], 1)),
    )


def _clearly_better(given: NDArray[np.float64], best: NDArray[np.float64]) -> bool:
    """Whether a hypothesis mends the pairs by a large factor, and nearly all of them: one alone may do so by chance."""
    gains = np.log(np.maximum(1 - given, _BEST) / np.maximum(1 - best, _BEST))
    factor = _FACTOR if len(gains) >= _MANY_PAIRS else _FACTOR_OF_FEW
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


def _best_shift(pairs: Sequence[ColorPair], camera: Camera) -> tuple[Affine, float]:
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
    return (1.0, 1.0, float(x * unit), float(y * unit)), scores[x, y]


def _best_focal(pairs: Sequence[ColorPair], camera: Camera) -> tuple[str, Affine, float]:
    cx, cy = camera.intrinsics[:2, 2]
    tried: list[Affine] = [(s, s, float((1 - s) * cx), float((1 - s) * cy)) for s in _FOCALS]
    best = min(tried, key=lambda affine: disagreement(pairs, affine))
    return "focal", best, disagreement(pairs, best)


def _sizes(pairs: Sequence[ColorPair], camera: Camera, depth: Camera) -> list[tuple[str, Affine, float]]:
    """What the sizes that the colour K might belong to would make of the agreement."""
    found = []
    for width, height in candidate_sizes(camera, depth):
        (sx, _, tx), (_, sy, ty) = resize_affine((width, height), (camera.width, camera.height)).tolist()
        affine = (sx, sy, tx, ty)
        found.append((f"{width}×{height}", affine, disagreement(pairs, affine)))
    return found
