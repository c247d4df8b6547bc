import numpy as np
import pytest

from clipfeat.vis.directions import unit_directions


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (7, 192)])
def test_rows_have_length_one_and_keep_their_direction(shape, dtype):
    features = (np.random.default_rng(0).normal(size=shape) * 100).astype(dtype)
    found = unit_directions(features)
    assert found.shape == shape
    assert found.dtype == np.float32
    for row, feature in zip(found, features.astype(np.float64), strict=True):
        np.testing.assert_allclose(row, feature / np.sqrt((feature**2).sum()), atol=1e-6)


@pytest.mark.parametrize(("dtype", "size"), [(np.float16, 6e4), (np.float32, 3e38), (np.float32, 1e-30)])
def test_squares_that_overflow_or_vanish_do_no_harm(dtype, size):
    found = unit_directions(np.array([[size, -size]], dtype))
    np.testing.assert_allclose(found, [[0.5**0.5, -(0.5**0.5)]], atol=1e-6)


def test_zeros_stay_zeros():
    assert not unit_directions(np.zeros((2, 3), np.float32)).any()
