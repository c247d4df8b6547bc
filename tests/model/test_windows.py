from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

from clipfeat.model.clip_model import ClipModel
from clipfeat.model.config import HeadConfig, ModelConfig
from clipfeat.model.heads import build_head
from clipfeat.model.load import load_model
from clipfeat.model.preprocess import Preprocess
from clipfeat.model.windows import Windows
from clipfeat.sampling.bilinear import sample_img_feat

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1296, 968), (448, 336)), ((968, 1296), (336, 448)), ((640, 480), (448, 336)), ((500, 500), (336, 336)),
     ((333, 1001), (336, 1008)), ((100, 99), (336, 336)), ((30, 1), (10080, 336))],
)  # fmt: skip
def test_the_shorter_side_is_as_asked_and_the_longer_one_of_whole_patches(size, expected):
    assert Windows(224, 112, 16).resized(*size, 336) == expected


def test_windows_go_row_by_row_and_the_last_ends_at_the_edge():
    windows = Windows(224, 112, 16)
    assert windows.corners(448, 336) == [(0, 0), (112, 0), (224, 0), (0, 112), (112, 112), (224, 112)]
    assert windows.corners(480, 224) == [(0, 0), (112, 0), (224, 0), (256, 0)]
    assert windows.corners(224, 224) == [(0, 0)]
    assert Windows(224, 224, 16).corners(448, 448) == [(0, 0), (224, 0), (0, 224), (224, 224)]


@pytest.mark.parametrize("stride", [16, 48, 112])
def test_every_pixel_is_seen_and_each_window_is_its_own_part_of_the_picture(stride):
    windows = Windows(112, stride, 16)
    picture = np.random.default_rng(0).integers(0, 255, (112, 400, 3), dtype=np.uint8)
    cut, corners = windows.cut(picture), windows.corners(400, 112)
    assert len(cut) == len(corners) == len(set(corners))
    seen = np.zeros((112, 400), bool)
    for window, (left, top) in zip(cut, corners, strict=True):
        np.testing.assert_array_equal(window, picture[top : top + 112, left : left + 112])
        seen[top : top + 112, left : left + 112] = True
    assert seen.all()


def test_a_stitched_cell_is_the_mean_of_the_windows_that_see_it():
    windows = Windows(48, 32, 16)
    corners = windows.corners(128, 80)
    tokens = torch.randn(len(corners), 5, 3, 3, generator=torch.Generator().manual_seed(0))
    found = windows.stitch(tokens, 128, 80)
    assert found.shape == (5, 5, 8)
    for row in range(5):
        for column in range(8):
            values = [
                tokens[i, :, row - top // 16, column - left // 16]
                for i, (left, top) in enumerate(corners)
                if 0 <= row - top // 16 < 3 and 0 <= column - left // 16 < 3
            ]
            torch.testing.assert_close(found[:, row, column], sum(values) / len(values))


def position_model(window, stride, size=336):
    """A model whose tokens are the mean red and green of their patch."""
    encoder = SimpleNamespace(encode=lambda inputs: (nnf.avg_pool2d(inputs[:, :2], 16), inputs.mean((2, 3))))
    preprocess = Preprocess(size, "shortest", (0, 0, 0), (1 / 255,) * 3, windows=Windows(window, stride, 16))
    return ClipModel("position", encoder, preprocess, build_head("none", 2, None, 0), "none", CPU, "fp32")


@pytest.mark.parametrize(("window", "stride"), [(224, 112), (224, 224), (336, 112), (160, 48)])
def test_every_cell_of_a_stitched_map_lies_where_image_to_map_says(window, stride):
    """Pictures that say of each pixel where it lies; of several sizes in one batch."""
    sizes = [(448, 336), (336, 448), (336, 336), (496, 336)]
    pictures = []
    for width, height in sizes:
        picture = np.zeros((height, width, 3), np.uint8)
        picture[..., 0], picture[..., 1] = np.arange(width) // 2, np.arange(height)[:, None] // 2
        pictures.append(picture)
    model = position_model(window, stride)
    inputs = [model.preprocess.pixels(picture) for picture in pictures]
    for feature_map, picture, size in zip(model.feature_maps(inputs, sizes), pictures, sizes, strict=True):
        width, height = size
        assert feature_map.values.shape == (2, height // 16, width // 16)
        position = 2 * feature_map.values.numpy() + 0.5  # halves were rounded down
        affine = feature_map.image_to_map
        cells = np.einsum("ij,jhw->ihw", affine[:, :2], position) + affine[:, 2, None, None]
        rows, columns = np.mgrid[: height // 16, : width // 16]
        np.testing.assert_allclose(cells, [columns, rows], atol=1e-4)
        # And as a sampler sees it: between the outermost cell centres, a feature is the position that is asked for.
        uv = np.random.default_rng(0).uniform([7.5, 7.5], [width - 8.5, height - 8.5], (100, 2))
        np.testing.assert_allclose(2 * sample_img_feat(feature_map, uv).numpy() + 0.5, uv, atol=1e-3)
        assert picture.std() > 0


@pytest.mark.parametrize("size", [(1296, 968), (480, 640), (1000, 700)])
def test_cells_of_a_resized_picture_lie_where_image_to_map_says(size):
    width, height = size
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.round(np.linspace(0, 255, width))
    picture[..., 1] = np.round(np.linspace(0, 255, height))[:, None]
    model = position_model(224, 112)
    feature_map = model.feature_maps([model.preprocess.pixels(picture)], [size])[0]
    position = feature_map.values.numpy() / 255 * np.array([width - 1, height - 1])[:, None, None]
    affine = feature_map.image_to_map
    cells = np.einsum("ij,jhw->ihw", affine[:, :2], position) + affine[:, 2, None, None]
    error = cells - np.mgrid[: cells.shape[1], : cells.shape[2]][::-1]
    inner = error[:, 1:-1, 1:-1]  # at the edges the filter of the resizing is cut off
    assert np.abs(error).max() < 0.1
    assert np.abs(inner).max() < 0.02
    assert abs(inner.mean()) < 2e-3


def test_one_window_of_a_square_picture_is_no_window(tiny_arch):
    picture = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    for head in ("none", "proj128", "text"):
        plain = load_model(ModelConfig(arch=tiny_arch, pretrained=None, head=HeadConfig(head)), CPU, 0)
        window = ModelConfig(arch=tiny_arch, pretrained=None, head=HeadConfig(head), window=224, stride=16)
        windowed = load_model(window, CPU, 0)
        maps = [m.feature_maps([m.preprocess.pixels(picture)], [(300, 300)])[0] for m in (plain, windowed)]
        torch.testing.assert_close(maps[0].values, maps[1].values, atol=1e-5, rtol=1e-5)
        np.testing.assert_array_equal(maps[0].image_to_map, maps[1].image_to_map)


def test_the_network_sees_windows_of_their_own_size_and_no_more_at_once_than_there_are_pictures(tiny_arch):
    cfg = ModelConfig(arch=tiny_arch, pretrained=None, input_size=336, window=224, stride=112)
    model = load_model(cfg, CPU, 0)
    seen = []
    model.encoder.visual.register_forward_pre_hook(lambda *_: pytest.fail("pooled"))
    model.encoder.visual.conv1.register_forward_pre_hook(lambda _m, args: seen.append(tuple(args[0].shape)))
    pictures = list(np.random.default_rng(0).integers(0, 255, (4, 96, 128, 3), dtype=np.uint8))
    together = model.feature_maps([model.preprocess.pixels(p) for p in pictures], [(128, 96)] * 4)
    assert seen == [(4, 3, 224, 224)] * 6
    for picture, found in zip(pictures, together, strict=True):
        assert found.values.shape == (64, 21, 28)
        alone = model.feature_maps([model.preprocess.pixels(picture)], [(128, 96)])[0]
        torch.testing.assert_close(found.values, alone.values, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.clip_global, alone.clip_global, atol=1e-5, rtol=1e-5)
        assert found.clip_global.shape == (64,)
    described = model.describe()
    assert [described[key] for key in ("input_size", "resize_mode", "window", "stride")] == [336, "shortest", 224, 112]
