"""What a folder that nobody described may be a recording of: each layout is asked whether it finds its files there."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from clipfeat.data.config import DataConfig
from clipfeat.data.layouts import build_dataset
from clipfeat.data.ros_bag import Bag
from clipfeat.errors import ClipfeatError, DataError
from clipfeat.types import Frame

SIGNS = {
    "transforms.json": "nerfstudio, instant-ngp or Polycam (transforms.json)",
    "sparse/*/cameras.*": "COLMAP (a sparse model)",
    "cameras.bin": "COLMAP (a sparse model)",
    "cameras.txt": "COLMAP (a sparse model, as text)",
    "*.r3d": "Record3D",
    "odometry.csv": "Stray Scanner",
    "lowres_wide*": "ARKitScenes",
    "keyframes/corrected_cameras": "Polycam's raw data",
    "*/undistorted_camera_parameters": "Matterport3D",
    "data/*/iphone": "ScanNet++",
    "iphone/pose_intrinsic_imu.json": "ScanNet++, a scene of its phone",
    "dslr/nerfstudio": "ScanNet++, a scene of its DSLR",
    "sequence/_info.txt": "3RScan, a scan of it",
    "*/sequence/_info.txt": "3RScan",
    "*.bag": "ROS 1 (a bag)",
    "*.mcap": "ROS 2 (MCAP)",
    "*.db3": "ROS 2 (a bag in SQLite)",
    "metadata.yaml": "ROS 2 (a bag)",
}
"""What tells of the recorders and data sets that people have, whether clipfeat has a layout for them or not: a pattern
below the folder, and a name for it."""

_ARCHIVES = {"sens": (".sens",), "record3d": (".r3d",)}
"""Endings of the files that are a scene each, by layout."""

_BAGS = ("*.bag", "*.mcap", "*.db3", "metadata.yaml")

_TRIED = 3
"""Frames of the first scene that are tried until one can be read."""

_MOST_FILES = 20_000

_MOST_FOLDERS = 20


@dataclass(frozen=True)
class Reading:
    """What a layout finds.

    Attributes:
        layout: its name: data=…
        root: its data.root.
        scenes: that it finds there.
        frames: of the first of them.
        frame: one of these, or None if none could be read.
        wrong: why not.
    """

    layout: str
    root: Path
    scenes: list[str]
    frames: int
    frame: Frame | None
    wrong: str = ""


def readings(folder: Path, layouts: Mapping[str, DataConfig]) -> list[Reading]:
    """The layouts that find scenes in a folder, or that it is a scene of its parent; if none does, in its folders.

    Those that can read a frame, if there are any: only these are right. Nothing is decided between several.

    Args:
        folder: a recording, perhaps a file, or a folder of recordings.
        layouts: the configuration of each layout, as it is without further keys.

    Raises:
        DataError: If there is no such folder.
    """
    if not folder.exists():
        raise DataError(f"{folder}: no such folder")
    folder = folder.resolve()
    if folder.is_file():
        with _unheard():
            return [
                reading
                for name in layouts
                if folder.suffix in _ARCHIVES.get(name, ())
                for reading in _reading(folder.parent, name, layouts[name], folder.stem)
            ]
    unread: list[Reading] = []
    for place in (folder, *islice(sorted(path for path in folder.iterdir() if path.is_dir()), _MOST_FOLDERS)):
        with _unheard():
            found = [reading for name, cfg in layouts.items() for reading in _reading(place, name, cfg)]
        if read := [reading for reading in found if reading.frame is not None]:
            return read
        unread = unread or found
    return unread


@contextmanager
def _unheard() -> Iterator[None]:
    """What a layout warns of is nothing to be told before it is known to be the one."""
    of_data = logging.getLogger("clipfeat.data")
    before = of_data.level
    of_data.setLevel(logging.ERROR)
    try:
        yield
    finally:
        of_data.setLevel(before)


def _reading(folder: Path, name: str, cfg: DataConfig, only: str | None = None) -> Iterator[Reading]:
    """What one layout finds, in the folder or for it as a scene; with ``only``, of that scene alone."""
    for root in (folder, folder.parent):
        cfg.root = str(root)
        try:
            dataset = build_dataset(cfg)
            scenes = [scene for scene in dataset.scenes() if root == folder or scene == folder.name]
            scenes = [scene for scene in scenes if only in (None, scene)]
            if not scenes:
                continue
            ids, frame, wrong = dataset.frame_ids(scenes[0]), None, ""
        except ClipfeatError:
            continue
        for frame_id in ids[:_TRIED]:
            try:
                frame = dataset.load(scenes[0], frame_id)
                break
            except ClipfeatError as error:
                wrong = wrong or str(error)
        if frame is not None or wrong:
            yield Reading(name, root, scenes, len(ids), frame, wrong)
            return


def signs(folder: Path) -> list[str]:
    """What a folder, or a file, looks like by its names, of all that ``SIGNS`` knows; of a bag its topics, too."""
    found: dict[str, str] = {}
    for pattern, what in SIGNS.items():
        within = [folder] if folder.is_file() and folder.match(pattern) else folder.glob(pattern)
        if (path := next(iter(within), None)) is not None and what not in found:
            found[what] = _topics(path) if pattern in _BAGS and not any(found.values()) else ""
    return [what + topics for what, topics in found.items()]


def _topics(path: Path) -> str:
    """What there is in a bag, where it and the package that reads it are whole."""
    try:
        topics = Bag(path.parent if path.name == "metadata.yaml" else path).topics()
    except ClipfeatError:
        return ""
    return f", which data=rosbag reads by its topics: {topics}"


def endings(folder: Path) -> list[tuple[str, int]]:
    """How many files of each ending lie below a folder, the most frequent first; of very many the first are counted."""
    counts: Counter[str] = Counter()
    for path in folder.rglob("*"):
        counts[path.suffix.lower() or "(no ending)"] += path.is_file()
        if counts.total() >= _MOST_FILES:
            break
    return [(ending, count) for ending, count in counts.most_common() if count]
