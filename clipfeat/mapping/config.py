"""All of ``clipfeat-map``."""

from dataclasses import dataclass, field

from clipfeat.camera.config import CameraConfig
from clipfeat.config.checks import at_least, one_of, resume_word
from clipfeat.config.paths import path_key
from clipfeat.data.config import FramesConfig
from clipfeat.errors import ConfigError
from clipfeat.model.config import CacheConfig, ModelConfig
from clipfeat.output.config import DTYPES

SOURCES = ("data", "watch", "stdin")

PICTURES = ("pca", "text", "none")


@dataclass
class MapConfig(FramesConfig):
    """All of ``clipfeat-map``; which frames it looks at is told by ``FramesConfig``.

    Attributes:
        camera: see CameraConfig.
        model: see ModelConfig.
        cache: see CacheConfig.
        source: data (the frames that are there), watch (those, and the ones that come while it runs) or stdin (a line
            of JSON a frame; relative paths in it begin in ``data.root``).
        output_dir: folder for everything that is written: a map a scene, and its picture.
        voxel_size: edge of a voxel in metres.
        max_weight: the sum of a voxel's weights is cut to it after each frame, so that what was seen long ago fades;
            null lets all frames count alike.
        max_points: most voxels of a map; beyond it those go that were seen longest ago. Null is any number.
        dtype: of the features in memory and on disk: float32 or float16.
        device: auto, cpu, cuda or cuda:<n>: where the network runs, and where the features are kept.
        batch_size: pictures a forward pass; null is 8 on a CPU and 32 on a GPU.
        num_workers: batches that are in work at once, each in a thread of its own; null is one a core.
        save_every_s: seconds from one writing of the map to the next.
        picture: what is drawn beside the map whenever it is written: pca (the features in PCA colours, from above),
            text (how much each point looks like ``text``) or none.
        text: what picture=text looks for; for features of ``model/head=text``.
        poll_s: seconds from one look for new frames to the next, with source=watch and stdin.
        idle_s: seconds without a new frame after which source=watch ends; null waits until Ctrl-C.
        retry_s: seconds for which a frame that can't be read is tried again, with source=watch and stdin: it may not
            have been written to its end.
        resume: true goes on with the maps that are there, and refuses a folder of another configuration; overwrite (or
            false) begins anew, and first removes the scenes' maps that are there.
    """

    camera: CameraConfig = field(default_factory=CameraConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    source: str = "data"
    output_dir: str = path_key("outputs/map")
    voxel_size: float = 0.05
    max_weight: float | None = None
    max_points: int | None = 1_000_000
    dtype: str = "float32"
    device: str = "auto"
    batch_size: int | None = None
    num_workers: int | None = None
    save_every_s: float = 60.0
    picture: str = "pca"
    text: str | None = None
    poll_s: float = 1.0
    idle_s: float | None = 60.0
    retry_s: float = 10.0
    resume: str = "true"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("source", self.source, SOURCES)
        at_least("voxel_size", self.voxel_size, 0, above=True)
        at_least("max_weight", self.max_weight, 0, above=True)
        for key in ("max_points", "batch_size", "num_workers"):
            at_least(key, getattr(self, key), 1)
        one_of("dtype", self.dtype, DTYPES)
        one_of("picture", self.picture, PICTURES)
        if (self.picture == "text") != (self.text is not None):
            raise ConfigError(f"picture={self.picture} text={self.text}: picture=text shows a text, and needs one")
        for key in ("save_every_s", "idle_s", "retry_s"):
            at_least(key, getattr(self, key), 0)
        at_least("poll_s", self.poll_s, 0, above=True)
        self.resume = resume_word(self.resume)
        if not self.output_dir:
            raise ConfigError("output_dir is empty: give a folder for the results")
        if self.source == "watch" and self.frame_selection != "first":
            raise ConfigError(
                f"frame_selection={self.frame_selection}: chooses among frames that are not all there yet with "
                f"source=watch; take first"
            )
        chosen = (self.scenes_file, self.frames_per_scene, self.frame_stride, self.data.masks)
        if self.source == "stdin" and chosen != (None, None, 1, None):
            raise ConfigError(
                "source=stdin: takes every frame that it is told of, without masks; leave out scenes_file, "
                "frames_per_scene, frame_stride and data.masks"
            )
