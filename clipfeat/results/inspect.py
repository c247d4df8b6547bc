"""What is in a folder that clipfeat has written, on one screen: ``clipfeat-inspect``."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from clipfeat.errors import DataError, OutputError
from clipfeat.model.cache import MapCache
from clipfeat.output.files import FORMATS, point_features, read_arrays, read_meta
from clipfeat.output.frame_files import FrameFiles, detect_format, natural_key, open_files
from clipfeat.output.fused import read_fused
from clipfeat.output.grid import GridFrame, grid_frame
from clipfeat.output.run_folder import different_keys, latest_lines, read_config, read_json, record_files
from clipfeat.output.store import FeatureStore
from clipfeat.output.summary import reason_of, visible_share
from clipfeat.results.inspect_others import find_others
from clipfeat.system.atomic import TEMPORARY
from clipfeat.system.shards import usable_cores
from clipfeat.system.streaming import prefetch

Item = TypeVar("Item")
FrameKey = tuple[str, int]

_SHOWN = 5
"""Scenes, reasons and the like that are named; of the others only the number is given."""

_BROKEN_SHOWN = 20

_BARS = "▁▂▃▄▅▆▇█"


@dataclass
class Inspection:
    """What a folder holds.

    Attributes:
        title: the folder, and what it is.
        facts: what is known of it, each under a word, in the order to be shown.
        broken: what is not as it should be.
        verified: whether every file was read to find that.
    """

    title: str
    facts: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    verified: bool = False

    def text(self) -> str:
        """All of it, to be read."""
        broken = self.broken[:_BROKEN_SHOWN]
        if len(self.broken) > len(broken):
            broken.append(f"… and {len(self.broken) - len(broken)} more")
        if not broken:
            broken = ["nothing: all files were read" if self.verified else "nothing seen; --verify reads all files"]
        facts = {**self.facts, "broken": "\n".join(broken)}
        return "\n".join([self.title, *(f"  {name:<11} {_indented(fact)}" for name, fact in facts.items() if fact)])


def _indented(fact: str) -> str:
    return fact.replace("\n", "\n" + 14 * " ")


def inspect_folder(folder: Path, *, verify: bool = False) -> Inspection:
    """Looks into the output_dir of any command, a cache of maps or a uv index, and changes nothing.

    Args:
        folder: the folder.
        verify: read every file, to find those that are damaged.

    Raises:
        ClipfeatError: If it is none of these, or can't be listed.
    """
    if (folder / "data.mdb").is_file():
        return _inspect_cache(folder, verify=verify)
    if other := find_others(folder):
        what, facts, broken = other
        return Inspection(f"{folder}: {what}", facts, broken)
    if next(folder.glob("*/uv_*.npz"), None) is not None:
        return _inspect_uv_index(folder, verify=verify)
    if next(folder.glob("*.npz"), None) is not None:  # a run has them in the folders of its scenes
        return _inspect_fused(folder, verify=verify)
    return _inspect_run(folder, verify=verify)


def _inspect_run(folder: Path, *, verify: bool) -> Inspection:
    broken: list[str] = []
    config = _config(folder, broken)
    files = open_files(folder, _format(folder, config))
    frames = _frames(files, broken)
    keys = [(scene_id, frame_id) for scene_id, of_scene in frames.items() for frame_id in of_scene]
    lines = latest_lines(folder)
    failed = [line for line in lines.values() if line["status"] == "failed"]
    points = {key: lines[key]["points"] for key in keys if key in lines and lines[key]["status"] == "done"}
    store = _store(folder, broken) if keys else None
    facts = {
        "scenes": _named(list(frames)),
        "frames": _spread([len(of_scene) for of_scene in frames.values()]),
        "model": _model(store.model) if store else "",
        "head": _head(store, keys[0], broken) if store else "",
        "points": _sampling(config, points.values()),
        "size": _size(files, keys, broken),
        "visible": _visibility(points),
        "failed": _failures(failed),
        "run": _end_of_run(folder),
        "record": _disagreements(lines, set(keys), broken),
        "unfinished": _temporaries(folder),
    }
    if verify:
        model = store.model if store else None
        broken += _broken_among(keys, lambda key: _check_frame(files, key, model))
    title = f"{folder}: features written by clipfeat-extract, output={files.format_name}"
    return Inspection(title, facts, list(dict.fromkeys(broken)), verify)


def _inspect_fused(folder: Path, *, verify: bool) -> Inspection:
    broken: list[str] = []
    config, metas = _config(folder, broken), {}
    paths = sorted(folder.glob("*.npz"), key=lambda path: natural_key(path.name))
    for path in paths:
        try:
            metas[path.stem] = _fused_meta(path)
        except DataError as error:
            broken.append(str(error))
    found = list(metas.values())
    model = dict(found[0]["model"]) if found else {}
    for scene_id, meta in metas.items():
        if differing := different_keys(model, meta["model"]):
            broken.append(f"{scene_id}: features of another model, which differs in {'; '.join(differing)}")
    failed = [f"{scene_id} frame {failure['frame_id']}" for scene_id in metas for failure in metas[scene_id]["failed"]]
    digest = model.get("head_sha256")
    facts = {
        "scenes": _named(list(metas)),
        "frames": _spread([len(meta["frames"]) for meta in found]),
        "model": _model(model) if model else "",
        "head": f"{model.get('head')}{f' ({digest})' if digest else ''}",
        "points": f"points={config.get('points', 'unknown')}, {_spread([meta['num_points'] for meta in found])}",
        "seen": _seen_points(metas),
        "size": _megabytes(sum(path.stat().st_size for path in paths)),
        "failed": _named(failed),
        "made of": str(config.get("store") or ""),
        "unfinished": _temporaries(folder),
    }
    if verify:
        broken += _broken_among(paths, read_fused)
    title = f"{folder}: scenes fused by clipfeat-fuse"
    return Inspection(title, facts, list(dict.fromkeys(broken)), verify)


def _fused_meta(path: Path) -> dict[str, Any]:
    meta = read_meta(path)
    missing = [name for name in ("frames", "failed", "num_points", "num_seen", "model") if name not in meta]
    if missing:
        raise DataError(f"{path}: no fused scene (its meta has no {', '.join(missing)}); it is not of clipfeat-fuse")
    return meta


def _seen_points(metas: Mapping[str, Mapping[str, Any]]) -> str:
    """The share of points that a frame sees: of all, and in the scenes where it is least."""
    if not metas:
        return ""
    total, seen = (sum(meta[name] for meta in metas.values()) for name in ("num_points", "num_seen"))
    shares = {scene_id: meta["num_seen"] / max(meta["num_points"], 1) for scene_id, meta in metas.items()}
    least = sorted(shares, key=shares.__getitem__)[:_SHOWN]
    return (
        f"{seen / max(total, 1):.1%} of the points\n"
        f"least in {', '.join(f'{scene_id} {shares[scene_id]:.1%}' for scene_id in least)}"
    )


def _inspect_uv_index(folder: Path, *, verify: bool) -> Inspection:
    broken: list[str] = []
    config = _config(folder, broken)
    paths = sorted(folder.glob("*/uv_*.npz"), key=lambda path: natural_key(f"{path.parent.name}/{path.name}"))
    scenes = Counter(path.parent.name for path in paths)
    sizes = [path.stat().st_size for path in paths]
    facts = {
        "scenes": _named(list(scenes)),
        "frames": _spread(list(scenes.values())),
        "points": _sampling(config, []),
        "size": f"{_megabytes(sum(sizes) / len(sizes))} a frame, {_megabytes(sum(sizes))} in all",
        "unfinished": _temporaries(folder),
    }
    if verify:
        broken += _broken_among(paths, read_arrays)
    title = f"{folder}: a uv index written by scripts/build_uv_index.py, for uv_index={folder}"
    return Inspection(title, facts, broken, verify)


def _inspect_cache(folder: Path, *, verify: bool) -> Inspection:
    with MapCache.open(folder, readonly=True) as cache:
        maps = cache.maps()
        facts = {
            "maps": f"{len(maps)}, of {len({fingerprint for fingerprint, _ in maps})} models or settings of one",
            "size": _megabytes((folder / "data.mdb").stat().st_size),
        }
        broken = _broken_among(maps, lambda name: cache.check(*name)) if verify else []
    title = f"{folder}: a cache of feature maps, for cache=lmdb cache.path={folder}"
    return Inspection(title, facts, broken, verify)


def _config(folder: Path, broken: list[str]) -> dict[str, Any]:
    if not (folder / "config.yaml").is_file():
        return {}
    try:
        return read_config(folder)
    except OutputError as error:
        broken.append(str(error))
        return {}


def _format(folder: Path, config: dict[str, Any]) -> str:
    """Told by the files, or by the configuration of a run that has written none yet."""
    try:
        return detect_format(folder)
    except DataError:
        name = dict(config.get("output") or {}).get("name")
        if name not in FORMATS:
            raise
        return str(name)


def _frames(files: FrameFiles, broken: list[str]) -> dict[str, list[int]]:
    """The frames of each scene that can be listed."""
    found = {}
    try:
        for scene_id in files.scenes():
            found[scene_id] = files.frames(scene_id)
    except DataError as error:
        broken.append(str(error))
    return found


def _store(folder: Path, broken: list[str]) -> FeatureStore | None:
    try:
        return FeatureStore(folder)
    except DataError as error:
        broken.append(str(error))
        return None


def _model(model: dict[str, Any]) -> str:
    names = ("precision", "input_size", "resize_mode", "attention")
    options = [f"{name}={model[name]}" for name in names if name in model]
    return ", ".join([f"{model.get('arch')}, weights={model.get('weights')} ({model.get('weights_sha256')})", *options])


def _head(store: FeatureStore, key: FrameKey, broken: list[str]) -> str:
    """The head and the channels of its features, which one frame is read for."""
    name, digest = store.model.get("head"), store.model.get("head_sha256")
    path = store.folder / f"head_{name}.safetensors"
    if digest and not path.is_file():
        broken.append(f"{path}: no such file, the weights that the features were made with; copy that run's file here")
    try:
        channels = f", {store.load(*key, lambda count: np.arange(min(count, 1))).pts_feat.shape[1]} channels"
    except DataError as error:
        broken.append(str(error))
        channels = ""
    return f"{name}{f' ({digest})' if digest else ''}{channels}"


def _sampling(config: dict[str, Any], points: Iterable[Mapping[str, int]]) -> str:
    sampling = config.get("sampling") or {}
    seen = [counts.get("visible", 0) for counts in points]
    asked = [f"sampling={sampling['name']}, {sampling.get('num_points') or 'all'} asked for"] if sampling else []
    found = [f"{_least_to_most(seen)} visible in a frame"] if seen else []
    return ", ".join(asked + found)


def _size(files: FrameFiles, keys: Sequence[FrameKey], broken: list[str]) -> str:
    total = 0
    for path in {files.path(*key): None for key in keys}:  # several frames may share a file
        try:
            size = path.stat().st_size
        except OSError as error:
            broken.append(f"{path}: went away ({error.strerror})")
            continue
        if size == 0:
            broken.append(f"{path}: is empty; delete it and run the same command again")
        total += size
    return f"{_megabytes(total / len(keys))} a frame, {_megabytes(total)} in all" if keys else ""


def _visibility(points: Mapping[FrameKey, Mapping[str, int]]) -> str:
    """The share of visible points: of all, how the frames' are spread, and the scenes where it is least."""
    if not points:
        return ""
    scenes: dict[str, Counter[str]] = defaultdict(Counter)
    for (scene_id, _), counts in points.items():
        scenes[scene_id].update(counts)
    frames, _ = np.histogram([visible_share(counts) for counts in points.values()], bins=10, range=(0, 1))
    bars = "".join(_BARS[-(-int(n) * (len(_BARS) - 1) // int(frames.max()))] for n in frames)
    shares = {scene_id: visible_share(counts) for scene_id, counts in scenes.items()}
    least = sorted(shares, key=shares.__getitem__)[:_SHOWN]
    return (
        f"{visible_share(sum(scenes.values(), Counter())):.1%} of the points that were looked at; frames by share: "
        f"0 {bars} 1\nleast in {', '.join(f'{scene_id} {shares[scene_id]:.1%}' for scene_id in least)}"
    )


def _failures(failed: Sequence[Mapping[str, Any]]) -> str:
    """Failures by their reason, without what differs from frame to frame."""
    reasons: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for line in failed:
        reasons[reason_of(line)].append(line)
    common = sorted(reasons.values(), key=len, reverse=True)
    shown = [f"{len(lines)} × such as: {lines[0]['why']}" for lines in common[:_SHOWN]]
    more = [f"… and {len(common) - _SHOWN} more reasons, in frames.jsonl"] if len(common) > _SHOWN else []
    return "\n".join([str(len(failed)), *shown, *more]) if failed else "0"


def _end_of_run(folder: Path) -> str:
    summary = folder / "summary.json"
    run, written = read_json(summary).get("run"), [path.stat().st_mtime for path in record_files(folder)]
    stopped = "the same command goes on from there"
    if not isinstance(run, dict) or max(written, default=0) > summary.stat().st_mtime + 1:
        return f"still running, or it was killed: {stopped}"
    return f"interrupted: {stopped}" if run.get("interrupted") else "finished"


def _disagreements(
    lines: Mapping[tuple[str, int | None], Mapping[str, Any]], keys: set[FrameKey], broken: list[str]
) -> str:
    """Where ``frames.jsonl`` and the files do not say the same."""
    told = {(s, i) for (s, i), line in lines.items() if i is not None and line["status"] == "done"}
    unfiled = [f"{scene_id} frame {frame_id}" for scene_id, frame_id in sorted(told - keys)]
    if unfiled:
        broken.append(f"frames done, says frames.jsonl, that have no file: {_named(unfiled)}; run the command again")
    failed = [f"{s} frame {i}" for (s, i), line in lines.items() if line["status"] == "failed" and (s, i) in keys]
    unlisted = [f"{scene_id} frame {frame_id}" for scene_id, frame_id in sorted(keys - lines.keys())]
    found = [f"frames without a line in frames.jsonl: {_named(unlisted)}"] if unlisted else []
    found += [f"frames that failed when last tried, with a file of before: {_named(failed)}"] if failed else []
    return "\n".join(found)


def _temporaries(folder: Path) -> str:
    paths = [*folder.glob(f".*{TEMPORARY}"), *folder.glob(f"*/.*{TEMPORARY}")]
    return f"{len(paths)} temporary files of a run that goes on or was killed" if paths else ""


def _broken_among(items: Sequence[Item], check: Callable[[Item], object]) -> list[str]:
    """What a check raises, of all items; in threads."""

    def told(item: Item) -> str:
        try:
            check(item)
        except DataError as error:
            return str(error)
        return ""

    workers = 2 * usable_cores()
    found = []
    with (
        closing(prefetch(told, items, workers, ahead=2 * workers)) as results,
        tqdm(total=len(items), unit="frame", desc="verify", disable=None) as bar,
    ):
        for why in results:
            found += [why] if why else []
            bar.update()
    return found


def _check_frame(files: FrameFiles, key: FrameKey, model: dict[str, Any] | None) -> None:
    """Reads a frame whole.

    Raises:
        DataError: If it is damaged, of another model, or its arrays do not fit each other.
    """
    arrays, meta = files.read(*key)
    path = files.path(*key)
    differing = different_keys(model, meta.get("model") or {}) if model is not None else []
    if differing:
        raise DataError(f"{path}: features of another model, which differs in {'; '.join(differing)}; delete it")
    keeps_map = FORMATS[files.format_name].keeps_map
    frame = grid_frame(path, arrays, meta) if keeps_map else point_features(path, arrays)
    points = {**frame.attributes, "uv_idx": frame.uv_idx, "conf_2d": frame.conf_2d, "pts_idx": frame.pts_idx}
    points |= {"depth_m": frame.depth_m} if isinstance(frame, GridFrame) else {"pts_feat": frame.pts_feat}
    rows = {name: len(values) for name, values in points.items()}
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise DataError(f"{path}: its arrays are not of the same points ({told}); delete it and run the command again")


def _spread(counts: Sequence[int]) -> str:
    if len(counts) < 2:
        return str(sum(counts))
    return f"{sum(counts)}; a scene has {_least_to_most(counts)}"


def _least_to_most(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return str(least) if least == most else f"{least} to {most}, {statistics.median(counts):g} in the median"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} ({', '.join(names[:_SHOWN])}{more})" if names else "0"


def _megabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"
