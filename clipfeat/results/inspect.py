"""What is in a folder that clipfeat has written, on one screen: ``clipfeat-inspect``."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipfeat.errors import DataError, NoResultsError
from clipfeat.model.cache import MapCache
from clipfeat.output.files import read_arrays, read_meta
from clipfeat.output.folders import different_keys
from clipfeat.output.frame_files import natural_key
from clipfeat.output.fused import read_fused
from clipfeat.results.fused_formats import FORMATS
from clipfeat.results.inspect_others import Found, find_others
from clipfeat.results.inspect_run import inspect_run
from clipfeat.results.inspection import (
    SHOWN,
    Inspection,
    broken_among,
    config_of,
    megabytes,
    model_line,
    named,
    sampling_line,
    spread,
    temporaries,
)
from clipfeat.results.whole_files import READERS, read_whole


def inspect_folder(folder: Path, *, verify: bool = False) -> Inspection:
    """Looks into the output_dir of any command, a cache of maps or a uv index, and changes nothing.

    Args:
        folder: the folder.
        verify: read every file, to find those that are damaged.

    Raises:
        ClipfeatError: If it is none of these, or can't be listed.
    """
    if not folder.exists():
        raise DataError(f"{folder}: no such file or folder")
    if folder.is_file():
        raise NoResultsError(f"{folder}: a file, expected a folder")
    if (folder / "data.mdb").is_file():
        return _inspect_cache(folder, verify=verify)
    if other := find_others(folder):
        return _inspect_other(folder, other, verify=verify)
    if next(folder.glob("*/uv_*.npz"), None) is not None:
        return _inspect_uv_index(folder, verify=verify)
    if next(folder.glob("*.npz"), None) is not None:  # a run has them in the folders of its scenes
        return _inspect_fused(folder, verify=verify)
    return inspect_run(folder, verify=verify)


def _inspect_other(folder: Path, other: Found, *, verify: bool) -> Inspection:
    title = f"{folder}: {other.what}"
    if not verify:
        return Inspection(title, other.facts, other.broken)
    read = [path for path in other.files if path.suffix in READERS]
    kinds = Counter(path.suffix for path in read)
    unread = [str(path) for path in other.files if path.suffix not in READERS]
    told = {
        "read": ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())),
        "not read": f"{named(unread)}: --verify does not know how" if unread else "",
    }
    broken = other.broken + broken_among(read, read_whole)
    return Inspection(title, other.facts | told, broken, None if unread else True)


def _inspect_fused(folder: Path, *, verify: bool) -> Inspection:
    broken: list[str] = []
    config, metas = config_of(folder, broken), {}
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
    points = config.get("points", found[0].get("points", "unknown") if found else "unknown")
    facts = {
        "scenes": named(list(metas)),
        "frames": spread([len(meta["frames"]) for meta in found]),
        "model": model_line(model) if model else "",
        "head": f"{model.get('head')}{f' ({digest})' if digest else ''}",
        "points": f"points={points}, {spread([meta['num_points'] for meta in found])}",
        "packed": _packed([meta["packed"] for meta in found if meta.get("packed")]),
        "seen": _seen_points(metas),
        "size": megabytes(sum(path.stat().st_size for path in paths)),
        "failed": named(failed),
        "made of": str(config.get("store") or ""),
        "unfinished": temporaries(folder),
    }
    if verify:
        made = [path for ending, _ in FORMATS.values() for path in sorted(folder.glob(f"[!.]*{ending}"))]
        broken += broken_among(paths, read_fused) + broken_among(made, read_whole)
    maps = found and all("weights_from" in meta for meta in found)
    title = f"{folder}: {'maps of clipfeat-map' if maps else 'scenes fused by clipfeat-fuse'}"
    return Inspection(title, facts, list(dict.fromkeys(broken)), verify)


def _fused_meta(path: Path) -> dict[str, Any]:
    meta = read_meta(path)
    missing = [name for name in ("frames", "failed", "num_points", "num_seen", "model") if name not in meta]
    if missing:
        raise DataError(f"{path}: no fused scene (its meta has no {', '.join(missing)}); it is not of clipfeat-fuse")
    return meta


def _packed(told: list[dict[str, Any]]) -> str:
    """How the features of scenes are packed, and what the worst of them lost."""
    if not told:
        return ""
    ways = sorted({f"packing={one['name']} packing_dims={one['dims']}" for one in told})
    return f"{', '.join(ways)}, at a cosine of {min(one['cosine']['median'] for one in told):.4f} or more in the median"


def _seen_points(metas: Mapping[str, Mapping[str, Any]]) -> str:
    """The share of points that a frame sees: of all, and in the scenes where it is least."""
    if not metas:
        return ""
    total, seen = (sum(meta[name] for meta in metas.values()) for name in ("num_points", "num_seen"))
    shares = {scene_id: meta["num_seen"] / max(meta["num_points"], 1) for scene_id, meta in metas.items()}
    least = sorted(shares, key=shares.__getitem__)[:SHOWN]
    return (
        f"{seen / max(total, 1):.1%} of the points\n"
        f"least in {', '.join(f'{scene_id} {shares[scene_id]:.1%}' for scene_id in least)}"
    )


def _inspect_uv_index(folder: Path, *, verify: bool) -> Inspection:
    broken: list[str] = []
    config = config_of(folder, broken)
    paths = sorted(folder.glob("*/uv_*.npz"), key=lambda path: natural_key(f"{path.parent.name}/{path.name}"))
    scenes = Counter(path.parent.name for path in paths)
    sizes = [path.stat().st_size for path in paths]
    facts = {
        "scenes": named(list(scenes)),
        "frames": spread(list(scenes.values())),
        "points": sampling_line(config, []),
        "size": f"{megabytes(sum(sizes) / len(sizes))} a frame, {megabytes(sum(sizes))} in all",
        "unfinished": temporaries(folder),
    }
    if verify:
        broken += broken_among(paths, read_arrays)
    title = f"{folder}: a uv index written by scripts/build_uv_index.py, for uv_index={folder}"
    return Inspection(title, facts, broken, verify)


def _inspect_cache(folder: Path, *, verify: bool) -> Inspection:
    with MapCache.open(folder, readonly=True) as cache:
        maps = cache.maps()
        facts = {
            "maps": f"{len(maps)}, of {len({fingerprint for fingerprint, _ in maps})} models or settings of one",
            "size": megabytes((folder / "data.mdb").stat().st_size),
        }
        broken = broken_among(maps, lambda name: cache.check(*name)) if verify else []
    title = f"{folder}: a cache of feature maps, for cache=lmdb cache.path={folder}"
    return Inspection(title, facts, broken, verify)
