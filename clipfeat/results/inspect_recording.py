"""What is said of a folder that clipfeat has not written: perhaps it is a recording."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from clipfeat.data.config import DataConfig, PosedRgbdConfig
from clipfeat.data.recognize import Reading, endings, readings
from clipfeat.data.signs import signs_of
from clipfeat.errors import DataError
from clipfeat.results.inspection import Inspection, named
from clipfeat.types import Camera

_ENDINGS_SHOWN = 6

_NEAREST_SHOWN = 2

_WARNINGS_SHOWN = 4

_LOOKED_UP = 2
"""Folders above that may be a recording."""

_TOLD_IN_FULL = 4
"""Recordings in a folder; of more than that each is told in brief."""

_SCANNETPP_MESH = "{scene}/scans/mesh_aligned_0.05.ply"

_BESIDE = {
    "mesh": {
        "scannet": "{scene}/{scene}_vh_clean_2.ply",
        "arkitscenes": "{scene}/{scene}_3dod_mesh.ply",
        "arkitscenes_3dod": "{scene}/{scene}_3dod_mesh.ply",
        "scannetpp_iphone": _SCANNETPP_MESH,
        "scannetpp_raw": _SCANNETPP_MESH,
        "scannetpp_dslr": _SCANNETPP_MESH,
        "rscan": "{scene}/labels.instances.annotated.v2.ply",
        "matterport3d": "{scene}/house_segmentations/{scene}.ply",
    },
    "confidence": {
        "strayscanner": "{scene}/confidence",
        "polycam": "{scene}/keyframes/confidence",
    },
}
"""What lies beside a scene where all was recorded, or downloaded: by what it is, where each layout has it."""


def inspect_recording(path: Path, layouts: Mapping[str, DataConfig]) -> list[Inspection]:
    """What a folder is a recording of, by what lies in it: one answer for each layout that reads it.

    Args:
        path: the folder, or a file that is a recording or a part of one.
        layouts: see ``readings``.

    Raises:
        DataError: If no layout finds its files there; it says what lies there, and what that looks like.
    """
    found = readings(path, layouts)
    told = [one for one in found if one.frame is not None or one.sign is not None]
    if told:
        brief, alone = len(told) > _TOLD_IN_FULL, len([one for one in told if _is_read(one)]) == 1
        return [_told(path, one, layouts.get(one.layout), alone=alone, brief=brief) for one in told]
    files = ", ".join(f"{count} × {ending}" for ending, count in endings(path)[:_ENDINGS_SHOWN])
    files = "a file" if path.is_file() else files
    raise DataError(
        f"{path}: holds no results of clipfeat, and no recording in a layout that it knows: {files or 'it is empty'}"
        f"{_looks_like(path, found)}; data=posed_rgbd reads pictures, depth and poses that templates describe, see "
        f"docs/own-recordings.md"
    )


def _looks_like(path: Path, nearest: Sequence[Reading]) -> str:
    """What may help with a recording that no layout reads: the middle of a message."""
    if looks := [f"{sign.what}{f' ({sign.hint})' if sign.hint else ''}" for sign in signs_of(path)]:
        return f"; it looks like {' or '.join(looks)}"
    for up in list(path.absolute().parents)[:_LOOKED_UP]:
        if sign := next((sign for sign in signs_of(up, below=False) if not sign.at_root), None):
            return f"; {up}, which holds it, looks like {sign.what}: {shlex.join(['clipfeat-inspect', str(up)])}"
    return "".join(f"; data={one.layout} finds pictures there, but {one.wrong}" for one in nearest[:_NEAREST_SHOWN])


def _told(path: Path, reading: Reading, cfg: DataConfig | None, *, alone: bool, brief: bool) -> Inspection:
    frame = reading.frame
    facts = {
        "scenes": named(reading.scenes) if reading.scenes else "",
        "frames": f"{reading.frames} in {reading.scene}" if reading.frames else "",
    }
    if frame is not None and not brief:
        depth = frame.depth_m
        facts |= {
            "colour": _camera(frame.color_camera),
            "depth": "none" if depth is None else f"{_camera(frame.depth_camera)}; up to {depth.max():.2f} m",
            "pose": f"frame {frame.frame_id} at x, y, z = {', '.join(f'{x:.2f}' for x in frame.cam_to_world[:3, 3])} m",
            "points": "" if frame.points is None else f"{len(frame.points)} stored for a frame",
            "taken as": _taken_as(reading.layout, cfg),
            **_beside(reading),
        }
    facts["warnings"] = "" if brief else "\n".join(reading.told[:_WARNINGS_SHOWN])
    facts["topics"] = "" if brief else reading.topics.replace(", ", "\n")
    if not _is_read(reading):
        facts["keys"] = _arguments(reading.keys)
        facts["next"] = f"mend what is broken; {shlex.join(['clipfeat-inspect', str(path)])} tells whether it is"
        return Inspection(
            f"{path}: has the files of data={reading.layout}, but they can't be read",
            facts,
            [f"{reading.wrong}{f'; {reading.sign.hint}' if reading.sign and reading.sign.hint else ''}"],
            verified=None,
        )
    facts["next"] = _commands(reading, alone=alone)
    title = f"{path}: recordings that data={reading.layout} reads"
    if frame is None:
        title += ", once you have said what stands in <>"
    return Inspection(title, facts, [reading.wrong] if reading.wrong else [], verified=None)


def _is_read(reading: Reading) -> bool:
    """Whether it can be read, perhaps with keys that have still to be said."""
    return reading.frame is not None or not reading.wrong


def _commands(reading: Reading, *, alone: bool) -> str:
    """What to run, to be pasted: each recording of several has an output_dir of its own."""
    command = f"clipfeat-extract data={reading.layout} {_arguments({'data.root': str(reading.root)} | reading.keys)}"
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", reading.root.name)
    name = name if name == reading.layout else f"{name}-{reading.layout}"
    output = f"output_dir={'features' if alone else f'features/{name}'}"
    if reading.frame is not None and reading.frame.depth_m is None:  # without any, nothing can be checked
        return f"{command} {_arguments(_points_without_depth(reading))} {output}"
    return f"{command} check=only\n{command} {output}"


def _points_without_depth(reading: Reading) -> dict[str, str]:
    """The keys that say where points come from, if not from depth."""
    if reading.frame is not None and reading.frame.points is not None:
        return {"sampling": "frame_points"}
    if reading.layout == "colmap":
        return {"data.sparse_points": "true", "sampling": "frame_points"}
    mesh = _BESIDE["mesh"].get(reading.layout, "")
    there = mesh and (reading.root / mesh.format(scene=reading.scene)).exists()
    file = f"{reading.root}/{mesh}" if there else "<a PLY in the world of the poses>"
    return {"sampling": "mesh", "sampling.points_file": file}


def _arguments(keys: Mapping[str, str]) -> str:
    return " ".join(
        f"{key}={value}" if shlex.quote(value) == value else shlex.quote(f"{key}={value}")
        for key, value in keys.items()
    )


def _taken_as(layout: str, cfg: DataConfig | None) -> str:
    """What nothing in most recordings tells, but the layout says."""
    if not isinstance(cfg, PosedRgbdConfig):
        return ""
    said = [f"{cfg.pose_direction} poses of {cfg.pose_axes} axes"]
    said += [f"K {cfg.intrinsics}"] if cfg.intrinsics else []
    said += [f"a view of {cfg.hfov:g} degrees"] if cfg.hfov else []
    if cfg.depth or cfg.depth_list:
        scale = cfg.depth_float_scale or cfg.depth_scale
        said.append("depth in metres" if scale == 1 else f"depth in 1/{scale:g} m")
    return f"{', '.join(said)}: so says data={layout}"


def _beside(reading: Reading) -> dict[str, str]:
    """What lies beside the scene, and what is missing that other recordings of this layout have."""
    facts, missing = {}, ["depth"] if reading.frame and reading.frame.depth_m is None else []
    for what, patterns in _BESIDE.items():
        if (pattern := patterns.get(reading.layout)) is None:
            continue
        place = pattern.format(scene=reading.scene)
        if (reading.root / place).exists():
            facts[what] = place
        else:
            missing.append(f"{what} ({place})")
    return facts | {"missing": ", ".join(missing)}


def _camera(camera: Camera | None) -> str:
    if camera is None:
        return "no K"
    k = camera.intrinsics
    of = f"fx {k[0, 0]:.1f}, fy {k[1, 1]:.1f}, cx {k[0, 2]:.1f}, cy {k[1, 2]:.1f}"
    lens = (
        "" if camera.distortion is None else ", distorted as a fisheye" if camera.distortion.fisheye else ", distorted"
    )
    return f"{camera.width}×{camera.height}, {of}{lens}"
