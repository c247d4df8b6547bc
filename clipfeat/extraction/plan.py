"""What a run has to do: which frames are there, which are done, which are left, and whether they fit on the disk."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from clipfeat.data.base import Dataset
from clipfeat.data.selection import FrameKey, frame_keys, list_scenes, own_scenes
from clipfeat.errors import ConfigError, DataError, FrameError
from clipfeat.extraction.config import ExtractConfig
from clipfeat.model.base import ModelCard
from clipfeat.output.files import FORMATS, FrameSize
from clipfeat.output.run_folder import RunFolder
from clipfeat.output.space import DiskSpace, readable
from clipfeat.sampling.colors import COLORED
from clipfeat.sampling.locate import Located, Locator, locate_some
from clipfeat.vis.pictures import PICTURE_BYTES, pictured_frames

log = logging.getLogger(__name__)

MUCH = 1e11
"""Bytes of a run from which on it is told what output=grid would take."""


@dataclass(frozen=True)
class Plan:
    """The frames of a run, scene after scene; where it is one of several shards, those of its own scenes.

    Attributes:
        frames: all that the configuration asks for.
        everything: the frames of each scene, those of all shards.
        bad_scenes: scenes that are left out because they can't be read, and why.
        done_before: frames whose features are there.
        todo: frames that the model works on.
        pictured: frames that are to have a picture.
    """

    frames: list[FrameKey]
    everything: Mapping[str, list[int]]
    bad_scenes: dict[str, str]
    done_before: set[FrameKey]
    todo: list[FrameKey]
    pictured: set[FrameKey]

    @property
    def new(self) -> list[FrameKey]:
        """Those to do that have no files yet; the others' take the place of those that are there."""
        return [key for key in self.todo if key not in self.done_before]

    @property
    def scenes(self) -> list[str]:
        """Its scenes, in order."""
        return list(dict.fromkeys(scene_id for scene_id, _ in self.frames))

    @property
    def drawn(self) -> dict[str, list[int]]:
        """The frames of the scenes that get pictures while they are done: those that are done in one go.

        The pictures of a scene share their colours. Those of a scene that was begun before are drawn at the end, from
        the files of its frames.
        """
        of_scenes = {scene_id: [i for _, i in keys] for scene_id, keys in groupby(self.frames, lambda key: key[0])}
        still = Counter(scene_id for scene_id, _ in self.todo)
        return {scene_id: ids for scene_id, ids in of_scenes.items() if still[scene_id] == len(ids)}


def plan_run(cfg: ExtractConfig, folder: RunFolder, dataset: Dataset) -> Plan:
    """Looks what there is and what is left to do. Scenes that can't be read are told of.

    Raises:
        DataError: If the scenes can't be listed.
        OutputError: If the folder holds the results of another configuration, and ``resume`` is not overwrite.
    """
    bad_scenes: dict[str, str] = {}
    scenes = list_scenes(cfg, dataset, bad_scenes)
    own = own_scenes(scenes, folder.shard, bad_scenes)
    frames = frame_keys(own)
    if not folder.shard.is_whole:
        counts = f"{len(own)} of {len(scenes)} scenes, {len(frames)} of {sum(map(len, scenes.values()))} frames"
        log.info("shard %d of %d, counted from 0: %s", folder.shard.index, folder.shard.count, counts)
    for why in bad_scenes.values():
        log.warning("WARNING a scene is left out: %s", why)
    pictured = pictured_frames(cfg.vis.name, frames, cfg.vis.max_frames)
    if cfg.resume == "overwrite":
        return Plan(frames, scenes, bad_scenes, set(), frames, pictured)
    done_before = folder.done_before(frames, dataclasses.asdict(cfg))
    todo = [key for key in frames if key not in done_before]
    return Plan(frames, scenes, bad_scenes, done_before, todo, pictured)


def try_frames(plan: Plan, folder: RunFolder, dataset: Dataset, locate: Locator) -> list[Located]:
    """A few of the new frames, located: before a model is loaded for frames that nobody can read.

    Raises:
        DataError: If no scene of a run that begins can be read at all.
    """
    some = locate_some(locate, dataset, plan.new)
    if some or plan.done_before or not folder.shard.is_whole:  # else other frames are worth the run
        return some
    first: DataError | None = None
    for _, keys in groupby(plan.new, lambda key: key[0]):
        try:
            locate(dataset.load(*next(keys)))
        except FrameError:
            return some
        except DataError as error:
            first = first or error
        else:
            return some
    if first is None:
        return some
    count = len(plan.scenes)
    raise first if count == 1 else DataError(f"none of the {count} scenes can be read; the first: {first}") from first


def check_space(
    cfg: ExtractConfig, plan: Plan, folder: RunFolder, some: Sequence[Located], model: ModelCard
) -> DiskSpace:
    """Looks whether the new files will fit on the disk; a few frames tell how many points they have.

    Args:
        cfg: of the run.
        plan: of it.
        folder: where the files go.
        some: of the new frames.
        model: that makes their features.

    Raises:
        OutputError: If they can't, and that is certain.
    """
    new = plan.new
    pictures = sum(not folder.picture_path(*key).is_file() for key in plan.pictured)
    space = DiskSpace(folder.path, len(new), pictures * PICTURE_BYTES * cfg.vis.dpi**2)
    if new and not some:
        log.info("how much there is to write can't be told: the frames that were tried can't be used")
        return space
    points = sum(len(located.uv_idx) for located in some)
    carried = sum(values.nbytes for located in some for values in located.points.attributes.values())
    carried += 3 * points * (cfg.sampling.name in COLORED)  # their rgb
    size = FrameSize(
        points=points / max(len(some), 1),
        channels=model.channels,
        dtype=cfg.output.dtype,
        attribute_bytes=carried / max(points, 1),
        map_values=model.map_values,
    )
    # Frames differ where a mesh, masks or a crop decide what is seen, or the depth how many points there are.
    certain = cfg.sampling.name == "depth" and cfg.sampling.num_points is not None
    certain &= cfg.data.masks is None and cfg.model.resize_mode != "crop"
    # Nor is a map's size known where it depends on the picture's, or on a text space.
    certain &= cfg.model.window is None and not model.projected
    freed = 0
    if cfg.resume == "overwrite":
        replaced = folder.replaced(dataclasses.asdict(cfg), model.description, new)
        freed = sum(path.stat().st_size for path in replaced if path.is_file())
    own, as_grid = (FORMATS[name].bytes_of(size) for name in (cfg.output.name, "grid"))
    space.check(own, certain=certain, freed=freed)
    if len(new) * own > MUCH and own > 5 * as_grid:
        log.info("output=grid would take about %s and keeps the same features", readable(len(new) * as_grid))
    return space


def check_output(cfg: ExtractConfig) -> None:
    """Keeps results out of the recordings, which nothing here may change.

    Raises:
        ConfigError: If both are one folder.
    """
    if Path(cfg.output_dir).resolve() == Path(cfg.data.root).resolve():
        raise ConfigError(f"output_dir={cfg.output_dir}: is data.root, the folder of the recordings; choose another")
