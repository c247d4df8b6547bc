"""What ``sampling=…`` sets, and which points of which frames are looked at."""

from dataclasses import dataclass, field

from clipfeat.camera.config import CameraConfig
from clipfeat.config.checks import at_least, check_points_file
from clipfeat.config.paths import path_key
from clipfeat.data.config import FramesConfig


@dataclass
class SamplingConfig:
    """Which 3D points get a feature.

    Attributes:
        name: depth (the frame's own depth pixels), frame_points (those the data set stores) or mesh.
        num_points: points a frame, chosen at random without replacement; null takes all.
    """

    name: str = "depth"
    num_points: int | None = 20000

    def __post_init__(self) -> None:
        at_least("sampling.num_points", self.num_points, 1)


@dataclass
class MeshSamplingConfig(SamplingConfig):
    """The vertices of a scene's mesh, or any stored cloud: the same points in every frame.

    Attributes:
        points_file: PLY or npz, with {scene} in it.
        labels_file: a second PLY of the same vertices that carries their labels, with {scene} in it; null for none.
    """

    name: str = "mesh"
    num_points: int | None = None
    points_file: str = path_key("${data.root}/{scene}/{scene}_vh_clean_2.ply")
    labels_file: str | None = path_key(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("points_file", "labels_file"):
            check_points_file(f"sampling.{key}", getattr(self, key))


@dataclass
class PointsConfig(FramesConfig):
    """Which points of which frames a command looks at, and when they count as seen.

    Attributes:
        camera: see CameraConfig.
        sampling: see SamplingConfig.
    """

    camera: CameraConfig = field(default_factory=CameraConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
