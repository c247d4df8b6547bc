"""A folder of results, of whichever command: whose they are (``config.yaml``), and what may be added or removed."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from clipfeat.errors import OutputError
from clipfeat.system.atomic import atomic_file, sync_to_disk, temporary_path

# Keys that may change from one run to the next into the same folder: they say how and how much, not what is in a file.
_FREE_KEYS = (
    "output_dir", "resume", "device", "devices", "batch_size", "num_workers", "on_bad_frame", "shard", "engine", "vis",
    "check", "uv_index", "scenes_file", "frames_per_scene", "frame_stride", "frame_selection", "model.allow_random",
    "cache", "map_dtype", "model.offload", "model.resize_on", "report", "store", "data_root", "formats", "eval_every",
    "checkpoint_every", "tensorboard", "train_scenes_file", "val_scenes_file", "source", "save_every_s", "picture",
    "text", "poll_s", "idle_s", "retry_s",
)  # fmt: skip

_CAME_LATER = {
    "posed_rgbd": {
        "pose_axes": "opencv", "pixel_center": 0.0, "depth_along": "z", "distortion": None, "depth_distortion": None,
        "posed_only": False,
    },
}  # fmt: skip
"""Keys of a data layout that earlier versions did not have, and what they did: a run of theirs goes on."""

_BEFORE_THE_KEY = {
    "model.source": "open_clip", "pooling": "token", "model.pooling": "token", "refine": "none", "model.refine": "none",
    "backend": "torch", "model.backend": "torch", "output.segments": "masks", "output.num_segments": 200,
    "packing": "none", "jpeg": "cpu", "model.jpeg": "cpu",
}  # fmt: skip
"""Keys of a model and of files, in a run's files and in those that refer to it, that earlier versions did not have."""

ANOTHER_FOLDER = "Choose another folder, or resume=overwrite to do everything again"


def make_writable(path: Path, key: str) -> None:
    """Makes a folder and tries whether it can be written to; ``key`` names it in the message.

    Raises:
        OutputError: If it can't.
    """
    probe = temporary_path(path / "probe")
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{key}={path}: can't be written to ({error.strerror or error}); choose another") from error


def check_config(folder: Path, config: dict[str, Any]) -> None:
    """Refuses to add to the results of another configuration; a folder without ``config.yaml`` is nobody's.

    Raises:
        OutputError: If the folder holds such; the differing keys are listed.
    """
    if (folder / "config.yaml").is_file():
        differing = different_keys(read_config(folder), config)
        if differing:
            raise OutputError(
                f"{folder} holds results of another configuration, which differs in {'; '.join(differing)}. "
                f"{ANOTHER_FOLDER}"
            )


def holds_another(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a folder holds what another configuration made; one without ``config.yaml`` is nobody's."""
    try:
        return (folder / "config.yaml").is_file() and bool(different_keys(read_config(folder), config))
    except OutputError:
        return True


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Writes ``config.yaml``.

    Raises:
        OutputError: If that fails.
    """
    with atomic_file(folder / "config.yaml") as file:
        file.write(yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())


@contextmanager
def claimed(folder: Path, config: dict[str, Any], made: Callable[[], bool]) -> Iterator[None]:
    """Makes a folder this run's by its ``config.yaml``; an error before anything was made leaves that as it was.

    Args:
        folder: where results go; whether those that are there may stay is asked before.
        config: of the run.
        made: whether results of its kind are there.

    Raises:
        OutputError: If the folder is that of an extraction, which needs its own; or ``config.yaml`` can't be written.
    """
    if (folder / "model.json").is_file():
        raise OutputError(f"{folder}: is the folder of a run of clipfeat-extract; choose another output_dir")
    path = folder / "config.yaml"
    before = path.read_bytes() if path.is_file() else None
    write_config(folder, config)
    try:
        yield
    except BaseException:
        with suppress(OSError, OutputError):  # the error on its way up matters more
            if not made():
                _put_back(path, before)
        raise


def _put_back(path: Path, content: bytes | None) -> None:
    """Gives a file the content that it had, or removes what was not there."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    with atomic_file(path) as file:
        file.write(content)


def still_claimed(folder: Path, config: dict[str, Any]) -> None:
    """Looks right before the first result whether a folder is still this run's: somebody may have come between.

    Raises:
        OutputError: If it is another configuration's now.
    """
    check_config(folder, config)
    if not (folder / "config.yaml").is_file():  # a run of the same configuration has taken it back
        write_config(folder, config)


def refuse_another_command_s(folder: Path) -> None:
    """Refuses an extraction the folder whose ``config.yaml`` is of something else, and would be lost.

    Raises:
        OutputError: If it is such.
    """
    if not (folder / "config.yaml").is_file() or (folder / "model.json").is_file():
        return
    if "sampling" not in read_config(folder):
        raise OutputError(
            f"output_dir={folder}: its config.yaml is of another command than clipfeat-extract; choose another "
            f"output_dir"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration whose results a folder holds.

    Raises:
        OutputError: If it can't be read.
    """
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except Exception as error:  # of damaged text, YAML raises its own errors and others
        raise OutputError(f"{path}: can't be read ({error}). {ANOTHER_FOLDER}") from error
    if not isinstance(config, dict):
        raise OutputError(f"{path}: holds no configuration. {ANOTHER_FOLDER}")
    data = config.get("data")
    if isinstance(data, dict):
        config["data"] = _CAME_LATER.get(str(data.get("name")), {}) | data
    return config


def different_keys(before: Any, now: Any, prefix: str = "") -> list[str]:
    """Names and values of the keys in which two nested dictionaries differ, keys that may differ left out."""
    if prefix in _FREE_KEYS:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in dict.fromkeys([*before, *now]):
            name = f"{prefix}.{key}" if prefix else str(key)
            unsaid = _BEFORE_THE_KEY.get(name)
            found += different_keys(before.get(key, unsaid), now.get(key, unsaid), name)
        return found
    return [] if before == now else [f"{prefix}: {before} there, {now} now"]


def picture_path(folder: Path, scene_id: str, frame_id: int) -> Path:
    """Where a frame's picture goes below a folder."""
    return folder / scene_id / f"vis_{frame_id}.png"


def scene_files(folder: Path, names: re.Pattern[str]) -> list[Path]:
    """The files of all scenes in a run's folder whose whole name fits a pattern."""
    return [path for path in sorted(folder.glob("*/*")) if names.fullmatch(path.name) and path.is_file()]


def remove_files(paths: Iterable[Path]) -> None:
    """Removes files one after another, and the folders of scenes that they leave empty; they stay away.

    Raises:
        OutputError: If one can't be removed.
    """
    folders = set()
    for path in paths:
        folders.add(path.parent)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{path}: can't be removed ({error.strerror or error}); choose another folder") from error
        with suppress(OSError):
            path.parent.rmdir()
    for folder in folders | {folder.parent for folder in folders if not folder.is_dir()}:
        sync_to_disk(folder)  # or a power cut would bring them back, under the configuration that comes now


def read_json(path: Path) -> dict[str, Any]:
    """The dictionary that a JSON file holds; empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
