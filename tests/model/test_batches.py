import numpy as np
import pytest
import torch

from clipfeat.model.batches import Batch, alike, fetch, fetch_together, in_order, joined
from clipfeat.types import FeatureMap


def test_batches_are_joined_by_size_and_things_are_found_at_their_places():
    assert alike("abac") == [[0, 2], [1], [3]]
    small, large = torch.arange(6).view(3, 2), torch.arange(8).view(2, 4)
    batches = joined([Batch([4, 0], small[:2]), Batch([1, 3], large), Batch([2], small[2:])])
    assert [batch.places for batch in batches] == [[0, 2, 4], [1, 3]]
    assert batches[1].values is large  # nothing is copied that is alone
    assert [one.tolist() for one in in_order(batches)] == [[2, 3], [0, 1, 2, 3], [4, 5], [4, 5, 6, 7], [0, 1]]


def feature_maps():
    """As a model makes them, channels last, of two sizes; some can't be written."""
    rng, found = np.random.default_rng(0), []
    for number, size in enumerate([(7, 5), (7, 5), (3, 4), (7, 5), (7, 5)]):
        values = torch.from_numpy(rng.normal(size=(*size, 6))).float().permute(2, 0, 1)
        found.append(
            FeatureMap(values, np.eye(2, 3) * (number + 1), torch.full((3,), float(number)) if number else None)
        )
    found[1].values[2, 3, 4] = torch.nan
    found[3].values[5, 0, 0] = -torch.inf
    found[4].values[0, 0, 0] = 1e6  # which float16 can't hold
    return found


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("stay", [False, True])
def test_what_is_fetched_at_once_is_what_is_fetched_one_by_one(half, stay):
    maps = feature_maps()
    one_by_one, at_once = (work(maps, half=half, stay=stay) for work in (fetch, fetch_together))
    assert [finite for _, finite in one_by_one] == [True, False, True, False, not half]
    for (expected, was_finite), (found, finite) in zip(one_by_one, at_once, strict=True):
        assert finite is was_finite
        assert torch.equal(found.values.nan_to_num(), expected.values.nan_to_num())
        assert (found.values.dtype, found.values.stride()) == (expected.values.dtype, expected.values.stride())
        np.testing.assert_array_equal(found.image_to_map, expected.image_to_map)
        assert (found.clip_global is None) == (expected.clip_global is None)
        if found.clip_global is not None:
            assert torch.equal(found.clip_global, expected.clip_global)
    assert fetch([]) == []
