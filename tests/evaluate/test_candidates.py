import numpy as np
import pytest
import torch

from clipfeat.errors import ConfigError
from clipfeat.evaluate.candidates import HEADS, QuarterHead, UpsampledHead, parse_candidates, views_of
from clipfeat.evaluate.collect import sample_nearest
from clipfeat.evaluate.config import CANDIDATES
from clipfeat.model.config import HeadConfig, ModelConfig
from clipfeat.model.heads import PixelShuffleHead, head_map
from clipfeat.sampling.bilinear import sample_img_feat
from clipfeat.types import FeatureMap, resize_affine


def test_words_say_what_differs_from_the_model():
    model = ModelConfig(input_size=336, attention="naclip", head=HeadConfig("text"))
    found = parse_candidates(
        ["none", "pixelshuffle+nearest", "sclip+letterbox+self_similarity", "none+input448+window224", "none"], model
    )
    assert [one.head for one in found] == ["none", "pixelshuffle", "text", "none"]
    assert [one.nearest for one in found] == [False, True, False, False]
    assert [one.offered for one in found] == [True, False, True, True]
    assert [one.view.attention for one in found] == ["naclip", "naclip", "sclip", "naclip"]
    assert [one.view.refine for one in found] == ["none", "none", "self_similarity", "none"]
    assert (found[2].view.resize_mode, found[3].view.input_size, found[3].view.window) == ("letterbox", 448, 224)
    assert len(views_of(found)) == 3  # the first two share their forward passes


def test_all_defaults_are_known_and_share_forward_passes():
    found = parse_candidates(CANDIDATES, ModelConfig())
    assert {one.head for one in found} == set(HEADS)
    assert len(views_of(found)) == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("big", "candidates=big: 'big' is not known, expected none, pixelshuffle"),
        ("none+text", r"candidates=none\+text: says head twice"),
        ("none+window336", r"candidates=none\+window336: model.window=336: larger than the picture's shorter side"),
        ("none+", "candidates=none.: '' is not known"),
    ],
)
def test_words_that_make_no_sense_are_named(words, message):
    with pytest.raises(ConfigError, match=message):
        parse_candidates([words], ModelConfig(input_size=224))


def test_a_crop_is_refused_and_so_is_an_empty_list():
    with pytest.raises(ConfigError, match="a crop leaves points without features"):
        parse_candidates(["none"], ModelConfig(resize_mode="crop"))
    with pytest.raises(ConfigError, match="candidates is empty"):
        parse_candidates([], ModelConfig())


def ramp(size=(4, 6), channels=8):
    """Tokens whose first channel is the pixel's column of a 48×32 picture, and a map to them."""
    height, width = size
    values = torch.arange(width, dtype=torch.float32).mul(8).add(3.5).expand(channels, height, width)
    return FeatureMap(values.clone(), resize_affine((48, 32), (width, height)))


def test_upsampled_maps_lie_where_the_tokens_lie():
    uv = np.random.default_rng(0).uniform((8, 8), (39, 23), (200, 2)).astype(np.float32)
    for scale in (2, 4):
        found = head_map(UpsampledHead(scale), ramp())
        assert tuple(found.values.shape) == (8, 4 * scale, 6 * scale)
        np.testing.assert_allclose(sample_img_feat(found, uv)[:, 0], uv[:, 0], atol=1e-4)


def test_a_quarter_is_what_the_upper_left_sub_cell_holds():
    tokens = torch.randn(2, 16, 3, 5)
    torch.testing.assert_close(QuarterHead().to_map(tokens), PixelShuffleHead(16).to_map(tokens)[:, :, ::2, ::2])


def test_nearest_sampling_takes_the_cell_that_a_point_is_in():
    feature_map = ramp()
    uv = np.array([[0, 0], [7.4, 31], [7.6, 5], [47.5, 31.5], [-0.5, 12]], np.float32)
    assert sample_nearest(feature_map, uv)[:, 0].tolist() == [3.5, 3.5, 11.5, 43.5, 3.5]
    rows = FeatureMap(torch.arange(24.0).reshape(1, 4, 6), feature_map.image_to_map)
    assert sample_nearest(rows, uv)[:, 0].tolist() == [0, 18, 1, 23, 6]
