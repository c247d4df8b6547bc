"""Fused scenes held against a protocol: ``clipfeat-evaluate protocol=…``."""

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.base import read_scenes_file
from clipfeat.data.scannet200 import LabelSet
from clipfeat.errors import ConfigError, DataError
from clipfeat.evaluate.probes import zero_shot
from clipfeat.model.text import Texts, vectors_of
from clipfeat.output.folders import make_writable
from clipfeat.output.fused import FusedScene, read_fused
from clipfeat.protocols.config import ProtocolConfig
from clipfeat.protocols.counts import Tally, class_numbers, mean_of_scenes, measures
from clipfeat.protocols.openlex3d import frequencies, predictions, read_objects, read_prompts, visible_points
from clipfeat.protocols.protocol import Protocol, read_protocol
from clipfeat.protocols.tell import summary_table, warnings_of, write_numbers
from clipfeat.protocols.transfer import NONE, UNSEEN, votes, voxels
from clipfeat.protocols.truth import OBJECT_ATTRIBUTES, classes_of, labelled_points, other_name
from clipfeat.queries.answers import FusedScenes, open_source
from clipfeat.queries.ask import check_text_space, load_texts
from clipfeat.queries.config import QueryConfig
from clipfeat.system.progress import progress_bar
from clipfeat.types import FloatArray

log = logging.getLogger(__name__)


def evaluate_protocol(cfg: ProtocolConfig, texts: Texts | None = None) -> dict[str, Any]:
    """Runs ``clipfeat-evaluate protocol=…``.

    Args:
        cfg: what to run.
        texts: the text tower of the model that made the features, if it is loaded already.

    Returns:
        What ``protocol.json`` holds; and, where points have classes, ``confusion``, of what ``Tally`` has.

    Raises:
        ClipfeatError: On anything that the user can mend.
    """
    begin = time.perf_counter()
    protocol = read_protocol(cfg.protocol, cfg.rules)
    source = open_source(QueryConfig(cfg.store, heatmaps="none", run=cfg.run))
    if not isinstance(source, FusedScenes):
        raise DataError(
            f"store={cfg.store}: frames of a run, and no fused scenes; clipfeat-fuse store={cfg.store} makes them"
        )
    check_text_space(source.model, cfg.store, f"protocol={cfg.protocol}")
    scenes = choose_scenes(cfg, protocol, list(source.files))
    folder = Path(cfg.output_dir or "protocol")
    make_writable(folder, "output_dir")
    texts = texts or load_texts(source, cfg.text_cache)
    files = {scene_id: source.files[scene_id] for scene_id in scenes["found"]}
    work = _count_classes if protocol.classes is not None else _count_categories
    report: dict[str, Any] = {
        "protocol": protocol.name,
        "title": protocol.title,
        "kind": protocol.kind,
        "sources": list(protocol.sources),
        "rules": dataclasses.asdict(protocol.rules),
        "changed": sorted(k for k, v in dataclasses.asdict(cfg.rules).items() if v is not None),
        "templates": cfg.templates or list(protocol.templates),
        "against": list(cfg.against),
        "store": cfg.store,
        "model": source.model,
        "weights": source.model["weights"],
        "scenes": scenes,
        **work(cfg, protocol, files, source.model, texts),
        "seconds": round(time.perf_counter() - begin, 1),
    }
    write_numbers(folder, report)
    log.info("%s", summary_table(report, folder))
    for warning in warnings_of(report):
        log.warning("WARNING %s", warning)
    return report


def choose_scenes(cfg: ProtocolConfig, protocol: Protocol, there: Sequence[str]) -> dict[str, Any]:
    """The scenes that are counted, of those that are there; a scene of Replica may have either of its names.

    Returns:
        ``of``: protocol, or what else says the scenes; ``wanted``: how many they are; ``found``, ``missing``: which are
        there and which are not; ``left_out``: scenes of the store that are not among them.

    Raises:
        ConfigError: If nothing says which.
        DataError: If none of them is there.
    """
    if cfg.scenes == ["all"]:
        return {"of": "store", "wanted": len(there), "found": list(there), "missing": [], "left_out": []}
    said = "scenes" if cfg.scenes else "scenes_file" if cfg.scenes_file else "protocol"
    wanted = cfg.scenes or (read_scenes_file(Path(cfg.scenes_file)) if cfg.scenes_file else list(protocol.scenes))
    if not wanted:
        raise ConfigError(
            f"protocol={cfg.protocol}: has no list of scenes of its own, which comes with the data set; say "
            f"scenes_file=… (a scene a line), or scenes=all"
        )
    named = {name: scene_id for scene_id in there for name in (other_name(scene_id), scene_id)}
    found = [named[name] for name in wanted if name in named]
    if not found:
        raise DataError(
            f"{cfg.store}: holds none of the {len(wanted)} scenes of {cfg.scenes_file or f'protocol={cfg.protocol}'} "
            f"({wanted[0]}, …), but {', '.join(there[:3])}{', …' if len(there) > 3 else ''}; scenes=all takes these"
        )
    missing = [name for name in wanted if name not in named]
    left_out = [scene_id for scene_id in there if scene_id not in found]
    return {"of": said, "wanted": len(wanted), "found": found, "missing": missing, "left_out": left_out}


def _count_classes(
    cfg: ProtocolConfig, protocol: Protocol, files: dict[str, Path], model: dict[str, Any], texts: Texts
) -> dict[str, Any]:
    classes = protocol.classes
    if classes is None:
        raise TypeError(f"{protocol.name} has no classes")
    names = class_vectors(cfg, protocol, model, texts)
    others = vectors_of(cfg.against, _templates(cfg, protocol), texts, model, cfg.store) if cfg.against else None
    judged, rules = protocol.judged, protocol.rules
    groups = {group: classes.in_group(group) for group in protocol.groups}
    tallies: dict[str, Tally] = {}
    with progress_bar(len(files), "scene", "counting") as bar:
        for scene_id, path in files.items():
            tallies[scene_id] = _tally(cfg, protocol, classes, scene_id, read_fused(path), names, others)
            bar.update()
    of_scenes = {scene_id: measures(tally, rules, judged, groups) for scene_id, tally in tallies.items()}
    nothing = np.empty(0, np.int64)
    total = sum(tallies.values(), start=Tally.of(nothing, nothing, len(classes.ids)))
    if not total.points[judged].any():
        raise DataError(
            f"{cfg.store}: no labelled point of its {len(files)} scenes is of a judged class of {protocol.title}; are "
            f"these another data set's labels? See labels_ids"
        )
    numbers = (
        measures(total, rules, judged, groups) if rules.average == "pooled" else mean_of_scenes([*of_scenes.values()])
    )
    own = class_numbers(total, rules, judged)
    rows = [
        {
            "id": int(classes.ids[k]),
            "name": classes.names[k],
            "group": classes.groups[k],
            "judged": bool(judged[k]),
            "iou": _number(own.iou[k]),
            "accuracy": _number(own.accuracy[k]),
            "points": int(total.points[k]),
            "unseen": int(total.unseen[k]),
            "predicted": int(own.predicted[k]),
        }
        for k in range(len(classes.ids))
    ]
    labelled, unseen = total.points[judged].sum(), total.unseen[:-1][judged].sum()
    return {
        "numbers": _rounded(numbers),
        "points": {
            "judged": int(labelled),
            "unseen": int(unseen),
            "no_class": int(total.confusion[:-1, -1][judged].sum()),
        },
        "classes": rows,
        "of_scenes": {scene_id: _rounded(one) for scene_id, one in of_scenes.items()},
        "confusion": total.confusion.tolist(),
    }


def _templates(cfg: ProtocolConfig, protocol: Protocol) -> str | tuple[str, ...]:
    return cfg.templates or protocol.templates


def class_vectors(cfg: ProtocolConfig, protocol: Protocol, model: dict[str, Any], texts: Texts) -> NDArray[np.float32]:
    """The classes (K, C) as directions, each by its text in the templates; those that begin with = without one.

    Raises:
        ConfigError: If a text can't be used.
        WeightsError: If the text tower can't be had, or is another model's.
    """
    plain = np.array([text.startswith("=") for text in protocol.texts])
    found: NDArray[np.float32] | None = None
    for chosen, templates in ((~plain, _templates(cfg, protocol)), (plain, "plain")):
        prompts = [text.removeprefix("=") for text, one in zip(protocol.texts, chosen, strict=True) if one]
        if prompts:
            vectors = vectors_of(prompts, templates, texts, model, cfg.store)
            found = np.empty((len(plain), vectors.shape[1]), np.float32) if found is None else found
            found[chosen] = vectors
    if found is None:
        raise ConfigError(f"protocol={cfg.protocol}: has no class")
    return found


def _tally(
    cfg: ProtocolConfig,
    protocol: Protocol,
    classes: LabelSet,
    scene_id: str,
    fused: FusedScene,
    names: FloatArray,
    others: FloatArray | None,
) -> Tally:
    rules, count = protocol.rules, len(classes.ids)
    labelled = labelled_points(fused, scene_id, cfg.labels_file, cfg.points_file)
    truth, xyz, own = classes_of(labelled, protocol, classes, cfg.labels_ids), labelled.xyz, labelled.own
    if rules.voxel_size:
        (xyz, truth), own = voxels(xyz, truth, rules.voxel_size), False
    competing = np.ones(count, bool) if rules.ignored_compete else protocol.judged
    if rules.candidates == "scene":
        competing &= np.bincount(truth[truth >= 0], minlength=count) > 0
    predicted = np.full(len(fused.seen), UNSEEN, np.int64)
    if competing.any():
        chosen = np.flatnonzero(competing)
        vectors = names[chosen] if others is None else np.concatenate([names[chosen], others])
        found = zero_shot(fused.pts_feat[fused.seen], vectors, len(chosen))
        predicted[fused.seen] = np.where(found < 0, NONE, chosen[found])
    if not (own and rules.neighbours == 1 and rules.unseen != "nearest"):
        seen, reach = predicted != UNSEEN, np.inf if rules.unseen == "nearest" else rules.reach
        predicted = votes(fused.points.xyz[seen], predicted[seen], xyz, rules.neighbours, reach)
    return Tally.of(truth, predicted, count)


def _count_categories(
    cfg: ProtocolConfig, protocol: Protocol, files: dict[str, Path], model: dict[str, Any], texts: Texts
) -> dict[str, Any]:
    if cfg.categories is None:
        raise ConfigError(
            f"protocol={cfg.protocol}: categories is not set: give the folder of OpenLex3D's labels of one data set, "
            f"such as gt_openlex3d/replica, which has prompt_list.txt and <scene>/gt_categories.json"
        )
    folder = Path(cfg.categories)
    prompts = read_prompts(folder)
    vectors = vectors_of(prompts, _templates(cfg, protocol), texts, model, cfg.store)
    of_scenes: dict[str, dict[str, Any]] = {}
    points = 0
    with progress_bar(len(files), "scene", "counting") as bar:
        for scene_id, path in files.items():
            fused, told = read_fused(path), read_objects(folder, scene_id)
            labelled = labelled_points(fused, scene_id, cfg.labels_file, cfg.points_file, OBJECT_ATTRIBUTES)
            xyz, objects = visible_points(folder, scene_id, labelled, protocol.rules.reach)
            predicted = predictions(fused, vectors, protocol.rules, max(cfg.top))
            found = frequencies(xyz, objects, told, predicted, prompts, protocol.rules, cfg.top)
            of_scenes[scene_id] = {f"top{top}": shares for top, shares in found.items()}
            points += len(xyz)
            bar.update()
    return {
        "numbers": _rounded(mean_of_scenes([*of_scenes.values()])),
        "points": {"judged": points},
        "prompts": len(prompts),
        "of_scenes": {scene_id: _rounded(one) for scene_id, one in of_scenes.items()},
    }


def _number(value: float) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None


def _rounded(numbers: dict[str, Any]) -> dict[str, Any]:
    return {key: _rounded(value) if isinstance(value, dict) else _number(value) for key, value in numbers.items()}
