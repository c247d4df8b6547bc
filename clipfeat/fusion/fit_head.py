"""Weights for ``model/head=proj128`` from the features themselves, without labels: ``clipfeat-fit-head``."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from clipfeat.camera.rules import build_rules
from clipfeat.data.layouts import build_dataset
from clipfeat.data.selection import list_frames
from clipfeat.errors import DataError, FrameError
from clipfeat.fusion.config import TRAINING_STEPS, FitHeadConfig
from clipfeat.model.base import Model
from clipfeat.model.build import build_model
from clipfeat.model.config import HeadConfig
from clipfeat.model.heads import Head, PixelShuffleHead, build_head, head_file
from clipfeat.model.load import resolve_device
from clipfeat.sampling.config import PointsConfig
from clipfeat.sampling.locate import build_locator
from clipfeat.system.atomic import atomic_file
from clipfeat.types import FeatureMap, Frame
from clipfeat.vis.pca import leading_axes

log = logging.getLogger(__name__)

_MIDDLE, _OUT = 256, 128
"""Channels between proj128's two layers, and of its features."""


class Fit(Protocol):
    """Weights of a head from frames that come one by one."""

    def add(self, frame: Frame, tokens: FeatureMap) -> None:
        """Takes the next frame; those of a scene come one after another.

        Args:
            frame: whose points may be looked at.
            tokens: (D, h, w) of its picture.

        Raises:
            FrameError: If the frame can't be used.
            DataError: If the scene can't be used.
        """

    def fit(self, head: Head) -> dict[str, Any]:
        """Gives a head its weights; what is to be told of them.

        Raises:
            DataError: If there was no frame.
        """


class Moments:
    """Mean and covariance of rows that come in parts and are not kept.

    Attributes:
        count: rows so far.
    """

    def __init__(self, channels: int):
        self.count = 0
        self._sum = np.zeros(channels)
        self._outer = np.zeros((channels, channels))

    def add(self, rows: NDArray[np.floating]) -> None:
        """Takes (N, C) rows."""
        rows = rows.astype(np.float64)
        self.count += len(rows)
        self._sum += rows.sum(axis=0)
        self._outer += rows.T @ rows

    @property
    def mean(self) -> NDArray[np.float64]:
        """(C,)."""
        return self._sum / max(self.count, 1)

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(C, C)."""
        mean = self.mean
        return self._outer / max(self.count, 1) - np.outer(mean, mean)


def pca_weights(moments: Moments) -> dict[str, torch.Tensor]:
    """The weights of a proj128 head that gives the 128 strongest principal components.

    Args:
        moments: of the cells (…, C) of maps after PixelShuffle.

    Returns:
        The head's ``state_dict``: the convolution takes the mean off and turns onto the principal axes, strongest
        first, whose rows are orthonormal (rows beyond C, and of axes along which nothing varies, are zeros); the last
        layer takes the first 128.
    """
    channels = len(moments.mean)
    axes = np.zeros((_MIDDLE, channels))
    found = leading_axes(moments.covariance, min(_MIDDLE, channels))
    axes[: len(found)] = found
    return {
        "conv.weight": torch.from_numpy(axes.astype(np.float32))[:, :, None, None],
        "conv.bias": torch.from_numpy((-axes @ moments.mean).astype(np.float32)),
        "linear.weight": torch.eye(_OUT, _MIDDLE),
        "linear.bias": torch.zeros(_OUT),
    }


def kept_share(moments: Moments, weights: dict[str, torch.Tensor]) -> float:
    """Share of the variance that is in the 128 components."""
    axes = weights["conv.weight"][:_OUT, :, 0, 0].double().numpy()
    covariance = moments.covariance
    return float(np.einsum("kc,cd,kd->", axes, covariance, axes) / max(np.trace(covariance), 1e-30))


class PcaFit:
    """proj128 gives the 128 strongest principal components of the cells."""

    def __init__(self) -> None:
        self._moments: Moments | None = None

    def add(self, _frame: Frame, tokens: FeatureMap) -> None:
        """See ``Fit``."""
        cells = PixelShuffleHead(len(tokens.values)).to_map(tokens.values[None].float())[0]
        self._moments = self._moments or Moments(len(cells))
        self._moments.add(cells.flatten(1).T.cpu().numpy())

    def fit(self, head: Head) -> dict[str, Any]:
        """See ``Fit``."""
        if self._moments is None:
            raise DataError("no frame could be read that a head could be fitted to")
        weights = pca_weights(self._moments)
        head.load_state_dict(weights)
        return {"cells": self._moments.count, "variance_kept": round(kept_share(self._moments, weights), 5)}


def build_fit(method: str, run: PointsConfig, steps: int = TRAINING_STEPS) -> Fit:
    """A way to fit a head.

    Args:
        method: of ``FIT_METHODS``.
        run: whose points and seed are used.
        steps: of training.
    """
    if method == "pca":
        return PcaFit()
    from clipfeat.fusion.head_fit import ClipConsFit

    return ClipConsFit(build_locator(run), build_rules(run.camera)[0], steps=steps, seed=run.seed)


def fit_head(cfg: FitHeadConfig, model: Model | None = None) -> dict[str, Any]:
    """Runs ``clipfeat-fit-head``.

    Args:
        cfg: what to run.
        model: that ``cfg.model`` describes, with the head none, if it is loaded already.

    Returns:
        What the JSON file beside the weights holds.

    Raises:
        ClipfeatError: On anything that the user can mend.
    """
    dataset = build_dataset(cfg.data)
    failed: dict[str, str] = {}
    keys = list_frames(cfg, dataset, failed)
    device = resolve_device(cfg.device)
    model = model or build_model(replace(cfg.model, head=HeadConfig("none")), device, cfg.seed)
    fit = build_fit(cfg.method, cfg, cfg.steps)
    used, width = 0, 0
    with model.stream():
        for scene_id, frame_id in tqdm(keys, "fitting", unit="frame", disable=None):
            try:
                frame = dataset.load(scene_id, frame_id)
                size = frame.picture.width, frame.picture.height
                tokens = model.feature_maps([model.network_input(frame)], [size])[0]
                fit.add(frame, tokens)
            except (FrameError, DataError) as error:
                if cfg.on_bad_frame == "fail":
                    raise
                failed[f"{scene_id} frame {frame_id}"] = str(error)
                continue
            used, width = used + 1, len(tokens.values)
    model.close()
    if not used:
        raise DataError(f"all {len(keys)} frames failed; the first: {next(iter(failed.values()))}")
    head = build_head("proj128", width, None, cfg.seed).to(device)
    about = fit.fit(head)
    report = {
        "head": "proj128",
        "fitted": cfg.method,
        "frames": used,
        **about,
        "model": model.describe(),
        "weights": model.describe()["weights"],
        "failed": failed,
    }
    path = Path(cfg.output_file)
    with atomic_file(path) as file:
        file.write(head_file(head.state_dict(), report["model"]))
    with atomic_file(path.with_suffix(".json")) as file:
        file.write(json.dumps(report, indent=2, ensure_ascii=False).encode())
    log.info(
        "%s: method=%s of %d frames (%s), weights=%s; use it by model/head=proj128 model.head.weights=%s",
        path, cfg.method, used, ", ".join(f"{key} {value}" for key, value in about.items()), report["weights"], path,
    )  # fmt: skip
    if not about.get("points_seen_twice", 1):
        log.warning("WARNING: no point is seen by two frames; take more of each scene, such as frames_per_scene=null")
    for name, why in list(failed.items())[:5]:
        log.warning("WARNING failed: %s: %s", name, why)
    return report
