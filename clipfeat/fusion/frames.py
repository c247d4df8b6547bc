"""Labelled frames of a store, as batches of the encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipfeat.data.selection import FrameKey
from clipfeat.errors import DataError
from clipfeat.fusion.inputs import Maps, pad
from clipfeat.output.store import FeatureStore
from clipfeat.sampling.points import choose
from clipfeat.types import FeatureMap

NO_CLASS = -1


@dataclass(frozen=True, eq=False)
class Classes:
    """What points are told apart into.

    Attributes:
        ids: (K,) int64 labels as they are stored, ascending.
        names: of each.
    """

    ids: NDArray[np.int64]
    names: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def index(self, labels: NDArray[np.integer]) -> NDArray[np.int64]:
        """The place of each label among the classes, ``NO_CLASS`` for others."""
        place = np.searchsorted(self.ids, labels).clip(max=len(self.ids) - 1)
        return np.where(self.ids[place] == labels, place, NO_CLASS)


@dataclass(frozen=True, eq=False)
class Batch:
    """Some frames, padded to the largest.

    Attributes:
        inputs: arguments of the encoder.
        target: (B, N) int64 classes, ``NO_CLASS`` for padding and unlabelled points.
        conf_2d: (B, N) how sure it is that the pixel shows the point.
        point_id: (B, N) int64, the same for the same 3D point in all frames of a scene; -1 for padding.
        mask: (B, N) which points are real.
    """

    inputs: dict[str, Any]
    target: torch.Tensor
    conf_2d: torch.Tensor
    point_id: torch.Tensor
    mask: torch.Tensor


class LabelledFrames:
    """The frames of some scenes of a store, with a label a point.

    Args:
        store: whose points carry colour (``rgb``) and a label.
        scenes: which.
        attribute: name of the label.
        with_maps: whether batches hold maps and not features at the points.

    Attributes:
        keys: scene and number of each frame.

    Raises:
        DataError: If there is no such scene, or the store keeps no maps and these are asked for.
    """

    def __init__(
        self, store: FeatureStore, scenes: Sequence[str], attribute: str = "label", *, with_maps: bool = False
    ):
        if with_maps and not store.keeps_maps:
            raise DataError(
                f"{store.folder}: output={store.format} keeps features at points and no maps, which use_tiny_sa_2d "
                f"needs; extract with output=grid"
            )
        self.store = store
        self.attribute = attribute
        self.with_maps = with_maps
        self._frames = {scene: store.frames(scene) for scene in scenes}
        self._scene_number = {scene: number for number, scene in enumerate(scenes)}
        self.keys: list[FrameKey] = [(scene, frame) for scene, frames in self._frames.items() for frame in frames]

    def others(self, key: FrameKey) -> list[FrameKey]:
        """The other frames of its scene."""
        return [(key[0], frame) for frame in self._frames[key[0]] if frame != key[1]]

    def labels(self, keys: Sequence[FrameKey]) -> NDArray[np.int64]:
        """All labels that points of these frames have, ascending, 0 and below left out: they stand for none."""
        load = self.store.map if self.store.keeps_maps else self.store.load
        found = [np.unique(self._label(key, load(*key).attributes)) for key in keys]
        labels = np.unique(np.concatenate(found))
        return labels[labels > 0].astype(np.int64)

    def statistics(self, keys: Sequence[FrameKey], num_points: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (C,) of CLIP's features at some points of these frames."""
        count, total, square = 0, 0.0, 0.0
        for number, key in enumerate(keys):
            values = self.store.load(*key, self._chooser(num_points, [number])).pts_feat.astype(np.float64)
            count += len(values)
            total, square = total + values.sum(0), square + (values**2).sum(0)
        mean = torch.as_tensor(total / count)
        return mean.float(), (torch.as_tensor(square / count) - mean**2).clamp(min=0).sqrt().float()

    def batch(
        self,
        keys: Sequence[FrameKey],
        classes: Classes,
        num_points: int | None,
        seed: Sequence[int],
        device: torch.device,
    ) -> Batch:
        """Reads frames.

        Args:
            keys: which.
            classes: what the labels are told apart into.
            num_points: random points a frame at most; None for all.
            seed: of the choice of points.
            device: where the batch goes.

        Raises:
            DataError: If a frame can't be read, or its points have no colour or no label.
        """
        read = [self._read(key, self._chooser(num_points, [*seed, place])) for place, key in enumerate(keys)]
        points, mask = pad([frame["points"] for frame in read])
        labels, _ = pad([torch.from_numpy(classes.index(frame["label"]) - NO_CLASS) for frame in read])
        point_id, _ = pad([frame["point_id"] + 1 for frame in read])
        conf_2d, _ = pad([frame["conf_2d"] for frame in read])
        inputs: dict[str, Any] = {
            "points": points.to(device),
            "mask": mask.to(device),
            "visible": mask.to(device),
            "cam_to_world": torch.stack([frame["cam_to_world"] for frame in read]).to(device),
            "previous_cam_to_world": torch.stack([frame["previous"] for frame in read]).to(device),
        }
        if self.with_maps:
            maps: list[FeatureMap] = [frame["map"] for frame in read]
            inputs["maps"] = Maps.of(maps, [frame["size"] for frame in read], device)
            inputs["intrinsics"] = torch.stack([frame["intrinsics"] for frame in read]).to(device)
        else:
            inputs["clip_feat"] = pad([frame["clip_feat"] for frame in read])[0].to(device)
        # Padded with 0, which stands for none in both: they are a step higher until here.
        return Batch(inputs, labels.to(device) + NO_CLASS, conf_2d.to(device), point_id.to(device) - 1, mask.to(device))

    def _read(self, key: FrameKey, chooser: Any) -> dict[str, Any]:
        if self.with_maps:
            grid = self.store.map(*key)
            grid = grid if chooser is None else grid.take(chooser(len(grid.pts_idx)))
            if grid.camera.distortion is not None:
                raise DataError(
                    f"{self.store.path(*key)}: taken through a lens that distorts, which training on maps doesn't "
                    f"know; extract by output=npz, whose features lie at the points, or from undistorted pictures"
                )
            xyz, idx, conf, attributes = grid.xyz, grid.pts_idx, grid.conf_2d, grid.attributes
            own: dict[str, Any] = {
                "map": grid.feature_map,
                "size": (grid.camera.width, grid.camera.height),
                "intrinsics": torch.tensor(grid.camera.intrinsics),
            }
        else:
            found = self.store.load(*key, chooser)
            xyz, idx, conf, attributes = found.xyz, found.pts_idx, found.conf_2d, found.attributes
            own = {"clip_feat": torch.from_numpy(found.pts_feat).float()}
        if "rgb" not in attributes:
            raise DataError(
                f"{self.store.path(*key)}: its points have no colour (rgb); extract again, by sampling=depth or mesh"
            )
        rgb = attributes["rgb"].astype(np.float32) / 255
        before = [frame for frame in self._frames[key[0]] if frame < key[1]][-1:]
        return own | {
            "points": torch.from_numpy(np.concatenate((xyz, rgb), 1)),
            "label": self._label(key, attributes),
            "conf_2d": torch.from_numpy(np.asarray(conf, np.float32)),
            "point_id": torch.from_numpy(idx + (self._scene_number[key[0]] << 40)),
            "cam_to_world": self._pose(key),
            "previous": self._pose((key[0], before[0]) if before else key),
        }

    def _pose(self, key: FrameKey) -> torch.Tensor:
        return torch.tensor(self.store.meta(*key)["cam_to_world"], dtype=torch.float64)

    def _label(self, key: FrameKey, attributes: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        if self.attribute not in attributes:
            raise DataError(
                f"{self.store.path(*key)}: its points have no {self.attribute}, but "
                f"{', '.join(attributes) or 'nothing'}; extract with sampling=mesh and sampling.labels_file=…"
            )
        return attributes[self.attribute].astype(np.int64)

    @staticmethod
    def _chooser(num_points: int | None, seed: Sequence[int]) -> Any:
        if num_points is None:
            return None
        return lambda count: choose(np.arange(count), num_points, np.random.default_rng([*seed]))


def read_classes(path: Path) -> dict[int, str]:
    """Names of labels by their ids, of a CSV file whose first two columns are id and name.

    Raises:
        DataError: If it can't be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        return {int(row[0]): row[1] for row in (line.split(",") for line in lines[1:] if line.strip())}
    except (OSError, UnicodeDecodeError, ValueError, IndexError) as error:
        raise DataError(
            f"classes_file={path}: can't be read ({error}); expected lines of id,name after a header"
        ) from error
