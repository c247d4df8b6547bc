"""Rendered rooms, written as ScanNet scans in the exported layout: quickstart, test data and ground truth in one.

A scene folder holds what ScanNet's own tools export::

    <root>/demo0000_00/
        color/<i>.jpg  depth/<i>.png (u16 millimetres, 0 = hole)  pose/<i>.txt (cam_to_world)
        intrinsic/{intrinsic,extrinsic}_{color,depth}.txt
        label-filt/<i>.png  instance-filt/<i>.png (u16, the colour pictures' size)
        demo0000_00_vh_clean_2.ply  demo0000_00_vh_clean_2.labels.ply
        demo.json  (the options that it was rendered with)

Depth and labels are exact at the pixel centres, which lie on integers.
"""

import json
import math
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from clipfeat.data.config import DemoConfig
from clipfeat.data.demo.render import Mesh, cast_rays, paint, tessellate
from clipfeat.data.demo.room import build_room
from clipfeat.data.scannet import ScanNetDataset, open_scannet
from clipfeat.errors import DataError, OutputError
from clipfeat.system.atomic import sync_to_disk, sync_tree
from clipfeat.types import Camera

FRAME_STEP = 20
"""Frames are numbered 0, 20, 40, ...: the usual share of a recording."""

_RENDERER_VERSION = 1
"""Goes up when the same options give other pictures."""

_SCANNER = Camera(np.array([[1170.0, 0.0, 645.0], [0.0, 1168.0, 488.0], [0.0, 0.0, 1.0]]), 1296, 968)
"""Close to the colour camera of ScanNet; its centre is off the picture's middle, as real ones are."""

_POSES, _DEPTH = 1, 2
"""Streams of random numbers, apart from those of the room."""


@dataclass(frozen=True)
class SceneOptions:
    """How a scene is rendered.

    Attributes:
        num_frames: views.
        color_size: (width, height) of the colour pictures.
        depth_size: (width, height) of the depth pictures.
        depth_noise: standard deviation of the depth noise in metres at 1 m; it grows with the square of the depth.
        depth_holes: share of the depth pixels that are missing, in blobs, 0 to 0.9.
        lost_poses: frames whose pose is -inf, as ScanNet writes a lost track.
        mesh_spacing: distance of the mesh's vertices in metres.
        seed: what the rooms look like.
    """

    num_frames: int = 5
    color_size: tuple[int, int] = (1296, 968)
    depth_size: tuple[int, int] = (640, 480)
    depth_noise: float = 0.0
    depth_holes: float = 0.0
    lost_poses: int = 0
    mesh_spacing: float = 0.04
    seed: int = 0


def demo_scene_id(index: int) -> str:
    """The name of the scene with this number."""
    return f"demo{index:04d}_00"


def render_scenes(root: Path, num_scenes: int, options: SceneOptions, *, progress: bool = True) -> list[Path]:
    """Renders the scenes 0 to ``num_scenes`` - 1; those that are there already are left as they are.

    Args:
        root: folder for the scenes; created if missing.
        num_scenes: how many.
        options: of every scene.
        progress: show a bar on stderr, if that is a terminal.

    Returns:
        The scene folders.

    Raises:
        DataError: As for ``render_scene``.
        OutputError: As for ``render_scene``.
    """
    there = all((root / demo_scene_id(index)).exists() for index in range(num_scenes))  # which takes no time to see
    bar = tqdm(
        range(num_scenes), "rendering demo scenes", unit="scene", leave=False,
        disable=None if progress and not there else True,
    )  # fmt: skip
    return [render_scene(root, index, options) for index in bar]


def render_scene(root: Path, scene_index: int, options: SceneOptions) -> Path:
    """Renders one scene, or finds it rendered already. The folder appears whole or not at all.

    Args:
        root: folder for the scenes; created if missing.
        scene_index: number of the scene; with ``options.seed`` it says what the room looks like.
        options: how it is rendered. Equal options give equal bytes.

    Returns:
        The scene folder ``<root>/<scene_id>``.

    Raises:
        DataError: If the folder exists and was rendered with other options, or is no demo scene.
        OutputError: If the folder cannot be written.
    """
    scene_id = demo_scene_id(scene_index)
    folder = root / scene_id
    unfinished = root / f".{scene_id}.{os.getpid()}.tmp"
    try:
        if folder.exists():
            _check_same(folder, options)
            return folder
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)  # of a crashed process that had the same number
        unfinished.mkdir()
        _write_scene(unfinished, scene_id, scene_index, options)
        sync_tree(unfinished)
        try:
            unfinished.rename(folder)
            sync_to_disk(root)
        except OSError:
            if not folder.exists():
                raise
            _check_same(folder, options)  # another process was faster
    except OSError as error:
        raise OutputError(f"cannot write the demo scene {folder}: {error}; choose another data.root") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _check_same(folder: Path, options: SceneOptions) -> None:
    try:
        found = json.loads((folder / "demo.json").read_text())
        version, found_options = found["renderer_version"], dict(found["options"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{folder} is no rendered demo scene (its demo.json is missing or broken): choose another data.root, or "
            "delete the folder"
        ) from error
    wanted = _plain(options)
    differences = [
        f"{key}={found_options.get(key)} (asked for {wanted.get(key)})"
        for key in sorted(wanted.keys() | found_options.keys())
        if found_options.get(key) != wanted.get(key)
    ]
    if version != _RENDERER_VERSION:
        differences.append(f"renderer version {version} (this is {_RENDERER_VERSION})")
    if differences:
        raise DataError(
            f"{folder} was rendered with other options: {', '.join(differences)}: choose another data.root, or delete "
            "the folder"
        )


def _plain(options: SceneOptions) -> dict[str, object]:
    """The options as JSON gives them back."""
    plain: dict[str, object] = json.loads(json.dumps(asdict(options)))
    return plain


def _write_scene(folder: Path, scene_id: str, scene_index: int, options: SceneOptions) -> None:
    for name in ("color", "depth", "pose", "intrinsic", "label-filt", "instance-filt"):
        (folder / name).mkdir()
    room = build_room(options.seed, scene_index)
    _write_meshes(folder, scene_id, tessellate(room.faces, room.obstacles, options.mesh_spacing))

    color_camera = _SCANNER.resized(*options.color_size)
    depth_camera = color_camera.resized(*options.depth_size)
    for name, camera in (("color", color_camera), ("depth", depth_camera)):
        intrinsics = np.eye(4)
        intrinsics[:3, :3] = camera.intrinsics
        _write_matrix(folder / "intrinsic" / f"intrinsic_{name}.txt", intrinsics)
        _write_matrix(folder / "intrinsic" / f"extrinsic_{name}.txt", np.eye(4))

    # Index -1, a ray that hit nothing, takes the 0 at the end.
    labels = np.array([face.label for face in room.faces] + [0], np.uint16)
    instances = np.array([face.instance for face in room.faces] + [0], np.uint16)
    lost = lost_frames(options.num_frames, options.lost_poses)
    for frame in range(options.num_frames):
        number = frame * FRAME_STEP
        pose = room.camera_pose(frame, options.num_frames, (options.seed, scene_index, _POSES))
        _write_matrix(folder / "pose" / f"{number}.txt", np.full((4, 4), -np.inf) if frame in lost else pose)

        hits = cast_rays(room.faces, color_camera, pose)
        picture = paint(hits, room.faces, color_camera, pose)
        Image.fromarray(picture).save(folder / "color" / f"{number}.jpg", quality=92)
        _write_u16(folder / "label-filt" / f"{number}.png", labels[hits.face])
        _write_u16(folder / "instance-filt" / f"{number}.png", instances[hits.face])

        rng = np.random.default_rng([options.seed, scene_index, _DEPTH, frame])
        depth_m = cast_rays(room.faces, depth_camera, pose).depth_m
        depth_mm = degrade_depth(depth_m, options.depth_noise, options.depth_holes, rng)
        _write_u16(folder / "depth" / f"{number}.png", depth_mm)
    text = json.dumps({"renderer_version": _RENDERER_VERSION, "options": asdict(options)}, indent=2)
    (folder / "demo.json").write_text(text + "\n")


def lost_frames(num_frames: int, lost_poses: int) -> set[int]:
    """The indices of the frames without a pose, spread evenly."""
    count = min(lost_poses, num_frames)
    return {math.floor((k + 0.5) * num_frames / count) for k in range(count)}


def degrade_depth(
    depth_m: NDArray[np.float64], noise: float, holes: float, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """What a depth sensor makes of exact depth.

    Args:
        depth_m: (H, W) z in metres, 0 where there is none.
        noise: standard deviation in metres at 1 m; it grows with the square of the depth.
        holes: share of the pixels that are lost, in blobs.
        rng: where the randomness comes from.

    Returns:
        (H, W) millimetres, 0 where there is none.
    """
    noisy = depth_m + rng.standard_normal(depth_m.shape) * noise * depth_m**2 if noise > 0 else depth_m
    # 0 and 65535 mean "no depth": noise must not make a hole of a surface.
    depth_mm = np.where(depth_m > 0, np.clip(np.round(noisy * 1000), 1, 65534), 0).astype(np.uint16)
    if holes > 0:
        field = gaussian_filter(rng.standard_normal(depth_m.shape, np.float32), depth_m.shape[0] / 40, mode="wrap")
        depth_mm[field < np.quantile(field, holes)] = 0
    return depth_mm


def _write_matrix(path: Path, matrix: NDArray[np.float64]) -> None:
    # Twelve digits keep a rotation a rotation, and K exact, far below anything that a picture shows.
    np.savetxt(path, matrix, fmt="%.12f")


def _write_u16(path: Path, values: NDArray[np.uint16]) -> None:
    Image.fromarray(values).save(path, compress_level=3)


def _write_meshes(folder: Path, scene_id: str, mesh: Mesh) -> None:
    # They take half a second to import, and most runs find their scenes rendered.
    import trimesh
    from trimesh.exchange.ply import export_ply

    surface = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=mesh.colors, process=False)
    path = folder / f"{scene_id}_vh_clean_2.ply"
    path.write_bytes(export_ply(surface, vertex_normal=False))
    surface.vertex_attributes["label"] = mesh.labels
    surface.vertex_attributes["instance"] = mesh.instances
    path.with_suffix(".labels.ply").write_bytes(export_ply(surface, vertex_normal=False))


def open_demo(cfg: DemoConfig) -> ScanNetDataset:
    """The data set of ``data=demo``; rooms that are not there yet are rendered."""
    options = SceneOptions(
        num_frames=cfg.num_frames,
        color_size=(cfg.color_size[0], cfg.color_size[1]),
        depth_size=(cfg.depth_size[0], cfg.depth_size[1]),
        depth_noise=cfg.depth_noise,
        depth_holes=cfg.depth_holes,
        lost_poses=cfg.lost_poses,
        mesh_spacing=cfg.mesh_spacing,
        seed=cfg.seed,
    )
    render_scenes(Path(cfg.root), cfg.num_scenes, options)
    # The folder may hold more rooms, rendered for another run.
    return open_scannet(cfg, [demo_scene_id(index) for index in range(cfg.num_scenes)])
