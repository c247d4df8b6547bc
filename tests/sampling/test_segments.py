import importlib.util

import numpy as np
import pytest
import torch

from clipfeat.errors import ConfigError, FrameError
from clipfeat.sampling.bilinear import sample_img_feat
from clipfeat.sampling.segments import SegmentRule, Segments, pooled, segments_of_mask, superpixels
from clipfeat.types import Camera, FeatureMap, Frame, Picture, resize_affine

SIZE = (40, 30)


def map_of(rng, affine):
    return FeatureMap(torch.from_numpy(rng.normal(size=(4, 5, 3)).astype(np.float32)).permute(2, 0, 1), affine)


@pytest.mark.parametrize("shape", [(30, 40), (15, 20)])
def test_a_segment_has_the_mean_of_the_samples_at_its_pixels(shape):
    rng = np.random.default_rng(0)
    feature_map = map_of(rng, resize_affine(SIZE, (5, 4)))
    segments = segments_of_mask(rng.integers(1, 5, shape))
    found = pooled(feature_map, segments, SIZE)
    to_picture = resize_affine(shape[::-1], SIZE)
    for row, segment_id in enumerate(segments.ids):
        samples = []
        for v, u in np.argwhere(segments.rows == row):
            uv = to_picture[:, :2] @ (u, v) + to_picture[:, 2]
            samples.append(sample_img_feat(feature_map, uv[None])[0].numpy())
        np.testing.assert_allclose(found[row], np.mean(samples, axis=0), atol=1e-5)
        assert segment_id == row + 1


def test_what_was_cropped_away_does_not_count():
    rng = np.random.default_rng(1)
    crop = np.array([[0.2, 0, -2.0], [0, 0.2, -1.0]])  # the network saw columns 7.5 to 32.5 and rows 2.5 to 22.5
    feature_map = map_of(rng, crop)
    mask = np.ones((30, 40), np.uint16)
    mask[:, :5] = 2  # of which it saw nothing
    found = pooled(feature_map, segments_of_mask(mask), SIZE)
    v, u = np.mgrid[:30, :40].reshape(2, -1)
    uv = np.stack((u, v), 1)[mask.ravel() == 1]
    uv = uv[feature_map.covers(uv)]
    np.testing.assert_allclose(found[0], sample_img_feat(feature_map, uv).mean(0), atol=1e-5)
    np.testing.assert_array_equal(found[1], 0)


def test_ids_are_kept_and_regions_without_one_are_segments_of_their_own():
    mask = np.zeros((6, 9), np.uint16)
    mask[:, 3], mask[:, 6] = 700, 20
    mask[0, 8], mask[5, 8] = 20, 20
    mask[5, 0] = 20  # the two parts of 20 are one
    mask[2, 4:6] = 700  # parts the middle region into two of 4 and 6 pixels
    segments = segments_of_mask(mask, least_px=6)
    assert segments.ids.tolist() == [0, 20, 700, 0, 0, 0]
    assert segments.rows[0, 4] == segments.rows[1, 5] == 0  # a small one, which has no segment of its own
    of_regions = [segments.rows[place] for place in ((0, 0), (4, 4), (3, 7))]
    assert sorted(of_regions) == [3, 4, 5]
    assert segments.ids[segments.rows[mask > 0]].tolist() == mask[mask > 0].tolist()
    whole = segments_of_mask(np.zeros((3, 4), np.uint16))
    assert (whole.rows == 0).all()
    assert whole.ids.tolist() == [0]


def test_positions_find_the_segment_of_the_nearest_pixel():
    segments = Segments(np.arange(12, dtype=np.uint16).reshape(3, 4), np.arange(12))
    uv = np.array([[0, 0], [39.4, 29.4], [-0.5, 12], [9.4, 9.6], [9.6, 9.4]])
    assert segments.at(uv, SIZE).tolist() == [0, 11, 4, 4, 1]


def test_a_frame_without_a_mask_and_a_package_that_is_missing_are_named(monkeypatch):
    camera = Camera(np.array([[50, 0, 20], [0, 50, 15], [0, 0, 1.0]]), *SIZE)
    frame = Frame("s", 3, Picture.of(np.zeros((30, 40, 3), np.uint8)), None, camera, None, np.eye(4))
    with pytest.raises(FrameError, match="s frame 3: has no mask, which output.segments=masks needs"):
        SegmentRule("masks", 9)(frame, (4, 5))
    monkeypatch.setitem(__import__("sys").modules, "skimage.segmentation", None)
    with pytest.raises(ConfigError, match="output.segments=slic needs the package scikit-image: pip install"):
        SegmentRule("slic", 9)(frame, (4, 5))


@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="scikit-image is not installed")
def test_superpixels_follow_the_colours():
    image = np.zeros((60, 80, 3), np.uint8)
    image[:, 40:] = 255
    segments = superpixels(image, 20)
    assert 10 < len(segments.ids) < 30
    assert segments.rows.max() == len(segments.ids) - 1
    assert not set(segments.rows[:, :40].ravel()) & set(segments.rows[:, 40:].ravel())
