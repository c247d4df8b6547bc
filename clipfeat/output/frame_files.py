"""Which feature files lie in a folder, and under which names. Whoever asks whether a frame is done asks here."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clipfeat.errors import DataError
from clipfeat.output.files import FORMATS, read_arrays

_FRAME_FILE = re.compile(r"frame_(0|[1-9][0-9]*)(\.[a-z0-9]+)")

_BY_SUFFIX = {fmt.suffix: name for name, fmt in FORMATS.items()}


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
        found = [name for name in subfolders(self.folder) if next(self.scan(name), None) is not None]
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


def detect_format(folder: Path) -> str:
    """Name of the format that a folder is of, told by the first file that is found.

    Raises:
        DataError: If there is no such folder, it can't be listed, or there is no feature file in it.
    """
    for scene_id in subfolders(folder):
        for _, suffix in feature_files(folder / scene_id):
            return _BY_SUFFIX[suffix]
    raise DataError(
        f"{folder}: holds no features, expected <scene>/frame_<i> with one of {', '.join(_BY_SUFFIX)}; "
        f"give the output_dir of clipfeat-extract"
    )


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


def subfolders(folder: Path) -> Iterator[str]:
    """Names of the folders in a folder, hidden ones left out, in no order.

    Raises:
        DataError: If it can't be listed.
    """
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no such folder; give the output_dir of clipfeat-extract") from error
    except OSError as error:
        raise DataError(f"{folder}: can't be listed ({error.strerror or error})") from error


def natural_key(name: str) -> list[tuple[int, str]]:
    """To sort by: the numbers in a name count as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]
