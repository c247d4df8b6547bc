"""Fused scenes of the demo's meshes whose features are planted: texts' own vectors, right for some vertices."""

import numpy as np
from planted import vector_of

from clipfeat.output.fused import FusedScene, write_fused
from clipfeat.sampling.point_files import read_points
from clipfeat.types import Points

EVERY = 7
"""Of so many vertices one is taken: they are gone through one by one."""

SCENES = ("demo0000_00", "demo0001_00")
MODEL = {
    "arch": "planted", "weights": "planted", "weights_sha256": "0123456789abcdef", "head": "text", "head_sha256": None,
    "input_size": 224, "window": None, "precision": "fp32",
}  # fmt: skip


def labels_path(root, scene_id):
    return root / scene_id / f"{scene_id}_vh_clean_2.labels.ply"


def said_texts(protocol):
    return [text.removeprefix("=") for text in protocol.texts]


def plant(root, folder, protocol, truth_of, *, right=0.6, unseen=0.15, model=None, labels=True):
    """Writes a fused scene for each of the demo's: of ``right`` of the vertices the class's own vector, of ``unseen``
    none, of the others that of another class; returns by scene (truth, predicted), -1 and None where there is none.

    Args:
        root: of the demo.
        folder: of the fused scenes.
        protocol: whose classes.
        truth_of: from a scene's raw labels to its list of classes.
        right: share of the vertices.
        unseen: share of the vertices.
        model: what the scene's meta says of the model.
        labels: whether the fused points bear their labels.
    """
    vectors = np.stack([vector_of(text) for text in said_texts(protocol)])
    found = {}
    for number, scene_id in enumerate(SCENES):
        rng = np.random.default_rng(number)
        points = read_points(labels_path(root, scene_id))
        points = points.take(np.arange(0, len(points.idx), EVERY))
        truth = truth_of(points.attributes["label"].tolist())
        chance = rng.random(len(truth))
        other = rng.integers(len(vectors), size=len(truth))
        predicted = [
            None if c < unseen else (t if c < unseen + right and t >= 0 else int(o))
            for c, t, o in zip(chance, truth, other, strict=True)
        ]
        seen = np.array([p is not None for p in predicted])
        features = np.where(seen[:, None], vectors[[p or 0 for p in predicted]], 0).astype(np.float32)
        attributes = {"label": points.attributes["label"]} if labels else {}
        fused = FusedScene(
            Points(points.xyz, points.idx, attributes), features, seen.astype(np.int32), seen.astype(np.float32),
            None,
            {
                "scene_id": scene_id, "model": MODEL | (model or {}), "num_points": len(truth),
                "num_seen": int(seen.sum()), "mean_views": 1.0, "frames": [0], "failed": [],
                "labels_file": str(labels_path(root, "{scene}")),
            },
        )  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        write_fused(folder / f"{scene_id}.npz", fused)
        found[scene_id] = truth, predicted
    return found


def redirect(pairs, protocol, allowed):
    """The same, where only some classes may be predicted: another one's vector is most like whichever of them it is."""
    vectors, nearest = [vector_of(text) for text in said_texts(protocol)], {None: None}
    for k, vector in enumerate(vectors):
        nearest[k] = max(allowed, key=lambda one: float(vectors[one] @ vector))
    return [(truth, nearest[predicted]) for truth, predicted in pairs]


def by_hand(pairs, protocol):
    """The numbers of (truth, predicted) of points, counted one by one as the protocol's rules say."""
    rules, judged, names = protocol.rules, protocol.judged, protocol.classes.names
    hits, predicted_as, points, counted = (dict.fromkeys(range(len(names)), 0) for _ in range(4))
    for truth, predicted in pairs:
        if truth >= 0 and judged[truth]:
            unseen = predicted is None
            if not unseen or rules.unseen == "wrong":
                points[truth] += 1
            if not unseen or rules.unseen in ("wrong", "left_out_of_iou"):
                counted[truth] += 1
            if predicted == truth:
                hits[truth] += 1
        if predicted is not None and predicted >= 0 and (rules.ignored_as_false or (truth >= 0 and judged[truth])):
            predicted_as[predicted] += 1
    iou, accuracy = {}, {}
    for k in range(len(names)):
        if judged[k] and counted[k]:
            iou[k] = hits[k] / (points[k] + predicted_as[k] - hits[k]) if points[k] + predicted_as[k] else 0.0
            accuracy[k] = hits[k] / counted[k]
        elif judged[k] and rules.mean_over == "all":
            iou[k] = accuracy[k] = 0.0

    def mean(of, among=None):
        values = [value for k, value in of.items() if among is None or protocol.classes.groups[k] == among]
        return sum(values) / len(values) if values else None

    total = sum(points.values())
    return {
        "miou": mean(iou),
        "fmiou": sum(iou.get(k, 0) * points[k] for k in points) / total if total else None,
        "macc": mean(accuracy),
        "accuracy": sum(hits.values()) / sum(counted.values()),
        "groups": {group: {"miou": mean(iou, group), "macc": mean(accuracy, group)} for group in protocol.groups},
    }
