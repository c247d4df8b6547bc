"""The folder of one run: which frames are done in it, whose features they are, and a line a frame."""

import dataclasses
import json
import logging
import os
import re
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from clipfeat.errors import DataError, OutputError
from clipfeat.model.heads import head_file
from clipfeat.output.files import FORMATS, AnyFeatures, write_features
from clipfeat.output.folders import (
    ANOTHER_FOLDER,
    check_config,
    different_keys,
    holds_another,
    make_writable,
    picture_path,
    read_json,
    remove_files,
    scene_files,
    write_config,
)
from clipfeat.output.frame_files import holds_features, open_files
from clipfeat.output.record_table import SceneRecord, latest_lines, scenes_told
from clipfeat.output.records import done_record, record_files
from clipfeat.output.totals import Totals, add_up
from clipfeat.system.atomic import atomic_file, locked, remove_leftovers, sync_to_disk
from clipfeat.system.shards import WHOLE, Shard, all_shares

log = logging.getLogger(__name__)

_FRAME_FILES = re.compile(rf"frame_\d+({'|'.join(re.escape(fmt.suffix) for fmt in FORMATS.values())})|vis_\d+\.png")
"""What a run writes into the folder of a scene."""


_SOONER_READ = 100
"""Frames whose files a shard reads whole before it reads what all other shards have recorded."""


class RunFolder:
    """Everything that a run writes goes through here.

    A frame is done when its file has its name: files take their names whole, so no list can disagree with the disk.
    ``frames.jsonl`` is a record and not asked what is done. Several shards may share a folder: each has a record and a
    summary of its own (``frames.<shard>.jsonl``, ``summary.<shard>.json``), and all records are read as one.

    Attributes:
        path: the folder.
        files: the feature files in it.
        holds: what is written of a frame: points, map or segments, see ``FrameFormat``.
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
        self.holds = FORMATS[format_name].holds
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
                f"made. {ANOTHER_FOLDER}"
            )
        if not done:
            return done
        doubtful, known = self._doubtful(done, self._own_records())
        if not self.shard.is_whole:
            if len(doubtful) > _SOONER_READ:  # the shards may have been others before
                doubtful, known = self._doubtful(doubtful, record_files(self.path))
            else:
                known = doubtful  # as far as this shard can tell
        for key in [key for key in frames if key in doubtful]:
            try:
                meta = self.files.read(*key, only_meta=key not in known)[1]
                self.append_record(done_record(*key, meta, self.files.size(*key), {}))
            except DataError as error:
                log.warning("WARNING %s (it is done again now)", error)
                done.remove(key)
        return done

    def _doubtful(
        self, done: set[tuple[str, int]], records: Collection[Path]
    ) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
        """Frames whose files are not as large as their latest lines say, and those of them that have such a line.

        Args:
            done: that have files.
            records: that are asked.
        """
        doubtful, known = set(done), set()
        for record in latest_lines(records, {scene_id for scene_id, _ in done}):
            for frame_id, size in zip(record.frames, record.sizes.tolist(), strict=True):
                key = (record.scene_id, frame_id)
                if key in doubtful:
                    if self.files.own_size(*key) in (None, size):
                        doubtful.remove(key)
                    else:
                        known.add(key)
        return doubtful, known

    def undrawn(self, pictured: Collection[tuple[str, int]]) -> set[tuple[str, int]]:
        """Those of the frames that are to have a picture that are done and have none.

        Raises:
            DataError: If a scene's folder can't be listed.
        """
        return {key for key in self.done(pictured) if not self.picture_path(*key).is_file()}

    def write(self, scene_id: str, frame_id: int, features: AnyFeatures, meta: dict[str, Any]) -> int:
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

    def _write(self, scene_id: str, frame_id: int, features: AnyFeatures, meta: dict[str, Any]) -> int:
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

    def write_head(self, weights: dict[str, torch.Tensor], model: dict[str, Any]) -> None:
        """Writes ``head_<name>.safetensors``, for a head that has weights: without them its features mean nothing.

        Args:
            weights: of the head.
            model: ``ClipModel.describe()``.

        Raises:
            OutputError: If that fails.
        """
        if weights:
            with atomic_file(self.path / f"head_{model['head']}.safetensors") as file:
                file.write(head_file(weights, model))

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
                        f"{'; '.join(differing)}. {ANOTHER_FOLDER}"
                    )
            write_config(self.path, config)
            with atomic_file(self.path / "model.json") as file:
                file.write(json.dumps(model, indent=2, allow_nan=False).encode())
        self.expect(config)

    def expect(self, config: dict[str, Any]) -> None:
        """Lets the first write look once more whether the folder is of this configuration: somebody may come between.

        Args:
            config: that the folder is claimed for, by this process or by the one that leads it.
        """
        self._claimed = config

    def replaced(
        self, config: dict[str, Any], model: dict[str, Any], frames: Collection[tuple[str, int]]
    ) -> list[Path]:
        """The files that ``claim(…, overwrite=True)`` removes.

        Those of the run's own frames; and if the folder holds results of another configuration or model, all that
        clipfeat has written here. Other files stay.
        """
        own = [path for key in frames for path in (self.feature_path(*key), self.picture_path(*key))]
        if not self.shard.is_whole:  # or the others would take this one for done
            own.append(self.path / self.shard.file_name("summary.json"))
        before = self._model_before(frames) or model
        if not (holds_another(self.path, config) or different_keys(before, model)):
            return [path for path in own if path.is_file()]
        # Of files named after scenes only those of scenes that a run has worked on: others may be the user's own.
        scenes = [self.path / f"{scene_id}.h5" for scene_id in scenes_told(record_files(self.path))]
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

    def records(self) -> Iterator[SceneRecord]:
        """The latest line of each frame, and of each scene that could not be read, of all shards, scene by scene.

        Those of files that are gone are left out; a damaged line is passed over.

        Raises:
            DataError: If a scene's folder can't be listed, or holds files of another format.
        """
        return self._of_files(latest_lines(record_files(self.path)))

    def _of_files(self, records: Iterable[SceneRecord]) -> Iterator[SceneRecord]:
        # A scene of which nothing is done may have any name, and has no folder.
        return (r.among(set(self.files.scan(r.scene_id))) if r.frames else r for r in records)

    def _own_records(self) -> list[Path]:
        """The record that the shard writes, if it is there; of a run that is no shard, all records."""
        if self.shard.is_whole:
            return record_files(self.path)
        path = self.path / self.shard.file_name("frames.jsonl")
        return [path] if path.is_file() else []

    def own_totals(self, scenes: Collection[str]) -> Totals:
        """What is in the folder; of a shard, what there is of some scenes.

        A shard asks its own record, and the others' only if it finds files that its own says nothing of, as where the
        shards were others before.

        Args:
            scenes: of the shard.

        Raises:
            DataError: If a scene's folder can't be listed, or holds files of another format.
        """
        if self.shard.is_whole:
            return add_up(self.records())
        totals = add_up(self._of_files(latest_lines(self._own_records(), scenes)))
        untold = (s for s in scenes if s not in totals.scenes or not totals.scenes[s].frames)
        if totals.unlisted or any(next(self.files.scan(scene_id), None) is not None for scene_id in untold):
            return add_up(self._of_files(latest_lines(record_files(self.path), scenes)))
        return totals

    def totals_if_settled(self, frames: Mapping[str, Collection[int]]) -> Totals | None:
        """What all shards together have done, once each of the frames is done, or has failed, by whatever shard.

        The records of all are read when each shard that has frames has said in its summary that it is through, or all
        of its frames have files; that takes a small file a shard. So not every shard that ends reads what all wrote.

        Args:
            frames: of each scene, those of all shards.

        Raises:
            DataError: If a scene's folder can't be listed, or holds files of another format.
        """
        shares = all_shares({scene_id: len(of_scene) for scene_id, of_scene in frames.items()}, self.shard.count)
        for index, share in enumerate(shares):
            count = sum(len(frames[scene_id]) for scene_id in share)
            if not self._is_through(index, count) and not self._has_all(share, frames):
                return None
        totals = add_up(self.records(), frames)
        return None if totals.unsettled else totals

    def _is_through(self, index: int, count: int) -> bool:
        """Whether a shard says that it has come to its end, and of so many frames what became of them."""
        shard = Shard(index, self.shard.count)
        summary = self.read_summary(shard)
        run, told = summary.get("run"), [summary.get(name) for name in ("frames", "failed")]
        of_run = shard.is_whole or summary.get("shard") == dataclasses.asdict(shard)
        ended = of_run and isinstance(run, dict) and run.get("interrupted") is False
        return ended and sum(number for number in told if isinstance(number, int)) >= count

    def _has_all(self, scenes: Sequence[str], frames: Mapping[str, Collection[int]]) -> bool:
        """Whether all frames of scenes have files; the last scene first, for a shard at work has not come to it."""
        return all(set(self.files.scan(scene_id)).issuperset(frames[scene_id]) for scene_id in reversed(scenes))

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
