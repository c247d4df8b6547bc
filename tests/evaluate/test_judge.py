import numpy as np
import torch

from clipfeat.data.scannet200 import scannet200
from clipfeat.evaluate.judge import NEVER, Truth, judge
from clipfeat.fusion.metrics import accuracy

POINTS, CLASSES = 60, 5


def truth_of(held_out):
    """As many points of each scene, without edges."""
    scene = np.repeat(np.arange(len(held_out)), POINTS)
    classes = np.random.default_rng(0).integers(0, CLASSES, len(scene))
    return Truth(classes, scene, np.full(len(scene), np.nan, np.float32), np.array(held_out), scannet200())


def judged(features, truth):
    options = {"neighbours": 5, "edge_px": 4.0, "names": None, "device": torch.device("cpu")}
    return judge(features.astype(np.float32), truth, **options)


def test_each_fold_is_asked_of_the_features_of_its_own_head():
    truth = truth_of([0, 1, 2, 0])
    noise = np.random.default_rng(1).normal(size=(3, len(truth.scene), CLASSES))
    planted = np.eye(CLASSES)[truth.classes] + 0.1 * noise
    assert accuracy(judged(planted, truth).linear.total)[0] > 0.95
    # A head knows the labels in all scenes but those of its own fold: nothing may be gained.
    blind = truth.held_out[truth.scene] == np.arange(3)[:, None]
    leaking = np.where(blind[:, :, None], noise, planted)
    for counts in (judged(leaking, truth).linear, judged(leaking, truth).neighbours):
        assert accuracy(counts.total)[0] < 0.35


def test_scenes_that_are_never_held_out_are_not_asked():
    truth = truth_of([0, NEVER, 0])
    found = judged(np.eye(CLASSES)[truth.classes][None], truth)
    assert found.linear.actual.sum(1).tolist() == [POINTS, POINTS]
    assert (found.edge, found.inside, found.texts) == (None, None, None)
