"""What ``data=…`` sets of recorders that pack their frames: archives, videos and streams."""

from dataclasses import dataclass
from typing import Any

from clipfeat.config.checks import at_least
from clipfeat.data.base_config import DataConfig, check_confidence, check_rotate
from clipfeat.errors import ConfigError


@dataclass
class PhoneConfig(DataConfig):
    """What recordings of phones share. K, sizes and units stand in them, so that little is left to say.

    Attributes:
        root_is_scene: root is itself one scene, named after its folder.
        rotate: see ScanNetConfig.
    """

    root_is_scene: bool = False
    rotate: int | None = None

    def __post_init__(self) -> None:
        check_rotate(self.rotate)


@dataclass
class Record3dConfig(PhoneConfig):
    """Record3D: archives ``<root>/<scene>.r3d``, or folders of its export as EXR and JPG.

    Attributes:
        confidence_min: depth that the phone trusts less is a hole: 1 or 2 of its 0 to 2. Null: all depth is used.
        confidence_full: 2 weighs points by the phone's trust in their depth: conf_2d is multiplied by 0, 0.5 or 1.
            Null: all alike.
    """

    name: str = "record3d"
    confidence_min: int | None = None
    confidence_full: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_confidence(self.confidence_min, self.confidence_full)


@dataclass
class StrayScannerConfig(PhoneConfig):
    """Stray Scanner: ``<root>/<scene>/{rgb.mp4,depth,confidence,odometry.csv,camera_matrix.csv}``.

    Attributes:
        confidence_min: see Record3dConfig.
        confidence_full: the same.
    """

    name: str = "strayscanner"
    confidence_min: int | None = None
    confidence_full: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_confidence(self.confidence_min, self.confidence_full)


@dataclass
class ScanNetPpRawConfig(PhoneConfig):
    """The phone's recordings in ScanNet++, packed: ``<root>/<scene>/iphone/{rgb.mkv,depth.bin,…}``."""

    name: str = "scannetpp_raw"


@dataclass
class RosbagConfig(PhoneConfig):
    """ROS bags, of ROS 1 (.bag) or ROS 2 (a folder, .mcap, .db3): a bag a scene, told by topics.

    Attributes:
        color_topic: of the pictures: Image, or CompressedImage.
        depth_topic: of depth registered to them: Image (16UC1 or 32FC1), or CompressedImage (compressedDepth png); null
            for none.
        depth_scale: units of 16-bit depth in a metre. Floats are metres.
        camera_info_topic: of the K of colour.
        rectified: of a lens that distorts, whether colour and depth are of image_proc's rectified topics, whose K is
            the one in CameraInfo's P, or as the camera took them. Null: no lens may distort, for nothing in a message
            tells the two apart.
        pose_topic: of the poses: Odometry, PoseStamped, PoseWithCovarianceStamped or TransformStamped. It, or
            ``tf_frames``, must be set.
        pose_frame: whose poses these are, a name of tf. Null: as the messages say (``child_frame_id``), and refused
            where they don't.
        tf_frames: [world,camera]: two names of tf instead; the camera's is the optical frame that the pictures are of.
        max_dt: seconds that depth, and the nearest pose, may be away from the picture, by the messages' own clock.
        color_from_depth: see PosedRgbdConfig; [0,0,0] for depth that is registered though it is said to be of another
            frame than colour.
        depth_camera_info_topic: of the K of depth that has one of its own; null: it has colour's, resized.
    """

    name: str = "rosbag"
    color_topic: str | None = None
    depth_topic: str | None = None
    depth_scale: float = 1000.0
    camera_info_topic: str | None = None
    rectified: bool | None = None
    pose_topic: str | None = None
    pose_frame: str | None = None
    tf_frames: list[str] | None = None
    max_dt: float = 0.02
    color_from_depth: list[Any] | None = None
    depth_camera_info_topic: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("data.depth_scale", self.depth_scale, 0, above=True)
        at_least("data.max_dt", self.max_dt, 0)
        for key, example in (("color_topic", "image_raw"), ("camera_info_topic", "camera_info")):
            if getattr(self, key) is None:
                raise ConfigError(f"data.{key} is not set: give the topic, such as /camera/color/{example}")
        if (self.pose_topic is None) == (self.tf_frames is None):
            raise ConfigError(
                f"data.pose_topic={self.pose_topic} data.tf_frames={self.tf_frames}: expected one of the two, a topic "
                "of poses such as /odom, or [world,camera] of tf"
            )
        if self.tf_frames is not None and len(self.tf_frames) != 2:
            raise ConfigError(f"data.tf_frames={self.tf_frames}: expected [world,camera], two names of tf")
        if self.depth_camera_info_topic is not None and self.color_from_depth is None:
            raise ConfigError(
                "data.depth_camera_info_topic is set, but not data.color_from_depth: how it lies to colour"
            )
