"""The folder of one run: which frames are done in it, its configuration and model, and a line a frame."""

import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save

from clipfeat.errors import DataError, OutputError
from clipfeat.output.files import FORMATS, write_features
from clipfeat.output.frame_files import holds_features, open_files
from clipfeat.output.grid import GridFrame
from clipfeat.output.summary import visible_share
from clipfeat.system.atomic import atomic_file, locked, remove_leftovers, sync_to_disk, temporary_path
from clipfeat.system.shards import WHOLE, Shard
from clipfeat.types import PointFeatures

log = logging.getLogger(__name__)

# Keys that may change from one run to the next into the same folder: they say how and how much, not what is in a file.
_FREE_KEYS = (
    "output_dir", "resume", "device", "devices", "batch_size", "num_workers", "on_bad_frame", "shard", "engine", "vis",
    "check", "uv_index", "scenes_file", "frames_per_scene", "frame_stride", "frame_selection", "model.allow_random",
    "cache", "map_dtype", "model.offload", "report", "store", "data_root", "formats", "eval_every", "checkpoint_every",
    "tensorboard", "train_scenes_file", "val_scenes_file",
)  # fmt: skip


_ANOTHER_FOLDER = "Choose another folder, or resume=overwrite to do everything again"

_FRAME_FILES = re.compile(rf"frame_\d+({'|'.join(re.escape(fmt.suffix) for fmt in FORMATS.values())})|vis_\d+\.png")
"""What a run writes into the folder of a scene."""

_RECORD_FILE = re.compile(r"frames(\.\d+)?\.jsonl")


class RunFolder:
    """Everything that a run writes goes through here.

    A frame is done when its file has its name: files take their names whole, so no list can disagree with the disk.
    ``frames.jsonl`` is a record and not asked what is done. Several shards may share a folder: each has a record and a
    summary of its own (``frames.<shard>.jsonl``, ``summary.<shard>.json``), and all records are read as one.

    Attributes:
        path: the folder.
        files: the feature files in it.
        keeps_map: whether a frame is written as a ``GridFrame`` and not as ``PointFeatures``.
        shard: who writes.

    Args:
        path: the folder; made if missing.
        format_name: one of ``FORMATS``.
        dtype: of pts_feat on disk.
        shard: who writes.

    Raises:
        OutputError: If the folder can't be made or written to.
    """

    def __init__(self, path: Path, format_name: str, dtype: str, shard: Shard = WHOLE):
        self.path = path
        self.shard = shard
        self.format_name = format_name
        self.dtype = dtype
        self.files = open_files(path, format_name)
        self.keeps_map = FORMATS[format_name].keeps_map
        self._appending = threading.Lock()
        self._first = threading.Lock()
        self._claimed: dict[str, Any] | None = None
        make_writable(path, "output_dir")

    def feature_path(self, scene_id: str, frame_id: int) -> Path:
        """Where a frame's features are written."""
        return self.files.frame_path(scene_id, frame_id)

    def picture_path(self, scene_id: str, frame_id: int) -> Path:
        """Where a frame's picture goes."""
        return picture_path(self.path, scene_id, frame_id)

    def done(self, frames: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
        """Those of the frames whose features are there, whole.

        Raises:
            DataError: If a scene's folder can't be listed, or holds files of another format.
        """
        asked = set(frames)
        return {(s, i) for s in {scene_id for scene_id, _ in asked} for i in self.files.scan(s) if (s, i) in asked}

    def remove_leftovers(self, scenes: Iterable[str]) -> None:
        """Removes the temporary files that killed processes left in the folder and in those of some scenes."""
        count = remove_leftovers([self.path, *(self.path / scene_id for scene_id in scenes)])
        if count:
            log.info("%d unfinished files of a run that was killed are removed", count)

    def done_before(self, frames: list[tuple[str, int]], config: dict[str, Any]) -> set[tuple[str, int]]:
        """The frames that earlier runs have done; those that have no line in ``frames.jsonl`` get it.

        A run may be killed between a file and its line. A file of another size than its line says is read as a whole:
        it may be of before a power cut, or have been cut off when it was copied.

        Args:
            frames: of this run.
            config: of this run.

        Raises:
            OutputError: If they were done with another configuration; the differing keys are listed.
        """
        if holds_features(self.path):
            check_config(self.path, config)
        done = self.done(frames)
        if done and not (self.path / "config.yaml").is_file():
            raise OutputError(
                f"output_dir={self.path} holds {len(done)} of the frames, but no config.yaml that says how they were "
                f"made. {_ANOTHER_FOLDER}"
            )
        known = {k: record["bytes"] for k, record in latest_lines(self.path).items() if record["status"] == "done"}
        for key in [key for key in frames if key in done]:
            own_size = self.files.own_size(*key)
            if key in known and own_size in (None, known[key]):
                continue
            try:
                meta = self.files.read(*key, only_meta=key not in known)[1]
                self.append_record(done_record(*key, meta, self.files.size(*key), {}))
            except DataError as error:
                log.warning("WARNING %s (it is done again now)", error)
                done.remove(key)
        return done

    def undrawn(self, pictured: Collection[tuple[str, int]]) -> set[tuple[str, int]]:
        """Those of the frames that are to have a picture that are done and have none.

        Raises:
            DataError: If a scene's folder can't be listed.
        """
        return {key for key in self.done(pictured) if not self.picture_path(*key).is_file()}

    def write(self, scene_id: str, frame_id: int, features: PointFeatures | GridFrame, meta: dict[str, Any]) -> int:
        """Writes a frame's features, or its map, and returns the bytes.

        Raises:
            OutputError: If that fails, or another run has claimed the folder before this one had written anything.
        """
        if self._claimed is not None:
            with self._first, locked(self.path):
                if self._claimed is not None:
                    check_config(self.path, self._claimed)
                    size = self._write(scene_id, frame_id, features, meta)
                    self._claimed = None
                    return size
        return self._write(scene_id, frame_id, features, meta)

    def _write(self, scene_id: str, frame_id: int, features: PointFeatures | GridFrame, meta: dict[str, Any]) -> int:
        return write_features(self.feature_path(scene_id, frame_id), self.format_name, features, meta, self.dtype)

    def finish_scenes(self, frames: Sequence[tuple[str, int]], todo: Sequence[tuple[str, int]]) -> None:
        """Finishes the scenes that have nothing left to do, as a run does that was stopped just before.

        Args:
            frames: of this run.
            todo: those of them that are still to do.

        Raises:
            OutputError: If that fails.
            DataError: If a frame is damaged.
        """
        if not FORMATS[self.format_name].by_scene:
            return
        unfinished = {scene_id for scene_id, _ in todo}
        for scene_id in dict.fromkeys(scene_id for scene_id, _ in frames):
            if scene_id not in unfinished:
                self.files.finish_scene(scene_id)

    def write_head(self, name: str, weights: dict[str, torch.Tensor]) -> None:
        """Writes ``head_<name>.safetensors``, for a head that has weights: without them its features mean nothing.

        Raises:
            OutputError: If that fails.
        """
        if weights:
            with atomic_file(self.path / f"head_{name}.safetensors") as file:
                file.write(save({key: value.detach().cpu().contiguous() for key, value in weights.items()}))

    def claim(
        self, config: dict[str, Any], model: dict[str, Any], frames: Collection[tuple[str, int]], *, overwrite: bool
    ) -> None:
        """Makes the folder this run's: writes ``config.yaml`` and ``model.json``.

        What a run left that finished nothing stands in nobody's way: its records go.

        Args:
            config: the configuration.
            model: ``ClipModel.describe()``.
            frames: of this run.
            overwrite: whether what ``replaced`` names is removed first. The two files go last: if the process is killed
                before, they still tell whose results these are.

        Raises:
            OutputError: If it holds results of another configuration or model, and ``overwrite`` is false; the
                differing keys are listed.
        """
        with locked(self.path):
            if overwrite:
                remove_files(self.replaced(config, model, frames))
            elif not holds_features(self.path):
                if holds_another(self.path, config) or different_keys(self.read_model() or model, model):
                    remove_files(self._records_before(config))
            else:
                check_config(self.path, config)
                differing = different_keys(self._model_before(frames) or model, model)
                if differing:
                    raise OutputError(
                        f"output_dir={self.path} holds features of another model, which differs in "
                        f"{'; '.join(differing)}. {_ANOTHER_FOLDER}"
                    )
            write_config(self.path, config)
            with atomic_file(self.path / "model.json") as file:
                file.write(json.dumps(model, indent=2, allow_nan=False).encode())
        self._claimed = config

    def replaced(
        self, config: dict[str, Any], model: dict[str, Any], frames: Collection[tuple[str, int]]
    ) -> list[Path]:
        """The files that ``claim(…, overwrite=True)`` removes.

        Those of the run's own frames; and if the folder holds results of another configuration or model, all that
        clipfeat has written here. Other files stay.
        """
        own = [path for key in frames for path in (self.feature_path(*key), self.picture_path(*key))]
        before = self._model_before(frames) or model
        if not (holds_another(self.path, config) or different_keys(before, model)):
            return [path for path in own if path.is_file()]
        # Of files named after scenes only those of scenes that a run has worked on: others may be the user's own.
        scenes = [self.path / f"{scene_id}.h5" for scene_id in {scene_id for scene_id, _ in latest_lines(self.path)}]
        features = [*scene_files(self.path, _FRAME_FILES), *(path for path in scenes if path.is_file())]
        return features + self._records_before(config)

    def _records_before(self, config: dict[str, Any]) -> list[Path]:
        """What is there beside features and pictures of a run with another configuration."""
        names = ["frames.jsonl", "summary.json", "model.json", "report.html"]
        names += ["check.json"] if config.get("check") == "no" else []  # or it is of this run already
        patterns = ["head_*.safetensors", "frames.*.jsonl", "summary.*.json"]
        records = [*chain.from_iterable(map(self.path.glob, patterns)), *(self.path / name for name in names)]
        return [path for path in records if path.is_file()]

    def read_model(self) -> dict[str, Any]:
        """The content of ``model.json``: whose features these are; empty where there is none."""
        return read_json(self.path / "model.json")

    def _model_before(self, frames: Iterable[tuple[str, int]]) -> dict[str, Any]:
        """Whose features the folder holds; empty if it holds none."""
        model = self.read_model()
        if not model and (self.path / "config.yaml").is_file():
            for key in frames:
                with suppress(DataError, KeyError):
                    return dict(self.files.read(*key, only_meta=True)[1]["model"])
        return model

    def append_record(self, record: dict[str, Any]) -> None:
        """Adds a line, and the time, to the shard's own ``frames.jsonl``. Safe to call from several threads.

        Raises:
            OutputError: If that fails.
        """
        path = self.path / self.shard.file_name("frames.jsonl")
        line = json.dumps(record | {"time": round(time.time(), 3)}, allow_nan=False).encode() + b"\n"
        try:
            with self._appending, path.open("ab+") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(size - 1, 0))
                # A process that was killed, or a full disk, may have left half a line: it must not swallow this one.
                file.write(line if file.read(1) in (b"", b"\n") else b"\n" + line)
        except OSError as error:
            raise OutputError(f"{path}: can't be written ({error.strerror or error})") from error

    def records(self) -> list[dict[str, Any]]:
        """The latest line of each frame, and of each scene that could not be read, of all shards.

        Those of files that are gone are left out; a damaged line is passed over.
        """
        latest = latest_lines(self.path)
        done = self.done((s, i) for (s, i), record in latest.items() if i is not None and record["status"] == "done")
        return [record for key, record in latest.items() if record["status"] == "failed" or key in done]

    def settled(self, frames: Iterable[tuple[str, int]]) -> bool:
        """Whether each of the frames is done, or has failed, by whatever shard."""
        frames = list(frames)
        if not latest_lines(self.path).keys() >= set(frames):
            return False  # known without a look at each scene
        return {(r["scene_id"], r["frame_id"]) for r in self.records()} >= set(frames)

    def read_summary(self, shard: Shard | None = None) -> dict[str, Any]:
        """The content of ``summary.json``, or of a shard's own; empty where there is none, as after a crash."""
        return read_json(self.path / (shard or WHOLE).file_name("summary.json"))

    def write_summary(self, summary: dict[str, Any], shard: Shard | None = None) -> None:
        """Writes ``summary.json``, or a shard's own; the records that it sums up are on the disk before.

        Raises:
            OutputError: If that fails.
        """
        sync_to_disk(self.path / self.shard.file_name("frames.jsonl"))
        with atomic_file(self.path / (shard or WHOLE).file_name("summary.json")) as file:
            file.write(json.dumps(summary, indent=2, allow_nan=False).encode())


def record_files(folder: Path) -> list[Path]:
    """The ``frames.jsonl`` of a folder, and those of its shards."""
    return sorted(path for path in folder.glob("frames*.jsonl") if _RECORD_FILE.fullmatch(path.name) and path.is_file())


def latest_lines(folder: Path) -> dict[tuple[str, int | None], dict[str, Any]]:
    """The latest line of each frame, and of each scene (frame None) that could not be read, in whichever record.

    A damaged line is passed over.
    """
    latest: dict[tuple[str, int | None], dict[str, Any]] = {}
    files = record_files(folder)
    records = chain.from_iterable(map(_whole_lines, files))
    # Within one file the order stands, whatever its clock did.
    for record in records if len(files) < 2 else sorted(records, key=_written_at):
        record.pop("time", None)
        latest.pop((record["scene_id"], None), None)  # by now it can be read, or its reason is another
        latest[record["scene_id"], record["frame_id"]] = record
    return latest


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            hash((record["scene_id"], record["frame_id"]))
            if _is_whole(record):
                yield record
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue


def _written_at(record: dict[str, Any]) -> float:
    """Seconds since 1970; 0 of a line that does not tell."""
    at = record.get("time")
    return at if isinstance(at, (int, float)) and math.isfinite(at) else 0.0


def done_record(
    scene_id: str, frame_id: int, meta: dict[str, Any], size: int, seconds: dict[str, float]
) -> dict[str, Any]:
    """The line of a frame that is done.

    Args:
        scene_id: scene.
        frame_id: frame number.
        meta: of its file.
        size: bytes of its file.
        seconds: spent on it, by stage; empty where nobody knows any more.
    """
    points = meta.get("points", {})
    return {
        "scene_id": scene_id,
        "frame_id": frame_id,
        "status": "done",
        "points": points,
        "visible_share": round(visible_share(points), 4),
        "depth": meta.get("depth", True),
        "bytes": size,
        "seconds": seconds,
    }


def _is_whole(record: dict[str, Any]) -> bool:
    """Whether a line holds what the summary needs of it; may raise what damaged lines bring about."""
    if record["status"] == "failed":
        return isinstance(record["why"], str)
    numbers = [record["frame_id"], record["bytes"], *record["points"].values()]
    return record["status"] == "done" and all(isinstance(number, int) for number in numbers)


def make_writable(path: Path, key: str) -> None:
    """Makes a folder and tries whether it can be written to; ``key`` names it in the message.

    Raises:
        OutputError: If it can't.
    """
    probe = temporary_path(path / "probe")
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{key}={path}: can't be written to ({error.strerror or error}); choose another") from error


def picture_path(folder: Path, scene_id: str, frame_id: int) -> Path:
    """Where a frame's picture goes below a folder."""
    return folder / scene_id / f"vis_{frame_id}.png"


def scene_files(folder: Path, names: re.Pattern[str]) -> list[Path]:
    """The files of all scenes in a run's folder whose whole name fits a pattern."""
    return [path for path in sorted(folder.glob("*/*")) if names.fullmatch(path.name) and path.is_file()]


def remove_files(paths: Iterable[Path]) -> None:
    """Removes files one after another, and the folders of scenes that they leave empty; they stay away.

    Raises:
        OutputError: If one can't be removed.
    """
    folders = set()
    for path in paths:
        folders.add(path.parent)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{path}: can't be removed ({error.strerror or error}); choose another folder") from error
        with suppress(OSError):
            path.parent.rmdir()
    for folder in folders | {folder.parent for folder in folders if not folder.is_dir()}:
        sync_to_disk(folder)  # or a power cut would bring them back, under the configuration that comes now


def check_config(folder: Path, config: dict[str, Any]) -> None:
    """Refuses to add to the results of another configuration; a folder without ``config.yaml`` is nobody's.

    Raises:
        OutputError: If the folder holds such; the differing keys are listed.
    """
    if (folder / "config.yaml").is_file():
        differing = different_keys(read_config(folder), config)
        if differing:
            raise OutputError(
                f"{folder} holds results of another configuration, which differs in {'; '.join(differing)}. "
                f"{_ANOTHER_FOLDER}"
            )


def holds_another(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a folder holds what another configuration made; one without ``config.yaml`` is nobody's."""
    try:
        return (folder / "config.yaml").is_file() and bool(different_keys(read_config(folder), config))
    except OutputError:
        return True


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Writes ``config.yaml``.

    Raises:
        OutputError: If that fails.
    """
    with atomic_file(folder / "config.yaml") as file:
        file.write(yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration whose results a folder holds.

    Raises:
        OutputError: If it can't be read.
    """
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except Exception as error:  # of damaged text, YAML raises its own errors and others
        raise OutputError(f"{path}: can't be read ({error}). {_ANOTHER_FOLDER}") from error
    if not isinstance(config, dict):
        raise OutputError(f"{path}: holds no configuration. {_ANOTHER_FOLDER}")
    return config


def different_keys(before: Any, now: Any, prefix: str = "") -> list[str]:
    """Names and values of the keys in which two nested dictionaries differ, keys that may differ left out."""
    if prefix in _FREE_KEYS:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in dict.fromkeys([*before, *now]):
            found += different_keys(before.get(key), now.get(key), f"{prefix}.{key}" if prefix else str(key))
        return found
    return [] if before == now else [f"{prefix}: {before} there, {now} now"]


def read_json(path: Path) -> dict[str, Any]:
    """The dictionary that a JSON file holds; empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
