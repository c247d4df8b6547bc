"""Which topics of a bag may be which key of ``data=rosbag``, by what the messages say of themselves."""

from itertools import islice
from typing import Any

from clipfeat.data.ros_bag import Bag
from clipfeat.data.ros_images import KINDS, distorts, is_color
from clipfeat.data.rosbag import POSES, TF
from clipfeat.errors import DataError

_SAY_NOT_WHOSE = ("PoseStamped", "PoseWithCovarianceStamped")

_TF_READ = 200
"""Messages of each topic of tf that are looked at for its frames."""


def bag_keys(bag: Bag) -> dict[str, str]:
    """Keys of ``data=rosbag`` and their values; one that the bag leaves open has a value in <>.

    Colour and depth are told apart by their encoding; depth and K are looked for among the topics that are of the
    frame of colour, if there are any; other depth is not registered, and how it lies is left open, as is of a lens that
    distorts whether it was taken out. Nothing else is decided between several.

    Raises:
        DataError: If it holds no pictures, no K or no poses, or is damaged.
    """
    firsts = {topic: _first(bag, topic) for topic in bag.topics_of(*KINDS, "CameraInfo")}
    firsts = {topic: message for topic, message in firsts.items() if message is not None}
    infos = [topic for topic in bag.topics_of("CameraInfo") if topic in firsts]
    pictures = {topic: is_color(firsts[topic]) for topic in bag.topics_of(*KINDS) if topic in firsts}
    colors = [topic for topic, color in pictures.items() if color]
    depths = [topic for topic, color in pictures.items() if color is False]
    poses, moving = bag.topics_of(*POSES), bag.has("/tf")
    for found, what in ((colors, "pictures"), (infos, "a K (CameraInfo)"), (poses or moving, "poses, nor /tf")):
        if not found:
            raise DataError(f"{bag.path}: holds no messages of {what}, but the topics {bag.topics()}")
    frame = firsts[colors[0]].header.frame_id.strip("/") if len(colors) == 1 else None

    def of_frame(topics: list[str], frame: str | None) -> list[str]:
        return [topic for topic in topics if firsts[topic].header.frame_id.strip("/") == frame]

    of_color = of_frame(infos, frame) or infos
    keys = {"data.color_topic": _one_of(colors), "data.camera_info_topic": _one_of(of_color)}
    if any(distorts(firsts[topic]) for topic in of_color):
        keys["data.rectified"] = "<true if the topics are rectified by image_proc, else false>"
    if depths:
        registered = of_frame(depths, frame)
        keys["data.depth_topic"] = _one_of(registered or depths)
        if frame is not None and not registered:
            keys["data.color_from_depth"] = "<from the axes of depth to those of colour; [0,0,0] if registered>"
            if len(depths) == 1 and (own := of_frame(infos, firsts[depths[0]].header.frame_id.strip("/"))):
                keys["data.depth_camera_info_topic"] = _one_of(own)
    if not poses:
        return keys | {"data.tf_frames": f"[{_one_of(_parents(bag))},{frame or '<the frame of colour>'}]"}
    keys["data.pose_topic"] = _one_of(poses)
    if len(poses) == 1 and bag.topics_of(*_SAY_NOT_WHOSE):
        keys["data.pose_frame"] = f"<{frame or 'the frame of colour'}, or whose poses these are>"
    return keys


def is_open(keys: dict[str, str]) -> bool:
    """Whether one of the keys has still to be said."""
    return any("<" in value for value in keys.values())


def _one_of(topics: list[str]) -> str:
    return topics[0] if len(topics) == 1 else f"<one of {' | '.join(topics)}>"


def _parents(bag: Bag) -> list[str]:
    """The frames of tf that others hang on, by its first messages."""
    tf = [message for topic in TF if bag.has(topic) for message in islice(bag.messages(topic), _TF_READ)]
    return sorted({one.header.frame_id.strip("/") for message in tf for one in message.transforms})


def _first(bag: Bag, topic: str) -> Any:
    return next(iter(bag.messages(topic)), None)
