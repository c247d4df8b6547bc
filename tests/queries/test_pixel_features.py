import numpy as np
import pytest
import torch
from stores import MODEL, some_grid, write_store

from clipfeat.errors import DataError
from clipfeat.output.store import FeatureStore
from clipfeat.queries.pixel_features import MapPixels, PointPixels, pixel_features
from clipfeat.types import Camera, FeatureMap, PointFeatures, resize_affine

KEY = ("s", 3)
CAMERA = {"camera": {"intrinsics": np.eye(3).tolist(), "width": 100, "height": 80}}


@pytest.fixture
def points(tmp_path):
    """Twenty-five points on a lattice of 20×16 pixels, whose features are their pixels."""
    v, u = np.mgrid[0:5, 0:5]
    uv = np.stack([20 * u.ravel() + 10, 16 * v.ravel() + 8], 1).astype(np.float32)
    features = PointFeatures(uv.copy(), uv, np.ones(25, np.float32), np.zeros((25, 3), np.float32), np.arange(25))
    write_store(tmp_path, {KEY: features}, **CAMERA)
    return pixel_features(FeatureStore(tmp_path))


@pytest.fixture
def maps(tmp_path):
    """A map of 40×30 pixels whose two channels are the pixel's u and v, and of which the network saw the left half."""
    to_map = resize_affine((20, 30), (10, 15))
    v, u = np.mgrid[0:15, 0:10]
    values = torch.from_numpy(np.stack([2 * u + 0.5, 2 * v + 0.5]).astype(np.float16))
    camera = Camera(np.array([[50, 0, 20], [0, 50, 15], [0, 0, 1.0]]), 40, 30)
    grid = some_grid(0)
    grid = type(grid)(**{**grid.__dict__, "feature_map": FeatureMap(values, to_map), "camera": camera})
    write_store(tmp_path, {KEY: grid}, "grid")
    return pixel_features(FeatureStore(tmp_path))


def test_the_store_tells_which_it_is(points, maps):
    assert isinstance(points, PointPixels)
    assert isinstance(maps, MapPixels)
    assert MODEL["head"] == "none"  # whose features are the map's own values


def test_points_are_where_they_are(points):
    features, uv = points.everywhere(KEY)
    np.testing.assert_array_equal(features, uv)
    assert points.at(KEY, np.array([31.0, 22.0])).tolist() == [[30, 24]]
    inside = points.within(KEY, np.array([10, 8, 30, 24.0]))  # edges belong to the box
    assert sorted(map(tuple, inside.tolist())) == [(10, 8), (10, 24), (30, 8), (30, 24)]


def test_where_no_point_is_near_there_is_no_feature(points):
    with pytest.raises(DataError, match=r"frame_3.npz: no point within \d+ px of \[0,79\], the nearest is \d+ px away"):
        PointPixels(points.store).at(KEY, np.array([0, 79.0]) + np.array([0, 0]))
    with pytest.raises(DataError, match=r"frame_3.npz: no point lies in the box \[12,9,13,10\]; take a larger one"):
        points.within(KEY, np.array([12, 9, 13, 10.0]))


def test_a_frame_without_points_says_so(tmp_path):
    none = PointFeatures(*(np.zeros((0, n), np.float32) for n in (2, 2)), np.zeros(0, np.float32),
                         np.zeros((0, 3), np.float32), np.zeros(0, np.int64))  # fmt: skip
    write_store(tmp_path, {KEY: none}, **CAMERA)
    with pytest.raises(DataError, match="the frame has no points"):
        pixel_features(FeatureStore(tmp_path)).at(KEY, np.array([1.0, 1]))


def test_a_map_knows_every_pixel_that_the_network_saw(maps):
    features, uv = maps.everywhere(KEY)
    assert uv[:, 0].max() <= 19.5
    assert len(uv) > 300
    inner = ((uv > 1) & (uv < (18, 28))).all(1)  # beyond the outermost cells a map is constant
    np.testing.assert_allclose(features[inner], uv[inner], atol=0.02)
    np.testing.assert_allclose(maps.at(KEY, np.array([7.0, 11])), [[7, 11]], atol=0.02)
    inside = maps.within(KEY, np.array([4, 6, 12, 20.0]))
    assert (inside.min(0) >= (4, 6)).all()
    assert (inside.max(0) <= (12, 20)).all()
    np.testing.assert_allclose(inside.mean(0), [8, 13], atol=0.1)
    np.testing.assert_allclose(maps.within(KEY, np.array([4, 6, 4, 6.0])), [[4, 6]], atol=0.02)  # one pixel


def test_what_the_network_did_not_see_has_no_feature(maps):
    with pytest.raises(DataError, match=r"frame_3.safetensors: the network did not see pixel \[30,5\]; take another"):
        maps.at(KEY, np.array([30.0, 5]))
    with pytest.raises(DataError, match=r"the network saw nothing of \[25,5,30,9\]; take another box"):
        maps.within(KEY, np.array([25, 5, 30, 9.0]))
