"""Videos as colour: frames by their number, decoded when they are asked for, forwards where that is possible."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.images import MAX_PIXELS
from clipfeat.errors import ConfigError, DataError, FrameError
from clipfeat.types import Picture

_ORIENTATIONS = {90: 8, 180: 3, 270: 6}
"""EXIF's number for how far a video asks viewers to turn it, counterclockwise, in degrees."""

_HDR = {16: "PQ", 18: "HLG"}
"""Curves of HDR by their number in ITU-T H.273, table 3. PyAV (18.1.0) leaves them as they are."""

_AGAIN = "copy or record it again"


def import_av() -> Any:
    """The package av.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ConfigError(
            "colour is a video here, which needs the package av: pip install 'clipfeat[video]'"
        ) from error
    return av


class Video:
    """The frames of a file's first video stream, by their place in the order in which they are shown, from 0.

    Opening reads the file once and decodes nothing: where its frames and key frames are is kept, 9 bytes a frame. Then
    one decoder keeps its place for all threads: frames that are asked for about in order are decoded once, and for
    another frame it goes on from where it is, or, for one far away, from the key frame before it.

    Attributes:
        path: the file.
        ends_early: why there may be more frames than could be found; empty for a whole file.
        hdr: the curve of its colours if that is one of HDR, which then come dull; else empty.

    Args:
        path: the file.

    Raises:
        DataError: If it is missing, no video, cut off in its head, or of a kind that is not read.
        ConfigError: If the package av is missing.
    """

    def __init__(self, path: Path):
        self.path = path
        self.ends_early = ""
        self._av = import_av()
        self._turn = threading.Lock()
        self._decoder: _Decoder | None = None
        shown: list[int] = []
        keys: list[int] = []
        container, stream = self.open()
        with container:
            self.hdr = _HDR.get(int(stream.codec_context.color_trc), "")
            try:
                for packet in container.demux(stream):
                    # Those that a list of edits leaves out are decoded, for others need them, and not shown.
                    if packet.pts is None or packet.is_discard:
                        continue
                    shown.append(packet.pts)
                    if packet.is_keyframe:
                        keys.append(packet.pts)
            except (self._av.FFmpegError, ValueError) as error:
                self.ends_early = str(error)
        if not shown or not keys:
            raise DataError(f"{path}: holds no frame that can be decoded; {_AGAIN}")
        if len(set(shown)) < len(shown):
            raise DataError(f"{path}: two frames of the video are shown at one time, so they can't be told by number")
        self._times = np.sort(np.array(shown, np.int64))
        self._keys = np.searchsorted(self._times, np.sort(np.array(keys, np.int64)))

    def __len__(self) -> int:
        """Frames of the video."""
        return len(self._times)

    def picture(self, number: int, rotate: int = 0) -> Picture:
        """A frame, decoded; its orientation is that by which the video asks viewers to turn it.

        Args:
            number: from 0.
            rotate: degrees by which it is turned clockwise: 0, 90, 180 or 270.

        Raises:
            FrameError: If the video has no such frame, or it can't be decoded.
        """
        where = f"{self.path}: frame {number}"
        if not 0 <= number < len(self):
            why = f" ({self.ends_early})" if self.ends_early else ""
            raise FrameError(f"{where}: the video holds {len(self)} frames, from 0{why}; is it cut off? {_AGAIN}")
        try:
            frame = self._decoded(number)
            pixels = frame.to_ndarray(format="rgb24")  # beside the next frame's decoding
        except (self._av.FFmpegError, ValueError) as error:
            raise FrameError(f"{where}: can't be decoded ({error}); {_AGAIN}") from error
        except StopIteration as error:
            raise FrameError(f"{where}: can't be decoded, the video is damaged before it or there; {_AGAIN}") from error
        picture = Picture.of(np.ascontiguousarray(np.rot90(pixels, -rotate // 90)))
        picture.orientation = _ORIENTATIONS.get(frame.rotation % 360, 1)
        return picture

    def _decoded(self, number: int) -> Any:
        with self._turn:
            decoder = self._decoder or _Decoder(*self.open(), self._times, self._keys)
            self._decoder = None  # until it is known that it can go on, for an error may come
            frame = decoder(number)
            self._decoder = decoder
            return frame

    def open(self) -> tuple[Any, Any]:
        """A container of its own, and the stream in it.

        Raises:
            DataError: If it can't be opened.
        """
        try:
            if not self.path.is_file():
                raise DataError(f"{self.path}: no such file, expected a video")
            container = self._av.open(str(self.path))
        except (self._av.FFmpegError, OSError, ValueError) as error:  # ValueError of names that are no text
            # The table of an MP4's frames stands at its end, where it was recorded and not edited since.
            raise DataError(f"{self.path}: no video, or cut off ({error}); {_AGAIN}") from error
        stream = next(iter(container.streams.video), None)
        codec = None if stream is None else stream.codec_context
        if stream is None or codec is None:
            container.close()
            raise DataError(f"{self.path}: holds no video that this machine can decode, expected H.264 or HEVC")
        if not 0 < codec.width * codec.height <= MAX_PIXELS:
            container.close()
            raise DataError(f"{self.path}: a video of {codec.width}×{codec.height} pixels; {_AGAIN}")
        return container, stream


_HELD = 16
"""Frames that were passed over and are kept: as many as there are lanes, which come out of order by so much. One of
1920×1440 pixels takes 4 MB."""


class _Decoder:
    """Goes through a video, forwards."""

    def __init__(self, container: Any, stream: Any, times: NDArray[np.int64], keys: NDArray[np.intp]):
        self._container = container
        self._stream = stream
        self._times = times
        self._keys = keys
        # With threads of its own, an error would come some frames later than its cause.
        self._stream.thread_type = "NONE"
        # By default FFmpeg makes some picture or other of damaged data, and says nothing.
        self._stream.codec_context.options = {"err_detect": "explode"}
        self._frames: Iterator[Any] = iter(())
        self._last: int | None = None
        """Number of the frame that came last, or None."""
        self._held: dict[int, Any] = {}
        """By time, frames that came before they were asked for."""

    def __call__(self, number: int) -> Any:
        """A frame.

        Raises:
            StopIteration: If it does not come.
        """
        time = int(self._times[number])
        if time in self._held:
            return self._held.pop(time)
        key = int(self._keys[max(int(np.searchsorted(self._keys, number, side="right")) - 1, 0)])
        # A short way is gone even where a key frame is nearer: another thread may ask for what lies on it.
        if self._last is None or number <= self._last or (key - 1 > self._last and number - self._last > _HELD):
            self._container.seek(int(self._times[key]), stream=self._stream, backward=True, any_frame=False)
            self._frames = self._container.decode(self._stream)
        for frame in self._frames:
            if frame.pts is None or frame.is_corrupt:
                continue
            if frame.pts >= time:
                break
            self._held[frame.pts] = frame
            if len(self._held) > _HELD:
                del self._held[next(iter(self._held))]
        else:
            raise StopIteration
        if frame.pts != time:
            raise StopIteration
        self._last = number
        return frame
