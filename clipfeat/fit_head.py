"""Weights for ``model/head=proj128`` from the features themselves: their principal axes. ``clipfeat-fit-head``."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from tqdm import tqdm

from clipfeat.atomic import atomic_file
from clipfeat.config import FitHeadConfig
from clipfeat.data import build_dataset
from clipfeat.errors import DataError, FrameError
from clipfeat.locate import list_frames
from clipfeat.model import Model, build_model, resolve_device
from clipfeat.vis.pca import leading_axes

log = logging.getLogger(__name__)

_MIDDLE, _OUT = 256, 128
"""Channels between proj128's two layers, and of its features."""


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


def fit_head(cfg: FitHeadConfig, model: Model | None = None) -> dict[str, Any]:
    """Runs ``clipfeat-fit-head``.

    Args:
        cfg: what to run.
        model: that ``cfg.model`` describes, with the head pixelshuffle, if it is loaded already.

    Returns:
        What the JSON file beside the weights holds.

    Raises:
        ClipfeatError: On anything that the user can mend.
    """
    dataset = build_dataset(cfg.data)
    run = cfg.extraction()
    failed: dict[str, str] = {}
    keys = list_frames(run, dataset, failed)
    model = model or build_model(run.model, resolve_device(cfg.device), cfg.seed)
    moments: Moments | None = None
    with model.stream():
        for scene_id, frame_id in tqdm(keys, "fitting", unit="frame", disable=None):
            try:
                frame = dataset.load(scene_id, frame_id)
                size = frame.picture.width, frame.picture.height
                values = model.feature_maps([model.network_input(frame)], [size])[0].values
            except (FrameError, DataError) as error:
                if cfg.on_bad_frame == "fail":
                    raise
                failed[f"{scene_id} frame {frame_id}"] = str(error)
                continue
            moments = moments or Moments(len(values))
            moments.add(values.flatten(1).T.cpu().numpy())
    model.close()
    if moments is None:
        raise DataError(f"all {len(keys)} frames failed; the first: {next(iter(failed.values()))}")
    weights = pca_weights(moments)
    report = {
        "head": "proj128",
        "fitted": "pca",
        "cells": moments.count,
        "frames": len(keys) - len(failed),
        "variance_kept": round(kept_share(moments, weights), 5),
        "model": model.describe(),
        "weights": model.describe()["weights"],
        "failed": failed,
    }
    path = Path(cfg.output_file)
    with atomic_file(path) as file:
        file.write(save({key: value.contiguous() for key, value in weights.items()}))
    with atomic_file(path.with_suffix(".json")) as file:
        file.write(json.dumps(report, indent=2, ensure_ascii=False).encode())
    log.info(
        "%s: 128 components of %d cells of %d frames, %.1f %% of the variance, weights=%s; use it by "
        "model/head=proj128 model.head.weights=%s",
        path, moments.count, report["frames"], 100 * report["variance_kept"], report["weights"], path,
    )  # fmt: skip
    for name, why in list(failed.items())[:5]:
        log.warning("WARNING failed: %s: %s", name, why)
    return report
