import numpy as np
import pytest

from clipfeat.output.columns import Columns


def test_rows_of_many_calls_are_one_array(tmp_path):
    rng = np.random.default_rng(0)
    parts = [
        {"a": rng.normal(size=(n, 3)).astype(np.float32), "b": rng.integers(0, 9, n, np.uint16)} for n in (4, 0, 7, 1)
    ]
    with Columns(tmp_path) as columns:
        for part in parts:
            columns.add(part)
        found = columns.arrays()
        assert list(found) == ["a", "b"]
        for name, array in found.items():
            expected = np.concatenate([part[name] for part in parts])
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)
        assert list(tmp_path.iterdir()) == []  # files without a name


def test_rows_that_are_not_in_one_piece_are_copied(tmp_path):
    values = np.arange(24).reshape(4, 6)
    with Columns(tmp_path) as columns:
        columns.add({"a": values[::2, ::3]})
        columns.add({"a": values.T[:2, :2]})
        np.testing.assert_array_equal(columns.arrays()["a"], [[0, 3], [12, 15], [0, 6], [1, 7]])


def test_no_rows_at_all(tmp_path):
    with Columns(tmp_path) as columns:
        assert columns.arrays() == {}
        columns.add({"a": np.empty((0, 2), np.float16)})
        assert (columns.arrays()["a"].shape, columns.arrays()["a"].dtype) == ((0, 2), np.float16)


@pytest.mark.parametrize(
    ("rows", "differing"),
    [
        ({"a": np.zeros((1, 3)), "b": np.zeros(1)}, "other a than before"),
        ({"a": np.zeros((1, 2), np.float32), "b": np.zeros(1)}, "other a than before"),
        ({"a": np.zeros((1, 2))}, "other b than before"),
        ({"a": np.zeros((1, 2)), "b": np.zeros(1), "c": np.zeros(1)}, "other c than before"),
    ],
)
def test_rows_of_another_kind_are_refused(tmp_path, rows, differing):
    with Columns(tmp_path) as columns:
        columns.add({"a": np.zeros((2, 2)), "b": np.zeros(2)})
        with pytest.raises(ValueError, match=differing):
            columns.add(rows)
        assert len(columns.arrays()["a"]) == 2
