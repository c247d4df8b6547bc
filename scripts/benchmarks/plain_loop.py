"""Feature extraction as one writes it first."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from matplotlib.figure import Figure
from PIL import Image
from sklearn.manifold import TSNE

from clipfeat.data.base import Dataset
from clipfeat.data.selection import FrameKey
from clipfeat.model.clip_model import ClipModel


def plain_loop(
    dataset: Dataset, frames: list[FrameKey], model: ClipModel, count: int | None, out: Path, *, draw: bool = False
) -> None:
    """What one writes first: a frame at a time, grid_sample, np.savez, and a t-SNE of all points if it shall draw."""
    size, rng = model.preprocess.size, np.random.default_rng(0)
    mean = torch.tensor(model.preprocess.mean).view(1, 3, 1, 1)
    std = torch.tensor(model.preprocess.std).view(1, 3, 1, 1)
    out.mkdir(parents=True)
    for scene_id, frame_id in frames:
        frame = dataset.load(scene_id, frame_id)
        if frame.depth_m is None or frame.depth_camera is None:
            continue
        resized = Image.fromarray(frame.image).resize((size, size), Image.Resampling.BICUBIC)
        tensor = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            tokens = model.encoder.tokens(((tensor - mean) / std).to(model.device, model.dtype))
            tokens = model.encoder.project(tokens) if model.head.projected else tokens
            feature_map = model.head.to_map(tokens.float())
        v, u = np.nonzero(frame.depth_m > 0)
        chosen = rng.permutation(len(v))[:count]
        u, v, z = u[chosen], v[chosen], frame.depth_m[v[chosen], u[chosen]].astype(np.float64)
        k = frame.depth_camera.intrinsics
        cam = np.stack(((u - k[0, 2]) / k[0, 0] * z, (v - k[1, 2]) / k[1, 1] * z, z, np.ones_like(z)))
        world = (frame.cam_to_world @ cam).T
        back = (np.linalg.inv(frame.cam_to_world) @ world.T).T
        c = frame.color_camera
        uv = np.stack(
            (
                c.intrinsics[0, 0] * back[:, 0] / back[:, 2] + c.intrinsics[0, 2],
                c.intrinsics[1, 1] * back[:, 1] / back[:, 2] + c.intrinsics[1, 2],
            ),
            1,
        ).astype(np.float32)
        grid = (torch.from_numpy(uv) + 0.5) / torch.tensor([c.width, c.height]) * 2 - 1
        sampled = nnf.grid_sample(
            feature_map, grid[None, :, None].to(feature_map), padding_mode="border", align_corners=False
        )
        features = model.point_features(sampled[0, :, :, 0].T)
        np.savez(
            out / f"{scene_id}_{frame_id}.npz",
            pts_feat=features,
            uv_idx=uv,
            conf_2d=np.ones(len(uv), np.float32),
            xyz=world[:, :3].astype(np.float32),
            pts_idx=(v * frame.depth_m.shape[1] + u),
        )
        if draw:
            embedded = TSNE(n_components=2, random_state=0).fit_transform(features)
            figure = Figure(figsize=(8, 8))
            figure.subplots().scatter(
                embedded[:, 0], embedded[:, 1], s=1, c=frame.image[uv[:, 1].astype(int), uv[:, 0].astype(int)] / 255
            )
            figure.savefig(out / f"{scene_id}_{frame_id}.png")
