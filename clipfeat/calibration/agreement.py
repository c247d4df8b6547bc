"""How well two frames agree: depth of one carried into the other, as given or under a hypothesis.

The measure is the median of |z - depth| / z over the pixels that both frames see: free of units, so that no hypothesis
wins by making the room small, and blind to the half of the pixels that occlusion or noise may spoil.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from clipfeat.calibration.hypotheses import Change, depth_camera, depth_of, invert
from clipfeat.camera.projection import build_uv_index, measured_pixels, unproject_pixels, valid_depth, world_to_cam
from clipfeat.camera.visibility import depth_tolerance, lookup_depth
from clipfeat.types import Frame

_FEWEST_POINTS = 200
_SMALLEST_OVERLAP = 0.03
_TOLERANCE = 0.05, 0.02
"""Metres, and share of the depth: what ``conf/camera`` has for visible."""
_PARTS, _FEWEST_IN_A_PART = 10, 12
"""A picture is cut into 10 × 10 parts."""


@dataclasses.dataclass(frozen=True, eq=False)
class FramePair:
    """Two frames of one scene, and the depth pixels of the first that are carried into the second.

    Attributes:
        a: a frame with depth.
        b: another of the same scene, with depth.
        pixels: (M,) flat indices into ``a.depth_m``, none a hole.
    """

    a: Frame
    b: Frame
    pixels: NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class PairAgreement:
    """How well two frames agree with the calibration as it is given.

    Attributes:
        frame_a: number of the frame that depth is carried from.
        frame_b: number of the frame that it is carried to.
        motion_m: distance of the two cameras in metres.
        rotation_deg: angle between them in degrees.
        overlap: share of the points of ``a`` that fall on measured pixels of ``b``.
        visible: share of those within the depth tolerance.
        depth_error_m: median |z - depth| in metres; None where too few points overlap.
        depth_error_inverted_m: the same with both poses taken the other way round.
    """

    frame_a: int
    frame_b: int
    motion_m: float
    rotation_deg: float
    overlap: float
    visible: float
    depth_error_m: float | None
    depth_error_inverted_m: float | None


def make_pair(a: Frame, b: Frame, num_points: int = 6000) -> FramePair:
    """Chooses up to ``num_points`` measured pixels of ``a``, evenly spread and always the same ones.

    Raises:
        ValueError: If a frame has no depth, or ``a`` measured nothing.
    """
    if a.depth_m is None or b.depth_m is None or a.depth_camera is None or b.depth_camera is None:
        raise ValueError(f"{a.scene_id} frames {a.frame_id} and {b.frame_id}: both need depth")
    measured = measured_pixels(a.depth_m)
    if not len(measured):
        raise ValueError(f"{a.scene_id} frame {a.frame_id}: no pixel has depth")
    # At random and not every n-th: a regular step beats with the picture's width and leaves out columns.
    chosen = np.random.default_rng(0).permutation(len(measured))[:num_points]
    return FramePair(a, b, measured[np.sort(chosen)])


def _points_of(pair: FramePair) -> NDArray[np.float64]:
    """(M, 3) world points of the pair's pixels; NaN where, by a changed K, the lens has no ray for one."""
    a, camera = pair.a, depth_camera(pair.a)
    depth_m = depth_of(a)
    v, u = np.divmod(pair.pixels, depth_m.shape[1])
    return unproject_pixels(u, v, depth_m[v, u], camera.intrinsics, a.cam_to_world, distortion=camera.distortion)


def carry_depth(pair: FramePair) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Depth of ``a``'s points in ``b``'s camera, and what ``b`` measured there.

    Returns:
        (K,) expected and (K,) measured metres of the points that fall on measured pixels, and (M,) which those are.
    """
    b = pair.b
    camera, points = depth_camera(b), _points_of(pair)
    there = build_uv_index(
        points,
        camera.intrinsics,
        world_to_cam(b.cam_to_world),
        (camera.width, camera.height),
        distortion=camera.distortion,
    )
    measured = lookup_depth(depth_of(b), there.uv)
    both = there.visible & (measured > 0)
    return there.depth_m[both].astype(np.float64), measured[both], both


def visible_points(pair: FramePair) -> NDArray[np.float64]:
    """(K, 3) world points of ``a`` that ``b``'s depth shows too; its colour has no say in it."""
    b, points = pair.b, _points_of(pair)
    camera = depth_camera(b)
    there = build_uv_index(points, camera.intrinsics, world_to_cam(b.cam_to_world), distortion=camera.distortion)
    measured = lookup_depth(depth_of(b), there.uv)
    near = np.abs(there.depth_m - measured) <= depth_tolerance(there.depth_m, *_TOLERANCE)
    return points[(measured > 0) & near]


def agreement(pairs: Iterable[FramePair], change: Change | None = None) -> tuple[float, float]:
    """Median relative depth error over all pairs, and the share of points that overlap.

    Args:
        pairs: of frames as given.
        change: the hypothesis, applied to both frames of each pair; None for as given.

    Returns:
        (error, overlap); the error is inf where the overlap is too small to say anything.
    """
    errors, total = [], 0
    for pair in pairs:
        changed = pair if change is None else dataclasses.replace(pair, a=change(pair.a), b=change(pair.b))
        expected, measured, _ = carry_depth(changed)
        # By the larger of the two: a wall carried to just before the lens would otherwise weigh without limit.
        errors.append(np.abs(expected - measured) / np.maximum(expected, measured))
        total += len(pair.pixels)
    pooled = np.concatenate(errors) if errors else np.empty(0)
    overlap = len(pooled) / total if total else 0.0
    if len(pooled) < _FEWEST_POINTS or overlap < _SMALLEST_OVERLAP:
        return float("inf"), overlap
    return float(np.median(pooled)), overlap


def systematic_error(pairs: Iterable[FramePair]) -> float:
    """What of the relative depth error is alike in a whole part of the picture: the noise of a sensor is not.

    Returns:
        Median over the parts of the absolute median of their signed errors; 0 where no part has enough points.
    """
    found: list[float] = []
    for pair in pairs:
        expected, measured, hit = carry_depth(pair)
        errors = (expected - measured) / np.maximum(expected, measured)
        height, width = depth_of(pair.a).shape
        v, u = np.divmod(pair.pixels[hit], width)
        part = v * _PARTS // height * _PARTS + u * _PARTS // width
        for one in np.unique(part):
            inside = errors[part == one]
            if len(inside) >= _FEWEST_IN_A_PART:
                found.append(abs(float(np.median(inside))))
    return float(np.median(found)) if found else 0.0


def parallax(a: Frame, b: Frame) -> float:
    """Distance of two cameras as a share of the median depth of the first: what makes a wrong depth scale seen."""
    depth = depth_of(a)
    apart = np.linalg.norm((world_to_cam(a.cam_to_world) @ b.cam_to_world)[:3, 3])
    return float(apart / np.median(depth[valid_depth(depth)]))


def pair_agreement(pair: FramePair) -> PairAgreement:
    """The measures of one pair, as given."""
    relative = world_to_cam(pair.a.cam_to_world) @ pair.b.cam_to_world
    cosine = np.clip((np.trace(relative[:3, :3]) - 1) / 2, -1, 1)
    expected, measured, _ = carry_depth(pair)
    delta = np.abs(expected - measured)
    inverted = np.abs(np.subtract(*carry_depth(dataclasses.replace(pair, a=invert(pair.a), b=invert(pair.b)))[:2]))
    return PairAgreement(
        frame_a=pair.a.frame_id,
        frame_b=pair.b.frame_id,
        motion_m=round(float(np.linalg.norm(relative[:3, 3])), 4),
        rotation_deg=round(float(np.degrees(np.arccos(cosine))), 2),
        overlap=round(len(delta) / len(pair.pixels), 4),
        visible=round(float((delta <= depth_tolerance(expected, *_TOLERANCE)).mean()), 4) if len(delta) else 0.0,
        depth_error_m=round(float(np.median(delta)), 5) if len(delta) >= _FEWEST_POINTS else None,
        depth_error_inverted_m=round(float(np.median(inverted)), 5) if len(inverted) >= _FEWEST_POINTS else None,
    )
