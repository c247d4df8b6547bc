"""Small runs of every kind that clipfeat-fuse merges."""

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from clipfeat.cli.schemas import register_schemas
from clipfeat.config.folder import config_dir
from clipfeat.extraction.extract import extract

SCENES = ["demo0000_00", "demo0001_00"]
LABELS = "sampling.labels_file='${data.root}/{scene}/{scene}_vh_clean_2.labels.ply'"
STORES = {
    "grid": ["output=grid"],
    "crop": ["output=grid", "model.resize_mode=crop"],
    "proj128": ["output=grid", "model/head=proj128"],
    "text": ["output=grid", "model/head=text"],
    "vertices": ["output=npz", "sampling=mesh"],
    "depth": ["output=npz", "sampling.num_points=700"],
    "mesh": ["output=h5", "output.dtype=float16", "sampling=mesh", "sampling.num_points=2000", LABELS],
}


def run_of(name, demo_root, arch, tmp_path_factory):
    """The folder of a run of that name, extracted when it is first asked for: all tests share it."""
    folder = tmp_path_factory.getbasetemp() / "runs_to_fuse" / name
    if not folder.exists():
        register_schemas()
        fixed = [f"data.root={demo_root}", f"output_dir={folder}", "vis=none", f"model.arch={arch}"]
        fixed += ["model.pretrained=null", "model/head=none"]
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            extract(OmegaConf.to_object(compose("extract", [*fixed, *STORES[name]])))
    return folder


def mesh_path(root, scene_id):
    return root / scene_id / f"{scene_id}_vh_clean_2.ply"
