"""The undamaged inputs of all kinds, and the configuration of a run on them."""

import json
import shutil
from contextlib import chdir
from pathlib import Path

import layouts
import numpy as np
import open_clip
from hydra import compose, initialize_config_dir
from mutation_kinds import FIRST, KINDS, SECOND
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file
from sens_writer import write_like

from clipfeat.cli.schemas import register_schemas
from clipfeat.config.folder import config_dir
from clipfeat.data.demo import SceneOptions, render_scenes
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.data.scannet200_mv import ESAM_INTRINSICS, ESAM_SIZE
from clipfeat.extraction.extract import extract
from clipfeat.extraction.uv_index import write_uv_index
from clipfeat.model.heads import build_head
from clipfeat.output.files import FORMATS
from clipfeat.sampling.point_files import read_points
from clipfeat.types import Camera

ARCH = "clipfeat-mutated-ViT"
CASE, OUT = Path("case"), Path("out")  # in the folder that a child works in: a run's files hold its paths


def make_worlds(root):
    """Writes the undamaged inputs of all kinds into an empty folder."""
    register_arch(root)
    scans = root / "scans"
    options = SceneOptions(num_frames=3, color_size=layouts.COLOR_SIZE, depth_size=(64, 48), mesh_spacing=0.3)
    render_scenes(scans, 2, options)
    layouts.write_tum(scans, root / "tum")
    layouts.write_replica(scans, root / "replica")
    layouts.write_open3d(scans, root / "open3d")
    fx, fy, cx, cy = ESAM_INTRINSICS
    camera = Camera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), *ESAM_SIZE).resized(160, 120)
    layouts.write_scannet200_mv(scans, root / "mv", camera.intrinsics, (160, 120), num_points=60)
    dataset = ScanNetDataset(scans)
    (scans / "points").mkdir()
    for scene, color in ((FIRST, "jpeg"), (SECOND, "png")):
        frames = [dataset.load(scene, i) for i in dataset.frame_ids(scene)]
        write_like(root / "sens" / f"{scene}.sens", frames, color=color)
        points = read_points(scans / scene / f"{scene}_vh_clean_2.ply")
        np.savez(scans / "points" / f"{scene}.npz", xyz=points.xyz, rgb=points.attributes["rgb"], instance=points.idx)
    for jpeg in (scans / SECOND / "color").glob("*.jpg"):
        Image.open(jpeg).save(jpeg.with_suffix(".png"))
        jpeg.unlink()
    (scans / "scenes.txt").write_text(f"# two rooms\n{FIRST}\n{SECOND}\n")
    (scans / "mapping.json").write_text(json.dumps({FIRST: {"1": 1, "2": 2}, SECOND: {"3": 3}}))
    save_file(build_head("proj128", 64, None, 5).state_dict(), scans / "head.safetensors")
    (root / "build").mkdir()
    with chdir(root / "build"):
        for kind in (*FORMATS, "lmdb", "uv index"):
            shutil.copytree(scans, CASE / "scans")
            cfg = run_config(KINDS[kind].overrides)
            write_uv_index(cfg) if kind == "uv index" else extract(cfg)
            CASE.rename(root / KINDS[kind].world)
    shutil.rmtree(root / "build")


def register_arch(root):
    """Lets open_clip know a ViT that it builds in milliseconds."""
    folder = root / "arch"
    folder.mkdir(exist_ok=True)
    vision = {"image_size": 64, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16}
    words = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    path = folder / f"{ARCH}.json"
    if not path.exists():  # or another process may be reading it
        path.write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": words}))
    open_clip.add_model_config(folder)


def run_config(overrides):
    """The configuration of clipfeat-extract with these overrides."""
    register_schemas()
    base = ["vis=none", f"model.arch={ARCH}", "model.pretrained=null", "model.input_size=64", "sampling.num_points=50"]
    # One frame a batch: in a batch with others, the last bits of a frame are others too.
    base += ["batch_size=1", "num_workers=1", "device=cpu", f"output_dir={OUT}"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return OmegaConf.to_object(compose("extract", base + list(overrides)))
