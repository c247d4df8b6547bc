import numpy as np
import pytest

from clipfeat.fusion.metrics import Confusion


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
