"""Which feature files lie in a folder, and under which names. Whoever asks whether a frame is done asks here."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clipfeat.errors import DataError, NoResultsError
from clipfeat.output.files import FORMATS, damage_named, read_arrays, read_checked
from clipfeat.output.h5 import group_names, read_h5, write_scene
from clipfeat.system.atomic import atomic_file, locked, sync_to_disk

_FRAME = r"frame_(0|[1-9][0-9]*)"
_FRAME_GROUP = re.compile(_FRAME)
_FRAME_FILE = re.compile(_FRAME + r"(\.[a-z0-9]+)")

_BY_SUFFIX = {fmt.suffix: name for name, fmt in FORMATS.items() if not fmt.by_scene}


class FrameFiles:
    """One file a frame: ``<scene>/frame_<i><suffix>``.

    Files take their names whole, so a frame that is listed is done. Nothing is remembered: each call looks at the disk.

    Args:
        folder: holds one folder a scene. It need not be there yet.
        format_name: one of ``FORMATS``.
    """

    def __init__(self, folder: Path, format_name: str):
        self.folder = folder
        self.format_name = format_name

    def scenes(self) -> list[str]:
        """The scenes that have a frame, in natural order (2 before 10).

        Raises:
            DataError: If a folder can't be listed, or files of another format are met.
        """
        found = [name for name in subfolders(self.folder) if next(self._own_files(name), None) is not None]
        return sorted(found, key=natural_key)

    def frames(self, scene_id: str) -> list[int]:
        """The numbers of a scene's frames, ascending; none for a scene that is not there.

        Raises:
            DataError: If the folder can't be listed, or files of another format are met.
        """
        return sorted(set(self.scan(scene_id)))

    def scan(self, scene_id: str) -> Iterator[int]:
        """The numbers of a scene's frames as they are found: in no order, perhaps twice.

        Raises:
            DataError: If the folder can't be listed, or files of another format are met.
        """
        return self._own_files(scene_id)

    def _own_files(self, scene_id: str) -> Iterator[int]:
        for frame_id, suffix in feature_files(self.folder / scene_id):
            if suffix != FORMATS[self.format_name].suffix:
                raise DataError(
                    f"{self.folder / scene_id}/frame_{frame_id}{suffix}: of output={_BY_SUFFIX[suffix]}, but other "
                    f"files of {self.folder} are of output={self.format_name}; give each format a folder of its own"
                )
            yield frame_id

    def frame_path(self, scene_id: str, frame_id: int) -> Path:
        """Where a frame is written."""
        return self.folder / scene_id / f"frame_{frame_id}{FORMATS[self.format_name].suffix}"

    def path(self, scene_id: str, frame_id: int) -> Path:
        """The file that holds a frame, if any does."""
        return self.frame_path(scene_id, frame_id)

    def size(self, scene_id: str, frame_id: int) -> int:
        """Bytes that a frame takes; of a file of several frames, each takes an equal share.

        Raises:
            OSError: If there is no such frame.
        """
        return self.path(scene_id, frame_id).stat().st_size

    def own_size(self, scene_id: str, frame_id: int) -> int | None:
        """Bytes of the file that holds this frame alone; None where there is none."""
        try:
            return self.frame_path(scene_id, frame_id).stat().st_size
        except OSError:
            return None

    def read(
        self, scene_id: str, frame_id: int, *, only_meta: bool = False
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays (none, if only the meta is asked for) and the meta of a frame.

        Raises:
            DataError: If it is missing, damaged, of a newer schema, or another frame's file.
        """
        path = self.frame_path(scene_id, frame_id)
        arrays, meta = read_arrays(path, only_meta=only_meta)
        found = meta.get("scene_id", scene_id), meta.get("frame_id", frame_id)
        if found != (scene_id, frame_id) or not isinstance(meta.get("model", {}), dict):
            raise DataError(
                f"{path}: holds {found[0]} frame {found[1]}, not this frame's features: copied to the wrong place? "
                f"Delete it and run the same command again"
            )
        return arrays, meta

    def finish_scene(self, scene_id: str) -> None:
        """To be called when no frame of a scene is in work any more: the names of its files last from then on.

        Raises:
            OutputError: If the disk fails.
        """
        sync_to_disk(self.folder / scene_id)


class SceneFiles(FrameFiles):
    """One HDF5 file a scene, ``<scene>.h5``, with a group ``frame_<i>`` for each frame.

    HDF5 files that are being written do not survive a crash. So each frame is a file of its own first, and when the
    scene is finished these become one, which takes its name whole. A frame that is in both is read from its own file:
    that is the later one.
    """

    def scene_path(self, scene_id: str) -> Path:
        """Where the finished frames of a scene are."""
        return self.folder / f"{scene_id}.h5"

    def scenes(self) -> list[str]:
        """The scenes that have a frame, in natural order, see ``FrameFiles``; files of scenes are not looked into."""
        return sorted({*super().scenes(), *scene_files(self.folder)}, key=natural_key)

    def scan(self, scene_id: str) -> Iterator[int]:
        """The numbers of a scene's frames, see ``FrameFiles``.

        Raises:
            DataError: Also if the scene's file can't be read.
        """
        # Their own files first: when these are gone, the frames are in the scene's.
        yield from self._own_files(scene_id)
        path = self.scene_path(scene_id)
        if path.is_file():
            with damage_named(path):
                names = group_names(path)
            yield from (int(match[1]) for match in map(_FRAME_GROUP.fullmatch, names) if match is not None)

    def path(self, scene_id: str, frame_id: int) -> Path:
        """The file that holds a frame, if any does."""
        own, of_scene = self.frame_path(scene_id, frame_id), self.scene_path(scene_id)
        return own if own.is_file() or not of_scene.is_file() else of_scene

    def size(self, scene_id: str, frame_id: int) -> int:
        """Bytes that a frame takes, see ``FrameFiles``."""
        path = self.path(scene_id, frame_id)
        shared = path == self.scene_path(scene_id)
        return path.stat().st_size // (len(group_names(path)) if shared else 1)

    def read(
        self, scene_id: str, frame_id: int, *, only_meta: bool = False
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays and the meta of a frame, see ``FrameFiles``."""
        own = self.frame_path(scene_id, frame_id)
        while self.path(scene_id, frame_id) == own:
            try:
                return super().read(scene_id, frame_id, only_meta=only_meta)
            except DataError as error:
                # It may have become part of the scene's file in this moment, and even have been written anew since.
                is_back = isinstance(error.__cause__, FileNotFoundError) and own.is_file()
                if self.path(scene_id, frame_id) == own and not is_back:
                    raise
        path = self.scene_path(scene_id)
        return read_checked(path, lambda: read_h5(path, arrays=not only_meta, group=f"frame_{frame_id}"))

    def finish_scene(self, scene_id: str) -> None:
        """Makes one file of the frames that have files of their own, and of the scene's file where there is one.

        Raises:
            OutputError: If it can't be written; every frame is where it was.
            DataError: If a frame is damaged; the same.
        """
        if next(self._own_files(scene_id), None) is None:
            return
        with locked(self.folder):  # two processes that were given one scene would lose each other's frames
            self._join(scene_id, sorted(self._own_files(scene_id)))

    def _join(self, scene_id: str, frames: list[int]) -> None:
        if not frames:
            return
        path = self.scene_path(scene_id)
        with atomic_file(path) as file:
            write_scene(file, self._parts(scene_id, frames), path if path.is_file() else None)
        # Its name lasts from here on, before the others go: after a power cut, too, one of both is there.
        for frame_id in frames:
            self.frame_path(scene_id, frame_id).unlink(missing_ok=True)

    def _parts(self, scene_id: str, frames: list[int]) -> Iterator[tuple[str, dict[str, np.ndarray], str]]:
        for frame_id in frames:
            arrays, meta = super().read(scene_id, frame_id)
            yield f"frame_{frame_id}", arrays, json.dumps(meta)


def open_files(folder: Path, format_name: str) -> FrameFiles:
    """The feature files of a folder."""
    return (SceneFiles if FORMATS[format_name].by_scene else FrameFiles)(folder, format_name)


def detect_format(folder: Path) -> str:
    """Name of the format that a folder is of, told by the first file that is found.

    Raises:
        DataError: If there is no such folder, or it can't be listed.
        NoResultsError: If there is no feature file in it.
    """
    if next(scene_files(folder), None) is not None:
        return "h5_scene"
    for scene_id in subfolders(folder):
        for _, suffix in feature_files(folder / scene_id):
            return _BY_SUFFIX[suffix]
    raise NoResultsError(
        f"{folder}: holds no features, expected <scene>/frame_<i> with one of {', '.join(_BY_SUFFIX)}; "
        f"give the output_dir of clipfeat-extract"
    )


def holds_features(folder: Path) -> bool:
    """Whether any frame is done in a folder, of whatever format; looks no further than the first.

    Raises:
        DataError: If it can't be listed.
    """
    if next(scene_files(folder), None) is not None:
        return True
    return any(next(feature_files(folder / scene_id), None) is not None for scene_id in subfolders(folder))


def feature_files(folder: Path) -> Iterator[tuple[int, str]]:
    """Frame number and suffix of the feature files of one scene's folder, in no order; none if there is no folder.

    Raises:
        DataError: If it can't be listed.
    """
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                match = _FRAME_FILE.fullmatch(entry.name)
                if match is not None and match[2] in _BY_SUFFIX and entry.is_file():
                    yield int(match[1]), match[2]
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{folder}: can't be listed ({error.strerror or error})") from error


def scene_files(folder: Path) -> Iterator[str]:
    """Names of the scenes that have a file of their own in a folder, in no order.

    Raises:
        DataError: If it can't be listed.
    """
    return (entry.name[:-3] for entry in _entries(folder) if entry.name.endswith(".h5") and entry.is_file())


def subfolders(folder: Path) -> Iterator[str]:
    """Names of the folders in a folder, hidden ones left out, in no order.

    Raises:
        DataError: If it can't be listed.
    """
    return (entry.name for entry in _entries(folder) if entry.is_dir())


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no such folder; give the output_dir of clipfeat-extract") from error
    except OSError as error:
        raise DataError(f"{folder}: can't be listed ({error.strerror or error})") from error


def natural_key(name: str) -> list[tuple[int, str]]:
    """To sort by: the numbers in a name count as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]
