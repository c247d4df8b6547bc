"""The small inputs that stand in for those the documentation speaks of, each made when a block first asks for it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import sens_writer
import torch
from doc_schema import run_entry

from clipfeat.data.scannet import ScanNetDataset

SCENES = ("scene0000_00", "scene0001_00")
"""What the two demo scenes are called here, as the documentation calls them."""

LABELS = "sampling.labels_file='${data.root}/{scene}/{scene}_vh_clean_2.labels.ply'"
SMALL_DEMO = (
    "data.num_scenes=2", "data.num_frames=4", "data.color_size=[216,162]", "data.depth_size=[128,96]",
    "data.mesh_spacing=0.1",
)  # fmt: skip
"""The options that ``demo_root`` is rendered with: a copy of it is not rendered again."""


class Inputs:
    """Makes them.

    Args:
        folder: for all of them.
        demo_root: the rendered scans.
        arch: a small model, whose text tower reads CLIP's tokens.
    """

    def __init__(self, folder: Path, demo_root: Path, arch: str):
        self.folder = folder
        self.demo_root = demo_root
        self.arch = arch

    def get(self, name: str) -> Path:
        """The folder or file of that name, see ``MAKERS``."""
        path = self.folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            MAKERS[name](self, path)
        return path

    def scans(self, path: Path) -> None:
        """The demo scans, by the names that ScanNet's scenes have."""
        for old, new in zip(sorted(p.name for p in self.demo_root.iterdir()), SCENES, strict=True):
            shutil.copytree(self.demo_root / old, path / new)
            for file in (path / new).glob(f"{old}*"):
                file.rename(file.with_name(file.name.replace(old, new)))

    def sens(self, path: Path) -> None:
        """One raw recording, in the middle of which a scan is no scan without one."""
        dataset = ScanNetDataset(self.get("scans"))
        frames = [dataset.load(SCENES[0], i) for i in dataset.frame_ids(SCENES[0])]
        sens_writer.write_like(path / SCENES[0] / f"{SCENES[0]}.sens", frames)

    def scannet200_mv(self, path: Path) -> None:
        """ESAM's tree, with a list of its scenes."""
        k = np.array([[577.870605, 0, 319.5], [0, 577.870605, 239.5], [0, 0, 1]])
        layouts.write_scannet200_mv(self.get("scans"), path, k)
        (path / "meta_data").mkdir()
        (path / "meta_data" / "scannetv2_train_debug.txt").write_text("\n".join(SCENES))

    def one_open3d(self, path: Path) -> None:
        """A recording that is itself the root."""
        layouts.write_open3d(self.get("scans"), path.with_name("open3d_scenes"))
        path.with_name("open3d_scenes").joinpath(SCENES[0]).rename(path)

    def nerf(self, path: Path) -> None:
        """Scenes of nerfstudio, one by the documentation's name."""
        layouts.write_nerfstudio(self.get("scans"), path)
        (path / SCENES[0]).rename(path / "kitchen")

    def mine(self, path: Path) -> None:
        """A layout that no one else has: numbers with leading zeros, a pose a line, K in four numbers."""
        dataset = ScanNetDataset(self.get("scans"))
        for scene in SCENES:
            for name in ("rgb", "depth"):
                (path / scene / name).mkdir(parents=True)
            frames = [dataset.load(scene, i) for i in dataset.frame_ids(scene)]
            for frame in frames:
                source, number = self.get("scans") / scene, frame.frame_id
                shutil.copy(source / "color" / f"{number}.jpg", path / scene / "rgb" / f"{number:05d}.jpg")
                shutil.copy(source / "depth" / f"{number}.png", path / scene / "depth" / f"{number:05d}.png")
            np.savetxt(path / scene / "poses.txt", [frame.cam_to_world.reshape(16) for frame in frames])
            (path / scene / "camera.txt").write_text(" ".join(map(str, layouts.four_numbers(frames[0]))))

    def scannetpp(self, path: Path) -> None:
        """Models where ScanNet++ has those of its DSLR, and its mesh."""
        layouts.write_colmap(self.get("scans"), path)
        for scene in path.iterdir():
            for name in ("dslr", "scans"):
                (scene / name).mkdir()
            (scene / "sparse" / "0").rename(scene / "dslr" / "colmap")
            (scene / "images").rename(scene / "dslr" / "resized_images")
            mesh = self.get("scans") / scene.name / f"{scene.name}_vh_clean_2.ply"
            shutil.copy(mesh, scene / "scans" / "mesh_aligned_0.05.ply")

    def run(self, path: Path) -> None:
        """A run that every command can read: labelled vertices, maps, in text space."""
        small = ["vis=none", "sampling=mesh", LABELS, "sampling.num_points=1500", "output=grid", "model/head=text"]
        self._extract(f"data.root={self.get('scans')}", f"output_dir={path}", *small)

    def fused(self, path: Path) -> None:
        """Its scenes, fused."""
        run_entry("clipfeat-fuse", [f"store={self.get('run')}", f"output_dir={path}", "num_workers=1"])

    def demo_run(self, path: Path) -> None:
        """A run of the demo, in npz."""
        shutil.copytree(self.demo_root, path.with_name("demo_scans"))
        demo = [f"data.root={path.with_name('demo_scans')}", *SMALL_DEMO]
        self._extract("experiment=demo", f"output_dir={path}", *demo, "sampling.num_points=300", "vis=none")

    def h5(self, path: Path) -> None:
        """A run in HDF5."""
        options = ["output=h5", "sampling.num_points=100", "vis=none", "frames_per_scene=1"]
        self._extract(f"data.root={self.get('scans')}", f"output_dir={path}", *options)

    def exported(self, path: Path) -> None:
        """A file a scene."""
        run_entry("clipfeat-export", [f"store={self.get('run')}", "format=scene_pt", f"output_dir={path}"])

    def trained(self, path: Path) -> None:
        """A network, trained for one step."""
        run_entry("clipfeat-train", [f"store={self.get('run')}", f"output_dir={path}", "steps=1", "num_points=40"])

    def checkpoint(self, path: Path) -> None:
        """Weights of the small model in a file."""
        import open_clip

        torch.manual_seed(0)
        torch.save(open_clip.create_model(self.arch).state_dict(), path)

    def _extract(self, *overrides: str) -> None:
        small = [f"model.arch={self.arch}", "model.pretrained=null", "num_workers=1", "report=false", "device=cpu"]
        run_entry("clipfeat-extract", [*overrides, *small])


def _layout(write: Callable[[Path, Path], None]) -> Callable[[Inputs, Path], None]:
    return lambda inputs, path: write(inputs.get("scans"), path)


def _scene_list(*scenes: str) -> Callable[[Inputs, Path], None]:
    return lambda _inputs, path: path.write_text("\n".join(("# a scene a line", *scenes)) + "\n") and None


MAKERS: dict[str, Callable[[Inputs, Path], None]] = {
    "scans": Inputs.scans,
    "sens": Inputs.sens,
    "scannet200_mv": Inputs.scannet200_mv,
    "sevenscenes": _layout(layouts.write_sevenscenes),
    "tum": _layout(layouts.write_tum),
    "replica": _layout(layouts.write_replica),
    "open3d": Inputs.one_open3d,
    "nerf": Inputs.nerf,
    "polycam": _layout(layouts.write_polycam),
    "arkitscenes": _layout(layouts.write_arkitscenes),
    "colmap": _layout(layouts.write_colmap),
    "scannetpp": Inputs.scannetpp,
    "mine": Inputs.mine,
    "run": Inputs.run,
    "fused": Inputs.fused,
    "demo/run": Inputs.demo_run,
    "demo_scans": lambda inputs, path: shutil.copytree(inputs.demo_root, path) and None,
    "h5": Inputs.h5,
    "exported": Inputs.exported,
    "trained": Inputs.trained,
    "checkpoint.pt": Inputs.checkpoint,
    "both.txt": _scene_list(*SCENES),
    "first.txt": _scene_list(SCENES[0]),
    "second.txt": _scene_list(SCENES[1]),
}
