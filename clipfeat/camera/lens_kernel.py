"""The innermost loops of lenses that distort, compiled: a point is bent as the lens bends it, or straightened again.

Both work on the plane of the lens, on which a point lies at (a, b): at the pinhole's (x/z, y/z), or for a fisheye in
the same direction at a distance of θ, its angle to the camera's axis. There the lens moves it by polynomials, and K
makes a pixel of it. A lens is an array of numbers, see ``lens_array`` in ``distortion``.

Source of the formulas: OpenCV's documentation of calib3d (rational model, tangential distortion, fisheye) and COLMAP's
src/colmap/sensor/models.h, which agree with each other.
"""

import math

import numpy as np
from numpy.typing import NDArray

from clipfeat.system.compiled import compiled

_FARTHEST = 1e4
"""Largest pinhole radius x/z that is looked at: 89.994° from the axis."""
_RINGS, _SPOKES = 4096, 64
_CLOSE = 1e-13
"""How near, on the plane of the lens, a solution has to come: far below a millionth of a pixel for any focal length."""


@compiled(error_model="numpy")
def _moved(
    a: float, b: float, lens: NDArray[np.float64]
) -> tuple[float, float, float, float, float, float]:  # pragma: no cover - compiled
    """Where the lens puts (a, b), and the derivatives of that: c, d, ∂c/∂a, ∂c/∂b, ∂d/∂a, ∂d/∂b."""
    q = a * a + b * b
    above = 1 + q * (lens[1] + q * (lens[2] + q * (lens[3] + q * lens[4])))
    below = 1 + q * (lens[5] + q * (lens[6] + q * lens[7]))
    above_q = lens[1] + q * (2 * lens[2] + q * (3 * lens[3] + q * 4 * lens[4]))
    below_q = lens[5] + q * (2 * lens[6] + q * 3 * lens[7])
    f = above / below
    g = 2 * (above_q - f * below_q) / below
    p1, p2, sx, sy = lens[8], lens[9], lens[10], lens[11]
    c = a * f + 2 * p1 * a * b + p2 * (q + 2 * a * a) + sx * q
    d = b * f + 2 * p2 * a * b + p1 * (q + 2 * b * b) + sy * q
    mixed = a * b * g + 2 * p1 * a + 2 * p2 * b
    c_a = f + a * a * g + 2 * p1 * b + 6 * p2 * a + 2 * sx * a
    d_b = f + b * b * g + 2 * p2 * a + 6 * p1 * b + 2 * sy * b
    return c, d, c_a, mixed + 2 * sx * b, mixed + 2 * sy * a, d_b


@compiled(error_model="numpy")
def _folds(s: float, lens: NDArray[np.float64]) -> bool:  # pragma: no cover - compiled
    """Whether, somewhere at a distance of s from the middle, the lens no longer moves farther points farther out."""
    for spoke in range(_SPOKES):
        turn = 2 * math.pi * spoke / _SPOKES
        _, _, c_a, c_b, d_a, d_b = _moved(s * math.cos(turn), s * math.sin(turn), lens)
        # The symmetric part of the derivative must be positive: on a disc where it is, no two points meet.
        half = 0.5 * (c_b + d_a)
        if not (c_a > 0 and d_b > 0 and c_a * d_b > half * half):
            return True
    return False


@compiled(error_model="numpy")
def limit_of(lens: NDArray[np.float64]) -> float:  # pragma: no cover - compiled
    """The radius on the plane of the lens up to which its polynomials are one to one.

    Beyond it they turn back, and points far outside the view would fall into the picture a second time.
    """
    fisheye = lens[0] != 0
    farthest = 0.5 * math.pi if fisheye else math.atan(_FARTHEST)
    inside = 0.0
    for ring in range(1, _RINGS + 1):
        outside = farthest * ring / _RINGS
        if _folds(outside if fisheye else math.tan(outside), lens):
            for _ in range(60):
                middle = 0.5 * (inside + outside)
                if _folds(middle if fisheye else math.tan(middle), lens):
                    outside = middle
                else:
                    inside = middle
            break
        inside = outside
    return inside if fisheye else math.tan(inside)


@compiled(error_model="numpy")
def bend(
    points: NDArray[np.float64], lens: NDArray[np.float64], out: NDArray[np.float64]
) -> None:  # pragma: no cover - compiled
    """Fills (N, 3) points that a pinhole sees where the lens sees the given ones, all in camera axes, of the same z.

    Points beyond the lens' limit get NaN for x and y; those behind the camera stay.
    """
    limit = lens[12]
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        out[i, 2] = z
        if not z > 0:
            out[i, 0], out[i, 1] = x, y
            continue
        across = math.sqrt(x * x + y * y)
        s = math.atan2(across, z) if lens[0] != 0 else across / z
        if not s <= limit:
            out[i, 0] = out[i, 1] = np.nan
            continue
        share = s / across if across > 0 else 0.0
        c, d, _, _, _, _ = _moved(x * share, y * share, lens)
        out[i, 0], out[i, 1] = c * z, d * z


@compiled(error_model="numpy")
def _radius(wanted: float, lens: NDArray[np.float64]) -> float:  # pragma: no cover - compiled
    """The s that the radial part alone moves to ``wanted``, or the limit: Newton's steps, halving where one leaves."""
    low, high = 0.0, lens[12]
    s = min(wanted, high)
    for _ in range(100):
        q = s * s
        above = 1 + q * (lens[1] + q * (lens[2] + q * (lens[3] + q * lens[4])))
        below = 1 + q * (lens[5] + q * (lens[6] + q * lens[7]))
        above_q = lens[1] + q * (2 * lens[2] + q * (3 * lens[3] + q * 4 * lens[4]))
        below_q = lens[5] + q * (2 * lens[6] + q * 3 * lens[7])
        f = above / below
        off = s * f - wanted
        if off > 0:
            high = s
        else:
            low = s
        following = s - off / (f + 2 * q * (above_q - f * below_q) / below)
        if not low <= following <= high:
            following = 0.5 * (low + high)
        if abs(following - s) <= 1e-16 + 1e-15 * s:
            break
        s = following
    return s


@compiled(error_model="numpy")
def straighten(
    c: NDArray[np.float64], d: NDArray[np.float64], lens: NDArray[np.float64], xy: NDArray[np.float64]
) -> None:  # pragma: no cover - compiled
    """Fills (N, 2) pinhole coordinates x/z, y/z of what the lens puts at c, d (N,); NaN where it puts nothing."""
    limit = lens[12]
    for i in range(c.size):
        wanted = math.sqrt(c[i] * c[i] + d[i] * d[i])
        share = _radius(wanted, lens) / wanted if wanted > 0 else 1.0
        a, b = c[i] * share, d[i] * share
        solved = False
        # From there Newton's method settles what is not radial, in two or three steps.
        for _ in range(20):
            at_c, at_d, c_a, c_b, d_a, d_b = _moved(a, b, lens)
            off_c, off_d = at_c - c[i], at_d - d[i]
            solved = abs(off_c) + abs(off_d) <= _CLOSE * (1 + wanted)
            if solved:
                break
            determinant = c_a * d_b - c_b * d_a
            step_a, step_b = (d_b * off_c - c_b * off_d) / determinant, (c_a * off_d - d_a * off_c) / determinant
            for _ in range(30):
                if (a - step_a) ** 2 + (b - step_b) ** 2 <= limit * limit:
                    break
                step_a, step_b = 0.5 * step_a, 0.5 * step_b
            a, b = a - step_a, b - step_b
        s = math.sqrt(a * a + b * b)
        if not (solved and s <= limit):
            xy[i, 0] = xy[i, 1] = np.nan
            continue
        stretch = math.tan(s) / s if lens[0] != 0 and s > 0 else 1.0
        xy[i, 0], xy[i, 1] = a * stretch, b * stretch
