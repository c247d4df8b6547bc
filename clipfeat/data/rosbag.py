"""ROS bags: pictures, depth and poses by topics, streamed.

A frame is a message of colour; its number is its place by the messages' own clock (the header's), from 0. Depth goes
with the picture that is nearest in time, each with one, and poses are interpolated between the two around it; both
within ``data.max_dt``.

Whose pose a topic gives is never guessed. An Odometry or TransformStamped says it (``child_frame_id``), for others
``data.pose_frame`` does; from there to the frame that the pictures say they are of, tf leads. That frame has OpenCV's
axes, as ROS's optical frames have (REP 103).
"""

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.archive_config import RosbagConfig
from clipfeat.data.base import check_scene_name
from clipfeat.data.matching import Matched, match_times, nearest
from clipfeat.data.matrices import Calibration, camera_for, check_pose
from clipfeat.data.registered import camera_of, registered_frame
from clipfeat.data.roots import check_root
from clipfeat.data.ros_bag import BAG_FILES, Bag, Stamped, find_bags
from clipfeat.data.ros_images import KINDS, calibration_of, color_of, depth_of
from clipfeat.data.ros_tf import FrameTree, TimedTrack, check_clock
from clipfeat.data.told import ToldOnce
from clipfeat.data.two_cameras import color_from_depth_matrix, seen_from_color
from clipfeat.errors import DataError, FrameError
from clipfeat.types import Frame

log = logging.getLogger(__name__)

POSES = ("Odometry", "PoseStamped", "PoseWithCovarianceStamped", "TransformStamped")
"""Types of the topics that poses are taken from, by their last word."""

TF = {"/tf": False, "/tf_static": True}
"""The topics of tf, and whether what they say holds always."""


@dataclass(frozen=True, eq=False)
class _Recording:
    """An open bag.

    Attributes:
        bag: it.
        color: its pictures.
        depth: its depth, or None.
        matched: which of it is which picture's.
        calibration: of colour.
        depth_calibration: of depth, where it has a topic of its own.
        track: the poses of pose_topic, or None.
        tree: of tf, or None where nobody needs it.
        body: whose poses ``track`` holds.
    """

    bag: Bag
    color: Stamped
    depth: Stamped | None
    matched: Matched | None
    calibration: Calibration
    depth_calibration: Calibration | None
    track: TimedTrack | None
    tree: FrameTree | None
    body: str


class RosbagDataset:
    """See the module. A scene is a bag, by its name.

    Args:
        cfg: the layout; its checks have been made.

    Raises:
        DataError: If ``root`` is no folder.
        ConfigError: If ``color_from_depth`` is no transform.
    """

    def __init__(self, cfg: RosbagConfig):
        self.cfg = cfg
        self.root = check_root(Path(cfg.root), f"bags, <scene>{', '.join(BAG_FILES)} or folders")
        self._color_from_depth = color_from_depth_matrix(cfg.color_from_depth)
        self._lock = Lock()
        # Cached an instance, so that two data sets never share an entry.
        self._recording = lru_cache(maxsize=2)(self._open)
        self._tell = ToldOnce(log)

    def scenes(self) -> list[str]:
        """All bags, sorted by name.

        Raises:
            DataError: If there is none, or two share a name.
        """
        found = self._found()
        if not found:
            raise DataError(
                f"data.root={self.root}: holds no bag, expected <scene>{', '.join(BAG_FILES)} or ROS 2's folders"
            )
        return sorted(found)

    def frame_ids(self, scene_id: str) -> list[int]:
        """See ``Dataset``. Pictures without a pose near enough are among them."""
        return list(range(len(self._recording_of(scene_id).color.times_s)))

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """See ``Dataset``."""
        recording, cfg = self._recording_of(scene_id), self.cfg
        color = recording.color
        if not 0 <= frame_id < len(color.times_s):
            raise FrameError(f"{recording.bag.path}: holds no frame {frame_id}, only 0 to {len(color.times_s) - 1}")
        time_s = float(color.times_s[frame_id])
        where = f"{recording.bag.path}, {color.topic} at {time_s:.6f} s"
        cam_to_world = check_pose(self._pose(recording, time_s), where)
        picture = color_of(recording.bag.read(color, frame_id), where, cfg.rotate or 0)
        depth_m = self._depth(recording, frame_id)
        camera = camera_of(recording.calibration, picture, f"{where}, K")
        frame = registered_frame(
            scene_id, frame_id, picture, camera, depth_m, cam_to_world,
            where=where, rotate=cfg.rotate, tell=self._tell,
        )  # fmt: skip
        return frame if depth_m is None else self._seen_from_color(recording, frame, depth_m)

    def _depth(self, recording: _Recording, frame_id: int) -> NDArray[np.float32] | None:
        """(h, w) metres of a picture's depth; None where it has none."""
        depth = recording.depth
        place = None if recording.matched is None else recording.matched.rows.get(frame_id)
        if depth is None or place is None:
            return None
        where = f"{recording.bag.path}, {depth.topic} at {depth.times_s[place]:.6f} s"
        return depth_of(recording.bag.read(depth, place), where, self.cfg.depth_scale)

    def _seen_from_color(self, recording: _Recording, frame: Frame, depth_m: NDArray[np.float32]) -> Frame:
        """Depth of a camera of its own as colour sees it; registered depth is left as it is."""
        own = recording.depth_calibration
        camera = frame.depth_camera
        if own is not None:
            size = (depth_m.shape[1], depth_m.shape[0])
            where = f"{recording.bag.path}, {self.cfg.depth_camera_info_topic}"
            camera = camera_for(own.intrinsics, own.size, size, where, None, own.distortion)
        if self._color_from_depth is None or camera is None:
            return frame
        depth_m, camera = seen_from_color(depth_m, camera, frame.color_camera, self._color_from_depth)
        return Frame(
            frame.scene_id, frame.frame_id, frame.picture, depth_m, frame.color_camera, camera, frame.cam_to_world
        )

    # Poses

    def _pose(self, recording: _Recording, time_s: float) -> NDArray[np.float64]:
        """The (4, 4) cam_to_world at a time."""
        cfg = self.cfg
        if recording.track is None:
            tree, (world, camera) = recording.tree, cfg.tf_frames or ("", "")
            assert tree is not None  # noqa: S101  opened with the bag
            return tree.pose(camera, world, time_s, cfg.max_dt)
        pose = recording.track.at(time_s, cfg.max_dt)
        if recording.tree is None:
            return pose
        return pose @ recording.tree.pose(recording.color.frame, recording.body, time_s, cfg.max_dt)

    def _read_track(self, bag: Bag) -> tuple[TimedTrack, str]:
        """The poses of pose_topic, and whose they are."""
        topic = self.cfg.pose_topic or ""
        bag.check("data.pose_topic", topic, POSES)
        track, body = TimedTrack(f"{bag.path}, {topic}"), self.cfg.pose_frame or ""
        for message in bag.messages(topic):
            stamp = message.header.stamp
            translation, rotation = _motion(message)
            track.add(stamp.sec + stamp.nanosec / 1e9, translation, rotation)
            body = body or getattr(message, "child_frame_id", "")
        if not len(track.times_s()):
            raise DataError(f"{bag.path}: data.pose_topic={topic} holds no message")
        return track, body.strip("/")

    # Opening

    def _recording_of(self, scene_id: str) -> _Recording:
        with self._lock:  # one thread at a time, so that nothing is opened twice
            return self._recording(scene_id)

    def _open(self, scene_id: str) -> _Recording:
        path = self._found().get(check_scene_name(scene_id, "scene"))
        if path is None:
            raise DataError(
                f"{self.root}: no such scene {scene_id}, expected {scene_id}{', '.join(BAG_FILES)} or a folder"
            )
        cfg, bag = self.cfg, Bag(path)
        color = bag.index("data.color_topic", cfg.color_topic or "", KINDS)
        depth = None if cfg.depth_topic is None else bag.index("data.depth_topic", cfg.depth_topic, KINDS)
        calibration = self._calibration(bag, "data.camera_info_topic", cfg.camera_info_topic or "")
        own = cfg.depth_camera_info_topic
        depth_calibration = None if own is None else self._calibration(bag, "data.depth_camera_info_topic", own)
        check_clock(color.times_s, str(bag.path), f"pictures of {color.topic}")
        matched = None if depth is None else self._match(scene_id, bag, color, depth)
        track, body, tree = None, "", None
        if cfg.pose_topic is not None:
            track, body = self._read_track(bag)
            track.check_clock()
            self._check_clocks(bag, color, cfg.pose_topic, track.times_s())
            if not body:
                raise DataError(
                    f"{bag.path}: data.pose_topic={cfg.pose_topic} doesn't say whose poses it holds: say "
                    f"data.pose_frame={color.frame or '…'} if they are the colour camera's, else the frame of tf"
                )
        elif cfg.tf_frames is not None and color.frame.strip("/") not in ("", cfg.tf_frames[1].strip("/")):
            self._tell(
                scene_id,
                "tf",
                f"{bag.path}: data.tf_frames ends at {cfg.tf_frames[1]}, but {color.topic} says it is of "
                f"{color.frame}; poses are those of {cfg.tf_frames[1]}, as if its axes were the picture's",
            )
        if track is None or body != color.frame.strip("/"):
            tree = FrameTree(str(bag.path), _transforms(bag))
        found = _Recording(bag, color, depth, matched, calibration, depth_calibration, track, tree, body)
        self._try_poses(bag, found)
        return found

    def _calibration(self, bag: Bag, key: str, topic: str) -> Calibration:
        bag.check(key, topic, ("CameraInfo",))
        message = next(iter(bag.messages(topic)), None)
        if message is None:
            raise DataError(f"{bag.path}: {key}={topic} holds no message, so there is no K")
        return calibration_of(message, f"{bag.path}, {topic}", rectified=self.cfg.rectified)

    def _match(self, scene_id: str, bag: Bag, color: Stamped, depth: Stamped) -> Matched:
        """Which depth is which picture's; refuses another clock, and another camera if nobody said how it lies."""
        where = f"{bag.path}, {depth.topic}"
        matched = match_times("depth", where, dict(enumerate(color.times_s.tolist())), depth.times_s, self.cfg.max_dt)
        if message := matched.told():
            self._tell(scene_id, "depth", message)
        if self._color_from_depth is None and color.frame.strip("/") != depth.frame.strip("/"):
            raise DataError(
                f"{where}: is of the frame {depth.frame or '(none)'}, {color.topic} of {color.frame or '(none)'}, so "
                "depth is not registered to colour; take the topic of registered depth (aligned_depth_to_color), or "
                "say data.color_from_depth, [0,0,0] if it is registered all the same"
            )
        moved = self._color_from_depth is not None and not np.array_equal(self._color_from_depth, np.eye(4))
        if moved and self.cfg.depth_camera_info_topic is None:
            self._tell(
                scene_id,
                "depth K",
                f"{where}: depth is of a camera of its own (data.color_from_depth), but K is taken to be colour's, "
                f"resized; data.depth_camera_info_topic names the topic of its own",
            )
        return matched

    def _check_clocks(self, bag: Bag, color: Stamped, topic: str, times_s: NDArray[np.float64]) -> None:
        """Refuses times that no picture is near to: two clocks."""
        gaps = [abs(times_s[nearest(times_s, float(one))] - one) for one in color.times_s]
        if min(gaps) > self.cfg.max_dt:
            (a, b), (c, d) = color.times_s[[0, -1]], times_s[[0, -1]]
            raise DataError(
                f"{bag.path}: {topic} ({c:.3f} to {d:.3f} s) is never within data.max_dt={self.cfg.max_dt:g} s of "
                f"{color.topic} ({a:.3f} to {b:.3f} s), the nearest is {min(gaps):.3f} s away; two clocks?"
            )

    def _try_poses(self, bag: Bag, recording: _Recording) -> None:
        """Refuses a bag in which not one picture has a pose."""
        wrong: FrameError | None = None
        for time_s in recording.color.times_s:
            try:
                self._pose(recording, float(time_s))
            except FrameError as error:
                wrong = wrong or error
            else:
                return
        raise DataError(f"{bag.path}: not one picture has a pose; of the first: {wrong}")

    def _found(self) -> dict[str, Path]:
        """Scene to its bag: a file, or a folder of ROS 2."""
        if self.cfg.root_is_scene:
            scene = self.root.resolve() if self.root.name in ("", "..") else self.root.absolute()
            return {check_scene_name(scene.name, str(scene)): self.root}
        if (self.root / "metadata.yaml").is_file():
            raise DataError(f"data.root={self.root}: a bag of ROS 2 itself, say data.root_is_scene=true")
        return find_bags(self.root)


def _motion(message: Any) -> tuple[Any, Any]:
    """Translation and rotation of a message of a pose, however deep they stand."""
    node = getattr(message, "transform", None) or message.pose
    node = getattr(node, "pose", node)
    return (node.translation, node.rotation) if hasattr(node, "translation") else (node.position, node.orientation)


def _transforms(bag: Bag) -> Any:
    """All of tf, with whether it holds always."""
    for topic, static in TF.items():
        if bag.has(topic):
            yield from ((static, message) for message in bag.messages(topic))
