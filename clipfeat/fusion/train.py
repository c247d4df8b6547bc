"""``clipfeat-train``: the encoder trained to tell points apart, on the labelled frames of a store."""

import json
import logging
import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from clipfeat.data.base import read_scenes_file
from clipfeat.errors import ConfigError, tell_how_far
from clipfeat.fusion.checkpoint import NAME, read_about
from clipfeat.fusion.config import TrainConfig
from clipfeat.fusion.training import Training
from clipfeat.model.load import resolve_device
from clipfeat.output.folders import check_config, claimed, make_writable, remove_files, still_claimed
from clipfeat.output.store import FeatureStore
from clipfeat.system.atomic import atomic_file, locked, remove_leftovers
from clipfeat.system.direct import reuse_memory
from clipfeat.vis.curve import draw_curve

log = logging.getLogger(__name__)


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
    path = folder / NAME
    with _claimed(folder, how, overwrite=cfg.resume == "overwrite"):
        if path.is_file():
            training.resume(path)
        if training.step < cfg.steps:
            log.info(
                "%d steps to do, %d done already, %d frames of %d scenes, %d held out, %d classes, into %s",
                cfg.steps - training.step, training.step, len(training.train_frames.keys), len(train_scenes),
                len(val_scenes), len(training.classes), folder,
            )  # fmt: skip
        try:
            _go_on(training, path, how)
        except BaseException as error:
            # The step that was under way is not lost with Ctrl-C: signals wait for its end.
            done = read_about(path)["step"] if path.is_file() else 0
            tell_how_far(error, done, cfg.steps, folder, overwrite=cfg.resume == "overwrite", unit="steps")
            raise
    metrics = training.metrics(store.model)
    with atomic_file(folder / "metrics.json") as file:
        file.write(json.dumps(metrics, indent=2, allow_nan=False).encode())
    weights = f"{store.model.get('arch')} {store.model.get('head')} weights={store.model.get('weights')}"
    draw_curve(folder / "curve.png", training.history, f"{cfg.branches}, {len(val_scenes)} scenes held out", weights)
    log.info("%s", metrics_table(metrics))
    return metrics


def _go_on(training: Training, path: Path, how: dict[str, Any]) -> None:
    """Does the steps that are left, with a checkpoint every so often, and at the end."""
    cfg = training.cfg
    board = _open_board(path.parent) if cfg.tensorboard else None
    bar = tqdm(total=cfg.steps, initial=training.step, unit="step", disable=None)
    with logging_redirect_tqdm(), bar, signals_wait() as asked_to_stop:
        while training.step < cfg.steps:
            record = training.do_step()
            bar.set_description(f"loss {_said(record['loss'])}", refresh=False)
            bar.update()
            last = training.step == cfg.steps
            if last or training.step % cfg.eval_every == 0:
                record |= training.evaluate()
                log.info("step %d: loss %s, held-out mIoU %.1f %%", *_figures(record))
            if board is not None:
                for name, value in record.items():
                    if value is None:
                        continue
                    board.add_scalar(name, value, training.step)
            if last or asked_to_stop() or training.step % cfg.checkpoint_every == 0:
                with locked(path.parent):
                    still_claimed(path.parent, how)
                    training.save(path)
            if asked_to_stop() and not last:
                raise KeyboardInterrupt
    if board is not None:
        board.close()


def _figures(record: dict[str, Any]) -> tuple[int, str, float]:
    return record["step"], _said(record["loss"]), 100 * record["miou"]


def _said(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.3f}"


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


@contextmanager
def _claimed(folder: Path, how: dict[str, Any], *, overwrite: bool) -> Iterator[None]:
    """As ``claimed``, unless the folder holds a training of another configuration."""
    make_writable(folder, "output_dir")
    remove_leftovers([folder])
    if overwrite:
        remove_files(folder / name for name in (NAME, "metrics.json", "curve.png"))
    elif (folder / NAME).is_file():
        check_config(folder, how)
    with claimed(folder, how, (folder / NAME).is_file):
        yield


def _open_board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError('tensorboard=true needs a package: pip install "clipfeat[tensorboard]"') from error
    return SummaryWriter(folder / "tensorboard")
