"""Whether K fits points that are known to lie on surfaces: the vertices of a mesh, or a stored point cloud.

Two frames that share a wrong K agree with each other to a few pixels. Points that do not come from that K show it: they
fall beside the depth that belongs to them, by the same few pixels in all frames.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clipfeat.calibration.hypotheses import depth_camera, depth_of
from clipfeat.camera.projection import build_uv_index, valid_depth, world_to_cam
from clipfeat.camera.visibility import lookup_depth
from clipfeat.types import Frame

_TRUNCATED = 0.05
"""Relative depth errors count up to here: points behind other surfaces are no evidence."""
_NEAR = 0.15
"""Points farther off than this share of their depth belong to another surface."""
_IN_FRONT = 0.25
"""If so many points lie before what was measured, the points are elsewhere: a surface hides what is behind it."""
_LEAST_SHIFT_PX = 1.25
_LEAST_FOCAL = 0.0075
"""2.4 px at the edge of a picture of 640."""
_LEAST_GAIN = 0.02
_FITS, _MISSES = 0.04, 0.065
"""Median errors under which K may be blamed, and over which nothing fits: 0.075 is what points at random have."""
_FEWEST_POINTS = 300
_REACH_PX = 12
_FOCAL_STEPS = np.linspace(-0.12, 0.12, 49)


@dataclasses.dataclass(frozen=True)
class SurfaceReport:
    """How well points on surfaces meet the depth of the frames.

    Attributes:
        verdict: ok, warning or unknown.
        cause: what is likely wrong, or why nothing can be said; empty if ok.
        advice: what to do about it; empty if ok.
        points: how many points were compared, over all frames.
        in_front: share of the points in view that lie well before what was measured.
        error: median |z - depth| / z as given.
        cost: mean |z - depth| / z, each at most 0.05, as given.
        cost_best: the same with the shift and focal length that fit best.
        shift_px: (right, down) pixels of the depth picture, to be added to cx and cy.
        focal_scale: factor for fx and fy.
    """

    verdict: str
    cause: str
    advice: str
    points: int
    in_front: float
    error: float
    cost: float
    cost_best: float
    shift_px: tuple[float, float]
    focal_scale: float


@dataclasses.dataclass(frozen=True, eq=False)
class _View:
    """Points near the surface that one frame measured: ``uv`` (N, 2) about the principal point, ``z`` (N,)."""

    depth_m: NDArray[np.float32]
    center: NDArray[np.float64]
    uv: NDArray[np.float64]
    z: NDArray[np.float64]

    def errors(self, dx: float, dy: float, s: float) -> NDArray[np.float64]:
        """(K,) relative depth errors of the points that fall on measured pixels."""
        measured = lookup_depth(self.depth_m, self.uv * s + (self.center + (dx, dy)))
        hit = measured > 0
        return np.abs(self.z[hit] - measured[hit]) / self.z[hit]


def judge_surface(frames: Sequence[Frame], points: NDArray[np.floating], points_per_frame: int = 8000) -> SurfaceReport:
    """Looks for the shift and the focal length under which the points meet the frames' depth best.

    Args:
        frames: of one scene, with depth; all share one depth K.
        points: (N, 3) world metres on surfaces, made without the K in question.
        points_per_frame: how many are compared in each frame at most.

    Raises:
        ValueError: If points is not (N, 3), or a frame has no depth.
    """
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points must be (N, 3), got {points.shape}")
    views, seen, before = [], 0, 0
    for frame in frames:
        view, in_view, in_front = _view(frame, points, points_per_frame)
        seen, before = seen + in_view, before + in_front
        views += [view]
    in_front_share = before / seen if seen else 0.0
    count = sum(len(view.z) for view in views)
    unknown = SurfaceReport("unknown", "", "", count, round(in_front_share, 4), 0.0, 0.0, 0.0, (0.0, 0.0), 1.0)
    if seen < _FEWEST_POINTS:
        return dataclasses.replace(unknown, cause="too few of the points fall on measured pixels")
    error = _median(views, 0, 0, 1)
    if in_front_share > _IN_FRONT or count < _FEWEST_POINTS or error > _MISSES:
        return dataclasses.replace(
            unknown,
            verdict="warning",
            error=round(error, 5),
            cause="the mesh does not lie on what the frames measured",
            advice="look at the poses, at data.depth_scale, and whether the mesh is axis-aligned while poses are not",
        )
    dx, dy, s = _fit(views)
    cost, best = _cost(views, 0, 0, 1), _cost(views, dx, dy, s)
    verdict, cause, advice = "ok", "", ""
    moved, scaled = math.hypot(dx, dy) >= _LEAST_SHIFT_PX, abs(math.log(s)) >= _LEAST_FOCAL
    if (moved or scaled) and cost - best > _LEAST_GAIN * cost and _median(views, dx, dy, s) < _FITS:
        words = [f"principal point: cx {dx:+.1f}, cy {dy:+.1f} px"] if moved else []
        words += [f"focal length: fx and fy × {s:.3f}"] if scaled else []
        verdict, cause = "warning", f"K is off: the mesh fits better with {', '.join(words)}"
        advice = "look at the depth camera's K: is it this recording's own, and for this resolution?"
    return SurfaceReport(
        verdict, cause, advice, count, round(in_front_share, 4), round(error, 5), round(cost, 6), round(best, 6),
        (dx, dy), s,
    )  # fmt: skip


def _view(frame: Frame, points: NDArray[np.floating], count: int) -> tuple[_View, int, int]:
    """What one frame sees of the points, how many fall on measured pixels, and how many of those lie before them."""
    camera, depth_m = depth_camera(frame), depth_of(frame)
    there = build_uv_index(
        points,
        camera.intrinsics,
        world_to_cam(frame.cam_to_world),
        (camera.width, camera.height),
        near=0.1,
        distortion=camera.distortion,
    )
    rows = np.flatnonzero(there.visible)
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    uv, z = there.uv[rows].astype(np.float64), there.depth_m[rows].astype(np.float64)
    measured = lookup_depth(depth_m, uv)
    hit = valid_depth(measured)
    in_front = hit & (z < (1 - _NEAR) * measured)
    near = np.flatnonzero(hit & (np.abs(z - measured) < _NEAR * z))[:count]
    center = camera.intrinsics[:2, 2]
    return _View(depth_m, center, uv[near] - center, z[near]), int(hit.sum()), int(in_front.sum())


def _cost(views: Sequence[_View], dx: float, dy: float, s: float) -> float:
    errors = np.concatenate([view.errors(dx, dy, s) for view in views])
    return float(np.minimum(errors, _TRUNCATED).mean()) if len(errors) >= _FEWEST_POINTS else _TRUNCATED


def _median(views: Sequence[_View], dx: float, dy: float, s: float) -> float:
    errors = np.concatenate([view.errors(dx, dy, s) for view in views])
    return float(np.median(errors)) if len(errors) else 0.0


def _fit(views: Sequence[_View]) -> tuple[float, float, float]:
    """Shift and focal factor in turns: each is a clear minimum of its own, so two rounds settle them."""
    dx = dy = 0.0
    s = 1.0
    for step, reach in ((3.0, _REACH_PX), (1.0, 3.0), (0.25, 0.75)):
        around = np.arange(-reach, reach + step / 2, step)
        shifts = [(dx + i, dy + j) for i in around for j in around]
        dx, dy = min(shifts, key=lambda m: _cost(views, m[0], m[1], s))
        # With the shift still coarse, a focal length may only answer for what no shift can.
        factors = [float(np.exp(f)) for f in _FOCAL_STEPS]
        s = min(factors, key=lambda f: _cost(views, dx, dy, f))
    return float(dx), float(dy), round(s, 4)
