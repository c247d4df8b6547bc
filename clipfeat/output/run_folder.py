"""The folder of one run: which frames are done in it, its configuration, and a line a frame."""

import json
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save

from clipfeat.atomic import TEMPORARY, atomic_file
from clipfeat.errors import DataError, OutputError
from clipfeat.output.files import FORMATS, write_features
from clipfeat.output.frame_files import open_files
from clipfeat.output.grid import GridFrame
from clipfeat.types import PointFeatures

# Keys that may change from one run to the next into the same folder: they say how and how much, not what is in a file.
_FREE_KEYS = (
    "output_dir", "resume", "device", "batch_size", "num_workers", "on_bad_frame", "shard", "vis", "check",
    "uv_index", "scenes_file", "frames_per_scene", "frame_stride", "frame_selection", "model.allow_random",
    "cache", "map_dtype", "model.offload",
)  # fmt: skip


class RunFolder:
    """Everything that a run writes goes through here.

    A frame is done when its file has its name: files take their names whole, so no list can disagree with the disk.

    Attributes:
        path: the folder.
        files: the feature files in it.
        keeps_map: whether a frame is written as a ``GridFrame`` and not as ``PointFeatures``.

    Args:
        path: the folder; made if missing.
        format_name: one of ``FORMATS``.
        dtype: of pts_feat on disk.

    Raises:
        OutputError: If the folder can't be made or written to.
    """

    def __init__(self, path: Path, format_name: str, dtype: str):
        self.path = path
        self.format_name = format_name
        self.dtype = dtype
        self.files = open_files(path, format_name)
        self.keeps_map = FORMATS[format_name].keeps_map
        self._appending = threading.Lock()
        make_writable(path, "output_dir")

    def feature_path(self, scene_id: str, frame_id: int) -> Path:
        """Where a frame's features are written."""
        return self.files.frame_path(scene_id, frame_id)

    def picture_path(self, scene_id: str, frame_id: int) -> Path:
        """Where a frame's picture goes."""
        return self.path / scene_id / f"vis_{frame_id}.png"

    def missing(self, frames: list[tuple[str, int]], *, with_pictures: bool) -> list[tuple[str, int]]:
        """The frames that are still to do.

        The pictures of a scene share their colours and their embedding, so with pictures a scene is done as a whole:
        if one of its frames is missing, or all of its pictures are, all of its frames are to do.

        Raises:
            DataError: If a scene's folder can't be listed, or holds files of another format.
        """
        done = {scene_id: set(self.files.scan(scene_id)) for scene_id in {scene_id for scene_id, _ in frames}}
        todo = {(scene_id, frame_id) for scene_id, frame_id in frames if frame_id not in done[scene_id]}
        if with_pictures:
            scenes = {scene_id for scene_id, _ in todo}
            pictured = {scene_id for scene_id, frame_id in frames if self.picture_path(scene_id, frame_id).is_file()}
            todo |= {key for key in frames if key[0] in scenes or key[0] not in pictured}
        return [key for key in frames if key in todo]

    def write(self, scene_id: str, frame_id: int, features: PointFeatures | GridFrame, meta: dict[str, Any]) -> int:
        """Writes a frame's features, or its map, and returns the bytes.

        Raises:
            OutputError: If that fails.
        """
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

    def claim(self, config: dict[str, Any], *, overwrite: bool) -> None:
        """Writes ``config.yaml``, unless the folder holds the results of another configuration.

        Raises:
            OutputError: If it does, and ``overwrite`` is false; the differing keys are listed.
        """
        claim_folder(self.path, config, overwrite=overwrite)

    def check_model(self, done: Iterable[tuple[str, int]], model: dict[str, Any]) -> None:
        """Refuses to add features of one model to those of another.

        Args:
            done: frames that are there already; the first readable one is looked at.
            model: ``ClipModel.describe()``.

        Raises:
            OutputError: If their model differs.
        """
        for scene_id, frame_id in done:
            try:
                before = self.files.read(scene_id, frame_id, only_meta=True)[1]["model"]
            except DataError:
                continue
            differing = different_keys(before, model)
            if differing:
                raise OutputError(
                    f"output_dir={self.path} holds features of another model, which differs in {'; '.join(differing)}. "
                    f"Choose another output_dir, or resume=false to do everything again"
                )
            return

    def append_record(self, record: dict[str, Any]) -> None:
        """Adds a line to ``frames.jsonl``. Safe to call from several threads.

        Raises:
            OutputError: If that fails.
        """
        path = self.path / "frames.jsonl"
        try:
            with self._appending, path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, allow_nan=False) + "\n")
        except OSError as error:
            raise OutputError(f"{path}: can't be written ({error.strerror or error})") from error

    def records(self) -> list[dict[str, Any]]:
        """The latest line of each frame; a line cut off by a crash is passed over."""
        latest: dict[tuple[str, int], dict[str, Any]] = {}
        path = self.path / "frames.jsonl"
        if path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    record = json.loads(line)
                    latest[record["scene_id"], record["frame_id"]] = record
                except (ValueError, KeyError, TypeError):
                    continue
        return list(latest.values())

    def read_summary(self) -> dict[str, Any]:
        """The content of ``summary.json``; empty where there is none, as after a crash."""
        try:
            summary: dict[str, Any] = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return summary

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes ``summary.json``.

        Raises:
            OutputError: If that fails.
        """
        with atomic_file(self.path / "summary.json") as file:
            file.write(json.dumps(summary, indent=2, allow_nan=False).encode())


def make_writable(path: Path, key: str) -> None:
    """Makes a folder and tries whether it can be written to; ``key`` names it in the message.

    Raises:
        OutputError: If it can't.
    """
    probe = path / f".probe.{os.getpid()}{TEMPORARY}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{key}={path}: can't be written to ({error.strerror or error}); choose another") from error


def claim_folder(folder: Path, config: dict[str, Any], *, overwrite: bool = False) -> None:
    """Writes ``config.yaml``, unless the folder holds the results of another configuration.

    Raises:
        OutputError: If it does, and ``overwrite`` is false; the differing keys are listed.
    """
    path = folder / "config.yaml"
    if path.is_file() and not overwrite:
        differing = different_keys(read_config(folder), config)
        if differing:
            raise OutputError(
                f"{folder} holds results of another configuration, which differs in {'; '.join(differing)}. "
                f"Choose another folder, or resume=false to do everything again"
            )
    with atomic_file(path) as file:
        file.write(yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration whose results a folder holds.

    Raises:
        OutputError: If it can't be read.
    """
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise OutputError(f"{path}: can't be read ({error}); choose another folder or delete it") from error
    if not isinstance(config, dict):
        raise OutputError(f"{path}: holds no configuration; choose another folder or delete it")
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
