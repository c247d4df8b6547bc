"""The schema of the configuration: one dataclass a group, every range checked where it is declared.

The dataclasses hold the defaults and the checks; the YAML files in ``conf/`` name the choices of each group and what
they set differently. Nothing here knows of Hydra's run time: ``OmegaConf.to_object`` turns a composed configuration
into these plain dataclasses, and all other code sees only them.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clipfeat.errors import ConfigError
from clipfeat.patterns import check_pattern


def config_dir() -> Path:
    """The folder of the YAML files: inside the package when installed from a wheel, beside it in a checkout.

    Raises:
        ConfigError: If neither exists, so the installation is broken.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "extract.yaml").is_file():
            return candidate
    raise ConfigError(f"no conf/ folder in or beside {package}: the installation is incomplete, install clipfeat again")


def _one_of(key: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{key}={value}: expected one of {', '.join(choices)}")


def _at_least(key: str, value: float | None, lowest: float, *, above: bool = False) -> None:
    """Accepts None (the key is optional and unset); NaN fails."""
    if value is None or (value > lowest if above else value >= lowest):
        return
    raise ConfigError(f"{key}={value}: expected a number {'above' if above else 'of at least'} {lowest:g}")


def _must_say(key: str, value: str | None, choices: Collection[str]) -> None:
    if value is None:
        raise ConfigError(f"{key} is not set and has no default: say {' or '.join(choices)}")
    _one_of(key, value, choices)


def _check_size(key: str, size: list[int] | None) -> None:
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ConfigError(f"{key}={size}: expected [width,height] in pixels, such as [1296,968]")


def _resume(value: str) -> str:
    """A boolean, in text (true; in files also yes) or not, and overwrite, as one of the two words."""
    word = {"false": "overwrite"}.get(str(value).lower(), str(value).lower())
    _one_of("resume", word, ("true", "overwrite"))
    return word


def _listed(key: str, value: Any, kind: type[Any], expected: str) -> list[Any]:
    """The list that a key means which takes one value, a list of them, or null for none."""
    values = [] if value is None else value if isinstance(value, list) else [value]
    if any(not isinstance(one, kind) or isinstance(one, bool) or one == "" for one in values):
        raise ConfigError(f"{key}={value}: expected {expected}")
    return values


def _check_points_file(key: str, pattern: str | None) -> None:
    if pattern is not None and not pattern.lower().endswith((".ply", ".npz")):
        raise ConfigError(f"{key}={pattern}: expected a .ply or .npz file")


@dataclass
class DataConfig:
    """Where frames come from.

    Attributes:
        name: layout of the data set.
        root: folder that holds one folder a scene.
        masks: path of external instance masks (16-bit PNG of the colour picture's size, 0 for none), with {scene} and
            {frame} in it; null for none. The camera.mask_* keys say what they do.
    """

    name: str = MISSING
    root: str = MISSING
    masks: str | None = None


@dataclass
class ScanNetConfig(DataConfig):
    """ScanNet as its own tool exports it: ``<root>/<scene>/{color,depth,pose,intrinsic}``.

    Attributes:
        depth_scale: units of the depth files in a metre (1000: millimetres).
        color_intrinsics_size: [width, height] that the stored colour K belongs to, where the pictures were resized
            after the export. Null: K belongs to the pictures as they are stored.
        depth_intrinsics_size: the same for the depth K.
    """

    name: str = "scannet"
    depth_scale: float = 1000.0
    color_intrinsics_size: list[int] | None = None
    depth_intrinsics_size: list[int] | None = None

    def __post_init__(self) -> None:
        _at_least("data.depth_scale", self.depth_scale, 0, above=True)
        for key in ("color_intrinsics_size", "depth_intrinsics_size"):
            _check_size(f"data.{key}", getattr(self, key))


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
        _at_least("data.num_scenes", self.num_scenes, 1)
        _at_least("data.num_frames", self.num_frames, 1)
        _at_least("data.depth_noise", self.depth_noise, 0)
        _at_least("data.lost_poses", self.lost_poses, 0)
        _at_least("data.mesh_spacing", self.mesh_spacing, 0.005)
        _at_least("data.seed", self.seed, 0)
        if not 0 <= self.depth_holes <= 0.9:
            raise ConfigError(f"data.depth_holes={self.depth_holes}: expected a share from 0 to 0.9")
        for key in ("color_size", "depth_size"):
            size = getattr(self, key)
            if len(size) != 2 or min(size) < 16:
                raise ConfigError(f"data.{key}={size}: expected [width,height] of at least 16 pixels each")


POSE_FORMATS = ("matrix_per_frame", "trajectory_matrices", "trajectory_log", "tum")
POSE_DIRECTIONS = ("camera_to_world", "world_to_camera")
POSE_ROWS = ("frame_number", "picture_order")


@dataclass
class PosedRgbdConfig(DataConfig):
    """Posed RGB-D folders whose layout is told by patterns: see ``clipfeat/data/posed_rgbd.py`` and ``patterns.py``.

    Attributes:
        root_is_scene: root is itself one scene: ``{scene}`` stands for its name, and patterns begin in its parent.
        color: pattern of the colour pictures, with ``{scene}`` and ``{frame}``. It, or ``color_list``, must be set.
        color_list: pattern of a file of ``timestamp filename`` lines instead, one a scene; for ``pose_format=tum``.
        depth: pattern of the depth pictures; null for a data set without depth.
        depth_list: pattern of a file of ``timestamp filename`` lines instead.
        depth_scale: units of the depth files in a metre.
        depth_invalid: raw depth values that mean: nothing was measured.
        pose: pattern of the poses: with ``{frame}`` for matrix_per_frame, else of one trajectory file a scene.
        pose_format: matrix_per_frame (4×4 text), trajectory_matrices (16 or 12 numbers a line), trajectory_log
            (Open3D, Redwood: ``i i i+1`` and 4×4) or tum (``timestamp tx ty tz qx qy qz qw`` a line).
        pose_direction: camera_to_world or world_to_camera. Has no default: a wrong one ruins everything silently.
        pose_rows: which pose of a trajectory goes with which picture: frame_number (pose k, from 0, or of that number
            in a log, with the picture of number k) or picture_order (the k-th with the k-th).
        max_dt: how many seconds a depth picture or a pose may be away from the colour picture, in lists with times.
        intrinsics: [fx,fy,cx,cy] in pixels. It, or ``intrinsics_file``, must be set.
        intrinsics_file: pattern of a calibration file: fx fy cx cy, a 3×3 or 4×4 matrix, or JSON.
        intrinsics_size: [width,height] that K belongs to, where the pictures were resized since; null: to the pictures
            as they are stored, or what a JSON file says.
        depth_intrinsics: depth's own K, the same three ways; without one it has colour's, resized.
        depth_intrinsics_file: see depth_intrinsics.
        depth_intrinsics_size: see depth_intrinsics.
    """

    name: str = "posed_rgbd"
    root_is_scene: bool = False
    color: str | None = None
    color_list: str | None = None
    depth: str | None = None
    depth_list: str | None = None
    depth_scale: float = 1000.0
    depth_invalid: list[int] = field(default_factory=lambda: [0, 65535])
    pose: str | None = None
    pose_format: str | None = None
    pose_direction: str | None = None
    pose_rows: str = "frame_number"
    max_dt: float = 0.02
    intrinsics: list[float] | None = None
    intrinsics_file: str | None = None
    intrinsics_size: list[int] | None = None
    depth_intrinsics: list[float] | None = None
    depth_intrinsics_file: str | None = None
    depth_intrinsics_size: list[int] | None = None

    def __post_init__(self) -> None:
        _must_say("data.pose_direction", self.pose_direction, POSE_DIRECTIONS)
        _must_say("data.pose_format", self.pose_format, POSE_FORMATS)
        _one_of("data.pose_rows", self.pose_rows, POSE_ROWS)
        _at_least("data.depth_scale", self.depth_scale, 0, above=True)
        _at_least("data.max_dt", self.max_dt, 0)
        if any(not 0 <= value <= 65535 for value in self.depth_invalid):
            raise ConfigError(f"data.depth_invalid={self.depth_invalid}: expected raw values from 0 to 65535")
        self._check_files()
        self._check_intrinsics()

    def _check_files(self) -> None:
        timed = self.pose_format == "tum"
        if timed != (self.color_list is not None) or timed == (self.color is not None):
            raise ConfigError(
                f"data.color={self.color} data.color_list={self.color_list} data.pose_format={self.pose_format}: "
                "expected color_list alone for pose_format=tum, whose poses go by time, and color alone for any other"
            )
        if (self.depth if timed else self.depth_list) is not None:
            wrong, right = ("depth", "depth_list") if timed else ("depth_list", "depth")
            raise ConfigError(f"data.{wrong} is set, but with pose_format={self.pose_format} depth is data.{right}")
        if self.pose is None:
            raise ConfigError("data.pose is not set: give the pattern of the pose files, or of the trajectory file")
        per_scene = self._scene_placeholders()
        for key in ("color", "depth"):
            if (pattern := getattr(self, key)) is not None:
                check_pattern(f"data.{key}", pattern, required=[*per_scene, "frame"])
            if (pattern := getattr(self, f"{key}_list")) is not None:
                check_pattern(f"data.{key}_list", pattern, required=per_scene, forbidden=["frame"])
        if self.pose_format == "matrix_per_frame":
            check_pattern("data.pose", self.pose, required=[*per_scene, "frame"])
        else:
            check_pattern("data.pose", self.pose, required=per_scene, forbidden=["frame"])

    def _scene_placeholders(self) -> list[str]:
        """{scene}, and {sequence} where the pictures have it: then all other files must tell them apart too."""
        return ["scene", "sequence"] if "{sequence}" in (self.color or self.color_list or "") else ["scene"]

    def _check_intrinsics(self) -> None:
        if (self.intrinsics is None) == (self.intrinsics_file is None):
            raise ConfigError(
                f"data.intrinsics={self.intrinsics} data.intrinsics_file={self.intrinsics_file}: "
                "expected one of the two, and null for the other"
            )
        if self.depth_intrinsics is not None and self.depth_intrinsics_file is not None:
            raise ConfigError(
                "data.depth_intrinsics and data.depth_intrinsics_file are both set: expected one of the two"
            )
        unknown = [n for n in ("sequence", "frame") if n not in self._scene_placeholders()]
        for key in ("intrinsics", "depth_intrinsics"):
            numbers = getattr(self, key)
            if numbers is not None and (len(numbers) != 4 or min(numbers[:2]) <= 0):
                raise ConfigError(f"data.{key}={numbers}: expected [fx,fy,cx,cy] in pixels, focal lengths above 0")
            if (file := getattr(self, f"{key}_file")) is not None:
                check_pattern(f"data.{key}_file", file, forbidden=unknown)
            _check_size(f"data.{key}_size", getattr(self, f"{key}_size"))


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
    intrinsics: str | None = None
    intrinsics_size: list[int] | None = None

    def __post_init__(self) -> None:
        _at_least("data.depth_scale", self.depth_scale, 0, above=True)
        _check_size("data.intrinsics_size", self.intrinsics_size)
        expected = "expected esam, or a pattern such as 'intrinsics/{scene}.txt'"
        if self.intrinsics is None:
            raise ConfigError(f"data.intrinsics is not set, and the tree holds no K: {expected}")
        if self.intrinsics == "esam":
            if self.intrinsics_size is not None:
                raise ConfigError("data.intrinsics_size is set, but the K of data.intrinsics=esam belongs to 640×480")
        elif "." not in self.intrinsics:
            raise ConfigError(f"data.intrinsics={self.intrinsics}: {expected}")
        else:
            check_pattern("data.intrinsics", self.intrinsics, forbidden=["sequence", "frame"])


DATA_CONFIGS: tuple[type[DataConfig], ...] = (
    ScanNetConfig,
    SensConfig,
    DemoConfig,
    PosedRgbdConfig,
    ScanNet200MvConfig,
)


@dataclass
class HeadConfig:
    """What is made of the encoder's tokens.

    Attributes:
        name: none (768×14×14), pixelshuffle (192×28×28), proj128 (256×56×56, then 128 a point) or text (512×14×14 in
            the space of the text tower, unit vectors at the points).
        weights: safetensors file of a head that has weights; null seeds them from the run's ``seed``.
    """

    name: str = "none"
    weights: str | None = None

    def __post_init__(self) -> None:
        _one_of("model.head.name", self.name, HEADS)


HEADS = ("none", "pixelshuffle", "proj128", "text")
ATTENTIONS = ("vanilla", "maskclip", "sclip", "clearclip", "naclip")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
RESIZE_MODES = ("squash", "letterbox", "crop")


@dataclass
class ModelConfig:
    """The frozen CLIP image encoder and its head.

    Attributes:
        arch: name of an open_clip ViT, such as ViT-B-16.
        pretrained: tag of open_clip's (laion2b_s34b_b88k), a checkpoint file, or null for seeded random weights.
        allow_random: go on with random weights, loudly, where the pretrained ones can't be had. For the demo.
        precision: auto is fp16 on a GPU and fp32 on a CPU.
        attention: how the last block attends: vanilla (as it was trained), or maskclip, sclip, clearclip or naclip,
            which make its tokens better dense features in text space, with the same weights. For open_clip's own ViTs.
        input_size: side of the network's square input in pixels, a multiple of its patch size; with a window, the
            shorter side that the picture is resized to.
        resize_mode: squash (ignores the aspect ratio), letterbox (pads) or crop (the centre; points outside it are
            out of view). With a window the aspect ratio is kept, and this stays as it is.
        window: side in pixels of a square window that slides over the resized picture, and is all that the network
            sees at once; where windows overlap their tokens are averaged. A multiple of the patch size; null for none.
        stride: pixels from one window to the next, a multiple of the patch size; null is half a window.
        resize: pillow (bit-equal to open_clip's own transform) or torch (the same filter in less than half of the time;
            of 1296×968 pictures one value in 400 is one level off, and the map of a ViT-B/16 with random weights
            differs by a relative 0.001 to 0.0025).
        offload: where maps wait to be sampled: cpu, none (where they were made), or auto (cpu if the GPU has under
            8 GB).
        head: see HeadConfig.
    """

    arch: str = "ViT-B-16"
    pretrained: str | None = "laion2b_s34b_b88k"
    allow_random: bool = False
    precision: str = "auto"
    attention: str = "vanilla"
    input_size: int = 224
    resize_mode: str = "squash"
    window: int | None = None
    stride: int | None = None
    resize: str = "pillow"
    offload: str = "auto"
    head: HeadConfig = field(default_factory=HeadConfig)

    def __post_init__(self) -> None:
        _one_of("model.precision", self.precision, PRECISIONS)
        _one_of("model.attention", self.attention, ATTENTIONS)
        _one_of("model.resize_mode", self.resize_mode, RESIZE_MODES)
        _one_of("model.resize", self.resize, ("pillow", "torch"))
        _one_of("model.offload", self.offload, ("auto", "none", "cpu"))
        _at_least("model.input_size", self.input_size, 1)
        _at_least("model.window", self.window, 1)
        _at_least("model.stride", self.stride, 1)
        if self.window is None and self.stride is not None:
            raise ConfigError(f"model.stride={self.stride}: there is no window to move; set model.window, such as 224")
        if self.window is not None:
            self._check_window(self.window)

    def _check_window(self, window: int) -> None:
        if window > self.input_size:
            raise ConfigError(
                f"model.window={window}: larger than the picture's shorter side, model.input_size={self.input_size}"
            )
        if self.stride is not None and self.stride > window:
            raise ConfigError(f"model.stride={self.stride}: leaves gaps between windows of model.window={window}")
        if self.resize_mode != "squash":
            why = "windows see the whole picture in its own aspect ratio; leave it out, or model.window"
            raise ConfigError(f"model.resize_mode={self.resize_mode}: {why}")

    @property
    def network_size(self) -> int:
        """Side in pixels of the square that the network sees at once."""
        return self.window or self.input_size


@dataclass
class CameraConfig:
    """When a point counts as seen.

    Attributes:
        near: nearest z in metres.
        far: farthest z in metres.
        depth_tolerance: allowed |z - depth| in metres.
        depth_tolerance_rel: allowed |z - depth| as a share of z; the larger of the two counts.
        border: pixels along the picture's edges that do not count as in view.
        holes: what becomes of points that fall into a hole of the depth: drop (they are not visible) or keep (visible,
            with confidence 0.011).
        zbuffer: in frames without depth, points hide each other; false takes all in view as visible.
        mask_edge_px: points of an instance nearer than this to its edge in ``data.masks`` are suspect; 0 for none.
        mask_edge: what becomes of them: drop, or weight (confidence falls to 0 at the edge).
        mask_instances: points with an instance id must agree with the mask: same (ids are the same), a JSON file that
            maps them ({"scene0000_00": {"3": 7}}), or null for no check.
    """

    near: float = 0.1
    far: float = 20.0
    depth_tolerance: float = 0.03
    depth_tolerance_rel: float = 0.01
    border: float = 0.0
    holes: str = "drop"
    zbuffer: bool = True
    mask_edge_px: float = 3.0
    mask_edge: str = "drop"
    mask_instances: str | None = None

    def __post_init__(self) -> None:
        _at_least("camera.near", self.near, 0)
        _at_least("camera.far", self.far, self.near, above=True)
        _at_least("camera.depth_tolerance", self.depth_tolerance, 0)
        _at_least("camera.depth_tolerance_rel", self.depth_tolerance_rel, 0)
        _at_least("camera.border", self.border, 0)
        _at_least("camera.mask_edge_px", self.mask_edge_px, 0)
        _one_of("camera.holes", self.holes, ("drop", "keep"))
        _one_of("camera.mask_edge", self.mask_edge, ("drop", "weight"))
        if self.depth_tolerance == 0 and self.depth_tolerance_rel == 0:
            raise ConfigError(
                "camera.depth_tolerance and camera.depth_tolerance_rel are both 0: no point can be visible"
            )


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
        _at_least("sampling.num_points", self.num_points, 1)


@dataclass
class MeshSamplingConfig(SamplingConfig):
    """The vertices of a scene's mesh, or any stored cloud: the same points in every frame.

    Attributes:
        points_file: PLY or npz, with {scene} in it.
        labels_file: a second PLY of the same vertices that carries their labels, with {scene} in it; null for none.
    """

    name: str = "mesh"
    num_points: int | None = None
    points_file: str = "${data.root}/{scene}/{scene}_vh_clean_2.ply"
    labels_file: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("points_file", "labels_file"):
            _check_points_file(f"sampling.{key}", getattr(self, key))


DTYPES = ("float32", "float16")


@dataclass
class OutputConfig:
    """The feature files.

    Attributes:
        name: npz, h5, h5_scene (one file a scene), or grid (the map in float16 and where the points lie in it, a 25th
            of the bytes; ``clipfeat.FeatureStore`` samples it when it is read).
        dtype: of ``pts_feat`` on disk: float32 or float16. A grid holds none.
    """

    name: str = "npz"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        _one_of("output.dtype", self.dtype, DTYPES)


CACHES = ("none", "lmdb")


@dataclass
class CacheConfig:
    """Feature maps kept from one run to the next.

    A later run with other points, tolerance or format takes them from there and never loads the model. Maps are kept,
    and with a cache also used the first time, in float16: both runs write the same arrays, which differ from those of
    a run without a cache by that rounding (a relative 5e-4 at most).

    Attributes:
        name: none or lmdb.
        path: folder of the cache; any number of runs, models and data sets may share one. Not on a network disk: LMDB
            does not work there.
    """

    name: str = "none"
    path: str = "outputs/clipfeat_cache.lmdb"

    def __post_init__(self) -> None:
        _one_of("cache.name", self.name, CACHES)
        if not self.path:
            raise ConfigError("cache.path is empty: give a folder for the cache")


@dataclass
class VisConfig:
    """The picture of each frame.

    Attributes:
        name: tsne (picture, PCA colours, t-SNE scatter), pca, heatmap or none.
        max_frames: pictures a scene at most, spread evenly over its frames.
        points_per_frame: points of each frame in the joint t-SNE of a scene.
        overlay_points: points of each frame that are painted over the picture.
        perplexity: t-SNE's.
        dpi: resolution of the PNG; its width is 15 inches for tsne, 10 otherwise.
    """

    name: str = "tsne"
    max_frames: int = 50
    points_per_frame: int = 200
    overlay_points: int = 4000
    perplexity: float = 30.0
    dpi: int = 110

    def __post_init__(self) -> None:
        _at_least("vis.max_frames", self.max_frames, 1)
        _at_least("vis.points_per_frame", self.points_per_frame, 10)
        _at_least("vis.overlay_points", self.overlay_points, self.points_per_frame)
        _at_least("vis.perplexity", self.perplexity, 1)
        _at_least("vis.dpi", self.dpi, 20)


@dataclass
class ShardConfig:
    """One of several equal shares of the scenes.

    Attributes:
        index: which share this process takes, from 0; null is what torchrun or SLURM say, or else 0.
        count: how many shares there are; null is what torchrun or SLURM say, or else 1.
    """

    index: int | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if self.index is None and self.count is None:
            return
        if self.index is None or self.count is None or not 0 <= self.index < self.count:
            index, count = ("null" if value is None else value for value in (self.index, self.count))
            raise ConfigError(f"shard.index={index} shard.count={count}: expected both, with 0 <= index < count")


ENGINES = ("local", "ray")


@dataclass
class EngineConfig:
    """Where frames are done.

    Attributes:
        name: local (this process does its share), or ray (actors of a Ray cluster, each with a model of its own, take
            one scene after another).
        address: of the Ray cluster: auto (the one that runs on this machine) or host:port; null starts one here, which
            ends with the run.
        num_workers: actors; null is as many as the cluster has room for.
        gpus_per_worker: GPUs of an actor, also a part of one (0.5: two actors share one); null is 1 where the cluster
            has GPUs, and 0 with device=cpu.
        cpus_per_worker: cores of an actor, which are its threads.
        max_restarts: how many times a scene is tried again that an actor has died of.
    """

    name: str = "local"
    address: str | None = None
    num_workers: int | None = None
    gpus_per_worker: float | None = None
    cpus_per_worker: int = 1
    max_restarts: int = 3

    def __post_init__(self) -> None:
        _one_of("engine.name", self.name, ENGINES)
        _at_least("engine.num_workers", self.num_workers, 1)
        _at_least("engine.gpus_per_worker", self.gpus_per_worker, 0)
        _at_least("engine.cpus_per_worker", self.cpus_per_worker, 1)
        _at_least("engine.max_restarts", self.max_restarts, 0)
        for key in fields(self) if self.name == "local" else ():
            if (value := getattr(self, key.name)) != key.default:
                raise ConfigError(f"engine.{key.name}={value}: has a meaning only with engine=ray")


FRAME_SELECTIONS = ("first", "random", "uniform")


@dataclass
class ExtractConfig:
    """All of ``clipfeat-extract``.

    Attributes:
        data: see DataConfig.
        model: see ModelConfig.
        camera: see CameraConfig.
        sampling: see SamplingConfig.
        output: see OutputConfig.
        cache: see CacheConfig.
        vis: see VisConfig.
        scenes_file: text file with a scene a line; null takes every scene under ``data.root``.
        frames_per_scene: frames a scene at most; null takes all.
        frame_stride: every how many-th frame is looked at.
        frame_selection: which of those are taken: first, random or uniform (evenly spread).
        output_dir: folder for everything that the run writes.
        uv_index: folder that scripts/build_uv_index.py filled; points and pixels are then read and not projected anew.
        device: auto, cpu, cuda or cuda:<n>. Of several GPUs, a process that torchrun or SLURM started takes its own.
        devices: how many processes this one starts, each a shard with a GPU of its own, and starts again if one dies;
            auto is one a GPU. Null is this process alone.
        batch_size: pictures a forward pass; null is 8 on a CPU and 32 on a GPU.
        num_workers: frames' batches that are in work at once, each in a thread of its own; null is one a core.
        seed: of the choice of frames and points, and of random weights.
        resume: true does only what is missing, and refuses a folder of another configuration; overwrite (or false) does
            everything again, and first removes what another configuration or model has written there.
        on_bad_frame: skip (count and list it; also a scene that can't be read) or fail (stop the run).
        check: look first whether poses, K, depth and colour fit each other: no, yes (or true), only (and then stop).
        report: whether the run ends with ``report.html``, one page with its numbers, failures and some pictures.
        shard: see ShardConfig.
        engine: see EngineConfig.
    """

    data: DataConfig = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    vis: VisConfig = field(default_factory=VisConfig)
    scenes_file: str | None = None
    frames_per_scene: int | None = None
    frame_stride: int = 1
    frame_selection: str = "first"
    output_dir: str = "outputs/clip_feat"
    uv_index: str | None = None
    device: str = "auto"
    devices: str | None = None
    batch_size: int | None = None
    num_workers: int | None = None
    seed: int = 0
    resume: str = "true"
    on_bad_frame: str = "skip"
    check: str = "no"
    report: bool = True
    shard: ShardConfig = field(default_factory=ShardConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        _at_least("frames_per_scene", self.frames_per_scene, 1)
        _at_least("frame_stride", self.frame_stride, 1)
        _check_devices(self.devices, self.device)
        if self.engine.name == "ray" and self.devices is not None:
            raise ConfigError(f"devices={self.devices}: Ray starts its own processes; say engine.num_workers instead")
        _at_least("batch_size", self.batch_size, 1)
        _at_least("num_workers", self.num_workers, 1)
        _at_least("seed", self.seed, 0)
        _one_of("frame_selection", self.frame_selection, FRAME_SELECTIONS)
        _one_of("on_bad_frame", self.on_bad_frame, ("skip", "fail"))
        self.resume = _resume(self.resume)
        # A boolean (true; in files also yes) arrives as the text of one.
        self.check = {"true": "yes", "false": "no"}.get(self.check.lower(), self.check)
        _one_of("check", self.check, ("no", "yes", "only"))
        if not self.output_dir:
            raise ConfigError("output_dir is empty: give a folder for the results")


def _check_devices(devices: str | None, device: str) -> None:
    if devices in (None, "1"):
        return
    if devices != "auto" and not (devices.isdecimal() and int(devices) > 0):
        raise ConfigError(f"devices={devices}: expected auto, or a number of processes of at least 1")
    if device.startswith("cuda:"):
        raise ConfigError(
            f"devices={devices} device={device}: each process takes a GPU of its own; say device=cuda, and where only "
            f"some GPUs are to be used, which: CUDA_VISIBLE_DEVICES=0,1"
        )


EXPORT_FORMATS = ("openscene", "esam", "scene_npz", "scene_pt")


@dataclass
class ExportConfig:
    """All of ``clipfeat-export``.

    Attributes:
        store: output_dir of the run of clipfeat-extract whose features are exported.
        format: openscene (a file a scene, with the mean feature of each vertex of its mesh; for runs with
            sampling=mesh), esam (a file a frame, with its map; for runs with output=grid), scene_npz or scene_pt (a
            file a scene, with the points of all its frames one after another; for any run).
        output_dir: folder of the files: they lie in it, but for esam in ``clip_feat/<scene>/color`` below it.
        dtype: of the features in scene_npz and scene_pt: float32 or float16; null is as they are stored. The other
            formats have float16.
        points_file: PLY or npz with {scene} in it, where openscene's meshes are now; null where the run had them.
        num_workers: files that are in work at once, each in a thread of its own; null is one a core.
        resume: true writes what is missing; overwrite writes every file again.
    """

    store: str = MISSING
    format: str = MISSING
    output_dir: str = "outputs/export"
    dtype: str | None = None
    points_file: str | None = None
    num_workers: int | None = None
    resume: str = "true"

    def __post_init__(self) -> None:
        if self.format != MISSING:
            _one_of("format", self.format, EXPORT_FORMATS)
        if self.dtype is not None:
            _one_of("dtype", self.dtype, DTYPES)
            if self.format != MISSING and not self.format.startswith("scene_"):
                raise ConfigError(f"dtype={self.dtype}: has no meaning with format={self.format}, leave it out")
        _at_least("num_workers", self.num_workers, 1)
        self.resume = _resume(self.resume)
        if not self.output_dir:
            raise ConfigError("output_dir is empty: give a folder for the results")
        _check_points_file("points_file", self.points_file)


FUSED_POINTS = ("mesh", "voxel")
FUSED_FORMATS = ("openscene", "ply")


@dataclass
class FuseConfig:
    """All of ``clipfeat-fuse``.

    Attributes:
        store: output_dir of clipfeat-extract.
        output_dir: folder for everything that is written; null is ``<store>/fused``.
        points: mesh (the vertices of a scene's mesh, or any stored cloud) or voxel (what the frames measured, a point a
            voxel).
        points_file: PLY or npz of the mesh, with {scene} in it; null is that of the run, or ScanNet's own name below
            the data set's root.
        labels_file: a second PLY of the same vertices that carries their labels, with {scene} in it; null is that of
            the run, if any.
        voxel_size: edge of a voxel in metres. With points=mesh, how far a stored point may be from the vertex that
            takes its feature, where the run stored features at other points than the vertices.
        best_views: how many views of each point are taken, those of the highest confidence; null takes all.
        dtype: of the features on disk: float32 or float16.
        formats: what is written beside the npz of each scene: openscene (.pt), ply (PCA colours).
        data_root: where the scans are now, if they moved since the run; null is where they were.
        scenes_file: text file with a scene a line; null takes every scene of the store.
        num_workers: threads that read and project frames; null is one a core.
        resume: true does only the scenes that are missing, and refuses a folder of another configuration; overwrite
            does everything again, and first removes the scenes that are there.
        on_bad_frame: skip (count and list it; also a scene that can't be fused) or fail (stop the run).
    """

    store: str = MISSING
    output_dir: str | None = None
    points: str = "mesh"
    points_file: str | None = None
    labels_file: str | None = None
    voxel_size: float = 0.05
    best_views: int | None = None
    dtype: str = "float32"
    formats: list[str] = field(default_factory=lambda: ["ply"])
    data_root: str | None = None
    scenes_file: str | None = None
    num_workers: int | None = None
    resume: str = "true"
    on_bad_frame: str = "skip"

    def __post_init__(self) -> None:
        self.output_dir = self.output_dir or f"{self.store}/fused"
        _one_of("points", self.points, FUSED_POINTS)
        _at_least("voxel_size", self.voxel_size, 0, above=True)
        _at_least("best_views", self.best_views, 1)
        _at_least("num_workers", self.num_workers, 1)
        _one_of("dtype", self.dtype, DTYPES)
        self.resume = _resume(self.resume)
        for name in self.formats:
            _one_of("formats", name, FUSED_FORMATS)
        _one_of("on_bad_frame", self.on_bad_frame, ("skip", "fail"))
        for key in ("points_file", "labels_file"):
            value = getattr(self, key)
            _check_points_file(key, value)
            if value is not None and self.points != "mesh":
                raise ConfigError(f"{key}={value}: has no meaning with points={self.points}, leave it out")


@dataclass
class ComposerConfig(ExtractConfig):
    """All of ``clipfeat-extract --config-name composer``: an extraction, and what is made of it.

    Attributes:
        uv_index: as for the extraction, but filled here where it is of use, which is for sampling=mesh; null for none.
        fuse: see FuseConfig; its ``store`` is the ``output_dir`` of the extraction.
    """

    fuse: FuseConfig = field(default_factory=FuseConfig)


TEMPLATES = ("plain", "photo", "indoor")
HEATMAPS = ("top", "all", "none")


@dataclass
class ExampleConfig:
    """A place in a picture, to look for more of what is there.

    Attributes:
        scene: its scene.
        frame: its frame's number.
        uv: [u,v], a point in pixels of the original colour picture. It, or ``box``, must be set.
        box: [u0,v0,u1,v1], left, top, right and bottom of a box in the same pixels; the mean of what is in it counts.
    """

    scene: str | None = None
    frame: int | None = None
    uv: list[float] | None = None
    box: list[float] | None = None

    def __post_init__(self) -> None:
        if not self.is_set:
            return
        for key in ("scene", "frame"):
            if getattr(self, key) is None:
                raise ConfigError(f"example.{key} is not set: an example is a place in one frame of one scene")
        if (self.uv is None) == (self.box is None):
            raise ConfigError(f"example.uv={self.uv} example.box={self.box}: expected one of the two")
        if self.uv is not None and len(self.uv) != 2:
            raise ConfigError(f"example.uv={self.uv}: expected [u,v] in pixels")
        if self.box is not None and (len(self.box) != 4 or self.box[0] > self.box[2] or self.box[1] > self.box[3]):
            raise ConfigError(f"example.box={self.box}: expected [left,top,right,bottom] in pixels")

    @property
    def is_set(self) -> bool:
        """Whether there is an example."""
        return any(value is not None for value in (self.scene, self.frame, self.uv, self.box))

    @property
    def place(self) -> list[float]:
        """The point or the box; empty without an example."""
        return self.uv or self.box or []


@dataclass
class QueryConfig:
    """All of ``clipfeat-query``.

    Attributes:
        store: output_dir of clipfeat-extract or of clipfeat-fuse, or one file of the latter.
        text: a prompt, or a list of them, each for itself; for features of ``model/head=text``.
        example: instead of text, for features of any head; see ExampleConfig. Of a fused scene, in a frame of ``run``.
        templates: what is put around a prompt: plain (nothing), photo ("a photo of a …") or indoor (the mean over ten).
        against: other texts, in a softmax with which each prompt is scored; [] scores by the plain cosine, as an
            example always is.
        temperature: of that softmax; 0.01 is what CLIP ends its training with.
        scenes: a scene, or a list of them; null takes all.
        top: frames that are shown of each prompt, the best ones.
        heatmaps: which frames get a heat map: top, all or none (and then no contact sheet).
        dpi: resolution of the pictures; a heat map is 10 inches wide.
        output_dir: folder for everything that is written; null is ``<store>/query``.
        run: output_dir of clipfeat-extract, where the store is fused; null is what the fused folder says.
        data_root: where the scans are now, if they moved since the run; null is where they were.
        num_workers: threads that read and compare; null is one a core.
        on_bad_frame: skip (count and list it) or fail (stop).
    """

    store: str = MISSING
    text: Any = None
    example: ExampleConfig = field(default_factory=ExampleConfig)
    templates: str = "plain"
    against: list[str] = field(default_factory=lambda: ["object", "things", "stuff", "texture"])
    temperature: float = 0.01
    scenes: Any = None
    top: int = 6
    heatmaps: str = "top"
    dpi: int = 110
    output_dir: str | None = None
    run: str | None = None
    data_root: str | None = None
    num_workers: int | None = None
    on_bad_frame: str = "skip"

    def __post_init__(self) -> None:
        self.text = list(dict.fromkeys(_listed("text", self.text, str, "words, such as 'a chair', or a list of them")))
        self.scenes = _listed("scenes", self.scenes, str, "the name of a scene, or a list of them")
        if self.output_dir is None:
            store = Path(self.store)
            self.output_dir = str((store.parent if store.suffix == ".npz" else store) / "query")
        _one_of("templates", self.templates, TEMPLATES)
        _at_least("temperature", self.temperature, 0, above=True)
        _at_least("top", self.top, 1)
        _one_of("heatmaps", self.heatmaps, HEATMAPS)
        _at_least("dpi", self.dpi, 20)
        _at_least("num_workers", self.num_workers, 1)
        _one_of("on_bad_frame", self.on_bad_frame, ("skip", "fail"))


@dataclass
class PicturesConfig:
    """All of ``clipfeat-vis``.

    Attributes:
        store: output_dir of clipfeat-extract.
        vis: see VisConfig.
        scenes: a scene, or a list of them; null takes all of the store.
        frames: the number of a frame, or a list of them; null takes all of each scene. Colours are shared by these.
        output_dir: folder for the pictures, ``<scene>/vis_<i>.png``; null is the store.
        data_root: where the scans are now, if they moved since the run; null is where they were.
        num_workers: threads that read, and processes that draw; null is one a core.
        resume: true keeps the pictures that are there; overwrite (or false) draws them again.
        on_bad_frame: skip (count and list it) or fail (stop).
    """

    store: str = MISSING
    vis: VisConfig = field(default_factory=VisConfig)
    scenes: Any = None
    frames: Any = None
    output_dir: str | None = None
    data_root: str | None = None
    num_workers: int | None = None
    resume: str = "true"
    on_bad_frame: str = "skip"

    def __post_init__(self) -> None:
        self.output_dir = self.output_dir or self.store
        self.scenes = _listed("scenes", self.scenes, str, "the name of a scene, or a list of them")
        self.frames = _listed("frames", self.frames, int, "the number of a frame, or a list of them")
        if self.vis.name == "none":
            raise ConfigError("vis=none: there is nothing to draw, expected tsne, pca or heatmap")
        self.resume = _resume(self.resume)
        _at_least("num_workers", self.num_workers, 1)
        _one_of("on_bad_frame", self.on_bad_frame, ("skip", "fail"))


@dataclass
class TrainConfig:
    """All of ``clipfeat-train``.

    Attributes:
        store: output_dir of a run of clipfeat-extract whose points have colour and labels.
        output_dir: folder for everything that is written.
        label: name of the points' attribute that is learnt.
        classes_file: CSV of id,name; null takes the labels that the training scenes have, by their numbers.
        train_scenes_file: text file with a scene a line; null takes all that are not held out.
        val_scenes_file: scenes that are held out; null takes the last quarter, or all that are not trained on.
        branches: both, or one alone for comparison: 2d or 3d.
        use_tiny_sa_2d: whether the cells of CLIP's maps attend to each other; needs a store of output=grid.
        num_points: points a frame in training; all of a held-out frame are looked at.
        batch_size: frames a step.
        views: frames of one scene that go together, which clip_cons compares; batch_size is a multiple of it.
        steps: of the optimizer.
        learning_rate: the highest.
        weight_decay: of matrices.
        clip_cons_weight: of the loss that keeps fused features near CLIP's and alike over views; 0 leaves it out.
        consistency: of the views: cosine or ntxent.
        eval_every: steps between two looks at the held-out scenes.
        checkpoint_every: steps between two checkpoints.
        use_amp: half precision, on a GPU.
        tensorboard: whether the figures go there too; needs the extra of that name.
        device: auto, cpu, cuda or cuda:<n>.
        seed: of the weights, and of everything that is drawn.
        resume: true goes on from the checkpoint, and refuses a folder of another configuration; overwrite begins anew.
    """

    store: str = MISSING
    output_dir: str = "outputs/train"
    label: str = "label"
    classes_file: str | None = None
    train_scenes_file: str | None = None
    val_scenes_file: str | None = None
    branches: str = "both"
    use_tiny_sa_2d: bool = False
    num_points: int = 2048
    batch_size: int = 4
    views: int = 1
    steps: int = 400
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    clip_cons_weight: float = 0.0
    consistency: str = "cosine"
    eval_every: int = 200
    checkpoint_every: int = 50
    use_amp: bool = True
    tensorboard: bool = False
    device: str = "auto"
    seed: int = 0
    resume: str = "true"

    def __post_init__(self) -> None:
        _one_of("branches", self.branches, ("both", "2d", "3d"))
        _one_of("consistency", self.consistency, ("cosine", "ntxent"))
        for key in ("num_points", "batch_size", "views", "steps", "eval_every", "checkpoint_every"):
            _at_least(key, getattr(self, key), 1)
        _at_least("learning_rate", self.learning_rate, 0, above=True)
        for key in ("weight_decay", "clip_cons_weight", "seed"):
            _at_least(key, getattr(self, key), 0)
        if self.batch_size % self.views:
            raise ConfigError(f"batch_size={self.batch_size}: expected a multiple of views={self.views}")
        self.resume = _resume(self.resume)
        if not self.output_dir:
            raise ConfigError("output_dir is empty: give a folder for the results")


CANDIDATES = (
    "none",
    "none+nearest",
    "pixelshuffle",
    "pixelshuffle+nearest",
    "quarter",
    "bilinear2x",
    "bilinear4x",
    "proj128",
    "pca128",
    "cons128",
    "conv256",
    "tinysa256",
    "text",
    "none+maskclip",
    "none+sclip",
    "none+clearclip",
    "none+naclip",
    "text+naclip",
    "none+letterbox",
    "none+input336",
    "none+input336+window224",
)
"""What clipfeat-evaluate compares where nothing else is said; clipfeat/evaluate/candidates.py knows the words."""


@dataclass
class EvaluateConfig:
    """All of ``clipfeat-evaluate``.

    Attributes:
        data: see DataConfig.
        model: see ModelConfig; what a candidate's words don't say is as here. Its ``head.weights`` are those of the
            candidates with its ``head.name``.
        camera: see CameraConfig.
        sampling: see SamplingConfig; how many points a frame has is what bytes and seconds are told for.
        candidates: what is compared, each in words with + between them: a head (none, pixelshuffle, quarter,
            bilinear2x, bilinear4x, proj128, pca128, cons128, conv256, tinysa256, text), an attention variant, squash or
            letterbox, input<pixels>, window<pixels>, nearest. The others are told with their difference to the first.
        labels: pattern of 16-bit PNG pictures of ScanNet's raw label ids, with {scene} and {frame} in it, of the colour
            pictures' aspect ratio; null takes the labels that the points bear (``sampling=mesh`` with
            ``sampling.labels_file``, or ``sampling=frame_points``), and then nothing is told of edges.
        templates: what is put around a class's name for zero-shot: plain, photo or indoor.
        scenes_file: text file with a scene a line; null takes every scene under ``data.root``.
        test_scenes_file: text file with the scenes that are held out, beside those of ``scenes_file``, which are then
            learnt from alone; null holds out each scene once, see ``folds``.
        folds: parts of the scenes, each of which is held out in turn.
        frames_per_scene: frames a scene at most; null takes all.
        frame_stride: every how many-th frame is looked at.
        frame_selection: which of those are taken: first, random or uniform (evenly spread).
        points_per_frame: labelled points of a frame whose features are judged, chosen at random.
        max_points: of all frames together; fewer a frame are taken where there would be more.
        neighbours: of each point that vote on its class.
        edge_px: pixels of the colour picture within which a point is at an edge of the labels.
        resamples: sets of scenes that the 95 % intervals are made of.
        output_dir: folder for the tables and the plot; others of clipfeat-evaluate are replaced.
        device: auto, cpu, cuda or cuda:<n>.
        batch_size: pictures a forward pass; null is 8 on a CPU and 32 on a GPU.
        seed: of folds, points, pairs and resamples, and of random weights.
        on_bad_frame: skip (count and list it; also a scene that can't be read) or fail (stop).
    """

    data: DataConfig = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    candidates: list[str] = field(default_factory=lambda: list(CANDIDATES))
    labels: str | None = "${data.root}/{scene}/label-filt/{frame}.png"
    templates: str = "plain"
    scenes_file: str | None = None
    test_scenes_file: str | None = None
    folds: int = 3
    frames_per_scene: int | None = None
    frame_stride: int = 1
    frame_selection: str = "uniform"
    points_per_frame: int = 300
    max_points: int = 60_000
    neighbours: int = 20
    edge_px: float = 16.0
    resamples: int = 1000
    output_dir: str = "outputs/evaluation"
    device: str = "auto"
    batch_size: int | None = None
    seed: int = 0
    on_bad_frame: str = "skip"

    def __post_init__(self) -> None:
        _one_of("templates", self.templates, TEMPLATES)
        if self.labels is not None and not ("{scene}" in self.labels and "{frame}" in self.labels):
            raise ConfigError(f"labels={self.labels}: expected a path with {{scene}} and {{frame}} in it, or null")
        _at_least("folds", self.folds, 2)
        for key in ("points_per_frame", "max_points", "neighbours", "resamples"):
            _at_least(key, getattr(self, key), 1)
        _at_least("edge_px", self.edge_px, 0)
        if not self.output_dir:
            raise ConfigError("output_dir is empty: give a folder for the results")
        if self.data != MISSING:
            self.extraction()  # which checks the keys that they share

    def extraction(self) -> ExtractConfig:
        """The extraction whose frames and points are looked at."""
        return ExtractConfig(**_of_frames(self), model=self.model, batch_size=self.batch_size)


FIT_METHODS = ("pca", "clip_cons")
TRAINING_STEPS = 200


@dataclass
class FitHeadConfig:
    """All of ``clipfeat-fit-head``.

    Attributes:
        data: see DataConfig. Labels are not looked at; poses and depth by clip_cons alone, but frames without a pose
            are left out.
        model: see ModelConfig; its head is that which is fitted.
        camera: see CameraConfig; when clip_cons takes a point as seen by two frames.
        sampling: see SamplingConfig; which points clip_cons looks at.
        method: pca (the principal axes), or clip_cons: trained so that CLIP's tokens follow linearly from the features,
            and one point is alike in two frames. It keeps all tokens in memory, 0.3 MB a frame of a ViT-B-16.
        steps: of training, for clip_cons.
        scenes_file: text file with a scene a line; null takes every scene under ``data.root``. Not those that are
            tested on later.
        frames_per_scene: frames a scene at most; null takes all.
        frame_stride: every how many-th frame is looked at.
        frame_selection: which of those are taken: first, random or uniform (evenly spread).
        output_file: safetensors file for the weights; a JSON file of the same name tells what they were fitted to.
        device: auto, cpu, cuda or cuda:<n>.
        seed: of the choice of frames, and of random weights.
        on_bad_frame: skip (count and list it; also a scene that can't be read) or fail (stop).
    """

    data: DataConfig = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    method: str = "pca"
    steps: int = TRAINING_STEPS
    scenes_file: str | None = None
    frames_per_scene: int | None = 5
    frame_stride: int = 1
    frame_selection: str = "uniform"
    output_file: str = "outputs/head_pca128.safetensors"
    device: str = "auto"
    seed: int = 0
    on_bad_frame: str = "skip"

    def __post_init__(self) -> None:
        _one_of("method", self.method, FIT_METHODS)
        _at_least("steps", self.steps, 1)
        if not self.output_file.endswith(".safetensors"):
            raise ConfigError(f"output_file={self.output_file}: expected a .safetensors file")
        if self.data != MISSING:
            self.extraction()  # which checks the keys that they share

    def extraction(self) -> ExtractConfig:
        """The extraction whose frames are looked at."""
        return ExtractConfig(**_of_frames(self), model=replace(self.model, head=HeadConfig("none")))


def _of_frames(cfg: EvaluateConfig | FitHeadConfig) -> dict[str, Any]:
    """The keys of ExtractConfig that say which frames and points are looked at, and where."""
    keys = ("data", "camera", "sampling", "scenes_file", "frames_per_scene", "frame_stride", "frame_selection")
    return {key: getattr(cfg, key) for key in (*keys, "device", "seed", "on_bad_frame")}


COMMANDS: dict[str, type[Any]] = {
    "extract": ExtractConfig,
    "composer": ComposerConfig,
    "export": ExportConfig,
    "fuse": FuseConfig,
    "query": QueryConfig,
    "train": TrainConfig,
    "vis": PicturesConfig,
    "evaluate": EvaluateConfig,
    "fit-head": FitHeadConfig,
}
"""What each primary configuration holds: those of ``clipfeat-<name>``, and composer's."""


def register_schemas() -> None:
    """Tells Hydra the schema, so that a misspelt key or a wrong type fails while composing."""
    store = ConfigStore.instance()
    for name, schema in COMMANDS.items():
        store.store(name=f"{name}_schema", node=schema)
    for layout in DATA_CONFIGS:
        store.store(group="data", name=f"{layout.name}_schema", node=layout)
    store.store(group="sampling", name="mesh_schema", node=MeshSamplingConfig)


def extract_config(plain: dict[str, Any]) -> ExtractConfig:
    """The configuration of ``clipfeat-extract`` that a ``config.yaml`` holds.

    Raises:
        ConfigError: If it holds unknown keys or values.
    """
    layouts = {layout.name: layout for layout in DATA_CONFIGS}
    schema = OmegaConf.structured(ExtractConfig)
    try:
        schema.data = layouts[plain["data"]["name"]]
        if plain["sampling"]["name"] == MeshSamplingConfig.name:
            schema.sampling = MeshSamplingConfig
        config = OmegaConf.to_object(OmegaConf.merge(schema, plain))
    except (KeyError, TypeError, OmegaConfBaseException) as error:
        raise ConfigError(f"no configuration of clipfeat-extract ({str(error).splitlines()[0]})") from error
    if not isinstance(config, ExtractConfig):
        raise ConfigError("no configuration of clipfeat-extract")
    return config
