import dataclasses

import numpy as np
import pytest
from stores import some_features, some_segments, write_store

from clipfeat.camera.projection import unproject_pixels
from clipfeat.errors import DataError
from clipfeat.output.files import read_features, read_meta
from clipfeat.output.segments import segment_arrays, segment_frame
from clipfeat.output.store import FeatureStore

KEY = ("s", 3)


@pytest.fixture
def kept():
    return some_segments(1)


@pytest.fixture
def store(kept, tmp_path):
    return FeatureStore(write_store(tmp_path / "run", {KEY: kept}, "segments").path)


def test_points_have_the_feature_of_the_segment_of_their_pixel(kept, store):
    found = store.load(*KEY)
    for i, (u, v) in enumerate(kept.uv_idx):
        row = kept.segments.rows[int(np.floor(v + 0.5)), int(np.floor(u + 0.5))]
        np.testing.assert_array_equal(found.pts_feat[i], kept.segment_feat[row])
    np.testing.assert_array_equal(found.pts_idx, kept.pts_idx)
    np.testing.assert_array_equal(found.attributes["label"], kept.attributes["label"])
    np.testing.assert_array_equal(found.clip_global, kept.clip_global)
    np.testing.assert_allclose(found.conf_2d, kept.conf_2d, atol=5e-4)
    assert not store.keeps_maps
    features, meta = read_features(store.path(*KEY))
    np.testing.assert_array_equal(features.pts_feat, found.pts_feat)
    assert read_meta(store.path(*KEY)) == meta


def test_the_segments_themselves(kept, store, tmp_path):
    found = store.segments(*KEY)
    np.testing.assert_array_equal(found.segments.rows, kept.segments.rows)
    np.testing.assert_array_equal(found.segments.ids, kept.segments.ids)
    np.testing.assert_array_equal(found.segment_feat, kept.segment_feat)
    other = FeatureStore(write_store(tmp_path / "points", {KEY: some_features(0)}).path)
    with pytest.raises(DataError, match="points: output=npz keeps no segments; extract with output=segments"):
        other.segments(*KEY)


def test_any_world_points_are_looked_up(kept, store):
    uv = np.array([[3.0, 4.0], [33.0, 25.0], [90.0, 3.0]])
    world = unproject_pixels(*uv.T, np.full(3, 2.0), kept.camera.intrinsics, kept.cam_to_world)
    found = store.sample(*KEY, world)
    assert found.pts_idx.tolist() == [0, 1]  # the third lies beside the picture
    np.testing.assert_array_equal(found.pts_feat, kept.segment_feat[[0, 11]])


def test_features_are_of_the_type_that_is_asked_for_and_pixels_pack_well(kept, tmp_path):
    rows = np.repeat(np.repeat(kept.segments.rows, 30, 0), 30, 1)
    large = dataclasses.replace(kept, segments=dataclasses.replace(kept.segments, rows=rows))
    arrays = segment_arrays(tmp_path, large, "float16")
    assert arrays["segment_feat"].dtype == np.float16
    assert arrays["segment_rows"].nbytes < rows.nbytes / 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("segment_feat"), "KeyError"),
        (lambda a: a.update(segment_feat=a["segment_feat"][:5]), "5 features of 12 segments"),
        (lambda a: a.update(segment_rows=a["segment_rows"][:-9]), "incomplete"),
        (lambda a: a.update(segment_shape=np.array([3, 3])), "cannot reshape"),
    ],
)
def test_arrays_that_do_not_fit_are_named(kept, store, tmp_path, change, message):
    arrays = segment_arrays(tmp_path, kept, "float32")
    change(arrays)
    with pytest.raises(DataError, match=f"x: not a whole feature file .*{message}.*; delete it and run"):
        segment_frame(tmp_path / "x", arrays, store.meta(*KEY))
