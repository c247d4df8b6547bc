"""Small ROS bags of all kinds, of frames whose every number is known; and messages without any package."""

import io
import struct
from types import SimpleNamespace

import numpy as np
from phone_recordings import jpeg, quaternion_of, rotation
from PIL import Image

START = 1_700_000_000
"""Seconds at which the bags begin."""

COLOR, DEPTH, INFO = "/camera/color/image_raw", "/camera/aligned_depth_to_color/image_raw", "/camera/color/camera_info"

BASE_FROM_OPTICAL = np.eye(4)
BASE_FROM_OPTICAL[:3, :3], BASE_FROM_OPTICAL[:3, 3] = rotation(np.array([-0.5, 0.5, -0.5, 0.5])), (0.1, -0.05, 0.3)
"""Of REP 103: the body's x is forward, its z up."""


def png16(values):
    out = io.BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(out, "PNG")
    return out.getvalue()


def image(values, encoding, step=None, big=0):
    """An Image of (h, w) or (h, w, c) numbers, as its fields."""
    height, width = values.shape[:2]
    rows = np.ascontiguousarray(values).view(np.uint8).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, (step or rows.shape[1]) - rows.shape[1])))
    return {
        "height": height, "width": width, "encoding": encoding, "is_bigendian": big, "step": rows.shape[1],
        "data": rows.reshape(-1),
    }  # fmt: skip


def compressed(data, kind):
    """A CompressedImage, as its fields."""
    return {"format": kind, "data": np.frombuffer(data, np.uint8)}


def compressed_depth(values, kind="16UC1; compressedDepth png", a=0.0, b=0.0):
    return compressed(struct.pack("<iff", 0, a, b) + png16(values), kind)


def message(fields):
    """A message without a header, such as functions that decode take."""
    return SimpleNamespace(**fields)


class BagWriter:
    """``with BagWriter(path, "bag") as bag: bag.add(topic, type, seconds, frame, fields)``.

    Args:
        path: file of ROS 1, or folder of ROS 2.
        kind: bag, mcap or sqlite3.
        without: topics that are not written.
    """

    def __init__(self, path, kind, without=()):
        from rosbags.rosbag1 import Writer as Writer1
        from rosbags.rosbag2 import StoragePlugin
        from rosbags.rosbag2 import Writer as Writer2
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore

        self.ros1 = kind == "bag"
        self.store = get_typestore(Stores.ROS1_NOETIC if self.ros1 else Stores.ROS2_HUMBLE)
        if self.ros1:  # which the package's own list has not
            definition = "geometry_msgs/TransformStamped[] transforms"
            self.store.register(get_types_from_msg(definition, "tf2_msgs/msg/TFMessage"))
        path.parent.mkdir(parents=True, exist_ok=True)
        plugin = StoragePlugin.MCAP if kind == "mcap" else StoragePlugin.SQLITE3
        self.writer = Writer1(path) if self.ros1 else Writer2(path, version=9, storage_plugin=plugin)
        self.connections, self.without = {}, without

    def __enter__(self):
        self.writer.open()
        return self

    def __exit__(self, *_):
        self.writer.close()

    def make(self, kind, **fields):
        return self.store.types[kind](**fields)

    def header(self, seconds, frame):
        stamp = self.make("builtin_interfaces/msg/Time", sec=int(seconds), nanosec=round(seconds % 1 * 1e9))
        return self.make("std_msgs/msg/Header", **({"seq": 0} if self.ros1 else {}), stamp=stamp, frame_id=frame)

    def add(self, topic, kind, seconds, frame, fields, late=0.0):
        """A message with a header, written down so many seconds after its own time."""
        self.write(topic, kind, seconds + late, self.make(kind, header=self.header(seconds, frame), **fields))

    def write(self, topic, kind, seconds, made):
        if topic in self.without:
            return
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(topic, kind, typestore=self.store)
        pack = self.store.serialize_ros1 if self.ros1 else self.store.serialize_cdr
        self.writer.write(self.connections[topic], round(seconds * 1e9), pack(made, kind))

    def motion(self, matrix):
        """Fields of a Pose, and of a Transform."""
        q = self.make("geometry_msgs/msg/Quaternion", **dict(zip("xyzw", quaternion_of(matrix[:3, :3]), strict=True)))
        xyz = dict(zip("xyz", matrix[:3, 3], strict=True))
        pose = {"position": self.make("geometry_msgs/msg/Point", **xyz), "orientation": q}
        return pose, {"translation": self.make("geometry_msgs/msg/Vector3", **xyz), "rotation": q}

    def camera_info(self, topic, k, size, frame, d=(0.0,) * 5, p=None):
        letters = str.upper if self.ros1 else str.lower
        p = np.hstack([k if p is None else p, np.zeros((3, 1))])
        matrices = {"D": np.array(d, float), "K": k.ravel(), "R": np.eye(3).ravel(), "P": p.ravel()}
        whole = {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False}
        fields = {letters(name): value for name, value in matrices.items()} | {
            "height": size[1], "width": size[0], "distortion_model": "plumb_bob", "binning_x": 0, "binning_y": 0,
            "roi": self.make("sensor_msgs/msg/RegionOfInterest", **whole),
        }  # fmt: skip
        self.add(topic, "sensor_msgs/msg/CameraInfo", START, frame, fields)

    def pose(self, topic, seconds, matrix):
        """A PoseStamped in the frame map."""
        pose = self.make("geometry_msgs/msg/Pose", **self.motion(matrix)[0])
        self.add(topic, "geometry_msgs/msg/PoseStamped", seconds, "map", {"pose": pose})

    def odometry(self, topic, seconds, matrix, child):
        pose = self.make("geometry_msgs/msg/Pose", **self.motion(matrix)[0])
        covered = self.make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36))
        zero = self.make("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=0.0)
        twist = self.make("geometry_msgs/msg/Twist", linear=zero, angular=zero)
        still = self.make("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36))
        fields = {"child_frame_id": child, "pose": covered, "twist": still}
        self.add(topic, "nav_msgs/msg/Odometry", seconds, "map", fields)

    def tf(self, seconds, parent, child, matrix, static=False):
        transform = self.make("geometry_msgs/msg/Transform", **self.motion(matrix)[1])
        one = self.make(
            "geometry_msgs/msg/TransformStamped", header=self.header(seconds, parent), child_frame_id=child,
            transform=transform,
        )  # fmt: skip
        kind = "tf2_msgs/msg/TFMessage"
        self.write("/tf_static" if static else "/tf", kind, seconds, self.make(kind, transforms=[one]))


def write_bag(path, kind, frames, packed=False, depth_frame="optical", depth_late=0.004, without=(), **info):
    """Frames at 10 Hz: pictures and depth of the frame optical, which hangs on base; odometry and tf of base in map.

    All messages are written down late, the pictures latest.
    """
    height, width = frames[0].color.shape[:2]
    with BagWriter(path, kind, without) as bag:
        bag.tf(START, "base", "optical", BASE_FROM_OPTICAL, static=True)
        bag.camera_info(INFO, frames[0].k, (width, height), "optical", **info)
        for i, frame in enumerate(frames):
            seconds = START + i / 10
            base = frame.pose @ np.linalg.inv(BASE_FROM_OPTICAL)
            bag.odometry("/odom", seconds, base, "base")
            bag.pose("/slam", seconds, frame.pose)
            bag.tf(seconds, "map", "base", base)
            raw = (frame.depth * 1000).round().astype("<u2")
            color = compressed(jpeg(frame.color), "rgb8; jpeg compressed bgr8") if packed else image(
                frame.color[..., ::-1], "bgr8", step=3 * width + 5
            )  # fmt: skip
            depth = compressed_depth(raw) if packed else image(raw, "16UC1")
            message_type = f"sensor_msgs/msg/{'CompressedImage' if packed else 'Image'}"
            bag.add(DEPTH, message_type, seconds + depth_late, depth_frame, depth, late=0.02)
            bag.add(COLOR, message_type, seconds, "optical", color, late=0.05)
    return path
