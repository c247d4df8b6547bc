"""One open ``.sens`` file of ScanNet: random access to its frames through an index of offsets."""

import os
import stat
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.sens_format import AGAIN, pread, read_header, unpack_color, unpack_depth, walk_frames
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Picture


class SensFile:
    """Random access to the frames of one ``.sens`` file. Safe to use from several threads.

    Opening walks over the fixed part of every frame and reads no picture: 80 bytes a frame are kept. The file closes
    when nobody holds this object any more, so a thread that still reads never loses it.

    Attributes:
        path: the file.
        header: see ``SensHeader``.
        warnings: what a user should know of this file, a line each; empty for a whole file.

    Args:
        path: the file.

    Raises:
        DataError: If there is no such file, it is no ``.sens`` of version 4, its header is damaged or names a
            compression that isn't read, or it holds no whole frame.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            # Asked before opening: to open a named pipe would wait for ever.
            if not stat.S_ISREG(path.stat().st_mode):
                raise DataError(f"{path}: not a file, expected a ScanNet recording (.sens)")
            self._fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file, expected a ScanNet recording (.sens)") from error
        except OSError as error:
            raise DataError(f"{path}: can't be opened ({error.strerror or error})") from error
        close = weakref.finalize(self, os.close, self._fd)
        try:
            size = os.fstat(self._fd).st_size
            self.header, start = read_header(self._fd, size, path)
            index = walk_frames(self._fd, start, size, self.header.num_frames)
            if not index.offsets.size:
                raise DataError(
                    f"{path}: holds no whole frame of {self.header.num_frames} declared ({index.ends_early}): "
                    f"cut off or damaged; {AGAIN}"
                )
        except OSError as error:
            close()
            raise DataError(f"{path}: can't be read ({error.strerror or error})") from error
        except BaseException:
            close()
            raise
        self._index = index
        self.warnings = self._find_warnings()

    def __len__(self) -> int:
        """Whole frames in the file."""
        return int(self._index.offsets.size)

    def pose(self, frame_id: int) -> NDArray[np.float64]:
        """(4, 4) cam_to_world as it is stored: all -inf where tracking was lost.

        Raises:
            FrameError: If there is no such frame.
        """
        return self._index.poses[self._row(frame_id)].astype(np.float64)

    def color_blob(self, frame_id: int) -> bytes:
        """The colour picture as it is stored, compressed by ``header.color_kind``.

        Raises:
            FrameError: If there is no such frame, it has no colour, or it can't be read.
        """
        row = self._row(frame_id)
        if not self._index.sizes[row, 0]:
            raise FrameError(f"{self.name_of(frame_id)}: has no colour picture")
        return self._read(frame_id, int(self._index.offsets[row]), int(self._index.sizes[row, 0]))

    def depth_blob(self, frame_id: int) -> bytes:
        """The depth as it is stored, compressed by ``header.depth_kind``; empty for a frame without depth.

        Raises:
            FrameError: If there is no such frame, or it can't be read.
        """
        row = self._row(frame_id)
        color_bytes, depth_bytes = self._index.sizes[row].tolist()
        return self._read(frame_id, int(self._index.offsets[row]) + color_bytes, depth_bytes)

    def picture(self, frame_id: int) -> Picture:
        """Reads the colour picture; it is decoded when its pixels are asked for.

        Raises:
            FrameError: If it can't be read or is no picture.
        """
        camera, name = self.header.color_camera, f"{self.name_of(frame_id)}, colour"
        return unpack_color(self.color_blob(frame_id), self.header.color_kind, (camera.width, camera.height), name)

    def raw_depth(self, frame_id: int) -> NDArray[np.uint16] | None:
        """Decodes the (h, w) uint16 depth, in ``header.depth_scale`` units a metre; None for a frame without depth.

        Raises:
            FrameError: If it can't be read or is damaged.
        """
        camera, name = self.header.depth_camera, f"{self.name_of(frame_id)}, depth"
        blob = self.depth_blob(frame_id)
        return unpack_depth(blob, self.header.depth_kind, (camera.width, camera.height), name) if blob else None

    def name_of(self, frame_id: int) -> str:
        """What messages call a frame."""
        return f"{self.path}: frame {frame_id}"

    def _row(self, frame_id: int) -> int:
        if not 0 <= frame_id < len(self):
            raise FrameError(f"{self.path}: holds no frame {frame_id}, only 0 to {len(self) - 1}")
        return frame_id

    def _read(self, frame_id: int, offset: int, size: int) -> bytes:
        try:
            data = pread(self._fd, size, offset)
        except OSError as error:
            raise FrameError(f"{self.name_of(frame_id)}: can't be read ({error.strerror or error})") from error
        if len(data) < size:
            raise FrameError(f"{self.name_of(frame_id)}: the file became shorter while it was read; {AGAIN}")
        return data

    def _find_warnings(self) -> list[str]:
        found = []
        if self._index.ends_early:
            found.append(
                f"{self.path}: {len(self)} of {self.header.num_frames} declared frames are there and used "
                f"({self._index.ends_early}): cut off or damaged; {AGAIN} to have them all"
            )
        extrinsics = {"colour": self.header.color_extrinsic, "depth": self.header.depth_extrinsic}
        moved = [name for name, matrix in extrinsics.items() if not (np.abs(matrix - np.eye(4)) <= 1e-6).all()]
        if moved:
            found.append(
                f"{self.path}: the {' and '.join(moved)} extrinsics in the header are not the identity; they are not "
                "applied, as ScanNet's own exporter doesn't: depth counts as registered to colour"
            )
        return found
