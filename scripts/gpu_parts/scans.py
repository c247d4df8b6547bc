"""Many frames in seconds: a few rooms, of which the others are hard links."""

import os
from multiprocessing import get_context
from pathlib import Path

from clipfeat.data.demo.scans import SceneOptions, render_scene

FOLDERS = ("color", "depth", "pose", "intrinsic")


def make_scans(root: Path, copies: int) -> int:
    """Renders four rooms of ten frames side by side, links each ``copies`` times in all, and counts the frames."""
    with get_context("spawn").Pool(4) as pool:
        rooms = pool.starmap(render_scene, [(root, index, SceneOptions(num_frames=10)) for index in range(4)])
    for room in rooms:
        for copy in range(1, copies):
            for path in room.rglob("*"):
                if path.is_file() and path.parent.name in FOLDERS:
                    twin = root / f"{room.name[:-2]}{copy:02d}" / path.relative_to(room)
                    twin.parent.mkdir(parents=True, exist_ok=True)
                    os.link(path, twin)
    return len(list(root.glob("*/color/*")))
