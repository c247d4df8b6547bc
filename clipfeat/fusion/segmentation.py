"""The encoder with a classifier of points on top, and how one is read back."""

from pathlib import Path

import torch
from torch import nn

from clipfeat.errors import DataError
from clipfeat.fusion.bi_fusion import FUSED_CHANNELS, BiFusionEncoder, FusionOutput
from clipfeat.fusion.checkpoint import NAME, check_features, load_checkpoint, read_about
from clipfeat.fusion.config import TrainConfig
from clipfeat.fusion.losses import ClipConsCriterion
from clipfeat.output.store import FeatureStore


class Segmenter(nn.Module):
    """Points to classes.

    Args:
        cfg: what the encoder is like.
        clip_channels: of CLIP's features.
        classes: how many.

    Attributes:
        encoder: makes features of points.
        classify: makes a logit a class of each.
        criterion: the loss beside that of the classes; None where it has no weight.
    """

    def __init__(self, cfg: TrainConfig, clip_channels: int, classes: int):
        super().__init__()
        self.encoder = BiFusionEncoder(
            clip_channels=clip_channels,
            offline_clip_feat=True,
            use_tiny_sa_2d=cfg.use_tiny_sa_2d,
            branches=cfg.branches,
        )
        self.classify = nn.Sequential(
            nn.LayerNorm(FUSED_CHANNELS), nn.Linear(FUSED_CHANNELS, FUSED_CHANNELS), nn.GELU(),
            nn.Linear(FUSED_CHANNELS, classes),
        )  # fmt: skip
        weighed = cfg.clip_cons_weight > 0
        self.criterion = ClipConsCriterion(FUSED_CHANNELS, clip_channels, cfg.consistency) if weighed else None

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, FusionOutput]:
        """What the encoder takes to logits (B, N, K), and what it gives."""
        out: FusionOutput = self.encoder(**inputs)
        return self.classify(out.feat_fusion), out


def load_segmenter(folder: str | Path, store: FeatureStore | None = None) -> tuple[Segmenter, list[str]]:
    """Reads back what ``clipfeat-train`` has trained, and the names of its classes.

    Args:
        folder: its output_dir.
        store: whose features it is to take, which are then held against those that it was trained on.

    Raises:
        DataError: If there is no checkpoint, it is damaged or of another version, or was trained on other features.
    """
    path = Path(folder) / NAME
    about = read_about(path)
    if store is not None:
        check_features(path, about, store)
    try:
        model = Segmenter(TrainConfig(**about["config"]), about["clip_channels"], len(about["class_names"]))
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: of another version of clipfeat ({error})") from error
    load_checkpoint(path, model)
    return model.eval(), list(about["class_names"])
