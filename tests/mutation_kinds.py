"""The kinds of input that are damaged, and what a run may make of each."""

from dataclasses import dataclass

from clipfeat.output.files import FORMATS

FIRST, SECOND = "demo0000_00", "demo0001_00"


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        world: folder of the undamaged inputs; each case has a copy of it, named case.
        files: patterns of those that are damaged.
        overrides: of the run.
        may_fail: which frames may fail by it: those of the same frame, of the same scene, all or none.
        may_differ: which frames may come out otherwise, likewise.
        stops: whether the whole run may end with an error.
        names: what a message may say instead of the file's name.
        resumes: whether the run goes on with one whose files are damaged.
    """

    world: str
    files: tuple[str, ...]
    overrides: tuple[str, ...]
    may_fail: str = "frame"
    may_differ: str = "frame"
    stops: bool = False
    names: tuple[str, ...] = ()
    resumes: bool = False


SCANS = ("data.root=case",)
_BELOW = ("data.root=case/scans",)
_MESH = (*SCANS, "sampling=mesh", "sampling.num_points=50")
_SCENE, _ALL = {"may_fail": "scene", "may_differ": "scene"}, {"may_fail": "all", "may_differ": "all"}

KINDS = {
    # A picture of another size gets another K, or none that fits it.
    "jpeg": Kind("scans", (f"{FIRST}/color/*",), SCANS, names=("intrinsic_color.txt",)),
    "png": Kind("scans", (f"{SECOND}/color/*",), SCANS, names=("intrinsic_color.txt",)),
    "depth": Kind("scans", ("*/depth/*",), SCANS),
    "mask": Kind("scans", ("*/instance-filt/*",), (*SCANS, "data.masks='case/{scene}/instance-filt/{frame}.png'")),
    "mask mapping": Kind(
        "scans",
        ("mapping.json",),
        (*_MESH, "data.masks='case/{scene}/instance-filt/{frame}.png'", "camera.mask_instances=case/mapping.json"),
        **_ALL,
        stops=True,
    ),
    "pose": Kind("scans", ("*/pose/*",), SCANS),
    "intrinsics": Kind("scans", ("*/intrinsic/intrinsic_*",), SCANS, **_SCENE),
    "check": Kind("scans", ("*/depth/*", "*/pose/*", "*/*_clean_2.ply"), (*SCANS, "check=yes")),
    "scenes_file": Kind("scans", ("scenes.txt",), (*SCANS, "scenes_file=case/scenes.txt"), "all", "none", stops=True),
    "ply": Kind(
        "scans", ("*/*.ply",), (*_MESH, "sampling.labels_file='case/{scene}/{scene}_vh_clean_2.labels.ply'"), **_SCENE
    ),
    "point npz": Kind("scans", ("points/*",), (*_MESH, "sampling.points_file='case/points/{scene}.npz'"), **_SCENE),
    "sens": Kind("sens", ("*",), ("data=sens", *SCANS), **_SCENE, names=("no depth file",)),
    "tum": Kind(
        "tum",
        ("*/*.txt",),
        ("data=tum", *SCANS, "data.intrinsics_size=[216,162]", "data.intrinsics=[195,195,107,80]"),
        **_SCENE,
        names=("no depth file", "no such file", "Is a directory"),  # what a damaged list names, or does not
    ),
    "replica": Kind("replica", ("*/traj.txt",), ("data=replica", *SCANS), **_SCENE),
    "cam_params": Kind("replica", ("cam_params.json",), ("data=replica", *SCANS), **_ALL, stops=True),
    "open3d": Kind(
        "open3d",
        ("*/trajectory.log", "*/camera.param"),
        ("data=open3d", *SCANS, "data.root_is_scene=false"),
        **_SCENE,
    ),
    "bin": Kind(
        "mv",
        ("points/*/*", "instance_mask/*/*"),
        ("data=scannet200_mv", *SCANS, "sampling=frame_points"),
        names=("stores no points",),
    ),
    "head": Kind(
        "scans",
        ("head.safetensors",),
        (*SCANS, "model/head=proj128", "model.head.weights=case/head.safetensors"),
        **_ALL,
        stops=True,
    ),
    "uv index": Kind("indexed", ("index/*/*",), (*_BELOW, "uv_index=case/index")),
    "index config": Kind(
        "indexed", ("index/config.yaml",), (*_BELOW, "uv_index=case/index"), **_ALL, stops=True, names=("uv_index=",)
    ),
    "lmdb": Kind(
        "cached",
        ("cache/*",),
        (*_BELOW, "cache=lmdb", "cache.path=case/cache"),
        "none",
        "none",
        stops=True,
        names=("cache.path=",),
    ),
    **{
        name: Kind(f"run_{name}", (f"out/{FIRST}/*",), (*_BELOW, f"output={name}", "output_dir=case/out"), resumes=True)
        for name, fmt in FORMATS.items()
        if not fmt.by_scene and fmt.holds != "segments"
    },
    "segments": Kind(
        "run_segments",
        (f"out/{FIRST}/*",),
        (
            *_BELOW,
            "output=segments",
            "data.masks='case/scans/{scene}/instance-filt/{frame}.png'",
            "output_dir=case/out",
        ),
        resumes=True,
    ),
    "h5_scene": Kind(
        "run_h5_scene",
        (f"out/{FIRST}.h5",),
        (*_BELOW, "output=h5_scene", "output_dir=case/out"),
        **_SCENE,
        stops=True,
        names=("case/out: holds no",),  # where no other scene's file is left
        resumes=True,
    ),
    "run folder": Kind(
        "run_npz",
        ("out/config.yaml", "out/*.json*"),
        (*_BELOW, "output_dir=case/out"),
        "all",
        "none",
        stops=True,
        names=("case/out",),
        resumes=True,
    ),
}
