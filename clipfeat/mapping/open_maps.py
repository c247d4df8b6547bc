"""The maps of a run's folder: one is open at a time, and written again and again."""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from clipfeat.camera.rules import build_rules
from clipfeat.data.selection import FrameKey
from clipfeat.errors import DataError, OutputError
from clipfeat.mapping.config import MapConfig
from clipfeat.mapping.map3d import FeatureMap3D
from clipfeat.mapping.pipeline import Seen
from clipfeat.mapping.scene_colors import FEWER, pca_rgb, scores_rgb
from clipfeat.model.base import Model
from clipfeat.output.files import read_meta
from clipfeat.output.folders import check_config, claimed, make_writable, remove_files
from clipfeat.queries.ask import check_text_space
from clipfeat.system.atomic import remove_leftovers
from clipfeat.vis.build import model_note
from clipfeat.vis.pictures import save_png
from clipfeat.vis.scene_picture import scene_picture, up_of


@contextmanager
def claimed_maps(cfg: MapConfig, scenes: Iterable[str]) -> Iterator[None]:
    """As ``claimed``, unless the folder holds maps that were made in another way.

    Args:
        cfg: of the run.
        scenes: whose maps ``resume=overwrite`` removes; of none, as nobody knows yet which will come, all.

    Raises:
        OutputError: If it holds such, is another command's, or can't be written to.
    """
    folder, how = Path(cfg.output_dir), asdict(cfg)
    make_writable(folder, "output_dir")
    remove_leftovers([folder])
    there = list(folder.glob("*.npz"))
    if cfg.resume == "overwrite":
        own = set(scenes) or {path.stem for path in there if _is_map(path)}
        remove_files(path.with_suffix(ending) for path in there if path.stem in own for ending in (".npz", ".png"))
    elif there:
        check_config(folder, how)
    with claimed(folder, how, lambda: any(folder.glob("*.npz"))):
        yield


def _is_map(path: Path) -> bool:
    """Whether a file is a map of ours: others may lie there, too."""
    try:
        return "weights_from" in read_meta(path)
    except DataError:
        return False


class OpenMaps:
    """Maps of scenes, of which one is in memory.

    Args:
        cfg: of the run.
        device: where features are kept.

    Attributes:
        added: frames that this run has added.
        look: a map without frames, by whose rules frames are looked at.

    Raises:
        ConfigError: If an option can't be.
    """

    def __init__(self, cfg: MapConfig, device: torch.device):
        rule, mask_rule = build_rules(cfg.camera)
        self._options: dict[str, Any] = {
            "rule": rule, "mask_rule": mask_rule, "max_weight": cfg.max_weight, "max_points": cfg.max_points,
            "device": device, "dtype": cfg.dtype,
        }  # fmt: skip
        self.added = 0
        self.look = FeatureMap3D(None, voxel_size=cfg.voxel_size, **self._options)
        self._cfg = cfg
        self._folder = Path(cfg.output_dir)
        self._known: dict[str, set[int]] = {}
        self._failed: dict[str, dict[int, str]] = {}
        self._open: FeatureMap3D | None = None
        self._changed = False
        self._saved = time.monotonic()
        self._adder = ThreadPoolExecutor(1, thread_name_prefix="clipfeat-add")

    @property
    def model(self) -> Model | None:
        """What makes feature maps.

        Raises:
            ConfigError: If pictures are to show a text, and its features can't be compared to texts.
        """
        return self.look.model

    @model.setter
    def model(self, model: Model) -> None:
        if self._cfg.text is not None:
            check_text_space(model.describe(), self._cfg.output_dir, f"picture=text text={self._cfg.text}")
        self.look.model = model

    def known(self, scene_id: str) -> set[int]:
        """Numbers of the frames that are in a scene's map.

        Raises:
            DataError: If its file can't be read.
        """
        if scene_id not in self._known:
            path = self._path(scene_id)
            self._known[scene_id] = set(read_meta(path).get("frames") or []) if path.is_file() else set()
        return self._known[scene_id]

    def count(self) -> int:
        """Frames in the maps that this run has looked at."""
        return sum(map(len, self._known.values()))

    def add(self, seen: Seen) -> None:
        """Adds a frame to its scene's map, which becomes the open one.

        Raises:
            ConfigError: If the map is of another model, or there is no room for the frame.
            DataError: If the map that is there can't be read.
            OutputError: If the one that was open can't be written.
        """
        # In a thread, which Ctrl-C does not reach: what is written then holds whole frames.
        self._adder.submit(self._take, seen).result()

    def _take(self, seen: Seen) -> None:
        scene_id, frame_id = seen.key
        self._map_of(scene_id).add_view(seen.view, seen.frame)
        self.known(scene_id).add(frame_id)
        self._failed.get(scene_id, {}).pop(frame_id, None)
        self.added += 1
        self._changed = True

    def fail(self, key: FrameKey, why: str) -> None:
        """Takes note of a frame that could not be used; it is tried again by the next run."""
        scene_id, frame_id = key
        self._failed.setdefault(scene_id, {})[frame_id] = why
        if self.known(scene_id):  # else there is no map yet that could tell it
            self._map_of(scene_id)
            self._changed = True

    def said(self) -> str:
        """What a bar says of the open map."""
        return "" if self._open is None else f"{self._open.scene_id}, {len(self._open):,} points"

    def save_if_due(self) -> None:
        """Writes the open map if the last time was some while ago; see ``save``."""
        if time.monotonic() - self._saved >= self._cfg.save_every_s:
            self.save()

    def save(self) -> None:
        """Writes the open map, and its picture, if anything has changed.

        Raises:
            OutputError: If that fails.
        """
        self._saved = time.monotonic()
        if self._open is None or not self._changed:
            return
        scene_id = self._open.scene_id
        failed = [{"frame_id": number, "why": why} for number, why in self._failed.get(scene_id, {}).items()]
        self._open.save(self._path(scene_id), {"failed": failed})
        self._changed = False
        self._draw(self._open)
        self._saved = time.monotonic()

    def save_if_possible(self) -> None:
        """As ``save``, when what is being added is in; what fails is not told, for something else already is."""
        self._adder.shutdown()
        with suppress(OutputError, DataError):
            self.save()

    def close(self) -> None:
        """Ends the thread."""
        self._adder.shutdown()

    def metas(self, scenes: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What the maps of these scenes, and of those that this run has looked at, say of themselves.

        Raises:
            DataError: If one can't be read.
        """
        paths = {scene_id: self._path(scene_id) for scene_id in dict.fromkeys([*scenes, *self._known])}
        return {scene_id: read_meta(path) for scene_id, path in paths.items() if path.is_file()}

    def _path(self, scene_id: str) -> Path:
        return self._folder / f"{scene_id}.npz"

    def _map_of(self, scene_id: str) -> FeatureMap3D:
        if self._open is not None and self._open.scene_id == scene_id:
            return self._open
        self.save()
        self._open, path = None, self._path(scene_id)  # or two maps would be in memory
        if path.is_file():
            self._open = FeatureMap3D.load(path, self.model, **self._options)
            told = {failure["frame_id"]: failure["why"] for failure in read_meta(path)["failed"]}
            self._failed[scene_id] = told | self._failed.get(scene_id, {})
        else:
            size = self._cfg.voxel_size
            self._open = FeatureMap3D(self.model, voxel_size=size, scene_id=scene_id, **self._options)
        return self._open

    def draw_missing(self, scenes: Iterable[str]) -> None:
        """Draws the maps of these scenes whose pictures are not there, or older: a run may end right before.

        Raises:
            DataError: If a map can't be read.
            OutputError: If a picture can't be written.
        """
        self._open = None
        for scene_id in scenes if self._cfg.picture != "none" else ():
            path = self._path(scene_id)
            picture = path.with_suffix(".png")
            if not picture.is_file() or picture.stat().st_mtime_ns < path.stat().st_mtime_ns:
                self._draw(FeatureMap3D.load(path, **self._options))

    def _draw(self, drawn: FeatureMap3D) -> None:
        if self._cfg.picture == "none":
            return
        seen, xyz = drawn.views > 0, drawn.points().xyz
        if self._cfg.text is not None:
            rgb = scores_rgb(drawn.query(self._cfg.text), seen)
        else:
            rgb = pca_rgb(drawn.features(copy=False), seen, FEWER)
        picture = scene_picture(xyz, rgb, up_of(drawn.down), note=model_note(drawn.about))
        save_png(picture, self._path(drawn.scene_id).with_suffix(".png"))
