import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score

from clipfeat.fusion.metrics import Confusion, accuracy, class_iou, count, mean_iou, none_share


def test_figures_of_a_small_case():
    truth, predicted = np.array([0, 0, 0, 1, 1, 3, -1]), np.array([0, 0, 1, 1, 2, 0, 1])
    found = Confusion.of(truth[:4], predicted[:4], 4) + Confusion.of(truth[4:], predicted[4:], 4)
    assert found.counts.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    np.testing.assert_allclose(found.iou, [2 / 4, 1 / 3, np.nan, 0])
    assert found.miou == pytest.approx((2 / 4 + 1 / 3 + 0) / 3)
    assert found.accuracy == pytest.approx(3 / 6)
    assert found.table(["wall", "floor", "desk", "bed"]).splitlines() == [
        "  wall              50.0 %          3 points",
        "  floor             33.3 %          2 points",
        "  bed                0.0 %          1 points",
    ]


def test_no_points_are_no_error():
    nothing = Confusion.of(np.array([-1]), np.array([0]), 2)
    assert (nothing.miou, nothing.accuracy, nothing.table(["a", "b"])) == (0, 0, "")


def test_counts_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 7, (2, 3000))
    predicted[truth == 3] = 3
    scene = rng.integers(0, 4, 3000)
    counts = count(truth, predicted, scene, scenes=4, classes=9)
    expected = jaccard_score(truth, predicted, labels=np.unique(truth), average="macro")
    assert mean_iou(counts.total)[0] == pytest.approx(expected, abs=1e-12)
    assert accuracy(counts)[2] == pytest.approx(accuracy_score(truth[scene == 2], predicted[scene == 2]))


def test_what_is_predicted_as_no_class_is_wrong_and_takes_no_other_s_points():
    truth, scene = np.array([0, 0, 1, 1]), np.zeros(4, np.int64)
    counts = count(truth, np.array([0, -1, 1, -1]), scene, 1, 3)
    assert class_iou(counts)[0].tolist() == pytest.approx([0.5, 0.5, np.nan], nan_ok=True)
    assert (accuracy(counts)[0], none_share(counts)[0]) == (0.5, 0.5)
    assert np.isnan(none_share(count(truth[:0], truth[:0], scene[:0], 1, 3))[0])


def test_points_without_a_class_are_refused():
    one = np.zeros(1, np.int64)
    with pytest.raises(ValueError, match="classes must be 0 to 2; leave unlabelled points out"):
        count(one - 1, one, one, 1, 3)
    for predicted in (one + 3, one - 2):
        with pytest.raises(ValueError, match="classes must be 0 to 2"):
            count(one, predicted, one, 1, 3)
    with pytest.raises(ValueError, match=r"must be \(N,\) all"):
        count(one, np.zeros(2, np.int64), one, 1, 3)
