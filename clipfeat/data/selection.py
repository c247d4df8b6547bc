"""Which scenes and frames a command looks at, and which of them are one shard's own."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from clipfeat.data.base import Dataset, check_frame_numbers, check_scene_name, read_scenes_file, select_frames
from clipfeat.data.config import FramesConfig
from clipfeat.errors import DataError
from clipfeat.system.shards import WHOLE, Shard, share_scenes

FrameKey = tuple[str, int]
"""Scene and frame number."""


def list_frames(
    cfg: FramesConfig, dataset: Dataset, bad_scenes: dict[str, str] | None = None, shard: Shard = WHOLE
) -> list[FrameKey]:
    """The frames that the configuration asks for, scene after scene; of several shards, those of one.

    The other arguments and the errors are those of ``list_scenes``; of the bad scenes, too, only the shard's are told.
    """
    return frame_keys(own_scenes(list_scenes(cfg, dataset, bad_scenes), shard, bad_scenes))


def own_scenes(
    scenes: Mapping[str, list[int]], shard: Shard, bad_scenes: dict[str, str] | None = None
) -> dict[str, list[int]]:
    """The scenes of a shard, out of those of all shards; the bad ones of the others are dropped from ``bad_scenes``."""
    own = share_scenes({scene_id: len(frame_ids) for scene_id, frame_ids in scenes.items()}, shard)
    if bad_scenes is not None:
        for scene_id in bad_scenes.keys() - own:
            del bad_scenes[scene_id]
    return {scene_id: scenes[scene_id] for scene_id in own}


def frame_keys(scenes: Mapping[str, Sequence[int]]) -> list[FrameKey]:
    """The frames of scenes, one scene after another."""
    return [(scene_id, frame_id) for scene_id, frame_ids in scenes.items() for frame_id in frame_ids]


def list_scenes(cfg: FramesConfig, dataset: Dataset, bad_scenes: dict[str, str] | None = None) -> dict[str, list[int]]:
    """The frames of all scenes that the configuration asks for, whatever shards they are of; a bad scene has none.

    Args:
        cfg: which frames are asked for.
        dataset: where the frames come from.
        bad_scenes: takes the scenes that are there and can't be read, and why, unless ``on_bad_frame=fail``. Whoever
            gives it must tell of them.

    Raises:
        DataError: If a scene is not there, or its name is a path; if a scene can't be read and ``bad_scenes`` doesn't
            take it, or if none can, or none has a frame.
    """
    scenes: Sequence[str] = read_scenes_file(Path(cfg.scenes_file)) if cfg.scenes_file else _all_scenes(cfg, dataset)
    frames: dict[str, list[int]] = {}
    for scene_id in scenes:
        try:
            frame_ids = dataset.frame_ids(check_scene_name(scene_id, "scene"))
            check_frame_numbers(frame_ids, scene_id)
        except DataError as error:
            if scene_id not in dataset.scenes():
                raise DataError(f"scenes_file={cfg.scenes_file}: {error}" if cfg.scenes_file else str(error)) from error
            if bad_scenes is None or cfg.on_bad_frame == "fail":
                raise
            bad_scenes[scene_id], frames[scene_id] = str(error), []
            continue
        frames[scene_id] = select_frames(
            frame_ids,
            scene_id,
            stride=cfg.frame_stride,
            count=cfg.frames_per_scene,
            how=cfg.frame_selection,
            seed=cfg.seed,
        )
    if bad_scenes and not any(frames.values()):
        why = next(iter(bad_scenes.values()))
        raise DataError(f"none of the {len(bad_scenes)} scenes can be read; the first: {why}")
    if not any(frames.values()):
        raise DataError(f"none of the {len(frames)} scenes has a frame; expected one at least")
    return frames


def _all_scenes(cfg: FramesConfig, dataset: Dataset) -> list[str]:
    try:
        return dataset.scenes()
    except DataError as error:
        tells = shlex.join(["clipfeat-inspect", cfg.data.root])
        raise DataError(f"{error}; {tells} tells what lies there, and which data= reads it") from error
