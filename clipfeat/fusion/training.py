"""The state of a training, and its steps.

All that is drawn at random in a step follows from the seed and the number of the step, and the learning rate from the
number too. So a checkpoint is the weights, the optimizer's state and a number, and a training that was interrupted
goes on as if it had not been.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf

from clipfeat.data.selection import FrameKey
from clipfeat.fusion.checkpoint import check_features, load_checkpoint, read_about, write_checkpoint
from clipfeat.fusion.config import TrainConfig
from clipfeat.fusion.frames import NO_CLASS, Batch, LabelledFrames
from clipfeat.fusion.labels import classes_of_frames
from clipfeat.fusion.metrics import Confusion
from clipfeat.fusion.segmentation import Segmenter
from clipfeat.output.store import FeatureStore
from clipfeat.system.seeds import seeded

_WARM_UP = 0.05
"""Share of the steps over which the learning rate rises."""

_LARGEST_GRADIENT = 1.0
_STATISTICS_FRAMES, _STATISTICS_POINTS = 256, 1000
"""Frames, and points of each, that CLIP's mean and standard deviation are taken of, at most."""


class Training:
    """The state of a training, and its steps.

    Args:
        cfg: what to run.
        store: where the features are.
        train_scenes: scenes that are learnt from.
        val_scenes: scenes that are held out.
        device: where the network is.

    Attributes:
        cfg: what to run.
        step: steps done.
        history: a record a step, with the figures of the held-out scenes where they were taken.
        classes: what points are told apart into.
        train_frames: that are learnt from.
        confusion: of the last evaluation.

    Raises:
        DataError: If frames can't be read, or have no labels.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        store: FeatureStore,
        train_scenes: Sequence[str],
        val_scenes: Sequence[str],
        device: torch.device,
    ):
        self.cfg, self.device, self.step = cfg, device, 0
        self.history: list[dict[str, Any]] = []
        self.train_frames, self._val_frames = (
            LabelledFrames(store, scenes, cfg.label, with_maps=cfg.use_tiny_sa_2d and cfg.branches != "3d")
            for scenes in (train_scenes, val_scenes)
        )
        keys = self.train_frames.keys
        self.classes = classes_of_frames(cfg, self.train_frames)
        every = -(-len(keys) // _STATISTICS_FRAMES)
        mean, std = self.train_frames.statistics(keys[::every], _STATISTICS_POINTS)
        with seeded(cfg.seed):
            self.model = Segmenter(cfg, len(mean), len(self.classes))
        self.model.encoder.set_clip_statistics(mean, std)
        self.model.to(device)
        decayed = [weights for weights in self.model.parameters() if weights.ndim > 1]
        others = [weights for weights in self.model.parameters() if weights.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": cfg.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=cfg.learning_rate)
        self.amp = cfg.use_amp and device.type == "cuda"
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp)
        self.confusion = Confusion(np.zeros((len(self.classes),) * 2, np.int64))
        self._clip_channels = len(mean)

    def resume(self, path: Path) -> None:
        """Goes on from a checkpoint.

        Raises:
            DataError: If it is damaged or of another training.
        """
        check_features(path, read_about(path), self.train_frames.store)
        about = load_checkpoint(path, self.model, self.optimizer)
        self.step = about["step"]
        # Earlier versions kept infinite gradients as they were.
        self.history = [{name: None if v is None else finite(v) for name, v in r.items()} for r in about["history"]]
        self.confusion = Confusion(np.array(about["confusion"], np.int64))
        if about["scaler"]:  # of a training without half precision, as on a CPU, it is empty
            self.scaler.load_state_dict(about["scaler"])

    def save(self, path: Path) -> None:
        """Writes a checkpoint.

        Raises:
            OutputError: If that fails.
        """
        about = {
            "step": self.step,
            "history": self.history,
            "confusion": self.confusion.counts.tolist(),
            "scaler": self.scaler.state_dict(),
            "config": asdict(self.cfg),
            "clip_channels": self._clip_channels,
            "features": self.train_frames.store.model,
            "class_names": self.classes.names,
            "class_ids": self.classes.ids.tolist(),
        }
        write_checkpoint(path, self.model, self.optimizer, about)

    def do_step(self) -> dict[str, Any]:
        """One step; its record, which is the last of ``history``."""
        begin = time.perf_counter()
        keys = batch_frames(self.train_frames, self.step, self.cfg)
        seed = (self.cfg.seed, self.step)
        batch = self.train_frames.batch(keys, self.classes, self.cfg.num_points, seed, self.device)
        augment(batch, np.random.default_rng([*seed, 1 << 20]))
        for group in self.optimizer.param_groups:
            group["lr"] = self.cfg.learning_rate * schedule(self.step, self.cfg.steps)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, enabled=self.amp, dtype=torch.float16):
            loss, parts = self._loss(batch)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        gradient = torch.nn.utils.clip_grad_norm_(self.model.parameters(), _LARGEST_GRADIENT)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        seconds = round(time.perf_counter() - begin, 4)
        numbers = {"loss": loss, "gradient": gradient, **parts}
        # A step whose scale was too large for half precision is left out, and its gradient is infinite.
        record = {"step": self.step, "seconds": seconds} | {
            name: finite(float(value.detach())) for name, value in numbers.items()
        }
        self.history.append(record)
        return record

    def _loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logit, out = self.model(**batch.inputs)
        known = batch.target != NO_CLASS
        per_point = nnf.cross_entropy(logit.float()[known], batch.target[known], reduction="sum")
        loss = per_point / known.sum().clamp(min=1)
        parts = {"conf_2d": out.conf_2d.sum() / batch.mask.sum()}
        if self.model.criterion is not None and out.clip_feat is not None:
            encoder = self.model.encoder
            standard = (out.clip_feat - encoder.clip_mean) / encoder.clip_std
            cons = self.model.criterion(out.feat_fusion, standard, batch.conf_2d, batch.mask, batch.point_id)
            loss = loss + self.cfg.clip_cons_weight * cons.total
            parts |= {"clip": cons.clip, "views": cons.views}
        return loss, parts

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Figures over all labelled points of the held-out frames; also in the last record of ``history``."""
        self.model.eval()
        total = Confusion(np.zeros_like(self.confusion.counts))
        frames = self._val_frames
        for key in frames.keys:
            batch = frames.batch([key], self.classes, None, (0,), self.device)
            with torch.autocast(self.device.type, enabled=self.amp, dtype=torch.float16):
                logit, _ = self.model(**batch.inputs)
            total += Confusion.of(
                batch.target.flatten().cpu().numpy(), logit.argmax(-1).flatten().cpu().numpy(), len(self.classes)
            )
        self.confusion = total
        figures = {"miou": total.miou, "accuracy": total.accuracy}
        self.history[-1] |= figures
        return figures

    def metrics(self, store_model: dict[str, Any]) -> dict[str, Any]:
        """What is known at the end."""
        iou = {
            name: round(float(value), 4)
            for name, value in zip(self.classes.names, self.confusion.iou, strict=True)
            if math.isfinite(value)
        }
        return {
            "miou": self.confusion.miou,
            "accuracy": self.confusion.accuracy,
            "steps": self.step,
            "seconds": round(sum(record["seconds"] for record in self.history), 1),
            "branches": self.cfg.branches,
            "iou": iou,
            "points": dict(zip(self.classes.names, self.confusion.counts.sum(1).tolist(), strict=True)),
            "table": self.confusion.table(self.classes.names),
            "features": store_model,
            "history": self.history,
        }


def finite(value: float) -> float | None:
    """A number as JSON can hold it: null for what is infinite or no number."""
    return value if math.isfinite(value) else None


def batch_frames(frames: LabelledFrames, step: int, cfg: TrainConfig) -> list[FrameKey]:
    """The frames of a step: each once an epoch, in an order of its own, with ``views`` - 1 others of its scene."""
    keys, anchors = frames.keys, cfg.batch_size // cfg.views
    chosen = []
    for place in range(step * anchors, (step + 1) * anchors):
        epoch, rank = divmod(place, len(keys))
        key = keys[np.random.default_rng([cfg.seed, 2, epoch]).permutation(len(keys))[rank]]
        others = frames.others(key)
        order = np.random.default_rng([cfg.seed, 3, place]).permutation(len(others))[: cfg.views - 1]
        chosen += [key, *(others[i] for i in order)]
    return chosen


def augment(batch: Batch, rng: np.random.Generator) -> None:
    """Turns each sample about the vertical, its camera with it, and changes the gain of its colours; in place."""
    inputs = batch.inputs
    points = inputs["points"]
    angle = torch.from_numpy(rng.uniform(0, 2 * math.pi, len(points)))
    turn = torch.eye(4, dtype=torch.float64).repeat(len(points), 1, 1)
    turn[:, 0, 0] = turn[:, 1, 1] = angle.cos()
    turn[:, 1, 0] = angle.sin()
    turn[:, 0, 1] = -angle.sin()
    turn = turn.to(points.device)
    gain = torch.from_numpy(rng.uniform(0.85, 1.15, (len(points), 1, 3))).float().to(points.device)
    xyz = points[..., :3].double() @ turn[:, :3, :3].transpose(1, 2)
    inputs["points"] = torch.cat((xyz.float(), (points[..., 3:] * gain).clamp(0, 1)), -1)
    for name in ("cam_to_world", "previous_cam_to_world"):
        inputs[name] = turn @ inputs[name]


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate at a step: it rises in a line, and falls to 0 as a cosine."""
    rise = max(round(_WARM_UP * steps), 1)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1)))
