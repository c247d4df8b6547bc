"""OpenScene's multi-view fusion (``scripts/feature_fusion`` of its repository) on the vertices of the demo's meshes."""

import importlib
import sys
import tempfile
from collections import Counter
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipfeat.camera.visibility import VisibilityRule, project_frame
from clipfeat.types import FloatArray, Frame, PointStatus
from peers.room import LABELS, Recording, miou, right

THRESHOLD, BORDER = 0.25, 10
"""What scannet_openseg.py sets: share of the depth, and pixels along the edges."""

THEIR_RULE = ("camera.depth_tolerance=0", "camera.depth_tolerance_rel=0.2", f"camera.border={BORDER - 0.5}")
"""z - d <= d/4 is z - d <= z/5; and rounded to pixel 10 is everything from 9.5."""


IN_PICTURE = [PointStatus.OCCLUDED, PointStatus.NO_DEPTH]


def load(checkout: Path) -> Any:
    """Their script as a module; TensorFlow, which only reads pictures and runs OpenSeg there, is an empty module."""
    for name in ("tensorflow", "tensorflow.compat", "tensorflow.compat.v1"):
        sys.modules.setdefault(name, ModuleType(name))
    sys.modules["tensorflow"].io = None  # type: ignore[attr-defined]
    sys.path.insert(0, str(checkout / "scripts" / "feature_fusion"))
    return importlib.import_module("scannet_openseg")


def mapper_of(theirs: Any, frame: Frame, threshold: float, border: int) -> Any:
    """Their PointCloudToImageMapper, made as their main() does it."""
    k, size = frame.color_camera.intrinsics, [frame.color_camera.width, frame.color_camera.height]
    intrinsic = theirs.make_intrinsic(fx=k[0, 0], fy=k[1, 1], mx=k[0, 2], my=k[1, 2])
    intrinsic = theirs.adjust_intrinsic(intrinsic, intrinsic_image_dim=size, image_dim=size)
    return theirs.PointCloudToImageMapper(
        image_dim=size, intrinsics=intrinsic, visibility_threshold=threshold, cut_bound=border
    )


def fuse(
    theirs: Any, recording: Recording, scene_id: str, threshold: float, border: int
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Their process_one_scene with planted maps; features (N, C), 0 where unseen, and (N,) what is seen."""
    frame, _ = next(recording.frames(scene_id))

    def planted(picture: str, *_: object, **__: object) -> torch.Tensor:
        values = recording.map_of(scene_id, int(Path(picture).stem)).values
        # As theirs brings maps to the size of the pictures.
        return torch.nn.functional.interpolate(values[None].float(), size=(480, 640), mode="nearest-exact")[0].half()

    theirs.extract_openseg_img_feature = planted
    args = SimpleNamespace(
        num_rand_file_per_scene=1, feat_dim=recording.model.channels, depth_scale=1000.0, openseg_model=None,
        text_emb=None, keep_features_in_memory=False, n_split_points=2_000_000, data_root_2d=str(recording.root),
        point2img_mapper=mapper_of(theirs, frame, threshold, border),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as out, redirect_stdout(StringIO()):
        cloud = Path(out) / f"{scene_id}_vh_clean_2.pth"
        torch.save((torch.from_numpy(recording.vertices(scene_id).xyz),), cloud)
        theirs.process_one_scene(str(cloud), out, args)
        found = torch.load(Path(out) / f"{scene_id}_0.pt", weights_only=True)
    seen = found["mask_full"].numpy()
    features = np.zeros((len(seen), recording.model.channels), np.float32)
    features[seen] = found["feat"].float().numpy()
    return features, seen


def compare(recording: Recording, checkout: Path) -> None:
    """Prints the tables."""
    theirs = load(checkout)
    ways = {
        "clipfeat": recording.fused(recording.store, "points=mesh"),
        "clipfeat, their rule": recording.fused(recording.extract(*THEIR_RULE), "points=mesh"),
    }
    made = {name: {s: (f.pts_feat, f.seen) for s, f in fused.items()} for name, fused in ways.items()}
    for name, how in {"OpenScene": (THRESHOLD, BORDER), "OpenScene, 1 %, no border": (0.01, 0)}.items():
        made[name] = {s: fuse(theirs, recording, s, *how) for s in recording.scenes}
    truth = np.concatenate([recording.vertices(s).attributes["label"] for s in recording.scenes])
    merged = {
        name: tuple(np.concatenate([of[s][i] for s in recording.scenes]) for i in (0, 1)) for name, of in made.items()
    }
    print(f"{len(truth)} vertices\n")
    print("| fused by | seen | right of the seen | mIoU |")
    for name, (features, seen) in merged.items():
        named = recording.named(features)
        print(f"| {name} | {seen.sum()} | {right(truth, named):.4f} | {miou(truth, named):.4f} |")
    for ours, other in (("clipfeat", "OpenScene"), ("clipfeat, their rule", "OpenScene")):
        _differences(recording, truth, ours, merged[ours], other, merged[other])
    _pairs(recording, theirs)


def _differences(recording: Recording, truth: Any, ours: str, a: Any, other: str, b: Any) -> None:
    (features, seen), (their_features, their_seen) = a, b
    both = seen & their_seen
    named, their_named = recording.named(features)[both], recording.named(their_features)[both]
    cosine = (features[both] * their_features[both]).sum(1) / (
        np.linalg.norm(features[both], axis=1) * np.linalg.norm(their_features[both], axis=1)
    )
    differ, label = named != their_named, truth[both]
    print(
        f"\n{ours} and {other}: seen by both {both.sum()}, by ours alone {(seen & ~their_seen).sum()}, by theirs alone"
    )
    print(f"{(~seen & their_seen).sum()}; IoU {both.sum() / (seen | their_seen).sum():.4f}")
    print(
        f"cosine above 0.9999 {(cosine > 0.9999).mean():.4f}, above 0.99 {(cosine > 0.99).mean():.4f}, least", end=" "
    )
    print(f"{cosine.min():.3f}")
    print(f"other labels {differ.sum()}: ours right {(LABELS[named] == label)[differ].sum()}", end=", ")
    print(f"theirs right {(LABELS[their_named] == label)[differ].sum()}")


def _pairs(recording: Recording, theirs: Any) -> None:
    """Which vertices each frame sees by either rule, why only one sees it, and what the room itself says."""
    found: Counter[str] = Counter()
    free: Counter[str] = Counter()
    for scene_id in recording.scenes:
        xyz = recording.vertices(scene_id).xyz
        for frame, _ in recording.frames(scene_id):
            mapper, depth_m = mapper_of(theirs, frame, THRESHOLD, BORDER), recording.depth_of(frame)
            their = mapper.compute_mapping(frame.cam_to_world, xyz, depth_m)[:, 2] == 1
            whole = mapper_of(theirs, frame, THRESHOLD, 0).compute_mapping(frame.cam_to_world, xyz, depth_m)[:, 2] == 1
            status = project_frame(xyz, frame, VisibilityRule()).status
            our = status == PointStatus.VISIBLE
            rows = np.flatnonzero(our | their | np.isin(status, IN_PICTURE))
            shown = np.zeros(len(xyz), bool)
            shown[rows] = recording.shown(scene_id, frame, xyz[rows])
            groups = {
                "both": our & their,
                f"ours alone, within {BORDER} px of an edge": our & ~their & whole,
                "ours alone, else": our & ~whole,
                "theirs alone, farther from the depth than we allow": their & (status == PointStatus.OCCLUDED),
                "theirs alone, else": their & ~our & (status != PointStatus.OCCLUDED),
                "neither, in the picture": ~our & ~their & np.isin(status, IN_PICTURE),
            }
            for name, where in groups.items():
                found[name] += int(where.sum())
                free[name] += int((where & shown).sum())
    print("\n| vertex in a frame | pairs | in plain sight |")
    for name, number in found.items():
        print(f"| {name} | {number} | {free[name] / max(number, 1):.4f} |")
