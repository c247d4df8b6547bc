"""What every data set offers, and the choices of scenes and frames that are the same for all of them."""

import dataclasses
import re
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from clipfeat.data.frame_paths import frame_paths
from clipfeat.data.rasters import read_labels
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Frame

_LARGEST = (1 << 63) - 1
"""Number of a frame that any array can hold."""

_SCENE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


class Dataset(Protocol):
    """A source of frames. Safe to call from several threads.

    The frames keep the conventions of ``clipfeat.types``: OpenCV axes, metres, ``cam_to_world``, pixel centres on
    integers, depth registered to colour.
    """

    def scenes(self) -> list[str]:
        """All scenes, sorted."""
        ...

    def frame_ids(self, scene_id: str) -> list[int]:
        """The numbers of a scene's frames, ascending.

        Raises:
            DataError: If there is no such scene, or it can't be read at all.
        """
        ...

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """Reads one frame.

        Raises:
            FrameError: If this frame can't be used.
            DataError: If the scene can't, so that its other frames can't either.
        """
        ...


class MaskedDataset:
    """A data set whose frames get their external instance masks.

    Args:
        dataset: where the frames come from.
        pattern: path of the masks, with {scene} and {frame} in it, see ``FramePaths``.
        root: of the data set, where a relative path may begin.
    """

    def __init__(self, dataset: Dataset, pattern: str, root: str | None = None):
        self.dataset = dataset
        self.pattern = pattern
        self._path = frame_paths(pattern, dataset, root)
        self.names_of = getattr(dataset, "names_of", None)
        self.scenes = dataset.scenes
        self.frame_ids = dataset.frame_ids

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """See ``Dataset``.

        Raises:
            FrameError: Also if the mask is missing, damaged or of another size than the colour picture.
        """
        frame = self.dataset.load(scene_id, frame_id)
        path = self._path(scene_id, frame_id)
        mask = read_labels(path, "mask")
        width, height = frame.picture.width, frame.picture.height
        if mask.shape != (height, width):
            raise FrameError(
                f"{path}: mask of {mask.shape[1]}×{mask.shape[0]} pixels, but the colour picture has {width}×{height}"
            )
        return dataclasses.replace(frame, mask=mask)


def check_scene_name(name: str, where: str) -> str:
    """Returns the name if it can be a folder's name and nothing else.

    Raises:
        DataError: If it is a path (``../x``, ``/etc``), empty or has odd characters.
    """
    if not _SCENE_NAME.fullmatch(name):
        raise DataError(
            f"{where}: scene name '{name}' is not allowed: letters, digits, '_', '-', '.', and no path; rename it"
        )
    return name


def path_below(value: Any, where: str) -> PurePosixPath | None:
    """A path below a folder, that of the file which tells it; None for none.

    Raises:
        DataError: If it is something else.
    """
    if value is None:
        return None
    path = PurePosixPath(value) if isinstance(value, str) else None
    if path is None or not path.parts or "\0" in str(value):
        raise DataError(f"{where} is {str(value)[:60]!r}, expected a path")
    if path.is_absolute() or ".." in path.parts or "\\" in str(value):
        raise DataError(f"{where} '{value}' leaves the folder of the file, which is not allowed")
    return path


def frame_number(digits: str, where: object) -> int:
    """The number of a frame, which every format can hold.

    Raises:
        DataError: If it is larger than 64 bits can hold, as times of day down to microseconds are.
    """
    number = int(digits)
    if number > _LARGEST:
        raise DataError(f"{where}: a frame's number has 18 digits at most, this has {len(digits)}; rename the files")
    return number


def check_frame_numbers(frame_ids: Sequence[int], where: str) -> None:
    """The same of numbers that a layout of somebody else's gives; nor may they be negative.

    Raises:
        DataError: If one is not from 0 to 2⁶³ - 1.
    """
    for number in (min(frame_ids, default=0), max(frame_ids, default=0)):
        if not 0 <= number <= _LARGEST:
            raise DataError(f"{where}: frame {number}, but a frame's number is 0 or more and has 18 digits at most")


def read_scenes_file(path: Path) -> list[str]:
    """Reads a scene a line; empty lines and lines that start with # are passed over, repeats are dropped.

    Raises:
        DataError: If the file can't be read, names no scene, or holds a name that is not allowed.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"scenes_file={path}: no such file, expected a text file with a scene a line") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"scenes_file={path}: can't be read as text ({error})") from error
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise DataError(f"scenes_file={path}: names no scene, expected one a line")
    return list(dict.fromkeys(check_scene_name(name, f"scenes_file={path}") for name in names))


def seeded_rng(seed: int, *key: object) -> np.random.Generator:
    """A generator that depends on the seed and the key alone: not on the order of the work, nor on the process."""
    return np.random.default_rng([seed, zlib.crc32("/".join(map(str, key)).encode())])


def select_frames(
    frame_ids: Sequence[int],
    scene_id: str,
    *,
    stride: int = 1,
    count: int | None = None,
    how: str = "first",
    seed: int = 0,
) -> list[int]:
    """Chooses a scene's frames: every ``stride``-th, and at most ``count`` of those.

    Args:
        frame_ids: ascending.
        scene_id: makes the random choice a scene's own.
        stride: every how many-th frame is looked at.
        count: at most so many; None for all.
        how: "first", "random" (seeded, without replacement), or "uniform" (evenly spread, ends included).
        seed: of the random choice.

    Returns:
        Chosen numbers, ascending.
    """
    candidates = list(frame_ids)[::stride]
    if count is None or count >= len(candidates):
        return candidates
    if how == "first":
        return candidates[:count]
    if how == "random":
        chosen = seeded_rng(seed, scene_id).choice(len(candidates), count, replace=False)
    else:
        chosen = np.linspace(0, len(candidates) - 1, count).round().astype(int)
    return [candidates[i] for i in sorted(chosen)]
