"""ROS bags of any kind: an index of the topics that are asked for, and messages read one at a time.

A bag is a ROS 1 ``.bag``, a ROS 2 folder with ``metadata.yaml``, or one of its files, ``.mcap`` or ``.db3``. The
package rosbags reads them; pictures are decoded in ``ros_images.py``, for its converter makes 8 bits of packed depth.
"""

import struct
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.base import check_scene_name
from clipfeat.errors import ConfigError, DataError, FrameError

BAG_FILES = (".bag", ".mcap", ".db3")
"""Endings of bags that are a file."""

_SHOWN = 14
"""Topics that a message lists."""

_AGAIN = "copy or record it again, or mend it by rosbag reindex, ros2 bag reindex or mcap recover"


@dataclass(frozen=True, eq=False)
class Stamped:
    """The messages of a topic, in the order of their own clock.

    Attributes:
        topic: its name.
        msgtype: of all of them, such as sensor_msgs/msg/Image.
        times_s: (N,) float64 seconds by each message's header, ascending.
        frame: that the header of the first says it is of, a name of tf; perhaps empty.
        places: (N, 2) int64, by which ``Bag.read`` finds them: its connection, and when it was written down, in ns.
        stamps: (N,) int64, the header's time in ns.
    """

    topic: str
    msgtype: str
    times_s: NDArray[np.float64]
    frame: str
    places: NDArray[np.int64]
    stamps: NDArray[np.int64]


def import_rosbags() -> Any:
    """The package rosbags.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import rosbags.highlevel
        import rosbags.typesys
    except ImportError as error:
        raise ConfigError("data=rosbag needs the package rosbags: pip install 'clipfeat[ros]'") from error
    return rosbags


def find_bags(root: Path) -> dict[str, Path]:
    """The bags in a folder, files and ROS 2's folders, by their name.

    Raises:
        DataError: If two share a name, or it is not allowed.
    """
    found: dict[str, Path] = {}
    folders = [path.parent for path in root.glob("*/metadata.yaml")]
    files = [path for path in root.iterdir() if path.suffix in BAG_FILES and path.is_file()]
    for path in (*folders, *files):
        name = path.name if path.is_dir() else path.stem
        if name.startswith("."):
            continue
        if (before := found.setdefault(check_scene_name(name, str(path)), path)) != path:
            raise DataError(f"{before} and {path} would both be scene {name}; rename one of them")
    return found


class Bag:
    """An open bag. Safe to use from several threads.

    Args:
        path: the file or folder.

    Raises:
        DataError: If it can't be read.
        ConfigError: If the package rosbags is missing.
    """

    def __init__(self, path: Path):
        self.path = path
        rosbags = import_rosbags()
        self._lock = threading.Lock()
        try:
            # Of recordings that don't say what their messages hold: those of the usual kinds never changed.
            store = rosbags.typesys.get_typestore(rosbags.typesys.Stores.ROS2_HUMBLE)
            self._reader = rosbags.highlevel.AnyReader([path], default_typestore=store)
            self._reader.open()
        except Exception as error:
            raise DataError(f"{path}: no bag, or cut off or damaged ({error}); {_AGAIN}") from error
        weakref.finalize(self, self._reader.close)
        if self._reader.message_count and not self._reader.connections:
            raise DataError(  # rosbags (0.11.9) knows channels by the summary alone, which need not repeat them
                f"{path}: holds {self._reader.message_count} messages and no topic, for its summary does not repeat "
                "its channels; copy it with NonSeekingReader and Writer of the package mcap, which does"
            )

    def topics(self) -> str:
        """The topics that there are, for messages: pictures, poses and calibrations first."""
        known = ("Image", "CompressedImage", "CameraInfo", "Odometry", "PoseStamped", "TFMessage", "TransformStamped")
        told = {
            one.topic: (one.msgtype.split("/")[-1] not in known, f"{one.topic} ({one.msgtype.split('/')[-1]})")
            for one in self._reader.connections
        }
        names = [name for _, name in sorted(told.values())]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return f"{', '.join(names[:_SHOWN]) or 'none'}{more}"

    def topics_of(self, *kinds: str) -> list[str]:
        """The topics whose messages are of one of these types, told by its last word."""
        return sorted({one.topic for one in self._reader.connections if one.msgtype.split("/")[-1] in kinds})

    def has(self, topic: str) -> bool:
        """Whether there is such a topic."""
        return any(_same(one.topic, topic) for one in self._reader.connections)

    def check(self, key: str, topic: str, kinds: tuple[str, ...]) -> str:
        """The type of a topic's messages.

        Args:
            key: that named it, for messages.
            topic: its name.
            kinds: last words of the types that can be used.

        Raises:
            DataError: If there is no such topic, or its messages are of another type.
        """
        found = sorted({one.msgtype for one in self._reader.connections if _same(one.topic, topic)})
        if not found:
            without = "; data.depth_topic=null does without" if key == "data.depth_topic" else ""
            raise DataError(f"{self.path}: holds no topic {key}={topic}, but {self.topics()}{without}")
        if len(found) > 1 or found[0].split("/")[-1] not in kinds:
            raise DataError(f"{self.path}: {key}={topic} is of {', '.join(found)}, expected {' or '.join(kinds)}")
        return str(found[0])

    def index(self, key: str, topic: str, kinds: tuple[str, ...]) -> Stamped:
        """Goes through the messages of a topic, of which each begins with a header.

        Raises:
            DataError: If there is none, or they are of another type.
        """
        msgtype = self.check(key, topic, kinds)
        stamps, places, frame = [], [], None
        for number, written, raw in self.raw(topic):
            stamp, name = _header(raw, self._reader.is2)
            frame = name if frame is None else frame
            stamps.append(stamp)
            places.append((number, written))
        if not stamps:
            raise DataError(f"{self.path}: {key}={topic} holds no message")
        order = np.argsort(np.array(stamps, np.int64), kind="stable")
        sorted_stamps = np.array(stamps, np.int64)[order]
        return Stamped(
            topic, msgtype, sorted_stamps / 1e9, frame or "", np.array(places, np.int64)[order], sorted_stamps
        )

    def raw(self, topic: str) -> Iterator[tuple[int, int, bytes]]:
        """All messages of a topic as they are stored: their connection, when they were written down (ns), their bytes.

        Raises:
            DataError: If the bag is damaged.
        """
        numbers = {id(one): i for i, one in enumerate(self._reader.connections)}
        chosen = [one for one in self._reader.connections if _same(one.topic, topic)]
        with self._lock:
            try:
                for connection, written, raw in self._reader.messages(connections=chosen):
                    yield numbers[id(connection)], written, raw
            except GeneratorExit:
                raise
            except Exception as error:
                raise DataError(f"{self.path}, {topic}: cut off or damaged ({error}); {_AGAIN}") from error

    def messages(self, topic: str) -> Iterator[Any]:
        """All messages of a topic.

        Raises:
            DataError: If the bag, or one of them, is damaged.
        """
        for number, _, raw in self.raw(topic):
            yield self._message(number, raw, f"{self.path}, {topic}")

    def read(self, topic: Stamped, place: int) -> Any:
        """One message.

        Raises:
            FrameError: If it can't be read.
        """
        number, written = topic.places[place].tolist()
        where = f"{self.path}, {topic.topic} at {topic.times_s[place]:.6f} s"
        connection = self._reader.connections[number]
        try:
            with self._lock:
                # Several may have been written down at one time.
                raw = next(
                    raw
                    for _, _, raw in self._reader.messages(connections=[connection], start=written, stop=written + 1)
                    if _header(raw, self._reader.is2)[0] == topic.stamps[place]
                )
            return self._message(number, raw, where)
        except StopIteration as error:
            raise FrameError(
                f"{where}: is in the bag no more, or rosbags is older than 0.11.7, which lost some"
            ) from error
        except Exception as error:
            raise FrameError(f"{where}: can't be read ({error})") from error

    def _message(self, number: int, raw: bytes, where: str) -> Any:
        try:
            return self._reader.deserialize(raw, self._reader.connections[number].msgtype)
        except Exception as error:
            raise DataError(f"{where}: a damaged message ({error}); {_AGAIN}") from error


def _same(one: str, other: str) -> bool:
    return one.strip("/") == other.strip("/")


def _header(raw: bytes, ros2: bool) -> tuple[int, str]:
    """Time in ns and frame of the header that a message begins with.

    Both kinds have the time after 4 bytes, which are a counter in ROS 1 and tell the byte order in ROS 2.
    """
    order = ">" if ros2 and len(raw) > 1 and not raw[1] & 1 else "<"
    try:
        seconds, nanoseconds, length = struct.unpack_from(f"{order}III", raw, 4)
    except struct.error as error:
        raise ValueError("a message without a header") from error
    return seconds * 10**9 + nanoseconds, raw[16 : 16 + min(length, 256)].rstrip(b"\0").decode("utf-8", "replace")
