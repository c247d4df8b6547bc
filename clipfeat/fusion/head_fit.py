"""Trains what is made of frozen tokens without labels: near CLIP's features, and alike where frames see one point."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clipfeat.camera.visibility import VisibilityRule, project_frame
from clipfeat.data.base import seeded_rng
from clipfeat.errors import DataError
from clipfeat.fusion.losses import ClipConsCriterion
from clipfeat.model.heads import Head, head_map, point_channels
from clipfeat.sampling.bilinear import sample_img_feat
from clipfeat.sampling.locate import Located, Locator
from clipfeat.system.seeds import seeded
from clipfeat.types import FeatureMap, Frame

POINTS = 256
"""Of a frame, that are looked for in the next one."""

_FRAMES_A_STEP = 2
"""Drawn at random, each with the one before it in its scene."""

_LEARNING_RATE = 2e-3


@dataclass(frozen=True, eq=False)
class _Sighting:
    """One frame: its tokens, and points that it sees.

    Attributes:
        tokens: (D, h, w) float16 on the host, and where they lie.
        uv: (P, 2) pixels.
        conf_2d: (P,) how sure it is that the pixel shows the point.
        point_id: (P,) the same for the same point in the frame before.
        follows: whether the frame before is of the same scene.
    """

    tokens: FeatureMap
    uv: NDArray[np.float32]
    conf_2d: NDArray[np.float32]
    point_id: NDArray[np.int64]
    follows: bool


@dataclass(frozen=True, eq=False)
class _Standard:
    """Takes off what all tokens have in common, which is much larger than what tells them apart.

    Attributes:
        mean: (D,) of the tokens.
        deviation: (D,) of the tokens, above 0.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    @classmethod
    def of(cls, mean: torch.Tensor, square: torch.Tensor, device: torch.device) -> "_Standard":
        deviation = (square - mean**2).clamp(min=0).sqrt()
        # A channel that does not vary stays as good as zero.
        deviation = deviation.clamp(min=1e-3 * max(float(deviation.max()), 1e-6))
        return cls(mean.float().to(device), deviation.float().to(device))

    def __call__(self, tokens: FeatureMap) -> FeatureMap:
        values = tokens.values.to(self.mean.device).float()
        standard = (values - self.mean[:, None, None]) / self.deviation[:, None, None]
        return FeatureMap(standard, tokens.image_to_map)


class ClipConsFit:
    """Trains heads by ``ClipConsCriterion``: CLIP's tokens at a point must follow from the point's feature, linearly.

    The views of a point are held together by NT-Xent. By cosine alone a head would be content to add one large constant
    to all features, which makes any two of them alike.

    Args:
        locate: finds a frame's points.
        rule: when a point of the frame before counts as seen.
        steps: of AdamW.
        seed: of the points and frames that are drawn.
    """

    def __init__(self, locate: Locator, rule: VisibilityRule, *, steps: int, seed: int):
        self._locate = locate
        self._rule = rule
        self._steps = steps
        self._seed = seed
        self._seen: list[_Sighting] = []
        self._last: tuple[str, Located, NDArray[np.int64]] | None = None
        self._points = self._twice = 0

    def add(self, frame: Frame, tokens: FeatureMap) -> None:
        """Takes the next frame; those of a scene come one after another. Keeps 2 bytes a value of the tokens.

        Args:
            frame: whose points are looked at.
            tokens: (D, h, w) of its picture.

        Raises:
            FrameError: If it has no points.
            DataError: If the scene's points can't be read.
        """
        located = self._locate(frame)
        rng = seeded_rng(self._seed, "fit", frame.scene_id, frame.frame_id)
        count = len(located.uv_idx)
        own = located.take(np.sort(rng.choice(count, min(POINTS, count), replace=False)))
        ids = self._points + np.arange(len(own.uv_idx))
        parts = [(own.uv_idx, own.conf_2d, ids)]
        follows = self._last is not None and self._last[0] == frame.scene_id
        if self._last is not None and follows:
            _, before, ids_before = self._last
            again = project_frame(before.points.xyz, frame, self._rule)
            parts.append((again.uv[again.visible], again.conf_2d[again.visible], ids_before[again.visible]))
            self._twice += int(again.visible.sum())
        uv, conf_2d, point_id = (np.concatenate(values) for values in zip(*parts, strict=True))
        half = tokens.values.to("cpu", torch.float16, copy=True)
        self._seen.append(_Sighting(FeatureMap(half, tokens.image_to_map), uv, conf_2d, point_id, follows))
        self._points += len(ids)
        self._last = frame.scene_id, own, ids

    def fit(self, head: Head) -> dict[str, Any]:
        """Trains a head from the weights that it has, and leaves it frozen.

        Args:
            head: begins with a 1×1 convolution ``conv``, of the tokens or of their sub-cells after PixelShuffle.

        Returns:
            How many points had two views, and the parts of the loss in the first and the last steps.

        Raises:
            DataError: If there was no frame.
        """
        if not self._seen:
            raise DataError("no frame could be read that a head could be trained on")
        conv: Any = head.conv
        device = conv.weight.device
        mean, square = self._moments()
        clip = _Standard.of(mean, square, device)
        # Channels of which PixelShuffle makes the four sub-cells of one go through the same weights.
        group = len(mean) // conv.in_channels
        own = _Standard.of(mean.view(-1, group).mean(1), square.view(-1, group).mean(1), device)
        taken_off = _Standard(own.mean.repeat_interleave(group), own.deviation.repeat_interleave(group))
        with seeded(self._seed):
            criterion = ClipConsCriterion(point_channels(head, len(mean)), len(mean), "ntxent").to(device)
        weights: list[nn.Parameter] = [*head.requires_grad_(True).parameters(), *criterion.parameters()]
        optimizer = torch.optim.AdamW(weights, lr=_LEARNING_RATE)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._steps)
        rng = np.random.default_rng(self._seed)
        losses = []
        for _ in range(self._steps):
            drawn = self._drawn(rng)
            features = [head.to_points(sample_img_feat(head_map(head, taken_off(one.tokens)), one.uv)) for one in drawn]
            target = [sample_img_feat(clip(one.tokens), one.uv) for one in drawn]
            weight = torch.from_numpy(np.concatenate([one.conf_2d for one in drawn])).to(device)
            point_id = torch.from_numpy(np.concatenate([one.point_id for one in drawn])).to(device)
            real = torch.ones_like(point_id, dtype=torch.bool)
            loss = criterion(
                torch.cat(features)[None], torch.cat(target)[None], weight[None], real[None], point_id[None]
            )
            optimizer.zero_grad(set_to_none=True)
            loss.total.backward()
            optimizer.step()
            falling.step()
            losses.append((loss.clip.item(), loss.views.item()))
        head.requires_grad_(False)
        # What was taken off the tokens becomes part of the convolution, which then takes them as they are.
        conv.weight /= own.deviation[:, None, None]
        conv.bias -= conv.weight[:, :, 0, 0] @ own.mean
        ends = np.round([np.mean(losses[:10], axis=0), np.mean(losses[-10:], axis=0)], 4)
        return {
            "points_seen_twice": self._twice,
            "steps": self._steps,
            "loss_clip": ends[:, 0].tolist(),
            "loss_views": ends[:, 1].tolist(),
        }

    def _moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Means (D,) of the tokens and of their squares, float64."""
        cells = [one.tokens.values.flatten(1) for one in self._seen]
        count = sum(values.shape[1] for values in cells)
        mean = torch.stack([values.double().sum(1) for values in cells]).sum(0) / count
        return mean, torch.stack([values.double().square().sum(1) for values in cells]).sum(0) / count

    def _drawn(self, rng: np.random.Generator) -> list[_Sighting]:
        """The frames of a step, each once."""
        chosen = rng.choice(len(self._seen), min(_FRAMES_A_STEP, len(self._seen)), replace=False).tolist()
        before = [place - 1 for place in chosen if self._seen[place].follows]
        return [self._seen[place] for place in sorted({*chosen, *before})]
