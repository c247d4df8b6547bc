"""External 2D instance masks that speak against a projection: at an instance's edge, or of another instance."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from clipfeat.camera.visibility import nearest_pixels
from clipfeat.errors import ConfigError
from clipfeat.types import PointStatus, Projection

Mapping2D = Mapping[str, Mapping[int, int]]
"""Scene to (instance id of the points to instance id of the masks)."""


@dataclass(frozen=True)
class MaskRule:
    """What an instance mask does to the visible points that fall on it. Mask value 0 says nothing and does nothing.

    Attributes:
        edge_px: points nearer than this to the edge of their instance are suspect: a pixel's error in K or pose puts
            them on the wrong object. 0 for none.
        edge_weight: instead of being dropped, suspect points keep a share of their confidence that grows from 0 at the
            edge to 1 at ``edge_px``.
        same_ids: points with an instance id must lie on a mask of the same id.
        mapping: points with an instance id must lie on the mask that this names for it; ids it does not name, and id 0,
            are not checked. None with ``same_ids`` false: no check.
    """

    edge_px: float = 0.0
    edge_weight: bool = False
    same_ids: bool = False
    mapping: Mapping2D | None = None


def apply_mask(
    projection: Projection,
    mask: NDArray[np.uint16],
    rule: MaskRule,
    scene_id: str,
    instance: NDArray[np.generic] | None = None,
) -> None:
    """Marks visible points MASKED, or lowers their confidence, in place.

    Args:
        projection: of N points into the picture.
        mask: (H, W) instance ids of the colour picture's pixels, 0 for none.
        rule: what speaks against a point.
        scene_id: picks the scene's part of the mapping.
        instance: (N,) the points' own instance ids, 0 for none; or None.
    """
    rows = np.flatnonzero(projection.visible)
    v, u, _ = nearest_pixels(projection.uv[rows], mask.shape)
    here = mask[v, u].astype(np.int64)
    wrong = np.zeros(len(rows), bool)
    if rule.edge_px > 0:
        distance = edge_distance(mask)[v, u]
        suspect = (here != 0) & (distance < rule.edge_px)
        if rule.edge_weight:
            projection.conf_2d[rows] *= np.where(suspect, distance / rule.edge_px, 1.0).astype(np.float32)
        else:
            wrong |= suspect
    if instance is not None and (rule.same_ids or rule.mapping is not None):
        expected = _expected(instance[rows].astype(np.int64), rule, scene_id)
        wrong |= (here != 0) & (expected != 0) & (expected != here)
    projection.status[rows[wrong]] = PointStatus.MASKED
    projection.conf_2d[rows[wrong]] = 0


def edge_distance(mask: NDArray[np.uint16]) -> NDArray[np.float64]:
    """(H, W) distance of each pixel's centre to the nearest pixel of another id, in pixels; inf where there is one id.

    It is exact for the pixels next to an edge (distance 1, or √2 across a corner) and at most a pixel short elsewhere,
    because it is measured to the edge pixels of the own side.
    """
    at_edge = np.zeros(mask.shape, bool)
    for axis in (0, 1):
        change = np.diff(mask, axis=axis) != 0
        first, second = [slice(None)] * 2, [slice(None)] * 2
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        at_edge[tuple(first)] |= change
        at_edge[tuple(second)] |= change
    if not at_edge.any():
        return np.full(mask.shape, np.inf)
    distance: NDArray[np.float64] = distance_transform_edt(~at_edge) + 1.0
    return distance


def _expected(instance: NDArray[np.int64], rule: MaskRule, scene_id: str) -> NDArray[np.int64]:
    if rule.mapping is None:
        return instance
    table = rule.mapping.get(scene_id, {})
    found = np.zeros_like(instance)
    for own in np.unique(instance):
        found[instance == own] = table.get(int(own), 0)
    return found


def read_instance_mapping(path: Path) -> dict[str, dict[int, int]]:
    """Reads ``{"scene0000_00": {"3": 7, …}, …}``: instance 3 of the points is instance 7 of the masks.

    Raises:
        ConfigError: If the file can't be read or holds anything else.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return {str(scene): {int(own): int(other) for own, other in table.items()} for scene, table in content.items()}
    except FileNotFoundError as error:
        raise ConfigError(f"camera.mask_instances={path}: no such file") from error
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f'camera.mask_instances={path}: expected JSON such as {{"scene0000_00": {{"3": 7}}}} ({error})'
        ) from error
