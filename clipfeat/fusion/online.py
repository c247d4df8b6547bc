"""Instances of one frame after another merged to those of the scene, and CLIP vectors that go with them.

``OnlineMerge`` takes and returns what ESAM's class of that name does, and tells the matching beside it.
``ClipMemoryBank`` follows any matching; ``ClipMemoryAdapter`` reads it off ESAM's own class, which does not tell it.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as nnf
from scipy.optimize import linear_sum_assignment

MERGE_TYPES = ("count", "frame")

_NEAREST_M = 1e-6


@dataclass(frozen=True, eq=False)
class Instances:
    """All instances of the scene so far; the number of an instance is its row, and stays.

    Attributes:
        masks: (K, P) bool, over the points of all frames, one frame after the other.
        labels: (K,) of the first frame that shows each.
        scores: (K,) running means, as all that follows.
        queries: (K, D).
        query_feats: (K, E).
        sem_preds: (K, C).
        places: (K, 3) middles in metres; with boxes (K, 6) their lowest and highest corners.
        counts: (K,) int64 frames that each was seen in.
    """

    masks: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor
    queries: torch.Tensor
    query_feats: torch.Tensor
    sem_preds: torch.Tensor
    places: torch.Tensor
    counts: torch.Tensor


class OnlineMerge:
    """Merges the instances of each frame into those that are known.

    A pair's affinity is the dot product of their features, times the overlap of their boxes or one over the distance of
    their middles, and 0 where their labels differ. The assignment of the largest sum is taken, without pairs of
    affinity 0; what is left of the frame are new instances.

    Args:
        inscat_topk_insts: instances of the highest scores that ``merge`` returns; all are remembered.
        use_bbox: whether boxes overlap, and not middles are near.
        merge_type: of the running means: count (every frame that shows an instance counts alike) or frame (what is
            known counts as often as there were frames).

    Attributes:
        instances: all of them; None before the first frame.
        frames: how many were merged.
        matching: (Ni,) int64 the number of the instance that each of the last frame's became; None before the first.
        kept: (K,) int64 the numbers of the instances that ``merge`` returned last; None before the first frame.

    Raises:
        ValueError: If there is no such merge_type.
    """

    def __init__(self, inscat_topk_insts: int, use_bbox: bool = False, merge_type: str = "count"):
        if merge_type not in MERGE_TYPES:
            raise ValueError(f"merge_type={merge_type}: expected one of {', '.join(MERGE_TYPES)}")
        self.inscat_topk_insts = inscat_topk_insts
        self.use_bbox = use_bbox
        self.merge_type = merge_type
        self.clean()

    def clean(self) -> None:
        """Forgets everything, for the next scene."""
        self.instances: Instances | None = None
        self.frames = 0
        self.matching: torch.Tensor | None = None
        self.kept: torch.Tensor | None = None

    def merge(
        self,
        masks: torch.Tensor,
        labels: torch.Tensor,
        scores: torch.Tensor,
        queries: torch.Tensor,
        query_feats: torch.Tensor,
        sem_preds: torch.Tensor,
        xyz_list: torch.Tensor,
        bboxes: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Merges a frame; ``matching`` tells what became of its instances.

        Args:
            masks: (Ni, Np) bool, over the frame's points.
            labels: (Ni,).
            scores: (Ni,).
            queries: (Ni, D).
            query_feats: (Ni, E) of length 1.
            sem_preds: (Ni, C).
            xyz_list: (Ni, 3) middles in metres.
            bboxes: (Ni, 6) the box's middle from ``xyz_list``, and its size; with ``use_bbox``.

        Returns:
            Masks (K, P) over the points of all frames so far, labels (K,), scores (K,), queries (K, D), and with
            ``use_bbox`` the boxes' lowest and highest corners (K, 6): of all instances, or of the
            ``inscat_topk_insts`` with the highest scores, highest first.

        Raises:
            ValueError: If a shape does not fit, or boxes are missing.
        """
        rows = [len(values) for values in (masks, labels, scores, queries, query_feats, sem_preds, xyz_list)]
        if len(set(rows)) != 1 or masks.ndim != 2 or xyz_list.shape[1:] != (3,):
            raise ValueError(f"expected masks (Ni, Np), xyz_list (Ni, 3) and as many of all else, got {rows} rows")
        places = xyz_list
        if self.use_bbox:
            if bboxes is None or bboxes.shape != (len(masks), 6):
                raise ValueError("use_bbox=True: expected bboxes (Ni, 6)")
            places = box_corners(xyz_list, bboxes)
        ones = torch.ones(len(masks), dtype=torch.int64, device=masks.device)
        new = Instances(masks.bool(), labels, scores, queries, query_feats, sem_preds, places, ones)
        if self.instances is None:
            self.matching = torch.arange(len(masks), device=masks.device)
            # Copies: what is known changes from frame to frame, and the caller's tensors are theirs.
            self.instances = Instances(**{name: values.clone() for name, values in vars(new).items()})
        else:
            self.matching = self._match(self.instances, new)
            self.instances = self._merged(self.instances, new, self.matching)
        self.frames += 1
        known = self.instances
        if len(known.scores) > self.inscat_topk_insts:
            self.kept = known.scores.topk(self.inscat_topk_insts).indices
        else:
            self.kept = torch.arange(len(known.scores), device=masks.device)
        boxes = known.places[self.kept] if self.use_bbox else None
        return known.masks[self.kept], known.labels[self.kept], known.scores[self.kept], known.queries[self.kept], boxes

    def _match(self, known: Instances, new: Instances) -> torch.Tensor:
        """(Ni,) the row that each instance of a frame becomes, numbers above the last one for those that are new."""
        if self.use_bbox:
            near = box_iou(known.places, new.places)
        else:
            near = 1 / (torch.cdist(known.places, new.places) + _NEAREST_M)
        affinity = (known.query_feats @ new.query_feats.T).clamp(min=0) * near
        affinity = affinity * (known.labels[:, None] == new.labels[None])
        rows, columns = linear_sum_assignment(affinity.detach().cpu().double().numpy(), maximize=True)
        matching = torch.full((len(new.labels),), -1, dtype=torch.int64, device=affinity.device)
        good = affinity[rows, columns] > 0
        matching[torch.as_tensor(columns, device=good.device)[good]] = torch.as_tensor(rows, device=good.device)[good]
        fresh = matching < 0
        matching[fresh] = torch.arange(int(fresh.sum()), device=good.device) + len(known.labels)
        return matching

    def _merged(self, known: Instances, new: Instances, matching: torch.Tensor) -> Instances:
        before, total = len(known.labels), max(len(known.labels), int(matching.max()) + 1 if len(matching) else 0)
        old = matching < before
        rows = matching[old]
        past = known.counts[rows] if self.merge_type == "count" else torch.full_like(rows, self.frames)
        fresh = total - before

        def mean(name: str) -> torch.Tensor:
            values, now = getattr(known, name), getattr(new, name)
            weight = past.view(-1, *[1] * (values.ndim - 1))
            out = torch.cat((values, now[~old]))
            out[rows] = ((values[rows] * weight + now[old]) / (weight + 1)).to(out.dtype)
            return out

        masks = known.masks.new_zeros(total, known.masks.shape[1] + new.masks.shape[1])
        masks[:before, : known.masks.shape[1]] = known.masks
        masks[matching, known.masks.shape[1] :] = new.masks
        counts = torch.cat((known.counts, known.counts.new_zeros(fresh)))
        counts[matching] += 1
        labels = torch.cat((known.labels, new.labels[~old]))
        means = {name: mean(name) for name in ("scores", "queries", "query_feats", "sem_preds", "places")}
        return Instances(masks=masks, labels=labels, counts=counts, **means)


def box_corners(xyz: torch.Tensor, bboxes: torch.Tensor) -> torch.Tensor:
    """(N, 6) lowest and highest corners of boxes (N, 6) given as middle from ``xyz`` (N, 3), and size."""
    middle, half = xyz + bboxes[:, :3], bboxes[:, 3:] / 2
    return torch.cat((middle - half, middle + half), 1)


def box_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(N, M) shared volume of boxes (N, 6) and (M, 6), given as lowest and highest corners, over that of both."""
    low = torch.maximum(first[:, None, :3], second[None, :, :3])
    high = torch.minimum(first[:, None, 3:], second[None, :, 3:])
    shared = (high - low).clamp(min=0).prod(-1)
    volumes = [(boxes[:, 3:] - boxes[:, :3]).clamp(min=0).prod(-1) for boxes in (first, second)]
    return shared / (volumes[0][:, None] + volumes[1][None] - shared).clamp(min=1e-12)


class ClipMemoryBank:
    """A CLIP vector for each instance: the mean of the unit vectors that it was seen with, weighted by ``conf_2d``.

    Attributes:
        total: (K, D) float32 weighted sums, by the number of the instance.
        weight: (K,) float32 sums of the weights; 0 where nothing is known.
    """

    def __init__(self) -> None:
        self.clean()

    def clean(self) -> None:
        """Forgets everything, for the next scene."""
        self.total = torch.zeros(0, 0)
        self.weight = torch.zeros(0)

    def __len__(self) -> int:
        return len(self.weight)

    def update(self, matching: torch.Tensor, vectors: torch.Tensor, weight: torch.Tensor) -> None:
        """Takes in what a frame says.

        Args:
            matching: (Ni,) int64 numbers of the instances, such as ``OnlineMerge.matching``.
            vectors: (Ni, D) of any length.
            weight: (Ni,) at least 0, such as the sum of ``conf_2d``; a vector of weight 0 may be anything.

        Raises:
            ValueError: If a shape does not fit, or a weight is negative.
        """
        if vectors.ndim != 2 or weight.shape != matching.shape or len(vectors) != len(matching):
            raise ValueError(f"got {list(matching.shape)} numbers, {list(vectors.shape)} vectors, {list(weight.shape)}")
        if len(self) and vectors.shape[1] != self.total.shape[1]:
            raise ValueError(f"vectors of {vectors.shape[1]} numbers, those before had {self.total.shape[1]}")
        if bool((weight < 0).any()):
            raise ValueError("weights must be at least 0")
        if not len(matching):
            return
        more = max(int(matching.max()) + 1 - len(self), 0)
        vectors, weight = vectors.detach().float(), weight.detach().float()
        known = self.total.to(vectors) if len(self) else vectors[:0]
        self.total = torch.cat((known, vectors.new_zeros(more, vectors.shape[1])))
        self.weight = torch.cat((self.weight.to(weight), weight.new_zeros(more)))
        unit = torch.where(weight[:, None] > 0, nnf.normalize(vectors, dim=1), 0)
        self.total.index_add_(0, matching, unit * weight[:, None])
        self.weight.index_add_(0, matching, weight)

    @property
    def vectors(self) -> torch.Tensor:
        """(K, D) of length 1; zeros where nothing is known."""
        return nnf.normalize(self.total, dim=1)

    def query(self, text: torch.Tensor) -> torch.Tensor:
        """How well each instance fits each text.

        Args:
            text: (P, D) vectors, as ``TextEncoder.encode_text`` gives them for vectors of ``model/head=text``.

        Returns:
            (P, K) cosines; -1 for an instance of which nothing is known.

        Raises:
            ValueError: If the vectors are not as long as those of the instances.
        """
        if text.ndim != 2 or (len(self) and text.shape[1] != self.total.shape[1]):
            raise ValueError(f"text must be (P, {self.total.shape[1]}), got {list(text.shape)}")
        if not len(self):
            return text.new_zeros(len(text), 0)
        cosine = nnf.normalize(text.to(self.total), dim=1) @ self.vectors.T
        return torch.where(self.weight > 0, cosine, -1)


def pool_instances(
    masks: torch.Tensor, clip_feat: torch.Tensor, conf_2d: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A CLIP vector for each instance of a frame.

    Args:
        masks: (Ni, Np) bool.
        clip_feat: (Np, D) of the points, finite.
        conf_2d: (Np,) their weights.

    Returns:
        (Ni, D) weighted means, 0 where no point has weight, and (Ni,) the sums of the weights.
    """
    weights = masks.to(conf_2d) * conf_2d
    total = weights.sum(1)
    return weights @ clip_feat.to(weights) / total.clamp(min=1e-12)[:, None], total


class Merger(Protocol):
    """What ESAM's ``OnlineMerge`` offers."""

    cur_masks: torch.Tensor | None

    def merge(self, masks: torch.Tensor, *arguments: Any) -> Any:
        """Merges a frame."""

    def clean(self) -> None:
        """Forgets everything."""


class ClipMemoryAdapter:
    """Lets a bank sit beside ESAM's own ``OnlineMerge``, which is used as it is.

    Its matching is read off the masks that it remembers: the last frame's part of each row is the mask that went there.

    Args:
        merger: ESAM's object.
        bank: follows it.
    """

    def __init__(self, merger: Merger, bank: ClipMemoryBank):
        self.merger = merger
        self.bank = bank

    def merge(self, masks: torch.Tensor, *arguments: Any, clip_feat: torch.Tensor, conf_2d: torch.Tensor) -> Any:
        """``merger.merge(masks, *arguments)``, and the bank's update.

        Args:
            masks: (Ni, Np) bool.
            arguments: all else that the merger takes.
            clip_feat: (Np, D) of the frame's points.
            conf_2d: (Np,) of the frame's points.

        Returns:
            What the merger returns.
        """
        out = self.merger.merge(masks, *arguments)
        remembered = self.merger.cur_masks
        if remembered is not None:
            matching = matching_of(masks, remembered[:, remembered.shape[1] - masks.shape[1] :])
            self.bank.update(matching, *pool_instances(masks, clip_feat, conf_2d))
        return out

    def clean(self) -> None:
        """Forgets everything, for the next scene."""
        self.merger.clean()
        self.bank.clean()


def matching_of(masks: torch.Tensor, merged: torch.Tensor) -> torch.Tensor:
    """(Ni,) the row of ``merged`` (K, Np) that holds each of the masks (Ni, Np); of equal ones the first that is free.

    Raises:
        ValueError: If a mask is nowhere.
    """
    same = masks.float() @ merged.float().T
    same = (same == masks.sum(1)[:, None]) & (same == merged.sum(1)[None])
    free = torch.ones(len(merged), dtype=torch.bool, device=masks.device)
    matching = torch.empty(len(masks), dtype=torch.int64, device=masks.device)
    for number, rows in enumerate(same):
        found = torch.nonzero(rows & free)
        if not len(found):
            raise ValueError(f"mask {number} is in none of the {len(merged)} instances: of another frame?")
        matching[number] = found[0, 0]
        free[found[0, 0]] = False
    return matching
