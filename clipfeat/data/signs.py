"""The files by which recorders and data sets are known, whether clipfeat has a layout for them or not."""

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from clipfeat.data.roots import MOST_FOLDERS, folders_in

_DEEPEST = 3
"""Folders that a file of a recording may lie in."""


@dataclass(frozen=True)
class Sign:
    """A file, or a folder, that tells of a recorder or a data set.

    Attributes:
        pattern: its path below the folder of a recording.
        what: whose it is.
        layouts: that read such recordings; none where no layout does.
        at_root: the folder is then ``data.root``; else it is a scene's, and ``data.root`` the one above.
        hint: what to do with a recording that no layout reads as it lies.
    """

    pattern: str
    what: str
    layouts: tuple[str, ...] = ()
    at_root: bool = False
    hint: str = ""

    def found(self, root: Path, scene: str | None = None) -> Path | None:
        """The folder of a recording in a root, perhaps of a certain scene, that has this sign, if there is one."""
        if self.at_root and scene is not None and "*" not in self.pattern:
            return None
        name = "*" if scene is None else glob.escape(scene)
        pattern = self.pattern.replace("*", name, 1) if self.at_root else f"{name}/{self.pattern}"
        path = next(root.glob(pattern), None)
        if path is None or self.at_root:
            return path and root
        return root / path.relative_to(root).parts[0]


_ROS = ("rosbag",)

SIGNS = (
    Sign("transforms.json", "nerfstudio, instant-ngp or Polycam (transforms.json)", ("nerfstudio",)),
    Sign("sparse/*/cameras.*", "COLMAP (a sparse model)", ("colmap",)),
    Sign("sparse/cameras.*", "COLMAP (a sparse model)", ("colmap",)),
    Sign("cameras.bin", "COLMAP (a sparse model)", hint="it lies in <scene>/sparse/0, beside <scene>/images"),
    Sign("cameras.txt", "COLMAP (a sparse model, as text)", hint="it lies in <scene>/sparse/0, beside <scene>/images"),
    Sign("*.r3d", "Record3D", ("record3d",), at_root=True),
    Sign("odometry.csv", "Stray Scanner", ("strayscanner",)),
    Sign("camera_matrix.csv", "Stray Scanner", ("strayscanner",)),
    Sign("lowres_wide*", "ARKitScenes", ("arkitscenes",)),
    Sign("*_frames/lowres_wide*", "ARKitScenes, its part for detection", ("arkitscenes_3dod",)),
    Sign("keyframes/corrected_cameras", "Polycam's raw data", ("polycam",)),
    Sign(
        "keyframes", "Polycam's raw data", ("polycam",),
        hint="captures without corrected_images want the keys in conf/data/polycam.yaml",
    ),
    Sign("undistorted_camera_parameters", "Matterport3D", ("matterport3d",)),
    Sign("iphone/pose_intrinsic_imu.json", "ScanNet++, its phone", ("scannetpp_iphone", "scannetpp_raw")),
    Sign("iphone/nerfstudio", "ScanNet++, its phone", ("scannetpp_iphone", "scannetpp_raw")),
    Sign("dslr/colmap", "ScanNet++, its DSLR", ("scannetpp_dslr",)),
    Sign("dslr/nerfstudio", "ScanNet++, its DSLR", ("scannetpp_dslr",)),
    Sign("sequence/_info.txt", "3RScan", ("rscan",)),
    Sign("sequence.zip", "3RScan", ("rscan",), hint="unpack sequence.zip to a folder sequence"),
    Sign("*/data/frame-*.color.jpg", "12-Scenes", ("twelvescenes",)),
    Sign("seq-*/frame-*.color.png", "7-Scenes", ("sevenscenes",)),
    Sign("groundtruth.txt", "TUM RGB-D", ("tum",)),
    Sign("results/frame*.jpg", "Replica, as NICE-SLAM rendered it", ("replica",)),
    Sign("trajectory.log", "Open3D or Redwood", ("open3d",), at_root=True),
    Sign("intrinsic/intrinsic_color.txt", "ScanNet", ("scannet",)),
    Sign("intrinsics_color.txt", "ScanNet, its 25k pictures", ("scannet",)),
    Sign("*.sens", "ScanNet's raw recordings", ("sens",), at_root=True),
    Sign("2D/*/color", "ScanNet200-MV (ESAM's tree)", ("scannet200_mv",), at_root=True),
    Sign("*.bag", "ROS 1 (a bag)", _ROS, at_root=True),
    Sign("*.mcap", "ROS 2 (MCAP)", _ROS, at_root=True),
    Sign("*.db3", "ROS 2 (a bag in SQLite)", _ROS, at_root=True),
    Sign("metadata.yaml", "ROS 2 (a bag)", _ROS),
    Sign(
        "*.gt.freiburg", "ICL-NUIM",
        hint="its fy is negative and its world left-handed: docs/benchmarks.md tells how data=tum reads it",
    ),
    Sign("_detail", "Hypersim", hint="no layout reads its HDF5"),
)  # fmt: skip


def recording_of(path: Path) -> Path:
    """The folder of the recording that a file or a folder is a part of; the path itself, where it is of none.

    Archives and bags of one file are recordings themselves.
    """
    for up in list(path.parents)[:_DEEPEST]:
        parts = path.relative_to(up).parts
        for sign in SIGNS:
            pattern = sign.pattern.split("/")
            rest = "/".join(pattern[len(parts) :])
            if (
                (len(pattern) > 1 or not sign.pattern.startswith("*."))
                and len(parts) <= len(pattern)
                and all(fnmatchcase(part, one) for part, one in zip(parts, pattern, strict=False))
                and (not rest or next(path.glob(rest), None) is not None)
            ):
                return recording_of(up)
    return path


def signs_of(path: Path, *, below: bool = True) -> list[Sign]:
    """The signs of a file or of a folder, one for each kind; with ``below`` of the folders in it, if it has none."""
    if path.is_file():
        return [sign for sign in SIGNS if fnmatchcase(path.name, sign.pattern)][:1]
    found = _signs_at([path])
    return found if found or not below else _signs_at(folders_in(path)[:MOST_FOLDERS])


def _signs_at(places: Iterable[Path]) -> list[Sign]:
    found = [sign for sign in SIGNS if any(next(place.glob(sign.pattern), None) is not None for place in places)]
    return list({sign.what: sign for sign in reversed(found)}.values())[::-1]
