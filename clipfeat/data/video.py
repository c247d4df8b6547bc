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
    each thread has a decoder of its own, which keeps its place: frames that a thread asks for in order are decoded
    once, and for another frame it goes on from where it is, or from the key frame before it if that is nearer.

    Attributes:
        path: the file.
        ends_early: why there may be more frames than could be found; empty for a whole file.

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
        self._local = threading.local()
        shown: list[int] = []
        keys: list[int] = []
        container, stream = self.open()
        with container:
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
            pixels, turned = self._decoder()(number)
        except (self._av.FFmpegError, ValueError) as error:
            self._local.decoder = None
            raise FrameError(f"{where}: can't be decoded ({error}); {_AGAIN}") from error
        except StopIteration as error:
            self._local.decoder = None
            raise FrameError(f"{where}: can't be decoded, the video is damaged before it or there; {_AGAIN}") from error
        picture = Picture.of(np.ascontiguousarray(np.rot90(pixels, -rotate // 90)))
        picture.orientation = _ORIENTATIONS.get(turned % 360, 1)
        return picture

    def _decoder(self) -> "_Decoder":
        """This thread's own. Frames are read in several lanes at once, each of which goes forwards."""
        if getattr(self._local, "decoder", None) is None:
            self._local.decoder = _Decoder(*self.open(), self._times, self._keys)
        decoder: _Decoder = self._local.decoder
        return decoder

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


class _Decoder:
    """Goes through a video, forwards."""

    def __init__(self, container: Any, stream: Any, times: NDArray[np.int64], keys: NDArray[np.intp]):
        self._container = container
        self._stream = stream
        self._times = times
        self._keys = keys
        # A decoder a thread is enough of them; of several threads each would hold a frame more.
        self._stream.thread_type = "NONE"
        # By default FFmpeg makes some picture or other of damaged data, and says nothing.
        self._stream.codec_context.options = {"err_detect": "explode"}
        self._frames: Iterator[Any] = iter(())
        self._last: int | None = None
        """Number of the frame that came last, or None."""

    def __call__(self, number: int) -> tuple[NDArray[np.uint8], int]:
        """(H, W, 3) pixels of a frame, and how far it is to be turned.

        Raises:
            StopIteration: If it does not come.
        """
        time = self._times[number]
        key = int(self._keys[max(int(np.searchsorted(self._keys, number, side="right")) - 1, 0)])
        if self._last is None or not key - 1 <= self._last < number:
            self._container.seek(int(self._times[key]), stream=self._stream, backward=True, any_frame=False)
            self._frames = self._container.decode(self._stream)
        self._last = None  # until it is known, for an error may come
        frame = next(frame for frame in self._frames if frame.pts is not None and frame.pts >= time)
        if frame.pts != time or frame.is_corrupt:
            raise StopIteration
        self._last = number
        return frame.to_ndarray(format="rgb24"), frame.rotation
