"""``clipfeat-train``: the encoder trained to tell points apart, on the labelled frames of a store.

All that is drawn at random in a step follows from the seed and the number of the step, and the learning rate from the
number too. So a checkpoint is the weights, the optimizer's state and a number, and a training that was interrupted
goes on as if it had not been.
"""

import json
import logging
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from clipfeat.data.base import read_scenes_file
from clipfeat.data.selection import FrameKey
from clipfeat.errors import ConfigError, DataError, tell_how_far
from clipfeat.fusion.checkpoint import NAME, load_checkpoint, read_about, write_checkpoint
from clipfeat.fusion.config import TrainConfig
from clipfeat.fusion.frames import NO_CLASS, Batch, Classes, LabelledFrames, read_classes
from clipfeat.fusion.metrics import Confusion
from clipfeat.fusion.segmentation import Segmenter
from clipfeat.model.clip_model import resolve_device
from clipfeat.output.run_folder import check_config, make_writable, remove_files, write_config
from clipfeat.output.store import FeatureStore
from clipfeat.system.atomic import atomic_file, remove_leftovers
from clipfeat.system.direct import reuse_memory
from clipfeat.vis.curve import draw_curve

log = logging.getLogger(__name__)

_WARM_UP = 0.05
"""Share of the steps over which the learning rate rises."""

_LARGEST_GRADIENT = 1.0
_STATISTICS_FRAMES, _STATISTICS_POINTS = 256, 1000
"""Frames, and points of each, that CLIP's mean and standard deviation are taken of, at most."""


def train(cfg: TrainConfig) -> dict[str, Any]:
    """Runs ``clipfeat-train``.

    Args:
        cfg: what to run.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ClipfeatError: On anything that the user can mend; the last checkpoint stays.
    """
    reuse_memory()
    device = resolve_device(cfg.device)
    store, folder = FeatureStore(cfg.store), Path(cfg.output_dir)
    train_scenes, val_scenes = split_scenes(cfg, store.scenes)
    how = asdict(cfg) | {"model": store.model, "train_scenes": train_scenes, "val_scenes": val_scenes}
    training = Training(cfg, store, train_scenes, val_scenes, device)
    _claim(folder, how, overwrite=cfg.resume == "overwrite")
    path = folder / NAME
    if path.is_file():
        training.resume(path)
    if training.step < cfg.steps:
        log.info(
            "%d steps to do, %d done already, %d frames of %d scenes, %d held out, %d classes, into %s",
            cfg.steps - training.step, training.step, len(training.train_frames.keys), len(train_scenes),
            len(val_scenes), len(training.classes), folder,
        )  # fmt: skip
    try:
        _go_on(training, path)
    except BaseException as error:
        # The step that was under way is not lost with Ctrl-C: signals wait for its end.
        done = read_about(path)["step"] if path.is_file() else 0
        tell_how_far(error, done, cfg.steps, folder, overwrite=cfg.resume == "overwrite", unit="steps")
        raise
    metrics = training.metrics(store.model)
    with atomic_file(folder / "metrics.json") as file:
        file.write(json.dumps(metrics, indent=2).encode())
    weights = f"{store.model.get('arch')} {store.model.get('head')} weights={store.model.get('weights')}"
    draw_curve(folder / "curve.png", training.history, f"{cfg.branches}, {len(val_scenes)} scenes held out", weights)
    log.info("%s", metrics_table(metrics))
    return metrics


def _go_on(training: "Training", path: Path) -> None:
    """Does the steps that are left, with a checkpoint every so often, and at the end."""
    cfg = training.cfg
    board = _open_board(path.parent) if cfg.tensorboard else None
    bar = tqdm(total=cfg.steps, initial=training.step, unit="step", disable=None)
    with logging_redirect_tqdm(), bar, signals_wait() as asked_to_stop:
        while training.step < cfg.steps:
            record = training.do_step()
            bar.set_description(f"loss {record['loss']:.3f}", refresh=False)
            bar.update()
            last = training.step == cfg.steps
            if last or training.step % cfg.eval_every == 0:
                record |= training.evaluate()
                log.info("step %d: loss %.3f, held-out mIoU %.1f %%", *_figures(record))
            if board is not None:
                for name, value in record.items():
                    board.add_scalar(name, value, training.step)
            if last or asked_to_stop() or training.step % cfg.checkpoint_every == 0:
                training.save(path)
            if asked_to_stop() and not last:
                raise KeyboardInterrupt
    if board is not None:
        board.close()


def _figures(record: dict[str, Any]) -> tuple[int, float, float]:
    return record["step"], record["loss"], 100 * record["miou"]


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
        self.classes = _classes(cfg, self.train_frames)
        every = -(-len(keys) // _STATISTICS_FRAMES)
        mean, std = self.train_frames.statistics(keys[::every], _STATISTICS_POINTS)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.seed)
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
        about = load_checkpoint(path, self.model, self.optimizer)
        self.step, self.history = about["step"], about["history"]
        self.confusion = Confusion(np.array(about["confusion"], np.int64))
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
        record = {"step": self.step, "seconds": seconds} | {
            name: float(value.detach()) for name, value in numbers.items()
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


def split_scenes(cfg: TrainConfig, scenes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Scenes that are learnt from, and those that are held out: by their files, or the last quarter of the store's.

    Raises:
        ConfigError: If there is nothing to learn from, nothing is held out, or a scene is in both.
        DataError: If a file can't be read.
    """
    held = read_scenes_file(Path(cfg.val_scenes_file)) if cfg.val_scenes_file else None
    learnt = read_scenes_file(Path(cfg.train_scenes_file)) if cfg.train_scenes_file else None
    if held is None:
        left = [scene for scene in scenes if scene not in (learnt or [])]
        held = left if learnt is not None else left[len(left) - math.ceil(len(left) / 4) :]
    if learnt is None:
        learnt = [scene for scene in scenes if scene not in held]
    if not learnt or not held or set(learnt) & set(held):
        raise ConfigError(
            f"{len(learnt)} scenes to learn from and {len(held)} held out, {len(set(learnt) & set(held))} in both: "
            f"expected some of each and none in both; say which by train_scenes_file=… val_scenes_file=…"
        )
    return learnt, held


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


@contextmanager
def signals_wait() -> Iterator[Any]:
    """Lets a first Ctrl-C or SIGTERM wait: yields what tells whether it came. In the main thread alone."""
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if came:  # somebody does not want to wait
            raise KeyboardInterrupt
        came.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def metrics_table(metrics: dict[str, Any]) -> str:
    """The few lines that end a training."""
    about = metrics["features"]
    rows = [
        ("held-out mIoU", f"{100 * metrics['miou']:.1f} %, accuracy {100 * metrics['accuracy']:.1f} %"),
        ("branches", metrics["branches"]),
        ("steps", f"{metrics['steps']} in {metrics['seconds']:.0f} s"),
        ("features of", f"{about.get('arch')} {about.get('head')} weights={about.get('weights')}"),
    ]
    return "\n".join([metrics["table"], *(f"  {name:<16} {value}" for name, value in rows)])


def _classes(cfg: TrainConfig, frames: LabelledFrames) -> Classes:
    """The labels that the frames have; with a file of names, those of them that it names."""
    ids = frames.labels(frames.keys)
    names = read_classes(Path(cfg.classes_file)) if cfg.classes_file else {int(i): str(i) for i in ids}
    ids = np.array([i for i in ids.tolist() if i in names], np.int64)
    if not len(ids):
        raise DataError(f"{frames.store.folder}: no point of {len(frames.keys)} frames has a label that is known")
    return Classes(ids, [names[i] for i in ids.tolist()])


def _claim(folder: Path, how: dict[str, Any], *, overwrite: bool) -> None:
    make_writable(folder, "output_dir")
    remove_leftovers([folder])
    if overwrite:
        remove_files(folder / name for name in (NAME, "metrics.json", "curve.png"))
    elif (folder / NAME).is_file():
        check_config(folder, how)
    write_config(folder, how)


def _open_board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError('tensorboard=true needs a package: pip install "clipfeat[tensorboard]"') from error
    return SummaryWriter(folder / "tensorboard")
