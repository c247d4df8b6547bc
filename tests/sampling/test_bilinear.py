import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from twins import slow_sample

from clipfeat.model.preprocess import PLACEMENTS, Preprocess
from clipfeat.sampling.bilinear import sample_img_feat
from clipfeat.types import FeatureMap, resize_affine

MEAN = STD = (0.5, 0.5, 0.5)


@pytest.mark.parametrize("shape", [(192, 28, 28), (7, 14, 9), (3, 1, 5), (3, 5, 1), (2, 1, 1)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_sampling_equals_its_slow_float64_twin(shape, channels_last):
    rng = np.random.default_rng(0)
    values = rng.normal(size=shape)
    affine = resize_affine((1296, 968), (shape[2], shape[1]))
    uv = rng.uniform((-20, -20), (1316, 988), size=(800, 2))  # beyond the border on all sides
    uv[:4] = [[0, 0], [1295, 967], [-0.5, -0.5], [1295.5, 967.5]]
    tensor = torch.from_numpy(values).float()
    if channels_last:
        tensor = tensor.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    found = sample_img_feat(FeatureMap(tensor, affine), uv)
    expected = slow_sample(values, uv @ affine[:, :2].T + affine[:, 2])
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_sampling_equals_grid_sample():
    rng = np.random.default_rng(1)
    values = torch.from_numpy(rng.normal(size=(64, 28, 28))).float()
    uv = torch.from_numpy(rng.uniform((0, 0), (1295, 967), size=(1000, 2)))
    grid = (uv + 0.5) / torch.tensor([1296, 968]) * 2 - 1
    expected = nnf.grid_sample(
        values[None].double(), grid[None, :, None], mode="bilinear", padding_mode="border", align_corners=False
    )[0, :, :, 0].T
    found = sample_img_feat(FeatureMap(values, resize_affine((1296, 968), (28, 28))), uv)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


@pytest.mark.gpu
def test_sampling_on_a_gpu_equals_the_cpu(gpu):
    rng = np.random.default_rng(1)
    values = torch.from_numpy(rng.normal(size=(192, 28, 28))).float()
    uv = rng.uniform((0, 0), (1295, 967), size=(20000, 2))
    affine = resize_affine((1296, 968), (28, 28))
    found = sample_img_feat(FeatureMap(values.to(gpu), affine), uv)
    np.testing.assert_allclose(found.cpu(), sample_img_feat(FeatureMap(values, affine), uv), atol=1e-5)


@pytest.mark.parametrize("mode", sorted(PLACEMENTS))
@pytest.mark.parametrize("size", [(1296, 968), (640, 480), (480, 640), (333, 1001)])
@pytest.mark.parametrize("cells", [14, 28, 56])
def test_a_map_of_its_own_coordinates_gives_back_the_position_in_the_picture(mode, size, cells):
    """Sampled from a map whose values are the picture position of each cell centre, a point finds itself."""
    preprocess = Preprocess(224, mode, MEAN, STD)
    affine = preprocess.image_to_map(*size, (cells, cells))
    cell_v, cell_u = np.mgrid[:cells, :cells]
    # From cell centre to the input's pixel to the picture's pixel, by a way of its own.
    place = preprocess.placement(*size)
    input_u, input_v = (cell_u + 0.5) * 224 / cells - 0.5, (cell_v + 0.5) * 224 / cells - 0.5
    picture_u = (input_u - place.offset[0] + 0.5) * size[0] / place.resized[0] - 0.5
    picture_v = (input_v - place.offset[1] + 0.5) * size[1] / place.resized[1] - 0.5
    values = torch.from_numpy(np.stack((picture_u, picture_v)))
    rng = np.random.default_rng(2)
    uv = rng.uniform((0, 0), (size[0] - 1, size[1] - 1), size=(4000, 2))
    position = uv @ affine[:, :2].T + affine[:, 2]
    inner = ((position >= 0) & (position <= cells - 1)).all(1)  # beyond the last centres the border is repeated
    assert inner.sum() > 500
    found = sample_img_feat(FeatureMap(values, affine), uv[inner])
    assert np.abs(found.numpy() - uv[inner]).max() < 1e-3


def test_points_without_a_pixel_are_refused():
    feature_map = FeatureMap(torch.zeros(2, 4, 4), resize_affine((8, 8), (4, 4)))
    with pytest.raises(ValueError, match="points behind the camera have no pixel"):
        sample_img_feat(feature_map, np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match=r"uv must be \(N, 2\), got \(3, 3\)"):
        sample_img_feat(feature_map, np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"feature map must be \(C, h, w\)"):
        sample_img_feat(FeatureMap(torch.zeros(1, 2, 4, 4), feature_map.image_to_map), np.zeros((3, 2)))


def test_no_points_give_no_rows():
    feature_map = FeatureMap(torch.zeros(2, 4, 4), resize_affine((8, 8), (4, 4)))
    assert sample_img_feat(feature_map, np.zeros((0, 2), np.float32)).shape == (0, 2)
