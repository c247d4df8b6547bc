"""Whether what is to be written fits on the disk: told before a run starts, and again while it goes on."""

import logging
import math
import shutil
from pathlib import Path

from clipfeat.errors import OutputError

log = logging.getLogger(__name__)

TIGHT = 0.9
"""Share of the free space from which on a warning is due."""

SURE = 0.9
"""Share of an estimate that is needed in any case: some frames fail, and some points are not seen."""

CHECK_EVERY = 50
"""Frames after which what was written is looked at again."""


class DiskSpace:
    """Bytes to write against bytes free.

    Args:
        folder: where is written to.
        frames: how many frames' files are still to be written.
        picture_bytes: about what all pictures take.
    """

    def __init__(self, folder: Path, frames: int, picture_bytes: float):
        self._folder = folder
        self._frames = frames
        self._picture_bytes = picture_bytes
        self._written = 0
        self._done = 0
        self._warned = False

    def check(self, frame_bytes: float, *, certain: bool, freed: int = 0) -> None:
        """Says what is to be written and what is free, before the start.

        Args:
            frame_bytes: about what a frame takes.
            certain: whether that is known well enough to refuse the run.
            freed: bytes that the run removes first.

        Raises:
            OutputError: If it can't fit, and that is certain.
        """
        needed, free = self._frames * frame_bytes + self._picture_bytes, self._free() + freed
        both = f"about {readable(needed)} to write, {readable(free)} free in {self._folder}"
        log.info("%s", both)
        if certain and SURE * needed > free:
            raise OutputError(f"output_dir={self._folder}: {both}: that can't fit. {_WHAT_TO_DO}")
        if needed > TIGHT * free:
            self._warn(f"{both}: that {'is tight' if needed < free else 'may not fit'}")

    def wrote(self, size: int) -> None:
        """Counts a frame's file. Now and then what is left is reckoned from what was written; one warning is given."""
        self._written += size
        self._done += 1
        if self._done % CHECK_EVERY or self._warned:
            return
        left = (self._frames - self._done) * self._written / self._done
        left += self._picture_bytes * (1 - self._done / self._frames)
        free = self._free()
        if left > free:
            self._warn(
                f"{self._done} of {self._frames} frames are written, the others take about {readable(left)}, and "
                f"{readable(free)} are free in {self._folder}: that will not fit"
            )

    def _warn(self, what: str) -> None:
        self._warned = True
        log.warning("WARNING %s. %s", what, _WHAT_TO_DO)

    def _free(self) -> float:
        usage = shutil.disk_usage(self._folder)
        return usage.free if usage.total else math.inf  # some file systems do not know


_WHAT_TO_DO = (
    "Make room, choose another output_dir, or take output=grid (maps instead of features), output.dtype=float16, fewer "
    "frames (frames_per_scene, frame_stride) or fewer points (sampling.num_points)"
)


def readable(size: float) -> str:
    """Bytes as a person says them: two digits or more, such as 16 MB, 1.2 GB or 310 GB."""
    units = ["kB", "MB", "GB", "TB"]
    size /= 1000
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.{1 if size < 9.95 else 0}f} {units[0]}"
