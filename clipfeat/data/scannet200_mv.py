"""ESAM's multi-view form of ScanNet200: frames, and for every other frame 20,000 labelled points."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.config import PosedRgbdConfig, ScanNet200MvConfig, as_size
from clipfeat.data.posed_rgbd import PosedRgbdDataset
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Frame

ESAM_INTRINSICS = (577.870605, 577.870605, 319.5, 239.5)
"""fx, fy, cx, cy of ESAM's ``load_scannet_mv_data.py``, the same for all scenes."""

ESAM_SIZE = (640, 480)
"""(width, height) that it belongs to."""

_MASKS = {"instance": "instance_mask", "semantic": "semantic_mask", "superpoint": "super_points"}
"""Name of the attribute to folder of its files."""


class ScanNet200MvDataset:
    """``<root>/2D/<scene>/{color/<i>.jpg,depth/<i>.png,pose/<i>.txt}`` and ``<root>/points/<scene>/<i>.bin``.

    Poses are camera-to-world. Points are float32 (N, 6): unaligned world metres and RGB from 0 to 255. They exist for
    every 40th raw frame while ``2D`` has every 20th: the other frames have ``points`` None. ``instance_mask`` (0 for
    none), ``semantic_mask`` (raw ScanNet ids) and ``super_points``, int64 (N,) each, are carried along as
    ``point_attributes`` where they are there, beside the points' ``rgb``.

    ESAM makes the points by its one K for all scenes, which is off from the scene's own by more than a pixel. With
    ``intrinsics="esam"`` they project back onto the pixels that they came from, whose colours and labels they bear;
    with the scene's own K the cameras are right, and the points are where ESAM's K put them.

    Args:
        root: the ``scannet200-mv`` folder.
        intrinsics: "esam", or the pattern of a calibration file a scene below the root.
        intrinsics_size: (width, height) that the files' K belongs to, if not the pictures as they are stored.
        depth_scale: units of the depth files in a metre.

    Raises:
        DataError: If ``root`` is no folder, or has no ``2D``.
    """

    def __init__(
        self,
        root: Path,
        intrinsics: str = "esam",
        intrinsics_size: tuple[int, int] | None = None,
        depth_scale: float = 1000.0,
    ):
        if not (root / "2D").is_dir():
            above = f"; {root.absolute().parent} has one" if (root.absolute().parent / "2D").is_dir() else ""
            below = next((f"; {path.parent} has one" for path in sorted(root.glob("*/2D"))), "")
            raise DataError(f"data.root={root}: has no folder 2D, expected ESAM's scannet200-mv tree{below or above}")
        self.root = root
        esam = intrinsics == "esam"
        size = ESAM_SIZE if esam else intrinsics_size
        self._frames = PosedRgbdDataset(
            PosedRgbdConfig(
                root=str(root),
                color="2D/{scene}/color/{frame}.jpg",
                depth="2D/{scene}/depth/{frame}.png",
                depth_scale=depth_scale,
                pose="2D/{scene}/pose/{frame}.txt",
                pose_format="matrix_per_frame",
                pose_direction="camera_to_world",
                pose_axes="opencv",
                intrinsics=list(ESAM_INTRINSICS) if esam else None,
                intrinsics_file=None if esam else intrinsics,
                intrinsics_size=None if size is None else list(size),
            )
        )

    def scenes(self) -> list[str]:
        """All folders of ``2D`` that hold a picture, sorted by name.

        Raises:
            DataError: If there is none.
        """
        return self._frames.scenes()

    def frame_ids(self, scene_id: str) -> list[int]:
        """See ``Dataset``; frames without points are among them."""
        return self._frames.frame_ids(scene_id)

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """See ``Dataset``."""
        frame = self._frames.load(scene_id, frame_id)
        path = self.root / "points" / scene_id / f"{frame_id}.bin"
        if not path.is_file():
            return frame
        points, rgb = read_points(path)
        attributes: dict[str, NDArray[Any]] = {"rgb": rgb}
        for name, folder in _MASKS.items():
            mask_path = self.root / folder / scene_id / f"{frame_id}.bin"
            if mask_path.is_file():
                attributes[name] = read_point_labels(mask_path, len(points))
        return replace(frame, points=points, point_attributes=attributes)


def read_points(path: Path) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Reads float32 (N, 6) points.

    Returns:
        (N, 3) float64 world metres and (N, 3) uint8 RGB.

    Raises:
        FrameError: If the file can't be read, is empty, is no whole number of rows, holds inf or NaN, or its colours
            are not within 0 to 255.
    """
    values = _read(path, np.dtype("<f4"), 6, "x, y, z, r, g, b").reshape(-1, 6)
    bad = int(np.count_nonzero(~np.isfinite(values).all(1)))
    if bad:
        raise FrameError(f"{path}: {bad} of {len(values)} points hold inf or NaN; make the file again")
    colors = values[:, 3:]
    if colors.min() < 0 or colors.max() > 255:
        raise FrameError(
            f"{path}: colours from {colors.min():g} to {colors.max():g}, expected 0 to 255 (float32 x, y, z, r, g, b)"
        )
    return values[:, :3].astype(np.float64), np.rint(colors).astype(np.uint8)


def read_point_labels(path: Path, count: int) -> NDArray[np.int64]:
    """Reads the int64 (N,) labels of ``count`` points.

    Raises:
        FrameError: If the file can't be read, is empty, is no whole number of labels, or has another length.
    """
    labels = _read(path, np.dtype("<i8"), 1, "an int64 a point")
    if len(labels) != count:
        raise FrameError(f"{path}: {len(labels)} labels for {count} points; make both files again together")
    return labels.astype(np.int64)


def _read(path: Path, dtype: np.dtype[Any], columns: int, expected: str) -> NDArray[Any]:
    """All values of a file. The size is checked first: NumPy's fromfile drops what is left over in silence."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f"{path}: can't be read ({error})") from error
    row = dtype.itemsize * columns
    if not data:
        raise FrameError(f"{path}: is empty, expected {row} bytes a point ({expected})")
    if len(data) % row:
        raise FrameError(
            f"{path}: {len(data)} bytes are no multiple of {row} ({expected}); the file is cut off, copy it"
        )
    return np.frombuffer(data, dtype)


def open_scannet200_mv(cfg: ScanNet200MvConfig) -> ScanNet200MvDataset:
    """The data set of ``data=scannet200_mv``."""
    return ScanNet200MvDataset(Path(cfg.root), cfg.intrinsics or "", as_size(cfg.intrinsics_size), cfg.depth_scale)
