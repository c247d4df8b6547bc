"""What a folder that nobody described may be a recording of: each layout is asked whether it finds its files there."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

import yaml

from clipfeat.data.archive_config import RosbagConfig
from clipfeat.data.bag_keys import bag_keys, is_open
from clipfeat.data.base import Dataset
from clipfeat.data.config import DataConfig
from clipfeat.data.layouts import build_dataset
from clipfeat.data.roots import MOST_FOLDERS, folders_in
from clipfeat.data.ros_bag import BAG_FILES, Bag, find_bags
from clipfeat.data.signs import SIGNS, Sign, recording_of
from clipfeat.errors import ClipfeatError, DataError
from clipfeat.types import Frame

log = logging.getLogger(__name__)

_ARCHIVES = {"sens": (".sens",), "record3d": (".r3d",), "rosbag": BAG_FILES}
"""Endings of the files that are a scene each, by layout."""

_TRIED = 3
"""Scenes, and frames at the beginning of each, that are tried until one can be read."""

_MOST_FILES = 20_000


@dataclass(frozen=True)
class Reading:
    """What a layout finds.

    Attributes:
        layout: its name: data=…
        root: its data.root.
        scenes: that it finds there.
        scene: the one of them that was looked into.
        frames: of that one.
        frame: one of these, or None if none could be read.
        wrong: why not, or what is wrong with scenes before that one.
        sign: what tells that the recording is of this layout's kind, beyond pictures where it expects them; or None.
        keys: further keys that were given, or that are to be given: of these the value is in <>.
        topics: of a bag.
        told: what a run would warn of.
    """

    layout: str
    root: Path
    scenes: list[str]
    scene: str
    frames: int = 0
    frame: Frame | None = None
    wrong: str = ""
    sign: Sign | None = None
    keys: dict[str, str] = field(default_factory=dict)
    topics: str = ""
    told: tuple[str, ...] = ()

    def folder(self) -> Path:
        """Where the scene lies; of layouts whose root is one, the root."""
        return self.root if self.root.name == self.scene else self.root / self.scene


def readings(path: Path, layouts: Mapping[str, DataConfig]) -> list[Reading]:
    """The layouts that find scenes in a folder, or that it is a scene of its parent, and those in its folders.

    Those that can read a frame; those that can't, where a sign of theirs lies there and no other layout reads it; and
    if there are none of either, those that find pictures where they expect them. Nothing is decided between several.

    Args:
        path: a recording, perhaps a file or a part of it, or a folder of recordings.
        layouts: the configuration of each layout, as it is without further keys.

    Raises:
        DataError: If there is no such folder, or it can't be listed.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    path = recording_of(path.resolve())
    with _unheard():
        if path.is_file():
            asked = {name: cfg for name, cfg in layouts.items() if path.suffix in _ARCHIVES.get(name, ())}
            return _ask(path.parent, path.stem, asked, bags=path.suffix in BAG_FILES)
        found = _ask(path, None, layouts)
        if path.name:  # which the root of all has not
            done = {one.layout for one in found} | {name for name in _ARCHIVES if _archive_beside(path, name)}
            others = {name: cfg for name, cfg in layouts.items() if name not in done}
            found += _ask(path.parent, path.name, others, bags="rosbag" not in done)
        known = {one.root / scene for one in found if one.sign or one.frame for scene in one.scenes}
        folders = [] if path in known else folders_in(path, known)
        found += [one for folder in folders[:MOST_FOLDERS] for one in _ask(folder, None, layouts)]
    if len(folders) > MOST_FOLDERS:
        log.warning("%s: of its %d folders only the first %d were looked into", path, len(folders), MOST_FOLDERS)
    read = {one.root / scene for one in found if one.frame for scene in one.scenes}
    read |= {one.folder() for one in found if one.frame}
    told = [one for one in found if one.frame or (one.sign and one.folder() not in read)]
    return told or found


def _archive_beside(folder: Path, layout: str) -> bool:
    """Whether a file that would be the scene lies beside a folder of its name."""
    return any((folder.parent / f"{folder.name}{ending}").is_file() for ending in _ARCHIVES[layout])


class _Kept(logging.Handler):
    """Keeps warnings instead of telling them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage().removeprefix("WARNING "))


@contextmanager
def _unheard() -> Iterator[list[str]]:
    """What a layout warns of is nothing to be told before it is known to be the one; until then it is kept."""
    of_data, kept = logging.getLogger("clipfeat.data"), _Kept()
    before, of_data.propagate = of_data.propagate, False
    of_data.addHandler(kept)
    try:
        yield kept.told
    finally:
        of_data.removeHandler(kept)
        of_data.propagate = before


def _ask(root: Path, only: str | None, layouts: Mapping[str, DataConfig], *, bags: bool = True) -> list[Reading]:
    """What the layouts find in a root; with ``only``, of that scene alone."""
    found = [_reading(root, only, name, cfg) for name, cfg in layouts.items()]
    found += [_bags(root, only)] if bags else []
    return [one for one in found if one is not None]


def _reading(root: Path, only: str | None, name: str, cfg: DataConfig) -> Reading | None:
    cfg.root = str(root)
    signs = ((sign, sign.found(root, only)) for sign in SIGNS if name in sign.layouts)
    sign, folder = next(((sign, folder) for sign, folder in signs if folder is not None), (None, root))
    marked = only or folder.name
    try:
        dataset = build_dataset(cfg)
        scenes = [scene for scene in dataset.scenes() if only in (None, scene)]
        if not scenes and sign is not None:
            dataset.frame_ids(marked)  # which tells why it is none
    except ClipfeatError as error:
        if sign is None:
            return None
        scenes = [] if "*" in sign.pattern and sign.at_root else [marked]  # files in a root don't bear its name
        return Reading(name, root, scenes, marked, wrong=str(error), sign=sign)
    if not scenes:
        return None
    found = Reading(name, root, scenes, scenes[0], sign=sign)
    for scene in scenes[:_TRIED]:
        found = _look_into(dataset, replace(found, scene=scene))
        if found.frame is not None:
            return found
    found = replace(found, scene=scenes[0])
    return found if found.wrong else None


def _look_into(dataset: Dataset, found: Reading) -> Reading:
    """Tries frames of a scene, the first ones, one in the middle and the last, until one has depth."""
    with _unheard() as told:
        return replace(_tried(dataset, found), told=tuple(told))


def _tried(dataset: Dataset, found: Reading) -> Reading:
    wrong = ""
    try:
        ids = dataset.frame_ids(found.scene)
        wrong = "" if ids or found.sign is None else f"{found.folder()}: holds no frame"
    except ClipfeatError as error:
        return replace(found, wrong=found.wrong or str(error))
    for place in sorted({*range(_TRIED), len(ids) // 2, len(ids) - 1} & set(range(len(ids)))):
        try:
            frame = dataset.load(found.scene, ids[place])
            frame.picture.decode()
        except ClipfeatError as error:
            wrong = wrong or str(error)
            continue
        if found.frame is None or frame.depth_m is not None:
            found = replace(found, frames=len(ids), frame=frame)
        if frame.depth_m is not None:
            break
    return found if found.frame else replace(found, frames=found.frames or len(ids), wrong=found.wrong or wrong)


def _bags(root: Path, only: str | None) -> Reading | None:
    """The bags in a root, by the keys that the first of them tells."""
    signs = [sign for sign in SIGNS if "rosbag" in sign.layouts and sign.found(root, only) is not None]
    if not signs or (root / "metadata.yaml").is_file():  # that is a bag of its parent
        return None
    found = Reading("rosbag", root, [root.name], root.name, sign=signs[0])
    try:
        bags = {name: path for name, path in find_bags(root).items() if only in (None, name)}
        if not bags:
            return None
        found = replace(found, scenes=sorted(bags), scene=min(bags))
        bag = Bag(bags[found.scene])
        found = replace(found, topics=bag.topics())
        found = replace(found, keys=bag_keys(bag))
        if is_open(found.keys):
            return found
        values = {key.removeprefix("data."): yaml.safe_load(value) for key, value in found.keys.items()}
        return _look_into(build_dataset(RosbagConfig(root=str(root), **values)), found)
    except ClipfeatError as error:
        return replace(found, wrong=str(error))


def endings(folder: Path) -> list[tuple[str, int]]:
    """How many files of each ending lie below a folder, the most frequent first; of very many the first are counted.

    As they are spelled, for layouts mean endings letter for letter.
    """
    counts: Counter[str] = Counter()
    for _, _, names in os.walk(folder):  # which passes over what can't be looked into
        counts.update(PurePath(name).suffix or "(no ending)" for name in names)
        if counts.total() >= _MOST_FILES:
            break
    return counts.most_common()
