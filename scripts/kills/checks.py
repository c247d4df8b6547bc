"""Looks whether the folder of a run is whole, and the same as that of another: for ``scripts/kill_test.py``."""

import json
import re
from pathlib import Path
from typing import Any

RECORD = re.compile(r"config\.yaml|report\.html|frames(\.\d+)?\.jsonl|summary(\.\d+)?\.json")
"""What holds times and folders, so that no two runs write the same."""


class WrongError(Exception):
    """Something that must not be."""


def check_whole(folder: Path, *, temporaries: bool) -> tuple[int, int]:
    """Loads everything in the folder that has its final name, and counts the feature files and the pictures.

    Args:
        folder: of a run.
        temporaries: whether unfinished files may lie there, under their hidden names.

    Raises:
        WrongError: If something is broken, or bears a name that nobody gave it.
    """
    import yaml
    from PIL import Image
    from safetensors.numpy import load_file

    features = pictures = 0
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.name == ".lock":
            continue
        try:
            if path.name.startswith("."):
                if not temporaries:
                    raise ValueError("an unfinished file")
            elif _is_features(path):
                features += len(read_frames(path))
            elif path.name.startswith("vis_"):
                with Image.open(path) as picture:
                    picture.load()
                pictures += 1
            elif path.name.startswith("head_"):
                load_file(path)
            elif path.name == "config.yaml":
                dict(yaml.safe_load(path.read_text(encoding="utf-8")))
            elif path.suffix == ".json":
                dict(json.loads(path.read_text(encoding="utf-8")))
            elif not RECORD.fullmatch(path.name):
                raise ValueError("a name that nobody gave it")
        except Exception as error:
            raise WrongError(f"{path}: {error}") from error
    return features, pictures


def check_whole_maps(folder: Path, *, temporaries: bool) -> tuple[int, int]:
    """As ``check_whole``, of the folder of clipfeat-map: counts the frames in its maps, and their pictures.

    Raises:
        WrongError: The same.
    """
    from PIL import Image

    from clipfeat.mapping.map3d import FeatureMap3D
    from clipfeat.output.folders import read_config

    frames = pictures = 0
    for path in sorted(folder.iterdir()):
        try:
            if path.name.startswith("."):
                if not temporaries:
                    raise ValueError("an unfinished file")
            elif path.suffix == ".npz":
                frames += len(FeatureMap3D.load(path).frames)
            elif path.suffix == ".png":
                with Image.open(path) as picture:
                    picture.load()
                pictures += 1
            elif path.name == "config.yaml":
                read_config(folder)
            else:
                raise ValueError("a name that nobody gave it")
        except Exception as error:
            raise WrongError(f"{path}: {error}") from error
    return frames, pictures


def check_equal_maps(folder: Path, peaceful: Path) -> None:
    """As ``check_equal``, of the folder of clipfeat-map: bytes of maps and pictures.

    Raises:
        WrongError: The same.
    """
    from clipfeat.output.folders import read_config

    names, expected = _names(folder), _names(peaceful)
    if names != expected:
        raise WrongError(f"missing: {sorted(expected - names)}, too many: {sorted(names - expected)}")
    for name in sorted(names - {"config.yaml"}):
        if (folder / name).read_bytes() != (peaceful / name).read_bytes():
            raise WrongError(f"{folder / name}: other bytes than {peaceful / name}")
    first, second = ({**read_config(f), "output_dir": ""} for f in (folder, peaceful))
    if first != second:
        raise WrongError(f"config.yaml: {first} and not {second}")


def _is_features(path: Path) -> bool:
    return path.name.startswith("frame_") or path.suffix == ".h5"


def read_frames(path: Path) -> dict[str, Any]:
    """The arrays and the meta of a file of one frame, or of all frames of a scene, by the frame's name."""
    import h5py

    from clipfeat.output.files import read_arrays

    if path.name.startswith("frame_"):
        arrays, meta = read_arrays(path)
        return {path.stem: arrays | {"meta": json.dumps(meta)}}
    with h5py.File(path) as scene:
        return {
            name: {key: values[()] for key, values in group.items()} | {"meta": group.attrs["meta"]}
            for name, group in scene.items()
        }


def check_equal(folder: Path, peaceful: Path) -> None:
    """Compares a folder with that of a run left in peace.

    Raises:
        WrongError: If they differ.
    """
    from clipfeat.output.folders import read_config

    names, expected = _names(folder), _names(peaceful)
    if names != expected:
        raise WrongError(f"missing: {sorted(expected - names)}, too many: {sorted(names - expected)}")
    for name in sorted(name for name in names if not RECORD.fullmatch(name)):
        _check_equal_file(folder / name, peaceful / name)
    first, second = ({**read_config(f), "output_dir": ""} for f in (folder, peaceful))
    if first != second:
        raise WrongError(f"config.yaml: {first} and not {second}")
    if _counts(folder) != _counts(peaceful):
        raise WrongError(f"summary.json or frames.jsonl count {_counts(folder)} and not {_counts(peaceful)}")


def _check_equal_file(path: Path, expected: Path) -> None:
    import numpy as np

    if not _is_features(path):
        if path.read_bytes() != expected.read_bytes():
            raise WrongError(f"{path}: other bytes than {expected}")
        return
    frames, others = read_frames(path), read_frames(expected)
    for name in frames.keys() | others.keys():
        found, other = frames.get(name, {}), others.get(name, {})
        for key in found.keys() | other.keys():
            first, second = np.asarray(found.get(key)), np.asarray(other.get(key))
            if first.dtype != second.dtype or not np.array_equal(first, second):
                raise WrongError(f"{path}: {key} of {name} differs from that of {expected}")


def _names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def _counts(folder: Path) -> dict[str, Any]:
    """What the record says of the frames, without times."""
    from clipfeat.output.folders import read_config
    from clipfeat.output.run_folder import RunFolder

    run_folder = RunFolder(folder, read_config(folder)["output"]["name"], "float32")
    summary = run_folder.read_summary()
    keys = ("frames", "failed", "frames_without_depth", "bytes", "points", "visible_share", "model")
    lines = [
        (record.scene_id, *values)
        for record in run_folder.records()
        for values in zip(
            record.frames, record.sizes.tolist(), *(p.tolist() for p in record.points.values()), strict=True
        )
    ]
    return {key: summary[key] for key in keys} | {
        "failures": sorted(json.dumps(failure, sort_keys=True) for failure in summary["failures"]),
        "interrupted": summary["run"]["interrupted"],
        "lines": sorted(lines),
    }
