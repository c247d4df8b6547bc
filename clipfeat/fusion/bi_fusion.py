"""The Bi-Fusion encoder: CLIP features at the points, geometry around them, and a gate between the two."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from clipfeat.fusion.clip import ClipBranch
from clipfeat.fusion.gate import FusionGate
from clipfeat.fusion.geometry import GEO_CHANNELS, build_geo_pe, pose_change_of
from clipfeat.fusion.inputs import Maps, Uneven, pad, pixels_of, sample_maps
from clipfeat.fusion.neighbours import bounding_box
from clipfeat.fusion.tiny_sa import TinySA2D, TinySAModule, find_surroundings
from clipfeat.model.cache import MapCache
from clipfeat.model.clip_model import ClipModel

FUSED_CHANNELS = 96
PE_CHANNELS = 32
POINT_CHANNELS = 128
"""Of each branch before it is aligned with the other."""

MAP_CHANNELS = 256

BRANCHES = ("both", "2d", "3d")


@dataclass(frozen=True, eq=False)
class FusionOutput:
    """What the encoder makes of a batch.

    Attributes:
        feat_fusion: (B, N, 96), 0 for padding.
        conf_2d: (B, N) float32 share of the picture in it: 0 where a point has no pixel, and for padding.
        pe_xyz: (B, N, 32) of where the point lies, 0 for padding.
        clip_global: (B, D) of the whole pictures, or None where it is not known.
        clip_feat: (B, N, C) CLIP's feature at the points as it was sampled, 0 without a pixel; None for the 3D branch
            alone.
        has_pixel: (B, N) which points have a pixel.
        mask: (B, N) which points are real.
    """

    feat_fusion: torch.Tensor
    conf_2d: torch.Tensor
    pe_xyz: torch.Tensor
    clip_global: torch.Tensor | None
    clip_feat: torch.Tensor | None
    has_pixel: torch.Tensor
    mask: torch.Tensor


class PointBranch(nn.Module):
    """The 3D branch of its own: an MLP a point, then two attentions with the points around.

    Any module with the same ``forward`` and ``out_channels`` may stand in its place.

    Args:
        radius: of the balls in metres.
        count: points in a ball at most.
        ratio: share of the points that attend.
        layers: attentions.
    """

    out_channels = POINT_CHANNELS

    def __init__(self, radius: float = 0.3, count: int = 32, ratio: float = 0.25, layers: int = 2):
        super().__init__()
        self.radius, self.count, self.ratio = radius, count, ratio
        self.mlp = nn.Sequential(
            nn.Linear(6, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, POINT_CHANNELS), nn.LayerNorm(POINT_CHANNELS)
        )
        self.attentions = nn.ModuleList(TinySAModule(POINT_CHANNELS) for _ in range(layers))

    def forward(self, points: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Features of points.

        Args:
            points: (B, N, 6) world metres, and colour from 0 to 1.
            mask: (B, N) which points are real.

        Returns:
            (B, N, C), anything finite for padding.
        """
        xyz, rgb = points[..., :3], points[..., 3:]
        low, size = bounding_box(xyz, mask)
        features = self.mlp(torch.cat((xyz - (low + size / 2)[:, None], 2 * rgb - 1), -1))
        where = find_surroundings(xyz, mask, radius=self.radius, count=self.count, ratio=self.ratio)
        for attention in self.attentions:
            features = attention(features, where)
        return features


class BiFusionEncoder(nn.Module):
    """Fuses what CLIP sees at a point with what lies around it.

    The picture's side: the map (from CLIP or from disk), brought to 256 channels, perhaps ``TinySA2D``, sampled at the
    points, 128 channels. The points' side: ``PointBranch``. Both get the place of the point (``build_geo_pe``, 32
    channels), are aligned to 96 channels, and meet in ``FusionGate``.

    Args:
        clip: the model that makes maps of pictures; None with ``offline_clip_feat``.
        clip_channels: of the maps or point features from disk; needed with ``offline_clip_feat``.
        offline_clip_feat: takes maps or features from disk (``FeatureStore``), and no pictures.
        freeze_clip: whether the tower is frozen.
        freeze_blocks: how many last blocks of a frozen tower are trained nevertheless.
        use_tiny_sa_2d: whether the map's cells attend to each other; needs maps, not point features.
        use_amp: whether CLIP runs in autocast on a GPU.
        backbone: in place of ``PointBranch``: points (B, N, 6) and mask (B, N) to (B, N, ``out_channels``).
        branches: both, or one alone (2d or 3d), for comparison; the other is not built.
        cache: where CLIP's maps are looked up and kept.

    Raises:
        ConfigError: As for ``ClipBranch``.
        ValueError: If arguments contradict each other.
    """

    clip_mean: torch.Tensor
    clip_std: torch.Tensor

    def __init__(
        self,
        clip: ClipModel | None = None,
        *,
        clip_channels: int | None = None,
        offline_clip_feat: bool = False,
        freeze_clip: bool = True,
        freeze_blocks: int = 0,
        use_tiny_sa_2d: bool = False,
        use_amp: bool = True,
        backbone: nn.Module | None = None,
        branches: str = "both",
        cache: MapCache | None = None,
    ):
        super().__init__()
        if branches not in BRANCHES:
            raise ValueError(f"branches={branches}: expected one of {', '.join(BRANCHES)}")
        if (clip is None) != offline_clip_feat or (clip_channels is None) != (not offline_clip_feat):
            raise ValueError("offline_clip_feat=True takes clip_channels and no model, False takes a model alone")
        self.branches = branches
        self.clip = None
        if clip is not None:
            self.clip = ClipBranch(
                clip, freeze=freeze_clip, trainable_blocks=freeze_blocks, use_amp=use_amp, cache=cache
            )
        channels = clip_channels or (self.clip.channels if self.clip else 0)
        self.register_buffer("clip_mean", torch.zeros(channels))
        self.register_buffer("clip_std", torch.ones(channels))
        self.geo_mlp = nn.Sequential(nn.Linear(GEO_CHANNELS, 64), nn.GELU(), nn.Linear(64, PE_CHANNELS))
        if branches != "3d":
            self.conv = nn.Conv2d(channels, MAP_CHANNELS, 1)
            self.neck = TinySA2D(MAP_CHANNELS) if use_tiny_sa_2d else None
            self.reduce = nn.Sequential(nn.LayerNorm(MAP_CHANNELS), nn.GELU(), nn.Linear(MAP_CHANNELS, POINT_CHANNELS))
            self.align_2d = nn.Linear(POINT_CHANNELS + PE_CHANNELS, FUSED_CHANNELS)
        if branches != "2d":
            self.backbone = PointBranch() if backbone is None else backbone
            wide: Any = self.backbone.out_channels
            self.align_3d = nn.Linear(wide + PE_CHANNELS, FUSED_CHANNELS)
        if branches == "both":
            self.gate = FusionGate(FUSED_CHANNELS)

    def set_clip_statistics(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Sets what CLIP's features are standardised by: mean and standard deviation (C,) over the training set.

        What all features of a CLIP have in common is much larger than what tells them apart.
        """
        self.clip_mean.copy_(mean)
        self.clip_std.copy_(std.clamp(min=1e-6))

    def forward(
        self,
        points: Uneven,
        images: Uneven | None = None,
        intrinsics: Uneven | None = None,
        cam_to_world: Uneven | None = None,
        *,
        mask: torch.Tensor | None = None,
        visible: Uneven | None = None,
        maps: Maps | None = None,
        clip_feat: Uneven | None = None,
        clip_global: torch.Tensor | None = None,
        previous_cam_to_world: Uneven | None = None,
        keys: Sequence[tuple[str, int]] | None = None,
    ) -> FusionOutput:
        """Encodes a batch: tensors with a first dimension B, or lists of B samples of uneven N and picture size.

        What is looked at is ``clip_feat`` if it is given, else ``maps``, else ``images``.

        Args:
            points: (B, N, 6) world metres, and colour from 0 to 1.
            images: (B, 3, H, W), uint8 or 0 to 1.
            intrinsics: (B, 3, 3) in pixels of the original pictures.
            cam_to_world: (B, 4, 4).
            mask: (B, N) which points are real; a list's own where it is None, all of a tensor's.
            visible: (B, N) which points are seen, as ``clipfeat.camera.project_frame`` tells with the frame's depth.
                Without it all that are in view get a feature, those that something hides too.
            maps: of the store's frames (``Maps.of``).
            clip_feat: (B, N, C) features at the points, such as ``PointFeatures.pts_feat``.
            clip_global: (B, D) that goes with ``clip_feat``.
            previous_cam_to_world: (B, 4, 4) of the frame before; None where there is none.
            keys: scene and frame number of each picture, for the cache.

        Raises:
            ValueError: If a shape does not fit, or what the features are taken from is missing.
        """
        points, own_mask = pad(points)
        mask = own_mask if mask is None else mask
        if points.ndim != 3 or points.shape[-1] != 6 or mask.shape != points.shape[:2]:
            raise ValueError(f"points must be (B, N, 6) and mask (B, N), got {list(points.shape)}, {list(mask.shape)}")
        points = torch.where(mask[..., None], points, 0).float()
        pose, before = (None if p is None else _stacked(p) for p in (cam_to_world, previous_cam_to_world))
        change = torch.eye(4, device=points.device).expand(len(points), 4, 4)
        if pose is not None:
            change = pose_change_of(pose, before)
        pe_xyz = self.geo_mlp(build_geo_pe(points[..., :3], mask, change))

        seen = mask if visible is None else pad(visible)[0] & mask
        feat_2d = sampled = None
        if self.branches != "3d":
            if clip_feat is None:
                maps = maps or self._maps(images, keys)
                if intrinsics is None or pose is None:
                    raise ValueError("maps and images need intrinsics and cam_to_world")
                where = points[..., :3], seen, _stacked(intrinsics), pose, maps.sizes
                feat_2d, sampled, seen = self._from_maps(maps, *pixels_of(*where))
                clip_global = maps.clip_global
            else:
                sampled = torch.where(seen[..., None], pad(clip_feat)[0], 0).float()
                feat_2d = self._from_points(sampled)
            feat_2d = self.align_2d(torch.cat((feat_2d, pe_xyz), -1))
        if self.branches != "2d":
            feat_3d = self.align_3d(torch.cat((self.backbone(points, mask), pe_xyz), -1))

        real = mask[..., None]
        if feat_2d is None:
            fused, conf_2d = feat_3d, torch.zeros_like(mask, dtype=torch.float32)
        elif self.branches == "2d":
            fused, conf_2d = feat_2d * seen[..., None], seen.float()
        else:
            fused, conf_2d = self.gate(feat_2d, feat_3d, seen)
        return FusionOutput(
            feat_fusion=fused * real,
            conf_2d=conf_2d,
            pe_xyz=pe_xyz * real,
            clip_global=clip_global,
            clip_feat=sampled,
            has_pixel=seen,
            mask=mask,
        )

    def _maps(self, images: Uneven | None, keys: Sequence[tuple[str, int]] | None) -> Maps:
        if self.clip is None:
            raise ValueError("offline_clip_feat=True: expected clip_feat or maps of a FeatureStore")
        if images is None:
            raise ValueError("expected images, maps or clip_feat")
        return self.clip(images, keys)

    def _from_maps(
        self, maps: Maps, uv: torch.Tensor, in_view: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The 2D branch of maps: (B, N, 128), the sampled maps (B, N, C), and which points have a pixel."""
        sampled, seen = sample_maps(maps, uv, in_view)
        if self.neck is None:
            # A 1×1 convolution and bilinear sampling may change places: points are often fewer than cells.
            return self._from_points(sampled), sampled, seen
        standard = (maps.values - self.clip_mean[:, None, None]) / self.clip_std[:, None, None]
        wide = Maps(self.neck(self.conv(standard)), maps.image_to_map, maps.sizes)
        return self.reduce(sample_maps(wide, uv, in_view)[0]), sampled, seen

    def _from_points(self, sampled: torch.Tensor) -> torch.Tensor:
        """The 2D branch of sampled features (B, N, C): (B, N, 128)."""
        standard = (sampled - self.clip_mean) / self.clip_std
        return self.reduce(nn.functional.linear(standard, self.conv.weight[:, :, 0, 0], self.conv.bias))


def _stacked(values: Uneven) -> torch.Tensor:
    return values if isinstance(values, torch.Tensor) else torch.stack(list(values))
