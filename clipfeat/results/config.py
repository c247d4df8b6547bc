"""All of ``clipfeat-export``, ``clipfeat-fuse`` and ``clipfeat-vis``."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from clipfeat.config.checks import at_least, check_points_file, listed, one_of, resume_word
from clipfeat.config.paths import path_key
from clipfeat.errors import ConfigError
from clipfeat.output.config import DTYPES, PACKINGS
from clipfeat.vis.config import VisConfig

EXPORT_FORMATS = (
    "openscene", "esam", "scene_npz", "scene_pt", "openlex3d", "conceptgraphs", "glb", "png", "turntable",
)  # fmt: skip


@dataclass
class ExportConfig:
    """All of ``clipfeat-export``.

    Attributes:
        store: output_dir of clipfeat-extract, of clipfeat-fuse (or one file of it), or of clipfeat-query that asked
            fused scenes.
        format: openscene (a file a scene, with the mean feature of each vertex of its mesh; for runs with
            sampling=mesh, and for fused scenes), esam (a file a frame, with its map; for runs with output=grid),
            scene_npz or scene_pt (a file a scene, with the points of all its frames one after another; for any run).
            For fused scenes: openlex3d (three files a scene), conceptgraphs (a map of the objects that points bear).
            For fused scenes in PCA colours, and for answers in the scores': glb (glTF), png (a picture) or turntable
            (a GIF in which the camera goes around).
        output_dir: folder of the files: they lie in it, but for esam in ``clip_feat/<scene>/color`` below it, for
            openlex3d in ``<scene>``, and for answers in ``<prompt>``.
        dtype: of the features in scene_npz and scene_pt: float32 or float16; null is as they are stored. The other
            formats have float16.
        points_file: PLY or npz with {scene} in it, where openscene's meshes are now; null where the run had them.
        num_workers: files that are in work at once, each in a thread of its own; null is one a core, and one of fused
            scenes, which are large.
        resume: true writes what is missing; overwrite writes every file again.
    """

    store: str = path_key()
    format: str = MISSING
    output_dir: str = path_key("outputs/export")
    dtype: str | None = None
    points_file: str | None = path_key(None)
    num_workers: int | None = None
    resume: str = "true"

    def __post_init__(self) -> None:
        if self.format != MISSING:
            one_of("format", self.format, EXPORT_FORMATS)
        if self.dtype is not None:
            one_of("dtype", self.dtype, DTYPES)
            if self.format != MISSING and not self.format.startswith("scene_"):
                raise ConfigError(f"dtype={self.dtype}: has no meaning with format={self.format}, leave it out")
        at_least("num_workers", self.num_workers, 1)
        self.resume = resume_word(self.resume)
        if not self.output_dir:
            raise ConfigError("output_dir is empty: give a folder for the results")
        check_points_file("points_file", self.points_file)


FUSED_POINTS = ("auto", "mesh", "voxel", "measured")


FUSED_FORMATS = ("openscene", "ply", "png")


@dataclass
class FuseConfig:
    """All of ``clipfeat-fuse``.

    Attributes:
        store: output_dir of clipfeat-extract.
        output_dir: folder for everything that is written; null is ``<store>/fused``.
        points: mesh (the vertices of a scene's mesh, or any stored cloud), voxel (what the frames measured together, a
            point a voxel, looked for in each frame), measured (the same voxels, of which each frame says only what it
            measured itself, as clipfeat-map does) or auto: mesh, and where no scene of the run has one, voxel.
        points_file: PLY or npz of the mesh, with {scene} in it; null is that of the run, or ScanNet's own name below
            the data set's root.
        labels_file: a second PLY of the same vertices that carries their labels, with {scene} in it; null is that of
            the run, if any.
        voxel_size: edge of a voxel in metres. With points=mesh, how far a stored point may be from the vertex that
            takes its feature, where the run stored features at other points than the vertices.
        best_views: how many views of each point are taken, those of the highest confidence; null takes all.
        dtype: of the features on disk: float32 or float16.
        packing: how small they are stored: none, pca (their principal components as float16), int8 (more of these, in a
            byte each) or pq (product quantisation, two of these in a byte; needs clipfeat[pq]). What cosine is kept is
            told.
        packing_dims: components that are kept; null is 64 for pca, 128 for int8, 256 for pq.
        formats: what is written beside the npz of each scene: openscene (.pt), ply (PCA colours), png (the
            same as a picture, from above).
        data_root: where the scans are now, if they moved since the run; null is where they were.
        scenes_file: text file with a scene a line; null takes every scene of the store.
        num_workers: threads that read and project frames; null is one a core.
        resume: true does only the scenes that are missing, and refuses a folder of another configuration; overwrite
            does everything again, and first removes the scenes that are there.
        on_bad_frame: skip (count and list it; also a scene that can't be fused) or fail (stop the run).
    """

    store: str = path_key()
    output_dir: str | None = path_key(None)
    points: str = "auto"
    points_file: str | None = path_key(None)
    labels_file: str | None = path_key(None)
    voxel_size: float = 0.05
    best_views: int | None = None
    dtype: str = "float32"
    packing: str = "none"
    packing_dims: int | None = None
    formats: list[str] = field(default_factory=lambda: ["ply"])
    data_root: str | None = path_key(None)
    scenes_file: str | None = path_key(None)
    num_workers: int | None = None
    resume: str = "true"
    on_bad_frame: str = "skip"

    def __post_init__(self) -> None:
        self.output_dir = self.output_dir or f"{self.store}/fused"
        one_of("points", self.points, FUSED_POINTS)
        at_least("voxel_size", self.voxel_size, 0, above=True)
        at_least("best_views", self.best_views, 1)
        at_least("num_workers", self.num_workers, 1)
        one_of("dtype", self.dtype, DTYPES)
        one_of("packing", self.packing, tuple(PACKINGS))
        at_least("packing_dims", self.packing_dims, 2)
        if self.packing == "none" and self.packing_dims is not None:
            raise ConfigError(f"packing_dims={self.packing_dims}: has no meaning with packing=none, leave it out")
        if self.packing != "none" and self.dtype != "float32":
            raise ConfigError(f"dtype={self.dtype}: has no meaning with packing={self.packing}, leave it out")
        self.resume = resume_word(self.resume)
        for name in self.formats:
            one_of("formats", name, FUSED_FORMATS)
        one_of("on_bad_frame", self.on_bad_frame, ("skip", "fail"))
        for key in ("points_file", "labels_file"):
            value = getattr(self, key)
            check_points_file(key, value)
            if value is not None and self.points in ("voxel", "measured"):
                raise ConfigError(f"{key}={value}: has no meaning with points={self.points}, leave it out")
        if self.best_views is not None and self.points == "measured":
            raise ConfigError(f"best_views={self.best_views}: has no meaning with points=measured, leave it out")


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

    store: str = path_key()
    vis: VisConfig = field(default_factory=VisConfig)
    scenes: Any = None
    frames: Any = None
    output_dir: str | None = path_key(None)
    data_root: str | None = path_key(None)
    num_workers: int | None = None
    resume: str = "true"
    on_bad_frame: str = "skip"

    def __post_init__(self) -> None:
        self.output_dir = self.output_dir or self.store
        self.scenes = listed("scenes", self.scenes, str, "the name of a scene, or a list of them")
        self.frames = listed("frames", self.frames, int, "the number of a frame, or a list of them")
        if self.vis.name == "none":
            raise ConfigError("vis=none: there is nothing to draw, expected tsne, pca or heatmap")
        self.resume = resume_word(self.resume)
        at_least("num_workers", self.num_workers, 1)
        one_of("on_bad_frame", self.on_bad_frame, ("skip", "fail"))
