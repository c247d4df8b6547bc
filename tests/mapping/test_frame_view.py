import numpy as np
import pytest
import torch

from clipfeat.mapping.frame_view import View
from clipfeat.sampling.merge import ViewMerger
from clipfeat.types import FeatureMap, resize_affine

ROWS, WEIGHT = np.array([0, 2, 3]), np.array([0.5, 1.0, 0.2], np.float32)


def map_view():
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.normal(size=(6, 4, 5)).astype(np.float32))
    uv = rng.uniform(0, 30, (3, 2)).astype(np.float32)
    return View(ROWS, WEIGHT, FeatureMap(values, resize_affine((40, 32), (5, 4))), uv)


def point_view():
    return View(ROWS, WEIGHT, np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32))


@pytest.mark.parametrize("view", [map_view(), point_view()])
def test_a_view_adds_all_of_its_points_or_the_chosen_ones(view):
    everything, some = ViewMerger(5, view.channels), ViewMerger(5, view.channels)
    view.add_to(everything)
    assert everything.views.tolist() == [1, 0, 1, 1, 0]
    np.testing.assert_allclose(everything.weight[ROWS], WEIGHT)
    assert (np.abs(everything.mean).max(1) > 0).tolist() == [True, False, True, True, False]
    view.add_to(some, np.array([True, False, True]))
    assert some.views.tolist() == [1, 0, 0, 1, 0]
    np.testing.assert_array_equal(some.mean[[0, 3]], everything.mean[[0, 3]])


def test_a_map_needs_the_places_of_its_points():
    view = map_view()
    with pytest.raises(ValueError, match="a map without the places of its points"):
        View(view.rows, view.weight, view.features).add_to(ViewMerger(5, 6))
