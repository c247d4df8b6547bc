"""What is shown of a fused scene, and from where: its points, their colours, the cameras, which way is up."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from clipfeat.errors import DataError
from clipfeat.mapping.scene_colors import pca_rgb
from clipfeat.output.fused import read_fused
from clipfeat.output.store import FeatureStore
from clipfeat.types import FloatArray

PCA, SCAN = "features (PCA)", "scan"
"""What points can be coloured by as a scene is loaded."""

_UPRIGHT = 0.9
"""A scene is upright along an axis if its cameras are, on average, to this cosine: people tilt them."""


@dataclass(frozen=True, eq=False)
class ShownScene:
    """The points of a scene that are shown.

    Attributes:
        scene_id: the scene.
        xyz: (N, 3) float32 world metres.
        pts_feat: (N, C) their features.
        seen: (N,) whether a frame sees the point.
        colors: by PCA and, where the scan has them, SCAN: (N, 3) uint8.
        total: points that the scene has; N at least.
        frames: numbers of the frames that were fused.
        model: of the features.
    """

    scene_id: str
    xyz: NDArray[np.float32]
    pts_feat: FloatArray
    seen: NDArray[np.bool_]
    colors: dict[str, NDArray[np.uint8]]
    total: int
    frames: list[int]
    model: dict[str, Any]


@dataclass(frozen=True, eq=False)
class ShownCamera:
    """Where a frame was taken from.

    Attributes:
        frame_id: its number.
        position: (3,) world metres.
        wxyz: (4,) quaternion of the rotation from the camera's axes (x right, y down, z forward) to the world's.
        fov: vertical field of view in radians.
        aspect: width of the picture by its height.
    """

    frame_id: int
    position: NDArray[np.float64]
    wxyz: NDArray[np.float64]
    fov: float
    aspect: float


def find_fused(path: Path) -> Path:
    """The folder, or file, of fused scenes that a user means: itself, or ``fused`` in the folder of a run.

    Raises:
        DataError: If there is none.
    """
    if path.is_file():
        return path
    for folder in (path, path / "fused"):
        if next(folder.glob("*.npz"), None) is not None:
            return folder
    raise DataError(
        f"{path}: holds no fused scene; make some by clipfeat-fuse store=…, and give their folder or a file"
    )


def load_scene(path: Path, most: int) -> ShownScene:
    """Reads a fused scene, in the colours that its PLY has.

    Args:
        path: what clipfeat-fuse wrote.
        most: points that are kept; of more, a random choice.

    Raises:
        DataError: If it can't be read.
    """
    fused = read_fused(path)
    total = len(fused.views)
    rows = np.arange(total)
    if total > most:
        rows = np.sort(np.random.default_rng(0).choice(total, most, replace=False))
    colors = {PCA: pca_rgb(fused.pts_feat, fused.seen)[rows]}
    rgb = fused.points.attributes.get("rgb")
    if rgb is not None and rgb.shape == (total, 3) and rgb.dtype == np.uint8:
        colors[SCAN] = rgb[rows]
    return ShownScene(
        scene_id=str(fused.meta.get("scene_id", path.stem)),
        xyz=fused.points.xyz[rows].astype(np.float32),
        pts_feat=fused.pts_feat[rows],
        seen=fused.seen[rows],
        colors=colors,
        total=total,
        frames=[frame for frame in fused.meta.get("frames") or [] if isinstance(frame, int)],
        model=dict(fused.meta.get("model") or {}),
    )


def shown_cameras(store: FeatureStore, scene_id: str, frames: Sequence[int]) -> list[ShownCamera]:
    """Where some frames of a scene were taken from.

    Raises:
        DataError: If a frame's file can't be read.
    """
    cameras = []
    for frame_id in frames:
        meta = store.meta(scene_id, frame_id)
        pose, camera = np.array(meta["cam_to_world"], np.float64), meta["camera"]
        cameras.append(
            ShownCamera(
                frame_id=frame_id,
                position=pose[:3, 3],
                wxyz=np.roll(Rotation.from_matrix(pose[:3, :3]).as_quat(), 1),
                fov=2 * math.atan(0.5 * camera["height"] / camera["intrinsics"][1][1]),
                aspect=camera["width"] / camera["height"],
            )
        )
    return cameras


def up_of(cameras: Sequence[ShownCamera]) -> NDArray[np.float64]:
    """(3,) unit vector: where up is in the world, by how the cameras were held; z without cameras."""
    if not cameras:
        return np.array([0.0, 0.0, 1.0])
    down = Rotation.from_quat(np.roll([camera.wxyz for camera in cameras], -1, axis=1)).apply([0.0, 1.0, 0.0])
    up = -down.mean(axis=0)
    up /= max(float(np.linalg.norm(up)), 1e-9)
    axis = int(np.abs(up).argmax())
    return np.sign(up[axis]) * np.eye(3)[axis] if abs(up[axis]) > _UPRIGHT else up


def overview(xyz: NDArray[np.float32], up: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From where (3,), and on which point (3,), one looks to see all of (N, 3) points, obliquely from above."""
    low, high = np.percentile(xyz, (2, 98), axis=0).astype(np.float64)
    middle, radius = 0.5 * (low + high), 0.5 * float(np.linalg.norm(high - low))
    sideways = np.eye(3)[int(np.abs(up).argmin())]
    level = np.cross(up, sideways) + 0.6 * sideways
    level -= (level @ up) * up
    direction = 0.75 * level / np.linalg.norm(level) + up
    return middle + 1.6 * radius * direction / np.linalg.norm(direction), middle


def spacing(xyz: NDArray[np.float32]) -> float:
    """How far apart neighbouring points are, in metres: the median over some of them."""
    if len(xyz) < 2:
        return 0.01
    some = np.random.default_rng(0).choice(len(xyz), min(1000, len(xyz)), replace=False)
    distances, _ = cKDTree(xyz).query(xyz[some], k=2)
    return max(float(np.median(distances[:, 1])), 1e-4)
