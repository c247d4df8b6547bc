"""What is said of a folder that clipfeat has not written: perhaps it is a recording."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from clipfeat.data.config import DataConfig
from clipfeat.data.recognize import Reading, endings, readings, signs
from clipfeat.errors import DataError
from clipfeat.results.inspection import Inspection, named
from clipfeat.types import Camera

_ENDINGS_SHOWN = 6


def inspect_recording(folder: Path, layouts: Mapping[str, DataConfig]) -> list[Inspection]:
    """What a folder is a recording of, by what lies in it: one answer for each layout that reads it.

    Args:
        folder: the folder, or a file that is a recording.
        layouts: see ``readings``.

    Raises:
        DataError: If no layout finds its files there; it says what lies there, and what that looks like.
    """
    found = readings(folder, layouts)
    if found:
        return [_told(folder, reading) for reading in found]
    files = ", ".join(f"{count} × {ending}" for ending, count in endings(folder)[:_ENDINGS_SHOWN])
    files = "a file" if folder.is_file() else files
    known = signs(folder)
    looks = f"; it looks like {' or '.join(known)}" if known else ""
    raise DataError(
        f"{folder}: holds no results of clipfeat, and no recording in a layout that it knows ({', '.join(layouts)}): "
        f"{files or 'it is empty'}{looks}; data=posed_rgbd reads pictures, depth and poses that templates describe, "
        f"see docs/own-recordings.md"
    )


def _told(folder: Path, reading: Reading) -> Inspection:
    frame = reading.frame
    command = f"clipfeat-extract data={reading.layout} data.root={shlex.quote(str(reading.root))}"
    facts = {
        "scenes": named(reading.scenes),
        "frames": f"{reading.frames} in {reading.scenes[0]}",
    }
    if frame is not None:
        depth = frame.depth_m
        facts |= {
            "colour": _camera(frame.color_camera),
            "depth": "none" if depth is None else f"{_camera(frame.depth_camera)}; up to {depth.max():.2f} m",
            "pose": f"frame {frame.frame_id} at x, y, z = {', '.join(f'{x:.2f}' for x in frame.cam_to_world[:3, 3])} m",
            "points": "" if frame.points is None else f"{len(frame.points)} stored for a frame",
        }
    facts["next"] = f"{command} check=only\n{command} output_dir=…"
    title = f"{folder}: recordings that data={reading.layout} reads"
    if frame is None:
        title = f"{folder}: has the files of data={reading.layout}, but its first frames can't be read"
    return Inspection(title, facts, [reading.wrong] if frame is None else [], verified=None)


def _camera(camera: Camera | None) -> str:
    if camera is None:
        return "no K"
    k = camera.intrinsics
    of = f"fx {k[0, 0]:.1f}, fy {k[1, 1]:.1f}, cx {k[0, 2]:.1f}, cy {k[1, 2]:.1f}"
    lens = (
        "" if camera.distortion is None else ", distorted as a fisheye" if camera.distortion.fisheye else ", distorted"
    )
    return f"{camera.width}×{camera.height}, {of}{lens}"
