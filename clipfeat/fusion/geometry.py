"""What the encoder is told of where a point lies: 64 numbers, and how the camera has moved since the frame before."""

import math

import torch

from clipfeat.fusion.neighbours import bounding_box

OCTAVES = 8
GEO_CHANNELS = 3 + 2 * 3 * OCTAVES + 3 + 9 + 1


def build_geo_pe(xyz: torch.Tensor, mask: torch.Tensor, pose_change: torch.Tensor) -> torch.Tensor:
    """Describes each point's place in its sample.

    One after the other: xyz from the middle of the sample's box in metres (3); sine and cosine of π·2^k times xyz, with
    the box's longest side from -1 to 1, for k = 0 to 7 (48; Mildenhall et al., NeRF, 2020, equation 4); the box's size
    in metres (3); the camera's motion (9), see ``describe_motion``; height above the lowest point in metres (1).

    Args:
        xyz: (B, N, 3) world metres, z up.
        mask: (B, N) which points are real; the box is theirs.
        pose_change: (B, 4, 4), see ``pose_change_of``.

    Returns:
        (B, N, 64), 0 for padding.
    """
    low, size = bounding_box(xyz, mask)
    centred = xyz - (low + size / 2)[:, None]
    unit = centred / (size.amax(-1) / 2).clamp(min=1e-6)[:, None, None]
    octaves = math.pi * 2.0 ** torch.arange(OCTAVES, dtype=xyz.dtype, device=xyz.device)
    angles = (unit[..., None] * octaves).flatten(-2)
    parts = (
        centred,
        angles.sin(),
        angles.cos(),
        size[:, None].expand_as(xyz),
        describe_motion(pose_change)[:, None].expand(*mask.shape, -1),
        (xyz - low[:, None])[..., 2:],
    )
    # Not multiplied: what lies in the padding may be NaN.
    return torch.where(mask[..., None], torch.cat([part.to(xyz.dtype) for part in parts], -1), 0)


def describe_motion(pose_change: torch.Tensor) -> torch.Tensor:
    """(B, 4, 4) rigid motions as (B, 9) numbers without jumps: the rotation's first two columns, and the translation.

    Zhou et al., On the Continuity of Rotation Representations in Neural Networks (2019), section 4.1.
    """
    return torch.cat((pose_change[:, :3, :2].transpose(1, 2).flatten(1), pose_change[:, :3, 3]), 1)


def pose_change_of(cam_to_world: torch.Tensor, previous_cam_to_world: torch.Tensor | None) -> torch.Tensor:
    """The camera's motion (B, 4, 4) since the frame before, in that frame's camera; identity without one."""
    if previous_cam_to_world is None:
        return torch.eye(4, device=cam_to_world.device).expand(len(cam_to_world), 4, 4)
    # In float64: poses may be kilometres from the origin, their difference is centimetres.
    return torch.linalg.solve(previous_cam_to_world.double(), cam_to_world.double()).float()
