"""Which features are better, measured on labelled frames: ``clipfeat-evaluate``."""

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from clipfeat.camera.rules import build_rules
from clipfeat.data.base import Dataset
from clipfeat.data.frame_paths import frame_paths
from clipfeat.data.layouts import build_dataset
from clipfeat.data.scannet200 import LabelSet
from clipfeat.data.selection import FrameKey, list_frames
from clipfeat.errors import ConfigError, DataError
from clipfeat.evaluate.candidates import parse_candidates, views_of
from clipfeat.evaluate.collect import Collector, ReadyCandidate, build_candidates, fit_heads
from clipfeat.evaluate.config import EvaluateConfig
from clipfeat.evaluate.frames import FrameLabeller, Judged, Labelled, LabelPictures, labels_of_points
from clipfeat.evaluate.judge import NEVER, Judgement, Truth, judge, row_of
from clipfeat.evaluate.labels import classes_of_labels
from clipfeat.evaluate.probes import folds_of
from clipfeat.evaluate.table import advice, csv_table, markdown, plot
from clipfeat.evaluate.views import View, build_views
from clipfeat.fusion.fit_head import build_fit
from clipfeat.model.clip_model import default_batch
from clipfeat.model.config import ModelConfig
from clipfeat.model.load import resolve_device
from clipfeat.model.published import with_input_size
from clipfeat.model.text import vectors_of
from clipfeat.output.folders import make_writable
from clipfeat.sampling.locate import build_locator
from clipfeat.system.atomic import atomic_file

log = logging.getLogger(__name__)

FITTED_FRAMES = 96
"""Of the scenes that heads are fitted to here, over all folds; scenes are taken whole, evenly spread."""

ViewBuilder = Callable[[Sequence[ModelConfig], torch.device, int], Sequence[View]]


def evaluate(cfg: EvaluateConfig, build: ViewBuilder = build_views) -> dict[str, Any]:
    """Runs ``clipfeat-evaluate``.

    Args:
        cfg: what to run.
        build: makes the views of the encoders.

    Returns:
        What ``evaluation.json`` holds.

    Raises:
        ClipfeatError: On anything that the user can mend.
    """
    begin = time.perf_counter()
    candidates = parse_candidates(cfg.candidates, with_input_size(cfg.model))
    device = resolve_device(cfg.device)
    folder = Path(cfg.output_dir)
    make_writable(folder, "output_dir")
    dataset = build_dataset(cfg.data)
    failed: dict[str, str] = {}
    keys, test_scenes = _frames(cfg, dataset, failed)
    held_out = _held_out(cfg, keys, test_scenes)
    classes = classes_of_labels(cfg, keys, dataset)
    views = views_of(candidates)
    built = list(zip(views, build(views, device, cfg.seed), strict=True))
    folds = len(set(held_out.values()) - {NEVER})
    ready = build_candidates(candidates, built, cfg.model.head, device, cfg.seed, folds)

    per_frame = max(1, min(cfg.points_per_frame, cfg.max_points // len(keys)))
    read = _reader(cfg, dataset, classes, per_frame)
    to_fit = _fitted_keys(keys, held_out)
    fit_heads(ready, lambda: _usable(read(), to_fit), held_out, lambda method: build_fit(method, cfg))
    # What is slow only once (threads, compiled loops) is no candidate's cost.
    warm = Collector(ready, folder, per_frame, held_out, device)
    warm.add(list(islice(_usable(read(), keys), 1)))
    collector = Collector(ready, folder, per_frame * len(keys), held_out, device)
    del warm
    found = _collect(cfg, collector, read(), keys, failed, cfg.batch_size or default_batch(device))
    truth = _truth(found, held_out, classes)
    rows = _judge(cfg, collector, truth, found)

    tested = int((truth.held_out != NEVER).sum())
    report = {
        "config": dataclasses.asdict(cfg),
        "weights": sorted({row["weights"] for row in rows}),
        "scenes": len(truth.held_out),
        "scenes_held_out": tested,
        "frames": collector.frames,
        "points": collector.rows,
        "labels_of": classes.title,
        "classes": len(np.unique(truth.classes)),
        "failed": failed,
        "advice": advice(rows),
        "seconds": round(time.perf_counter() - begin, 1),
        "rows": rows,
    }
    _write(folder, report)
    log.info("%s\nall columns: %s", _heading(report), folder / "evaluation.md")
    for name, why in list(failed.items())[:5]:
        log.warning("WARNING failed: %s: %s", name, why)
    return report


def _frames(cfg: EvaluateConfig, dataset: Dataset, failed: dict[str, str]) -> tuple[list[FrameKey], set[str]]:
    """The frames, scene after scene, and the scenes that are held out; none where each is, in its fold."""
    keys = list_frames(cfg, dataset, failed)
    if cfg.test_scenes_file is None:
        return keys, set()
    tested = list_frames(dataclasses.replace(cfg, scenes_file=cfg.test_scenes_file), dataset, failed)
    both = {scene_id for scene_id, _ in keys} & {scene_id for scene_id, _ in tested}
    if both:
        raise ConfigError(
            f"test_scenes_file={cfg.test_scenes_file}: {min(both)} is among the scenes that are learnt from, too; give "
            f"these as scenes_file=…"
        )
    return keys + tested, {scene_id for scene_id, _ in tested}


def _held_out(cfg: EvaluateConfig, keys: Sequence[FrameKey], test_scenes: set[str]) -> dict[str, int]:
    """The fold in which each scene is held out, or ``NEVER``."""
    scenes = list(dict.fromkeys(scene_id for scene_id, _ in keys))
    if test_scenes:
        folds = np.array([0 if scene_id in test_scenes else NEVER for scene_id in scenes])
    else:
        folds = folds_of(len(scenes), min(cfg.folds, len(scenes)), cfg.seed)
    _check_folds(folds)
    return dict(zip(scenes, folds.tolist(), strict=True))


def _check_folds(folds: NDArray[np.int64]) -> None:
    if len(np.unique(folds)) < 2:
        raise DataError(f"{len(folds)} scenes can be used: expected two at least, one to learn from and one held out")


def _fitted_keys(keys: Sequence[FrameKey], held_out: Mapping[str, int]) -> list[FrameKey]:
    """The frames that heads are fitted to: of each fold as many, or of the scenes that are never held out."""
    groups = {NEVER} if NEVER in held_out.values() else set(held_out.values())
    chosen: set[str] = set()
    for group in groups:
        scenes = [scene_id for scene_id, fold in held_out.items() if fold == group]
        frames = sum(held_out[scene_id] == group for scene_id, _ in keys)
        count = min(len(scenes), max(1, FITTED_FRAMES * len(scenes) // (len(groups) * frames)))
        chosen |= {scenes[i] for i in np.linspace(0, len(scenes) - 1, count).round().astype(int)}
    return [key for key in keys if key[0] in chosen]


Reader = Callable[[FrameKey], Any]


def _reader(cfg: EvaluateConfig, dataset: Dataset, classes: LabelSet, per_frame: int) -> Callable[[], Reader]:
    """Makes readers, each of which has seen no frame."""
    locate, (rule, _) = build_locator(cfg), build_rules(cfg.camera)
    labeller = (
        labels_of_points if cfg.labels is None else LabelPictures(frame_paths(cfg.labels, dataset, cfg.data.root))
    )
    return lambda: FrameLabeller(dataset, locate, rule, labeller, classes, per_frame, cfg.seed)


def _usable(read: Reader, keys: Sequence[FrameKey]) -> Iterator[Labelled]:
    return (frame for frame in map(read, keys) if isinstance(frame, Labelled))


def _collect(
    cfg: EvaluateConfig,
    collector: Collector,
    read: Reader,
    keys: Sequence[FrameKey],
    failed: dict[str, str],
    batch_size: int,
) -> list[Judged]:
    """Runs all frames through all candidates; what is kept of the frames."""
    done, batch = list[Judged](), list[Labelled]()
    with logging_redirect_tqdm(), tqdm(keys, unit="frame", disable=None) as bar:
        for number, key in enumerate(bar, 1):
            frame = read(key)
            if isinstance(frame, Labelled):
                batch.append(frame)
            else:
                if cfg.on_bad_frame == "fail":
                    raise frame
                failed[f"{key[0]} frame {key[1]}"] = str(frame)
            if batch and (len(batch) == batch_size or number == len(keys)):
                collector.add(batch)
                done += [one.summary() for one in batch]
                batch = []
    if not done:
        raise DataError(f"all {len(keys)} frames failed; the first: {next(iter(failed.values()))}")
    return done


def _truth(found: Sequence[Judged], held_out: Mapping[str, int], classes: LabelSet) -> Truth:
    scenes = list(dict.fromkeys(one.scene_id for one in found))
    folds = np.array([held_out[scene_id] for scene_id in scenes])
    _check_folds(folds)
    index = {scene_id: i for i, scene_id in enumerate(scenes)}
    return Truth(
        classes=np.concatenate([one.classes for one in found]),
        scene=np.concatenate([np.full(len(one.classes), index[one.scene_id]) for one in found]),
        edge_px=np.concatenate([one.edge_px for one in found]),
        held_out=folds,
        labels=classes,
    )


def _judge(cfg: EvaluateConfig, collector: Collector, truth: Truth, found: Sequence[Judged]) -> list[dict[str, Any]]:
    names: dict[int, Any] = {}

    def names_for(ready: ReadyCandidate) -> Any:
        if not ready.head.projected:
            return None
        if id(ready.view) not in names:
            texts, about = ready.view.texts(cfg.text_cache), ready.view.model.describe()
            names[id(ready.view)] = vectors_of(
                [*truth.labels.names, *cfg.against], cfg.templates, texts, about, f"candidates={ready.candidate.name}"
            )
        return names[id(ready.view)]

    rows: list[dict[str, Any]] = []
    first: Judgement | None = None
    points = float(np.mean([one.sampled for one in found]))
    pairs = list(zip(collector.ready, collector.stores, strict=True))
    with logging_redirect_tqdm(), tqdm(pairs, "judging", unit="candidate", disable=None) as bar:
        for ready, store in bar:
            bar.set_description(ready.candidate.name, refresh=False)
            judgement = judge(
                np.asarray(store.values[:, : collector.rows]),
                truth,
                neighbours=cfg.neighbours,
                edge_px=cfg.edge_px,
                names=names_for(ready),
                device=resolve_device(cfg.device),
            )
            first = first or judgement
            rows.append(
                row_of(
                    ready,
                    store,
                    judgement,
                    first,
                    truth.labels,
                    frames=collector.frames,
                    points=points,
                    read_seconds=float(np.mean([one.seconds for one in found])),
                    resamples=cfg.resamples,
                    seed=cfg.seed,
                )
            )
    return rows


def _write(folder: Path, report: dict[str, Any]) -> None:
    rows, heading = report["rows"], _heading(report)
    files = {
        "evaluation.md": markdown(rows, heading).encode(),
        "evaluation.csv": csv_table(rows).encode(),
        "evaluation.png": plot(rows, heading),
        "evaluation.json": json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False).encode(),
    }
    for name, content in files.items():
        with atomic_file(folder / name) as file:
            file.write(content)


def _heading(report: dict[str, Any]) -> str:
    return (
        f"{report['scenes']} scenes ({report['scenes_held_out']} held out: the probes have not seen them), "
        f"{report['frames']} frames, {report['points']} points of {report['classes']} classes; "
        f"weights={', '.join(report['weights'])}; 95 % intervals over held-out scenes."
    )
