"""Fused scenes in few bytes: how many, and what is left of their queries."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import rankdata

from clipfeat.data.scannet200 import scannet200
from clipfeat.errors import ConfigError, DataError
from clipfeat.model.text import vectors_of
from clipfeat.output.fused import FusedScene, read_fused, write_fused
from clipfeat.output.packing import Packing
from clipfeat.queries.answers import FusedScenes, open_source
from clipfeat.queries.ask import check_text_space, load_texts
from clipfeat.queries.config import QueryConfig
from clipfeat.types import Points
from clipfeat.vis.directions import unit_directions

PLANTED = "planted"

WAYS: dict[str, Packing | None] = {
    "float32": None,
    "float16": None,
    **{f"{name} {dims}": Packing(name, dims) for name, dims in (
        ("pca", 32), ("pca", 64), ("pca", 128), ("int8", 64), ("int8", 128), ("int8", 256), ("pq", 64), ("pq", 128),
        ("pq", 256),
    )},
}  # fmt: skip


def benchmark_packing(store: Path, out: Path) -> str:
    """Packs scenes in all ways and asks them for ScanNet200's classes.

    Args:
        store: folder of clipfeat-fuse, with features in the space of texts; or ``planted``: a scene of 81,000 points
            and 768 channels that is made up.
        out: folder for packing.json, packing.md and packing.png.
    """
    if str(store) == PLANTED:
        what, scenes, texts = "planted features", [planted_scene()], planted_texts()
    else:
        source = open_source(QueryConfig(str(store), heatmaps="none"))
        if not isinstance(source, FusedScenes):
            raise DataError(f"{store}: no folder of clipfeat-fuse")
        check_text_space(source.model, str(store), "--packing")
        what, scenes = f"weights={source.model['weights']}", [read_fused(path) for path in source.files.values()]
        texts = vectors_of(scannet200().names, "photo", load_texts(source), source.model, str(store))
    rows = {name: row for name, packing in WAYS.items() if (row := _measured(name, packing, scenes, texts))}
    points, seen = sum(len(s.seen) for s in scenes), sum(int(s.seen.sum()) for s in scenes)
    about = f"{len(scenes)} scenes, {points} points ({seen} seen) of {scenes[0].pts_feat.shape[1]} channels, {what}"
    out.mkdir(parents=True, exist_ok=True)
    (out / "packing.json").write_text(json.dumps({"about": about, "ways": rows}, indent=2))
    (out / "packing.md").write_text(text := _markdown(about, rows))
    _chart(about, rows, out / "packing.png")
    return text


def planted_texts() -> NDArray[np.float32]:
    """(200, 768) directions that lie in a narrow cone, as those of CLIP's texts do (Liang et al. 2022)."""
    rng = np.random.default_rng(0)
    texts = 2.0 * rng.normal(size=768) + rng.normal(size=(200, 768))
    found: NDArray[np.float32] = (texts / np.linalg.norm(texts, axis=1, keepdims=True)).astype(np.float32)
    return found


def planted_scene() -> FusedScene:
    """A scene of 400 regions: each a class or a mixture of three, and what differs from point to point.

    That is of 300 directions, of which each next is weaker, and a little of all: the scene's own subspace is not known
    to be small.
    """
    rng, texts, count = np.random.default_rng(1), planted_texts(), 81_000
    shares = rng.dirichlet([0.4] * 3, 400)
    regions = (shares[:, :, None] * texts[rng.integers(0, 200, (400, 3))]).sum(1)
    axes = np.linalg.qr(rng.normal(size=(768, 300)))[0].T * (np.arange(1, 301) ** -0.5)[:, None]
    region = np.sort(rng.integers(0, 400, count))
    features = np.empty((count, 768), np.float32)
    for part in np.array_split(np.arange(count), 20):
        own = rng.normal(size=(len(part), 300)) @ axes
        features[part] = regions[region[part]] + 0.08 * own + 0.006 * rng.normal(size=(len(part), 768))
    ones = np.ones(count)
    points = Points(rng.uniform(0, 5, (count, 3)), np.arange(count), {})
    return FusedScene(
        points, features, ones.astype(np.int32), ones.astype(np.float32), None,
        {"scene_id": PLANTED, "model": {"weights": PLANTED}},
    )  # fmt: skip


def _measured(
    name: str, packing: Packing | None, scenes: list[FusedScene], texts: NDArray[np.float32]
) -> dict[str, Any] | None:
    """Bytes of all scenes as they are written, and of the scores what is kept; None where a package is missing."""
    size = points = agreed = 0
    cosines, ranks = [], []
    for scene in scenes:
        stored = scene
        if name == "float16":
            stored = FusedScene(**{**vars(scene), "pts_feat": scene.pts_feat.astype(np.float16)})
        with TemporaryDirectory() as folder:
            path = Path(folder) / "scene.npz"
            try:
                write_fused(path, stored, packing)
            except ConfigError:
                return None
            size += path.stat().st_size
            found = read_fused(path).pts_feat[scene.seen]
        before, after = unit_directions(scene.pts_feat[scene.seen]), unit_directions(found)
        cosines.append((before * after).sum(1))
        own, theirs = before @ texts.T, after @ texts.T
        points, agreed = points + len(own), agreed + int((own.argmax(1) == theirs.argmax(1)).sum())
        ranks += [_spearman(own[:, i], theirs[:, i]) for i in range(len(texts))]
    kept = np.concatenate(cosines)
    return {
        "bytes": size,
        "cosine_median": round(float(np.median(kept)), 5),
        "cosine_p01": round(float(np.quantile(kept, 0.01)), 5),
        "rank_correlation_median": round(float(np.median(ranks)), 5),
        "rank_correlation_least": round(float(min(ranks)), 5),
        "top1_agreement": round(agreed / points, 5),
    }


def _spearman(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def _markdown(about: str, rows: dict[str, dict[str, Any]]) -> str:
    whole = rows["float32"]["bytes"]
    lines = [
        f"{about}; asked for ScanNet200's 200 classes.",
        "",
        "| stored as | MB | of float32 | cosine, median and 1st percentile | rank correlation of a class, median and "
        "least | top-1 the same |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['bytes'] / 1e6:.1f} | 1/{whole / row['bytes']:.1f} | {row['cosine_median']:.4f}, "
        f"{row['cosine_p01']:.4f} | {row['rank_correlation_median']:.4f}, {row['rank_correlation_least']:.4f} "
        f"| {100 * row['top1_agreement']:.2f} % |"
        for name, row in rows.items()
    ]
    return "\n".join(lines) + "\n"


def _chart(about: str, rows: dict[str, dict[str, Any]], path: Path) -> None:
    whole = rows["float32"]["bytes"]
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    for axes, key, title in zip(
        figure.subplots(1, 2, sharex=True),
        ("rank_correlation_median", "top1_agreement"),
        ("rank correlation of a class (median)", "top-1 class the same"),
        strict=True,
    ):
        for kind, marker in (("float16", "s"), ("pca", "o"), ("int8", "^"), ("pq", "D")):
            own = {name: row for name, row in rows.items() if name.split()[0] == kind}
            axes.plot([row["bytes"] / whole for row in own.values()], [row[key] for row in own.values()], marker=marker,
                      label=kind)  # fmt: skip
            for name, row in own.items():
                axes.annotate(name.partition(" ")[2], (row["bytes"] / whole, row[key]), textcoords="offset points",
                              xytext=(4, -10), fontsize=7)  # fmt: skip
        axes.axvline(1 / 16, color="#999999", linestyle=":", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_xticks([2.0**-k for k in range(1, 7)], [f"1/{2**k}" for k in range(1, 7)])
        axes.set_xlabel("bytes, of float32")
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(fontsize=8)
    figure.suptitle(about, fontsize=8)
    figure.savefig(path, dpi=130)
