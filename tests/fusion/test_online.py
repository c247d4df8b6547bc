from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from clipfeat.fusion.online import (
    ClipMemoryAdapter,
    ClipMemoryBank,
    OnlineMerge,
    box_corners,
    box_iou,
    matching_of,
    pool_instances,
)

POINTS = 12


def unit(rng, *shape):
    vectors = rng.normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def stream(frames, seed=0, objects=9, classes=3):
    """Frames that show some of the objects, in random order, disturbed; now and then a frame without any."""
    rng = np.random.default_rng(seed)
    middle, feature = rng.uniform(0, 4, (objects, 3)), unit(rng, objects, 8)
    label = rng.integers(0, classes, objects)
    for _ in range(frames):
        shown = rng.permutation(objects)[: rng.integers(0, 6)]
        count = len(shown)
        noisy = feature[shown] + rng.normal(0, 0.1, (count, 8))
        yield {
            "masks": torch.from_numpy(rng.random((count, POINTS)) < 0.4),
            "labels": torch.from_numpy(label[shown]),
            "scores": torch.from_numpy(rng.random(count)),
            "queries": torch.from_numpy(rng.normal(size=(count, 5))),
            "query_feats": torch.from_numpy(noisy / np.linalg.norm(noisy, axis=1, keepdims=True)),
            "sem_preds": torch.from_numpy(rng.random((count, classes + 1))),
            "xyz_list": torch.from_numpy(middle[shown] + rng.normal(0, 0.05, (count, 3))),
            "bboxes": torch.from_numpy(
                np.concatenate((rng.normal(0, 0.05, (count, 3)), rng.uniform(0.5, 1, (count, 3))), 1)
            ),
        }


class SlowMerge:
    """An instance is a list of what was seen of it; everything is worked out again from the lists at each frame."""

    def __init__(self, use_bbox, merge_type):
        self.use_bbox, self.merge_type, self.frame, self.instances = use_bbox, merge_type, 0, []

    def mean(self, instance, name):
        value = None
        for frame, seen in instance:
            if value is None:
                value, count = seen[name], 1
                continue
            past = count if self.merge_type == "count" else frame
            value, count = (value * past + seen[name]) / (past + 1), count + 1
        return value

    def merge(self, frame):
        new = [{name: values[i].numpy() for name, values in frame.items()} for i in range(len(frame["labels"]))]
        for seen in new:
            half = seen["bboxes"][3:] / 2
            middle = seen["xyz_list"] + seen["bboxes"][:3]
            seen["place"] = np.concatenate((middle - half, middle + half)) if self.use_bbox else seen["xyz_list"]
        score = np.zeros((len(self.instances), len(new)))
        for i, instance in enumerate(self.instances):
            for j, seen in enumerate(new):
                if instance[0][1]["labels"] == seen["labels"]:
                    like = max(float(self.mean(instance, "query_feats") @ seen["query_feats"]), 0)
                    score[i, j] = like * self.near(self.mean(instance, "place"), seen["place"])
        became = [None] * len(new)
        for i, j in zip(*linear_sum_assignment(-score), strict=True):
            if score[i, j] > 0:
                became[j] = i
                self.instances[i].append((self.frame, new[j]))
        for j, seen in enumerate(new):
            if became[j] is None:
                became[j] = len(self.instances)
                self.instances.append([(self.frame, seen)])
        self.frame += 1
        return became

    def near(self, a, b):
        if not self.use_bbox:
            return 1 / (np.linalg.norm(a - b) + 1e-6)
        shared = np.prod(np.maximum(np.minimum(a[3:], b[3:]) - np.maximum(a[:3], b[:3]), 0))
        return shared / (np.prod(a[3:] - a[:3]) + np.prod(b[3:] - b[:3]) - shared)

    def masks(self):
        rows = np.zeros((len(self.instances), self.frame, POINTS), bool)
        for i, instance in enumerate(self.instances):
            for frame, seen in instance:
                rows[i, frame] = seen["masks"]
        return rows.reshape(len(self.instances), -1)


@pytest.mark.parametrize("merge_type", ["count", "frame"])
@pytest.mark.parametrize("use_bbox", [False, True])
def test_200_frames_equal_a_slow_twin(use_bbox, merge_type):
    fast, slow = OnlineMerge(1000, use_bbox, merge_type), SlowMerge(use_bbox, merge_type)
    for frame in stream(200, seed=3):
        masks, labels, scores, queries, boxes = fast.merge(**frame)
        assert fast.matching.tolist() == slow.merge(frame)
        assert len(labels) == len(slow.instances) == len(fast.instances.counts)
        assert fast.instances.counts.tolist() == [len(instance) for instance in slow.instances]
    assert torch.equal(masks, torch.from_numpy(slow.masks()))
    for found, name in ((scores, "scores"), (queries, "queries"), (fast.instances.sem_preds, "sem_preds")):
        np.testing.assert_allclose(found, np.array([slow.mean(one, name) for one in slow.instances]), atol=1e-9)
    assert labels.tolist() == [int(one[0][1]["labels"]) for one in slow.instances]
    assert (boxes is None) != use_bbox
    if use_bbox:
        np.testing.assert_allclose(boxes, np.array([slow.mean(one, "place") for one in slow.instances]), atol=1e-9)
    assert fast.frames == 200
    assert len(labels) < 40  # most of 500 sightings were merged


def test_a_reset_resets():
    merge, again = OnlineMerge(100, merge_type="frame"), OnlineMerge(100, merge_type="frame")
    for frame in stream(20):
        merge.merge(**frame)
    merge.clean()
    assert (merge.instances, merge.frames, merge.matching, merge.kept) == (None, 0, None, None)
    for frame in stream(20, seed=5):
        for found, expected in zip(merge.merge(**frame)[:4], again.merge(**frame)[:4], strict=True):
            assert torch.equal(found, expected)


def test_only_the_best_are_returned_and_all_are_remembered():
    few, all_ = OnlineMerge(3), OnlineMerge(1000)
    for frame in stream(15, seed=1):
        labels = few.merge(**frame)[1]
        scores = all_.merge(**frame)[2]
        assert len(labels) == min(3, len(scores))
        assert len(few.instances.labels) == len(scores)
    expected = scores.topk(3)
    assert torch.equal(few.kept, expected.indices)
    assert torch.equal(few.instances.scores[few.kept], expected.values)


def test_what_was_given_is_left_as_it_was():
    frames = list(stream(6, seed=2))
    copies = [{name: values.clone() for name, values in frame.items()} for frame in frames]
    merge = OnlineMerge(100)
    for frame in frames:
        merge.merge(**frame)
    for frame, copy in zip(frames, copies, strict=True):
        assert all(torch.equal(frame[name], copy[name]) for name in frame)


def test_boxes():
    corners = box_corners(torch.tensor([[1.0, 1, 1]]), torch.tensor([[0.5, 0, 0, 1, 2, 2]]))
    assert corners.tolist() == [[1, 0, 0, 2, 2, 2]]
    other = torch.tensor([[1.5, 0, 0, 2.5, 2, 2], [5, 5, 5, 6, 6, 6], [1, 0, 0, 1, 2, 2]])
    torch.testing.assert_close(box_iou(corners, other), torch.tensor([[2 / 6, 0, 0]]))


def test_the_bank_holds_weighted_means_and_answers_texts():
    rng = np.random.default_rng(0)
    bank, seen = ClipMemoryBank(), {}
    assert bank.query(torch.ones(2, 6)).shape == (2, 0)
    for _ in range(20):
        count = int(rng.integers(0, 4))
        matching = rng.permutation(7)[:count]
        vectors, weight = rng.normal(size=(count, 6)) * 3, rng.random(count) * (rng.random(count) < 0.8)
        bank.update(*(torch.from_numpy(values) for values in (matching, vectors, weight)))
        for i, v, w in zip(matching, vectors, weight, strict=True):
            seen.setdefault(int(i), []).append((w, v / np.linalg.norm(v)))
    text = torch.from_numpy(unit(rng, 3, 6)).float()
    cosine = bank.query(text)
    for i in range(len(bank)):
        total = sum(w * v for w, v in seen.get(i, [])) if sum(w for w, _ in seen.get(i, [])) > 0 else None
        if total is None:
            assert (cosine[:, i] == -1).all()
            continue
        np.testing.assert_allclose(bank.vectors[i], total / np.linalg.norm(total), atol=1e-6)
        np.testing.assert_allclose(cosine[:, i], text.numpy() @ total / np.linalg.norm(total), atol=1e-6)
    assert len(bank) == 7
    bank.clean()
    assert len(bank) == 0


def test_a_vector_without_weight_may_be_anything():
    bank = ClipMemoryBank()
    bank.update(torch.tensor([1]), torch.full((1, 4), torch.nan), torch.zeros(1))
    assert bank.query(torch.ones(1, 4)).tolist() == [[-1, -1]]


def test_what_does_not_fit_is_told():
    bank = ClipMemoryBank()
    bank.update(torch.tensor([0]), torch.ones(1, 4), torch.ones(1))
    with pytest.raises(ValueError, match="vectors of 5 numbers, those before had 4"):
        bank.update(torch.tensor([0]), torch.ones(1, 5), torch.ones(1))
    with pytest.raises(ValueError, match="weights must be at least 0"):
        bank.update(torch.tensor([0]), torch.ones(1, 4), -torch.ones(1))
    with pytest.raises(ValueError, match=r"got \[2\] numbers, \[1, 4\] vectors"):
        bank.update(torch.tensor([0, 1]), torch.ones(1, 4), torch.ones(2))
    with pytest.raises(ValueError, match=r"text must be \(P, 4\), got \[2, 3\]"):
        bank.query(torch.ones(2, 3))
    frame = next(f for f in stream(9) if len(f["labels"]))
    with pytest.raises(ValueError, match=r"use_bbox=True: expected bboxes \(Ni, 6\)"):
        OnlineMerge(9, use_bbox=True).merge(**frame | {"bboxes": None})
    with pytest.raises(ValueError, match="as many of all else, got"):
        OnlineMerge(9).merge(**frame | {"scores": frame["scores"][1:]})
    with pytest.raises(ValueError, match="merge_type=mean: expected one of count, frame"):
        OnlineMerge(9, merge_type="mean")
    with pytest.raises(ValueError, match="mask 0 is in none of the 1 instances"):
        matching_of(torch.tensor([[True]]), torch.tensor([[False]]))


def test_points_are_pooled_by_their_confidence():
    masks = torch.tensor([[True, True, False], [False, False, True], [False, False, False]])
    feat, conf = torch.tensor([[1.0, 0], [0, 1], [5, 5]]), torch.tensor([0.75, 0.25, 0.0])
    vectors, weight = pool_instances(masks, feat, conf)
    assert vectors.tolist() == [[0.75, 0.25], [0, 0], [0, 0]]
    assert weight.tolist() == [1, 0, 0]


def test_a_bank_beside_another_merger_follows_its_matching():
    """A merger that tells only its masks, as ESAM's does, gets the bank that one that tells its matching gets."""

    class Silent:
        def __init__(self):
            self.inner, self.cur_masks = OnlineMerge(1000), None

        def merge(self, masks, *arguments):
            out = self.inner.merge(masks, *arguments)
            self.cur_masks = self.inner.instances.masks
            return out

        def clean(self):
            self.inner.clean()

    silent, merge, bank, rng = Silent(), OnlineMerge(1000), ClipMemoryBank(), np.random.default_rng(0)
    adapter = ClipMemoryAdapter(silent, ClipMemoryBank())
    for frame in stream(60, seed=7):
        feat, conf = torch.from_numpy(rng.normal(size=(POINTS, 5))), torch.from_numpy(rng.random(POINTS))
        frame["masks"][:] = frame["masks"] & (torch.arange(len(frame["masks"]))[:, None] == torch.arange(POINTS) % 5)
        frame["masks"][torch.arange(len(frame["masks"])), torch.arange(len(frame["masks"]))] = True
        found = adapter.merge(*frame.values(), clip_feat=feat, conf_2d=conf)
        expected = merge.merge(**frame)
        bank.update(merge.matching, *pool_instances(frame["masks"], feat, conf))
        assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(adapter.bank.vectors, bank.vectors)
    torch.testing.assert_close(adapter.bank.weight, bank.weight)
    adapter.clean()
    assert len(adapter.bank) == 0
    assert silent.inner.instances is None


def test_a_merger_that_has_seen_nothing_is_left_alone():
    merger = SimpleNamespace(cur_masks=None, merge=lambda masks: "out", clean=lambda: None)
    adapter = ClipMemoryAdapter(merger, ClipMemoryBank())
    assert adapter.merge(torch.zeros(0, 3), clip_feat=torch.zeros(3, 2), conf_2d=torch.zeros(3)) == "out"
    assert len(adapter.bank) == 0
