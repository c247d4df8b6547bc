"""What is in the output_dir of clipfeat-extract, and whether it is whole."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.selection import FrameKey
from clipfeat.errors import DataError
from clipfeat.output.files import FORMATS, point_features
from clipfeat.output.folders import different_keys, read_json
from clipfeat.output.frame_files import FrameFiles, detect_format, open_files
from clipfeat.output.grid import GridFrame, grid_frame
from clipfeat.output.record_table import latest_lines
from clipfeat.output.records import record_files
from clipfeat.output.store import FeatureStore
from clipfeat.output.summary import reason_of
from clipfeat.results.inspection import (
    SHOWN,
    Inspection,
    broken_among,
    config_of,
    megabytes,
    model_line,
    named,
    sampling_line,
    spread,
    temporaries,
)

_BARS = "▁▂▃▄▅▆▇█"


def inspect_run(folder: Path, *, verify: bool) -> Inspection:
    """What is in the output_dir of a run.

    Raises:
        ClipfeatError: If it is none, or can't be listed.
    """
    broken: list[str] = []
    config = config_of(folder, broken)
    files = open_files(folder, _format(folder, config))
    frames = _frames(files, broken)
    keys = [(scene_id, frame_id) for scene_id, of_scene in frames.items() for frame_id in of_scene]
    record = _read_record(folder, frames)
    store = _store(folder, broken) if keys else None
    facts = {
        "scenes": named(list(frames)),
        "frames": spread([len(of_scene) for of_scene in frames.values()]),
        "model": model_line(store.model) if store else "",
        "head": _head(store, keys[0], broken) if store else "",
        "points": sampling_line(config, record.visible.tolist()),
        "size": _size(files, keys, broken),
        "visible": _visibility(record),
        "failed": _failures(record.failed),
        "run": _end_of_run(folder),
        "record": _disagreements(record, broken),
        "unfinished": temporaries(folder),
    }
    if verify:
        model = store.model if store else None
        broken += broken_among(keys, lambda key: _check_frame(files, key, model))
    title = f"{folder}: features written by clipfeat-extract, output={files.format_name}"
    return Inspection(title, facts, list(dict.fromkeys(broken)), verify)


@dataclass
class _Record:
    """What the record says of the frames that have files, and where it does not agree with these.

    Attributes:
        visible: points of each of the N frames, (N,).
        points: that were looked at, (N,).
        scenes: both, added up for each scene.
        failed: scene_id, frame_id and why of what failed.
        unfiled: frames that are done, it says, and have no file.
        unlisted: frames that it says nothing of.
        failed_again: frames that it says have failed.
    """

    visible: NDArray[np.int64]
    points: NDArray[np.int64]
    scenes: dict[str, tuple[int, int]]
    failed: list[dict[str, Any]]
    unfiled: list[FrameKey]
    unlisted: list[FrameKey]
    failed_again: list[FrameKey]


def _read_record(folder: Path, frames: Mapping[str, list[int]]) -> _Record:
    none = np.empty(0, np.int64)
    visible: list[NDArray[np.int64]] = [none]
    points: list[NDArray[np.int64]] = [none]
    scenes, failed = {}, []
    unfiled: list[FrameKey] = []
    unlisted = {scene_id: set(of_scene) for scene_id, of_scene in frames.items()}
    for record in latest_lines(record_files(folder)):
        scene_id, there = record.scene_id, set(frames.get(record.scene_id, ()))
        unfiled += [(scene_id, frame_id) for frame_id in record.frames if frame_id not in there]
        failed += [(place, scene_id, frame_id, why) for place, frame_id, why in record.failed]
        if there:
            unlisted[scene_id] -= {*record.frames, *(frame_id for _, frame_id, _ in record.failed)}
        kept = record.among(there)
        if kept.frames:
            total = np.zeros(len(kept.frames), np.int64)
            visible.append(total + kept.points.get("visible", 0))
            for counts in kept.points.values():
                total += counts
            points.append(total)
            scenes[scene_id] = int(visible[-1].sum()), int(total.sum())
    failed.sort()
    return _Record(
        visible=np.concatenate(visible),
        points=np.concatenate(points),
        scenes={scene_id: scenes[scene_id] for scene_id in frames if scene_id in scenes},
        failed=[{"scene_id": scene_id, "frame_id": frame_id, "why": why} for _, scene_id, frame_id, why in failed],
        unfiled=sorted(unfiled),
        unlisted=sorted((scene_id, i) for scene_id, of_scene in unlisted.items() for i in of_scene),
        failed_again=[(s, i) for _, s, i, _ in failed if i is not None and i in frames.get(s, ())],
    )


def _format(folder: Path, config: dict[str, Any]) -> str:
    """Told by the files, or by the configuration of a run that has written none yet."""
    try:
        return detect_format(folder)
    except DataError:
        name = dict(config.get("output") or {}).get("name")
        if name not in FORMATS:
            raise
        return str(name)


def _frames(files: FrameFiles, broken: list[str]) -> dict[str, list[int]]:
    """The frames of each scene that can be listed."""
    found = {}
    try:
        for scene_id in files.scenes():
            found[scene_id] = files.frames(scene_id)
    except DataError as error:
        broken.append(str(error))
    return found


def _store(folder: Path, broken: list[str]) -> FeatureStore | None:
    try:
        return FeatureStore(folder)
    except DataError as error:
        broken.append(str(error))
        return None


def _head(store: FeatureStore, key: FrameKey, broken: list[str]) -> str:
    """The head and the channels of its features, which one frame is read for."""
    name, digest = store.model.get("head"), store.model.get("head_sha256")
    path = store.folder / f"head_{name}.safetensors"
    if digest and not path.is_file():
        broken.append(f"{path}: no such file, the weights that the features were made with; copy that run's file here")
    try:
        channels = f", {store.load(*key, lambda count: np.arange(min(count, 1))).pts_feat.shape[1]} channels"
    except DataError as error:
        broken.append(str(error))
        channels = ""
    return f"{name}{f' ({digest})' if digest else ''}{channels}"


def _size(files: FrameFiles, keys: Sequence[FrameKey], broken: list[str]) -> str:
    total = 0
    for path in {files.path(*key): None for key in keys}:  # several frames may share a file
        try:
            size = path.stat().st_size
        except OSError as error:
            broken.append(f"{path}: went away ({error.strerror})")
            continue
        if size == 0:
            broken.append(f"{path}: is empty; delete it and run the same command again")
        total += size
    return f"{megabytes(total / len(keys))} a frame, {megabytes(total)} in all" if keys else ""


def _visibility(record: _Record) -> str:
    """The share of visible points: of all, how the frames' are spread, and the scenes where it is least."""
    if not len(record.points):
        return ""
    frames, _ = np.histogram(record.visible / np.maximum(record.points, 1), bins=10, range=(0, 1))
    bars = "".join(_BARS[-(-int(n) * (len(_BARS) - 1) // int(frames.max()))] for n in frames)
    shares = {scene_id: visible / max(points, 1) for scene_id, (visible, points) in record.scenes.items()}
    overall = int(record.visible.sum()) / max(int(record.points.sum()), 1)
    least = sorted(shares, key=shares.__getitem__)[:SHOWN]
    return (
        f"{overall:.1%} of the points that were looked at; frames by share: "
        f"0 {bars} 1\nleast in {', '.join(f'{scene_id} {shares[scene_id]:.1%}' for scene_id in least)}"
    )


def _failures(failed: Sequence[Mapping[str, Any]]) -> str:
    """Failures by their reason, without what differs from frame to frame."""
    reasons: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for line in failed:
        reasons[reason_of(line)].append(line)
    common = sorted(reasons.values(), key=len, reverse=True)
    shown = [f"{len(lines)} × such as: {lines[0]['why']}" for lines in common[:SHOWN]]
    more = [f"… and {len(common) - SHOWN} more reasons, in frames.jsonl"] if len(common) > SHOWN else []
    return "\n".join([str(len(failed)), *shown, *more]) if failed else "0"


def _end_of_run(folder: Path) -> str:
    summary = folder / "summary.json"
    run, written = read_json(summary).get("run"), [path.stat().st_mtime for path in record_files(folder)]
    stopped = "the same command goes on from there"
    if not isinstance(run, dict) or max(written, default=0) > summary.stat().st_mtime + 1:
        return f"still running, or it was killed: {stopped}"
    return f"interrupted: {stopped}" if run.get("interrupted") else "finished"


def _disagreements(record: _Record, broken: list[str]) -> str:
    """Where ``frames.jsonl`` and the files do not say the same."""
    unfiled, unlisted, failed = (
        [f"{scene_id} frame {frame_id}" for scene_id, frame_id in keys]
        for keys in (record.unfiled, record.unlisted, record.failed_again)
    )
    if unfiled:
        broken.append(f"frames done, says frames.jsonl, that have no file: {named(unfiled)}; run the command again")
    found = [f"frames without a line in frames.jsonl: {named(unlisted)}"] if unlisted else []
    found += [f"frames that failed when last tried, with a file of before: {named(failed)}"] if failed else []
    return "\n".join(found)


def _check_frame(files: FrameFiles, key: FrameKey, model: dict[str, Any] | None) -> None:
    """Reads a frame whole.

    Raises:
        DataError: If it is damaged, of another model, or its arrays do not fit each other.
    """
    arrays, meta = files.read(*key)
    path = files.path(*key)
    differing = different_keys(model, meta.get("model") or {}) if model is not None else []
    if differing:
        raise DataError(f"{path}: features of another model, which differs in {'; '.join(differing)}; delete it")
    keeps_map = FORMATS[files.format_name].holds == "map"
    frame = grid_frame(path, arrays, meta) if keeps_map else point_features(path, arrays, meta)
    points = {**frame.attributes, "uv_idx": frame.uv_idx, "conf_2d": frame.conf_2d, "pts_idx": frame.pts_idx}
    points |= {"depth_m": frame.depth_m} if isinstance(frame, GridFrame) else {"pts_feat": frame.pts_feat}
    rows = {name: len(values) for name, values in points.items()}
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise DataError(f"{path}: its arrays are not of the same points ({told}); delete it and run the command again")
