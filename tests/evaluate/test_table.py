import pytest

from clipfeat.evaluate.table import _apart


def test_names_beside_the_plot_keep_apart_and_move_no_more_than_they_must():
    assert _apart([0.1, 0.5, 0.9], 0.1) == [0.1, 0.5, 0.9]
    assert _apart([0.3, 0.3, 0.32], 0.1) == pytest.approx([0.3, 0.4, 0.5])
    assert _apart([0.2, 0.97, 0.98, 1.0], 0.1) == pytest.approx([0.2, 0.8, 0.9, 1.0])
    assert _apart([1.0] * 5, 0.25) == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert _apart([], 0.1) == []
