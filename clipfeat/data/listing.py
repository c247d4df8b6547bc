"""Scenes and frames of folders that patterns tell: which files there are, and which belong together.

By ``{frame}``, files of one number are one frame. By ``{stamp}`` names are times: a frame's number is its picture's
time without the decimal point, and depth, confidence, poses and cameras go with the picture that is nearest, one to
one (``matching``). What is missing, and what is left over, is told once a scene.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from clipfeat.data.base import check_scene_name, frame_number
from clipfeat.data.config import PosedRgbdConfig
from clipfeat.data.json_files import json_object
from clipfeat.data.matching import Matched, match_times, named
from clipfeat.data.roots import start_of_patterns, where_scenes_are
from clipfeat.data.told import ToldOnce
from clipfeat.data.trajectories import read_tum_list
from clipfeat.errors import DataError, FrameError
from clipfeat.system.patterns import PathPattern

log = logging.getLogger(__name__)

_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""Units of ``data.stamp_unit`` in a second."""


@dataclass(frozen=True, eq=False)
class FrameFiles:
    """The files of one kind, such as depth, that belong to the frames of a scene.

    Attributes:
        found: by frame number.
        missing: for a frame without one, the path that was expected; or raises FrameError where there is no such path.
    """

    found: dict[int, Path]
    missing: Callable[[int], Path]

    def of(self, frame_id: int) -> Path:
        """The file of a frame, which may not be there.

        Raises:
            FrameError: If none is near enough in time.
        """
        return self.found.get(frame_id) or self.missing(frame_id)


@dataclass(frozen=True, eq=False)
class Listing:
    """The frames of a scene.

    Attributes:
        color: picture of each frame, ascending by number.
        names: how the picture's name spells the number, or the time; empty where a list numbers the pictures.
        times_s: when each picture was taken, where the layout knows.
        depth: depth of each frame that has one.
        confidence: of the depth; None where the layout has none.
    """

    color: dict[int, Path]
    names: dict[int, str]
    times_s: dict[int, float]
    depth: dict[int, Path]
    confidence: FrameFiles | None = None

    def placeholders(self, frame_id: int) -> dict[str, str]:
        """What {frame}, and {stamp} where names are times, stand for in a frame's own names."""
        name = self.names.get(frame_id, str(frame_id))
        return {"frame": name, "stamp": name} if self.names and self.times_s else {"frame": name}


class PatternFiles:
    """Looks for what a configuration's patterns tell. Not safe to call from several threads at once.

    Args:
        cfg: the layout.
    """

    def __init__(self, cfg: PosedRgbdConfig):
        self.cfg = cfg
        self.root = Path(cfg.root)
        self.pattern = PathPattern(cfg.color or cfg.color_list or "")
        # Methods are cached an instance, so that two data sets never share an entry.
        self.scenes = lru_cache(maxsize=1)(lambda: self._find_scenes(self.root, cfg.root_is_scene))
        self.listing = lru_cache(maxsize=8)(self._list_frames)
        self.json_of = lru_cache(maxsize=8)(_read_json)
        self.tell = ToldOnce(log)

    # Scenes

    def _find_scenes(
        self, root: Path, root_is_scene: bool, pattern: PathPattern | None = None
    ) -> dict[str, dict[str, str]]:
        """Scene id to what its placeholders stand for."""
        root, values = start_of_patterns(root, root_is_scene=root_is_scene)
        pattern = pattern or self.pattern
        keys = [name for name in pattern.names() if name not in ("frame", "stamp")]
        prefix = pattern.depth_of(keys)
        # A placeholder may share its part of the path with {frame}: then each file names its scene.
        found: dict[str, dict[str, str]] = {}
        for part_values, path in pattern.walk(root, values, last=prefix):
            scene_values = {key: part_values[key] for key in keys}
            scene_id = "-".join(scene_values.values())
            if found.get(scene_id) == scene_values or next(pattern.walk(path, part_values, first=prefix), None) is None:
                continue
            check_scene_name(scene_id, str(path))
            if scene_id in found:
                both = " and ".join(sorted("/".join(v.values()) for v in (found[scene_id], scene_values)))
                raise DataError(f"{root}: {both} would both be scene {scene_id}; rename one of them")
            found[scene_id] = scene_values
        return found

    def hint(self) -> str:
        """Of a root that holds no scene, what it may be instead: the end of a message."""
        is_scene = self.cfg.root_is_scene
        of_itself = " (for {scene} the name of the folder itself, by data.root_is_scene=true)" if is_scene else ""
        found = where_scenes_are(self.root, self._find_scenes, root_is_scene=is_scene)
        return found or self._other_ending() or of_itself

    def _other_ending(self) -> str:
        """Whether there are pictures that only end in other letters, told as the end of a message."""
        beginning, _, _ = self.pattern.text.rpartition(".")
        for ending in ("jpg", "png", "jpeg", "JPG", "PNG", "JPEG"):
            pattern = f"{beginning}.{ending}"
            if self.cfg.color is not None and self._find_scenes(
                self.root, self.cfg.root_is_scene, PathPattern(pattern)
            ):
                return f"; the files are there for data.color='{pattern}'"
        return ""

    def values(self, scene_id: str) -> dict[str, str]:
        """What the placeholders stand for in a scene.

        Raises:
            DataError: If there is no such scene.
        """
        check_scene_name(scene_id, "scene")
        values = self.scenes().get(scene_id)
        if values is None:
            raise DataError(f"{self.root}: no such scene {scene_id}, expected {self.pattern.text}{self.hint()}")
        return values

    def path(self, pattern: str, values: dict[str, str]) -> Path:
        """A pattern with its placeholders replaced; those without a value stay."""
        return self._start() / PathPattern(pattern).fill(values)

    def _start(self) -> Path:
        return start_of_patterns(self.root, root_is_scene=self.cfg.root_is_scene)[0]

    # Frames

    def _list_frames(self, scene_id: str) -> Listing:
        cfg, values = self.cfg, self.values(scene_id)
        if cfg.color_list is not None:
            return self._list_timed(scene_id, self.path(cfg.color_list, values))
        color = self._named(cfg.color or "", values)
        listing = Listing(
            color={number: path for number, (_, path) in color.items()},
            names={number: name for number, (name, _) in color.items()},
            times_s={n: self._time(name) for n, (name, _) in color.items()} if "{stamp}" in (cfg.color or "") else {},
            depth={},
        )
        if cfg.depth is not None:
            listing = replace(listing, depth=self.of_frames(scene_id, "depth", cfg.depth, listing).found)
        if cfg.confidence is not None:
            listing = replace(listing, confidence=self.of_frames(scene_id, "confidence", cfg.confidence, listing))
        return listing

    def _list_timed(self, scene_id: str, color_list: Path) -> Listing:
        """Frames are numbered by their place in the list."""
        colors = read_tum_list(color_list)
        times_s = dict(enumerate(colors.times_s.tolist()))
        depth: dict[int, Path] = {}
        if self.cfg.depth_list is not None:
            depth_list = self.path(self.cfg.depth_list, self.values(scene_id))
            depths = read_tum_list(depth_list)
            matched = self.by_time(scene_id, "depth", str(depth_list), times_s, depths.times_s)
            depth = {number: depth_list.parent / depths.names[row] for number, row in matched.rows.items()}
        color = {number: color_list.parent / name for number, name in enumerate(colors.names)}
        return Listing(color=color, names={}, times_s=times_s, depth=depth)

    def of_frames(self, scene_id: str, what: str, pattern: str, listing: Listing) -> FrameFiles:
        """The files of a pattern with {frame} or {stamp} that belong to the frames of a listing.

        Args:
            scene_id: whose they are.
            what: they hold, for messages.
            pattern: of the files.
            listing: of the pictures.

        Raises:
            DataError: If there are files, and none is of a picture; or if two have one number.
        """
        values = self.values(scene_id)
        where, files = str(self.path(pattern, values)), self._named(pattern, values)
        if "{stamp}" in pattern and files:
            times_s, paths = zip(*sorted((self._time(name), path) for name, path in files.values()), strict=True)
            matched = self.by_time(scene_id, what, where, listing.times_s, times_s)

            def too_far(frame_id: int) -> Path:
                raise FrameError(matched.why_none(frame_id))

            return FrameFiles({number: paths[row] for number, row in matched.rows.items()}, too_far)
        without = [number for number in listing.color if number not in files]
        others = [number for number in files if number not in listing.color]
        if files and len(without) == len(listing.color):
            raise DataError(
                f"{where}: none of these {len(files)} files is of a picture: they are numbered {others[0]} to "
                f"{others[-1]}, the pictures {without[0]} to {without[-1]}"
            )
        self._tell_numbers(scene_id, what, where, (len(listing.color), len(files)), without, others)
        return FrameFiles(
            {number: path for number, (_, path) in files.items()},
            lambda frame_id: self.path(pattern, values | listing.placeholders(frame_id)),
        )

    def by_time(
        self, scene_id: str, what: str, where: str, times_s: dict[int, float], others_s: Iterable[float]
    ) -> Matched:
        """``match_times`` within ``data.max_dt``; what has no partner is told.

        Raises:
            ClocksError: If none has one.
        """
        matched = match_times(what, where, times_s, np.array(others_s, dtype=np.float64), self.cfg.max_dt)
        if message := matched.told():
            expected = what == "pose" and self.cfg.posed_only
            self.tell(scene_id, what, message, logging.INFO if expected else logging.WARNING)
        return matched

    def _tell_numbers(
        self, scene_id: str, what: str, where: str, counts: tuple[int, int], without: list[int], others: list[int]
    ) -> None:
        count, total = counts
        said = [f"{len(without)} of {count} pictures have no {what}: {named(without)}"] if without else []
        if others:
            said.append(f"{len(others)} of {total} files are of no picture: {named(others)}")
        if said:
            expected = not without or (what == "pose" and self.cfg.posed_only)
            # Of files that hold both K and pose the same is said once.
            about = what if without else where
            self.tell(scene_id, about, f"{where}: {'; '.join(said)}", logging.INFO if expected else logging.WARNING)

    def _named(self, pattern: str, values: dict[str, str]) -> dict[int, tuple[str, Path]]:
        """Number to the name that spells it and the file, ascending by number: "9" comes before "10"."""
        found: dict[int, tuple[str, Path]] = {}
        by_time, decimals = "{stamp}" in pattern, None
        for names, path in PathPattern(pattern).walk(self._start(), values):
            name = names["stamp"] if by_time else names["frame"]
            whole, _, rest = name.partition(".")
            if decimals is not None and decimals != len(rest):
                raise DataError(
                    f"{path}: a time of {len(rest)} decimals among others of {decimals}; rename the files, so that "
                    f"all have as many: a frame's number is its time without the point"
                )
            decimals = len(rest)
            number = frame_number(whole + rest, path)
            if number in found:
                raise DataError(f"{path} and {found[number][1].name} are both frame {number}; remove one of them")
            found[number] = name, path
        return dict(sorted(found.items()))

    def _time(self, name: str) -> float:
        """Seconds of a name that is a time."""
        return float(name) / _PER_SECOND[self.cfg.stamp_unit or "s"]


def _read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file of many frames.

    Raises:
        DataError: If it is missing or holds none.
    """
    try:
        return json_object(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file, a JSON file of all frames was expected") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}; a JSON file of all frames was expected") from error
