"""What ``data=…`` sets, a dataclass a layout, and which of the frames are looked at."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from clipfeat.config.checks import at_least, check_size, one_of
from clipfeat.config.paths import path_key
from clipfeat.data.archive_config import Record3dConfig, RosbagConfig, ScanNetPpRawConfig, StrayScannerConfig
from clipfeat.data.base_config import DataConfig as DataConfig
from clipfeat.data.base_config import check_rotate
from clipfeat.data.posed_checks import DEPTH_ALONG, check_posed
from clipfeat.errors import ConfigError
from clipfeat.system.patterns import check_pattern


def as_size(value: list[int] | None) -> tuple[int, int] | None:
    """[width, height] of a configuration as (width, height)."""
    return None if value is None else (value[0], value[1])


@dataclass
class ScanNetConfig(DataConfig):
    """ScanNet as its own tool exports it: ``<root>/<scene>/{color,depth,pose,intrinsic}``.

    Attributes:
        depth_scale: units of the depth files in a metre (1000: millimetres).
        color_intrinsics_size: [width, height] that the stored colour K belongs to, where the pictures were resized
            after the export. Null: K belongs to the pictures as they are stored.
        depth_intrinsics_size: the same for the depth K.
        rotate: degrees by which colour pictures are turned clockwise when they are read, so that K, depth and poses fit
            them: 0, 90, 180 or 270. Null: as they are stored, and refused where that contradicts K or depth.
    """

    name: str = "scannet"
    depth_scale: float = 1000.0
    color_intrinsics_size: list[int] | None = None
    depth_intrinsics_size: list[int] | None = None
    rotate: int | None = None

    def __post_init__(self) -> None:
        check_rotate(self.rotate)
        at_least("data.depth_scale", self.depth_scale, 0, above=True)
        for key in ("color_intrinsics_size", "depth_intrinsics_size"):
            check_size(f"data.{key}", getattr(self, key))


@dataclass
class SensConfig(DataConfig):
    """ScanNet's raw recordings: ``<root>/<scene>/<scene>.sens`` or ``<root>/<scene>.sens``.

    Intrinsics, their resolution and the depth scale stand in the files, so nothing is left to set but ``root``.
    """

    name: str = "sens"


@dataclass
class DemoConfig(ScanNetConfig):
    """Rendered rooms in ScanNet's layout, written to ``root`` the first time and read from there afterwards.

    Attributes:
        num_scenes: rooms to render.
        num_frames: views a room.
        depth_noise: standard deviation of the depth noise in metres at 1 m; it grows with the square of the depth.
        depth_holes: share of the depth pixels that are missing, in blobs, 0 to 0.9.
        lost_poses: frames a scene whose pose is -inf, as ScanNet writes a lost track.
        mesh_spacing: distance of the mesh's vertices in metres.
        color_size: [width, height] of the colour pictures.
        depth_size: [width, height] of the depth pictures.
        seed: what the rooms look like.
    """

    name: str = "demo"
    num_scenes: int = 2
    num_frames: int = 5
    depth_noise: float = 0.0
    depth_holes: float = 0.0
    lost_poses: int = 0
    mesh_spacing: float = 0.04
    color_size: list[int] = field(default_factory=lambda: [1296, 968])
    depth_size: list[int] = field(default_factory=lambda: [640, 480])
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("data.num_scenes", self.num_scenes, 1)
        at_least("data.num_frames", self.num_frames, 1)
        at_least("data.depth_noise", self.depth_noise, 0)
        at_least("data.lost_poses", self.lost_poses, 0)
        at_least("data.mesh_spacing", self.mesh_spacing, 0.005)
        at_least("data.seed", self.seed, 0)
        if not 0 <= self.depth_holes <= 0.9:
            raise ConfigError(f"data.depth_holes={self.depth_holes}: expected a share from 0 to 0.9")
        for key in ("color_size", "depth_size"):
            size = getattr(self, key)
            if len(size) != 2 or min(size) < 16:
                raise ConfigError(f"data.{key}={size}: expected [width,height] of at least 16 pixels each")


@dataclass
class PosedRgbdConfig(DataConfig):
    """Posed RGB-D folders whose layout is told by patterns: see ``clipfeat/data/posed_rgbd.py`` and ``patterns.py``.

    Attributes:
        root_is_scene: root is itself one scene: ``{scene}`` stands for its name, and patterns begin in its parent.
        color: pattern of the colour pictures, with ``{scene}`` and ``{frame}``, or ``{stamp}`` where names are times.
            It, or ``color_list``, must be set.
        color_list: pattern of a file of ``timestamp filename`` lines instead, one a scene; for poses that go by time.
        stamp_unit: of the times that ``{stamp}`` stands for: s, ms, us or ns. Has no default.
        depth: pattern of the depth pictures; null for a data set without depth.
        depth_list: pattern of a file of ``timestamp filename`` lines instead.
        depth_scale: units of the depth files in a metre, where they hold whole numbers (PNG, PGM, TIFF or NPY).
        depth_float_scale: the same where they hold floats (TIFF or NPY): 1 for metres, 1000 for millimetres. Null:
            nobody said it, and floats are refused.
        depth_along: what depth measures, z (the distance along the camera's axis: nearly all) or ray (the distance from
            the camera itself: some renderers).
        depth_invalid: raw depth values that mean: nothing was measured. Of floats, 0, NaN and inf mean it, too.
        confidence: pattern of pictures of how sure the depth is, of depth's size (whole numbers of 8 or 16 bits); null
            for none.
        confidence_min: the least confidence that counts: depth of less is a hole. It, or confidence_full, must be said
            with confidence.
        confidence_full: the confidence that counts in full: conf_2d of a point is multiplied by confidence divided by
            this, which is the largest that the recorder gives.
        pose: pattern of the poses: with ``{frame}`` or ``{stamp}`` for …_per_frame, else of one file a scene.
        pose_format: matrix_per_frame (4×4 text), json_per_frame (t_00 … t_23, or transform_matrix), xyzw_per_frame
            (``tx ty tz qx qy qz qw``) or wxyz_per_frame (``tx ty tz qw qx qy qz``); json_per_scene (matrices at
            pose_field); trajectory_matrices (16 or 12 numbers a line), trajectory_xyzw or trajectory_wxyz (those seven
            numbers a line), trajectory_log (Open3D, Redwood: ``i i i+1`` and 4×4); by time: tum (``timestamp tx ty tz
            qx qy qz qw`` a line) or timed_axis_angle (``timestamp rx ry rz tx ty tz``, radians).
        pose_field: where in the JSON file of a scene the pose of a frame is, such as ``frame_{frame}/pose``.
        pose_direction: camera_to_world or world_to_camera. Has no default: a wrong one ruins everything silently.
        pose_axes: the camera axes of the stored poses, opencv (x right, y down, z forward: ScanNet and most benchmarks)
            or opengl (x right, y up, z back: ARKit's apps, Blender, NeRF). Has no default either.
        pose_rows: which pose of a trajectory goes with which picture: frame_number (pose k, from 0, or of that number
            in a log, with the picture of number k) or picture_order (the k-th with the k-th).
        pose_first: number of the picture that a trajectory's first pose is of, for pose_rows=frame_number; the others'
            follow. Null: 0, or what the log says, and refused where that may be off by one.
        posed_only: pictures without a pose are no frames, of recorders that write fewer poses than pictures. Otherwise
            each is a bad frame.
        max_dt: how many seconds depth, confidence, a pose or a K may be away from the colour picture, where they go by
            time.
        intrinsics: [fx,fy,cx,cy] in pixels. It, or ``intrinsics_file``, or ``hfov`` must be set.
        intrinsics_file: pattern of a calibration file: fx fy cx cy, a 3×3 or 4×4 matrix, or JSON; with ``{frame}`` or
            ``{stamp}`` of one a frame.
        intrinsics_field: where in a JSON file the 3×3 K is, such as ``frame_{frame}/intrinsic``; null: a calibration
            file is one K.
        hfov: degrees that a rendered picture shows across, instead of intrinsics: pixels are square, and the principal
            point is the middle.
        intrinsics_size: [width,height] that K belongs to, where the pictures were resized since; null: to the pictures
            as they are stored, or what a JSON file says.
        pixel_center: where the centre of the first pixel lies by the stored K, 0 (OpenCV, most data sets) or 0.5
            (COLMAP, nerfstudio: half a pixel is then taken from cx and cy). Depth's own K is the same.
        distortion: of the lens that took the pictures as they are: [MODEL, number, …] by a name of COLMAP's and its
            numbers, such as [OPENCV,k1,k2,p1,p2] (also with k3, or k3 to k6) or [OPENCV_FISHEYE,k1,k2,k3,k4]. Null:
            pinholes.
        depth_intrinsics: depth's own K, the same three ways; without one it has colour's, resized.
        depth_intrinsics_file: see depth_intrinsics.
        depth_intrinsics_size: see depth_intrinsics.
        depth_distortion: the same as distortion of depth that has a K of its own, [PINHOLE] for none; must be said
            where distortion is. Depth without a K of its own is distorted as colour is.
        rotate: see ScanNetConfig.
        color_from_depth: where depth has a camera of its own and is not registered: the transform from its axes to
            colour's, a translation [x,y,z] in metres or the 16 numbers of a 4×4 matrix. Null: depth is registered.
        pose_camera: whose poses they are then: depth or color.
    """

    name: str = "posed_rgbd"
    root_is_scene: bool = False
    color: str | None = path_key(None)
    color_list: str | None = path_key(None)
    stamp_unit: str | None = None
    depth: str | None = path_key(None)
    depth_list: str | None = path_key(None)
    depth_scale: float = 1000.0
    depth_float_scale: float | None = None
    depth_along: str = "z"
    depth_invalid: list[int] = field(default_factory=lambda: [0, 65535])
    confidence: str | None = path_key(None)
    confidence_min: int | None = None
    confidence_full: int | None = None
    pose: str | None = path_key(None)
    pose_format: str | None = None
    pose_field: str | None = None
    pose_direction: str | None = None
    pose_axes: str | None = None
    pose_rows: str = "frame_number"
    pose_first: int | None = None
    posed_only: bool = False
    max_dt: float = 0.02
    intrinsics: list[float] | None = None
    intrinsics_file: str | None = path_key(None)
    intrinsics_field: str | None = None
    hfov: float | None = None
    intrinsics_size: list[int] | None = None
    pixel_center: float = 0.0
    distortion: list[Any] | None = None
    depth_intrinsics: list[float] | None = None
    depth_intrinsics_file: str | None = path_key(None)
    depth_intrinsics_size: list[int] | None = None
    depth_distortion: list[Any] | None = None
    rotate: int | None = None
    color_from_depth: list[Any] | None = None
    pose_camera: str = "depth"

    def __post_init__(self) -> None:
        check_rotate(self.rotate)
        check_posed(self)


@dataclass
class NerfstudioConfig(DataConfig):
    """nerfstudio's ``transforms.json`` and what it names: pictures, perhaps depth, K and poses.

    Attributes:
        root_is_scene: see PosedRgbdConfig.
        transforms: pattern of the files, with ``{scene}``.
        depth_scale: units of whole-numbered depth in a metre. Null: as the file says by ``depth_unit_scale_factor``,
            else 1000, nerfstudio's own default.
        depth_float_scale: the same of depth in floats (NPY, TIFF): 1 for metres. Null: as the file says, and refused
            where it doesn't.
        depth_along: see PosedRgbdConfig.
        rotate: see ScanNetConfig.
        undo_applied_transform: takes the file's ``applied_transform`` back, so that points lie in the world that the
            capture had, COLMAP's for example, and not in that of the file's poses and its ``ply_file_path``.
    """

    name: str = "nerfstudio"
    root_is_scene: bool = False
    transforms: str = path_key("{scene}/transforms.json")
    depth_scale: float | None = None
    depth_float_scale: float | None = None
    depth_along: str = "z"
    rotate: int | None = None
    undo_applied_transform: bool = False

    def __post_init__(self) -> None:
        check_rotate(self.rotate)
        check_pattern("data.transforms", self.transforms, required=["scene"], forbidden=["sequence", "frame", "stamp"])
        at_least("data.depth_scale", self.depth_scale, 0, above=True)
        at_least("data.depth_float_scale", self.depth_float_scale, 0, above=True)
        one_of("data.depth_along", self.depth_along, DEPTH_ALONG)


@dataclass
class Matterport3DConfig(DataConfig):
    """Matterport3D's undistorted pictures and depth, and the ``.conf`` of each house.

    Attributes:
        root_is_scene: see PosedRgbdConfig.
        parameters: pattern of those files, with ``{scene}``; the pictures lie in folders beside theirs.
        depth_scale: units of the depth files in a metre.
        intrinsics_size: [width,height] that K belongs to, where the pictures were resized since; null: to the pictures
            as they are stored.
    """

    name: str = "matterport3d"
    root_is_scene: bool = False
    parameters: str = path_key("{scene}/undistorted_camera_parameters/{scene}.conf")
    depth_scale: float = 4000.0
    intrinsics_size: list[int] | None = None

    def __post_init__(self) -> None:
        check_pattern("data.parameters", self.parameters, required=["scene"], forbidden=["sequence", "frame", "stamp"])
        at_least("data.depth_scale", self.depth_scale, 0, above=True)
        check_size("data.intrinsics_size", self.intrinsics_size)


@dataclass
class ColmapConfig(DataConfig):
    """COLMAP's sparse model, the pictures that it names, and perhaps depth.

    Attributes:
        root_is_scene: see PosedRgbdConfig.
        sparse: pattern of the model's folder, with ``{scene}``. Null: ``{scene}/sparse/0`` or ``{scene}/sparse``.
        images: pattern of the folder that the names of pictures in the model begin in.
        depth: pattern of the folder of COLMAP's own depth maps (``<picture>.geometric.bin``), read where there are any;
            or, with ``{frame}``, of other depth pictures of the same camera. Null: none.
        depth_scale: units of these pictures in a metre, where they hold whole numbers.
        depth_float_scale: the same where they hold floats (TIFF or NPY). Null: floats are refused.
        metres_per_unit: metres in a unit of the model, for its poses, points and own depth maps.
        sparse_points: frames get the sparse points whose tracks name them, for sampling=frame_points.
        rotate: see ScanNetConfig.
    """

    name: str = "colmap"
    root_is_scene: bool = False
    sparse: str | None = path_key(None)
    images: str = path_key("{scene}/images")
    depth: str | None = path_key("{scene}/stereo/depth_maps")
    depth_scale: float = 1000.0
    depth_float_scale: float | None = None
    metres_per_unit: float = 1.0
    sparse_points: bool = False
    rotate: int | None = None

    def __post_init__(self) -> None:
        check_rotate(self.rotate)
        for key in ("sparse", "images", "depth"):
            if (pattern := getattr(self, key)) is not None:
                others = ["sequence", "stamp"] if key == "depth" else ["sequence", "frame", "stamp"]
                check_pattern(f"data.{key}", pattern, required=["scene"], forbidden=others)
        at_least("data.depth_scale", self.depth_scale, 0, above=True)
        at_least("data.depth_float_scale", self.depth_float_scale, 0, above=True)
        at_least("data.metres_per_unit", self.metres_per_unit, 0, above=True)


@dataclass
class ScanNet200MvConfig(DataConfig):
    """ESAM's ``scannet200-mv`` tree: ``2D/<scene>/{color,depth,pose}``, ``points/<scene>/<frame>.bin`` and masks.

    Attributes:
        depth_scale: units of the depth files in a metre.
        intrinsics: esam (the K that ESAM's own code has for every scene, and made the points with), or the pattern of
            a file a scene, such as "intrinsics/{scene}.txt": fx fy cx cy, a 3×3 or 4×4 matrix, or JSON. The tree has
            none, so it must be said.
        intrinsics_size: [width,height] that the files' K belongs to; null: to the pictures as they are stored.
    """

    name: str = "scannet200_mv"
    depth_scale: float = 1000.0
    intrinsics: str | None = path_key(None)
    intrinsics_size: list[int] | None = None

    def __post_init__(self) -> None:
        at_least("data.depth_scale", self.depth_scale, 0, above=True)
        check_size("data.intrinsics_size", self.intrinsics_size)
        expected = "expected esam, or a pattern such as 'intrinsics/{scene}.txt'"
        if self.intrinsics is None:
            raise ConfigError(f"data.intrinsics is not set, and the tree holds no K: {expected}")
        if self.intrinsics == "esam":
            if self.intrinsics_size is not None:
                raise ConfigError("data.intrinsics_size is set, but the K of data.intrinsics=esam belongs to 640×480")
        elif "." not in self.intrinsics:
            raise ConfigError(f"data.intrinsics={self.intrinsics}: {expected}")
        else:
            check_pattern("data.intrinsics", self.intrinsics, forbidden=["sequence", "frame", "stamp"])


LAYOUTS: dict[str, tuple[type[DataConfig], str]] = {
    "scannet": (ScanNetConfig, "clipfeat.data.scannet:open_scannet"),
    "sens": (SensConfig, "clipfeat.data.sens:open_sens"),
    "demo": (DemoConfig, "clipfeat.data.demo.scans:open_demo"),
    "posed_rgbd": (PosedRgbdConfig, "clipfeat.data.posed_rgbd:PosedRgbdDataset"),
    "nerfstudio": (NerfstudioConfig, "clipfeat.data.nerfstudio:NerfstudioDataset"),
    "matterport3d": (Matterport3DConfig, "clipfeat.data.matterport:MatterportDataset"),
    "colmap": (ColmapConfig, "clipfeat.data.colmap:ColmapDataset"),
    "scannet200_mv": (ScanNet200MvConfig, "clipfeat.data.scannet200_mv:open_scannet200_mv"),
    "record3d": (Record3dConfig, "clipfeat.data.record3d:Record3dDataset"),
    "strayscanner": (StrayScannerConfig, "clipfeat.data.strayscanner:StrayScannerDataset"),
    "rosbag": (RosbagConfig, "clipfeat.data.rosbag:RosbagDataset"),
    "scannetpp_raw": (ScanNetPpRawConfig, "clipfeat.data.scannetpp_raw:ScanNetPpRawDataset"),
}
"""What ``data.name`` can be: the keys of each layout, and what makes its ``Dataset`` of them, imported when needed."""


FRAME_SELECTIONS = ("first", "random", "uniform")


@dataclass
class FramesConfig:
    """Which frames a command looks at.

    Attributes:
        data: see DataConfig.
        scenes_file: text file with a scene a line; null takes every scene under ``data.root``.
        frames_per_scene: frames a scene at most; null takes all.
        frame_stride: every how many-th frame is looked at.
        frame_selection: which of those are taken: first, random or uniform (evenly spread).
        seed: of the choice of frames, and of all else that is drawn.
        on_bad_frame: skip (count and list it; also a scene that can't be read) or fail (stop).
    """

    data: DataConfig = MISSING
    scenes_file: str | None = path_key(None)
    frames_per_scene: int | None = None
    frame_stride: int = 1
    frame_selection: str = "first"
    seed: int = 0
    on_bad_frame: str = "skip"

    def __post_init__(self) -> None:
        at_least("frames_per_scene", self.frames_per_scene, 1)
        at_least("frame_stride", self.frame_stride, 1)
        at_least("seed", self.seed, 0)
        one_of("frame_selection", self.frame_selection, FRAME_SELECTIONS)
        one_of("on_bad_frame", self.on_bad_frame, ("skip", "fail"))
