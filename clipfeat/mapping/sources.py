"""Where the frames of a map come from: those that are there, or those that come while it is made."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from clipfeat.data.base import Dataset
from clipfeat.data.layouts import build_dataset
from clipfeat.data.selection import FrameKey, frame_keys, list_scenes
from clipfeat.errors import DataError
from clipfeat.mapping.config import MapConfig
from clipfeat.types import Frame


class LiveFrames(Protocol):
    """Frames that come.

    Attributes:
        ended: whether no more will come.
        waiting: whether some have come that ``new`` will give the next time.
        bad: what could not be understood, each as what is wrong with it; whoever takes one removes it.
    """

    ended: bool
    bad: list[str]

    @property
    def waiting(self) -> bool:
        """See above."""

    def new(self) -> Sequence[FrameKey]:
        """Those that have come since it was asked last; does not wait."""

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """See ``Dataset``."""

    def forget(self, key: FrameKey) -> None:
        """Drops what is known of a frame that nobody will load again."""


class WatchedFrames:
    """Frames of a data set that is being written.

    Args:
        cfg: which data set, and which of its frames.

    Attributes:
        ended: False: nobody knows.
        bad: nothing; a frame that can't be read is told when it is loaded.
        why: what keeps the data set from being read, as far as anything does; empty where nothing does.
    """

    ended = False

    def __init__(self, cfg: MapConfig):
        # A scene that can't be read yet is no reason to stop.
        self._cfg = replace(cfg, on_bad_frame="skip")
        self._dataset: Dataset | None = None
        self._taken: set[FrameKey] = set()
        self._listed: set[FrameKey] = set()
        self.bad: list[str] = []
        self.why = ""

    def new(self) -> list[FrameKey]:
        """Those that were listed before, too: what has just come may not have been written to its end."""
        try:
            self._dataset = build_dataset(self._cfg.data)  # what one has read it does not read again
            bad_scenes: dict[str, str] = {}
            found = frame_keys(list_scenes(self._cfg, self._dataset, bad_scenes))
            self.why = next(iter(bad_scenes.values()), "")
        except DataError as error:
            self.why = str(error)
            return []
        new = [key for key in found if key in self._listed and key not in self._taken]
        self._listed.update(found)
        self._taken.update(new)
        return new

    @property
    def waiting(self) -> bool:
        """Whether there are frames that ``new`` will give the next time."""
        return len(self._listed) > len(self._taken)

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """See ``Dataset``."""
        if self._dataset is None:
            raise DataError(f"{scene_id}: {self.why}")
        return self._dataset.load(scene_id, frame_id)

    def forget(self, key: FrameKey) -> None:
        """See ``LiveFrames``: a number is all that is known, and is needed."""


class Patience:
    """Gives frames in portions as they come, empty ones too; those that could not be read come again for some seconds.

    Args:
        frames: where they come from.
        poll_s: seconds from one look to the next.
        idle_s: seconds without anything new after which it ends; None waits on.
        retry_s: seconds for which a frame is given again.
        clock: gives seconds.
        sleep: waits for some.
    """

    def __init__(
        self,
        frames: LiveFrames,
        poll_s: float,
        idle_s: float | None,
        retry_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._frames = frames
        self._poll_s, self._idle_s, self._retry_s = poll_s, idle_s, retry_s
        self._clock, self._sleep = clock, sleep
        self._first_failed: dict[FrameKey, float] = {}
        self._again: list[FrameKey] = []

    def __iter__(self) -> Iterator[list[FrameKey]]:
        came = self._clock()
        while True:
            portion = list(self._frames.new())
            if portion:
                came = self._clock()
            again, self._again = self._again, []
            portion = again + portion
            yield portion
            if not portion or self._again:
                over = self._idle_s is not None and self._clock() - came >= self._idle_s
                if not (self._again or self._frames.waiting) and (self._frames.ended or over):
                    return
                self._sleep(self._poll_s)

    def done(self, key: FrameKey) -> None:
        """Takes note that a frame will not be asked for again."""
        self._first_failed.pop(key, None)
        self._frames.forget(key)

    def again(self, key: FrameKey) -> bool:
        """Whether a frame that could not be read is going to be tried once more."""
        first = self._first_failed.setdefault(key, self._clock())
        if self._clock() - first >= self._retry_s:
            return False
        self._again.append(key)
        return True
