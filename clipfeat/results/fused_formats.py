"""A fused scene as files: its npz, and what is made of it, such as a PLY in the colours of the features."""

from collections.abc import Callable, Sequence
from pathlib import Path

from clipfeat.mapping.scene_colors import pca_rgb
from clipfeat.output.folders import remove_files
from clipfeat.output.fused import FusedScene, read_fused, write_fused, write_openscene
from clipfeat.output.packing import Packing
from clipfeat.output.ply import write_ply
from clipfeat.vis.build import model_note
from clipfeat.vis.pictures import save_png
from clipfeat.vis.scene_picture import scene_picture, up_axis


def _write_pca_ply(path: Path, fused: FusedScene) -> int:
    model = fused.meta["model"]
    comments = [
        f"clipfeat: {fused.meta['scene_id']}, features in PCA colours, grey where no frame sees the point",
        f"{model['arch']} {model['head']} weights={model['weights']}",
    ]
    return write_ply(path, fused.points.xyz, pca_rgb(fused.pts_feat, fused.seen), fused.faces, comments)


def _write_png(path: Path, fused: FusedScene) -> int:
    up = fused.meta.get("up") or up_axis([])
    xyz, rgb = fused.points.xyz, pca_rgb(fused.pts_feat, fused.seen)
    save_png(scene_picture(xyz, rgb, up, xyz[fused.seen], note=model_note(fused.meta["model"])), path)
    return path.stat().st_size


FORMATS: dict[str, tuple[str, Callable[[Path, FusedScene], int]]] = {
    "openscene": ("_0.pt", lambda path, fused: write_openscene(path, fused.pts_feat, fused.seen)),
    "ply": (".ply", _write_pca_ply),
    "png": (".png", _write_png),
}
"""What can be written of a fused scene beside its npz: how its name ends, and what writes it."""


def scene_path(folder: Path, scene_id: str, ending: str = ".npz") -> Path:
    """Where a fused scene is, or what is made of it."""
    return folder / f"{scene_id}{ending}"


def write_scene(folder: Path, fused: FusedScene, formats: Sequence[str], packing: Packing | None = None) -> int:
    """Writes a scene in all formats and returns the bytes.

    Raises:
        OutputError: If that fails.
    """
    scene_id = fused.meta["scene_id"]
    # What was made of an earlier npz must not stand beside a new one.
    remove_files(scene_path(folder, scene_id, ending) for ending, _ in FORMATS.values())
    size = write_fused(scene_path(folder, scene_id), fused, packing)
    return size + write_formats(folder, scene_id, formats, fused)


def write_formats(folder: Path, scene_id: str, formats: Sequence[str], fused: FusedScene | None = None) -> int:
    """Writes what is not there yet and returns the bytes; the scene is read only if it is needed.

    Raises:
        OutputError: If that fails.
        DataError: If the scene can't be read.
    """
    written = 0
    for ending, write in (FORMATS[name] for name in formats):
        path = scene_path(folder, scene_id, ending)
        if not path.is_file():
            fused = fused or read_fused(scene_path(folder, scene_id))
            written += write(path, fused)
    return written
