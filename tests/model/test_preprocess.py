import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image

from clipfeat.model.preprocess import Preprocess
from clipfeat.model.windows import Windows

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
OPEN_CLIP = {"squash": "squash", "letterbox": "longest", "crop": "shortest"}
SIZES = [(1296, 968), (640, 480), (480, 640), (540, 360), (333, 1001), (224, 224), (100, 37)]


@pytest.mark.parametrize("mode", OPEN_CLIP)
@pytest.mark.parametrize("size", SIZES)
def test_the_input_equals_open_clip_s_own_transform(mode, size):
    image = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    fill = tuple(round(255 * m) for m in MEAN)
    transform = image_transform(
        224, is_train=False, mean=MEAN, std=STD, resize_mode=OPEN_CLIP[mode], interpolation="bicubic", fill_color=fill
    )
    preprocess = Preprocess(224, mode, MEAN, STD)
    found = preprocess.normalize(torch.from_numpy(preprocess.pixels(image).copy()))
    assert torch.equal(found, transform(Image.fromarray(image)))


@pytest.mark.parametrize("mode", [*OPEN_CLIP, "shortest"])
@pytest.mark.parametrize("size", [(1296, 968), (480, 640), (333, 1001)])
def test_a_picture_of_its_own_coordinates_shows_where_each_pixel_went(mode, size):
    """A linear ramp stays one under antialiased resizing, so the resized value tells the position it came from."""
    windows = Windows(112, 64, 16) if mode == "shortest" else None
    preprocess = Preprocess(224, mode, MEAN, STD, windows=windows)
    place = preprocess.placement(*size)
    affine = preprocess.image_to_input(*size)
    for axis in (0, 1):
        length = size[axis]
        ramp = np.arange(length, dtype=np.float32)
        picture = np.broadcast_to(ramp if axis == 0 else ramp[:, None], (size[1], size[0]))
        resized = np.asarray(Image.fromarray(picture.copy()).resize(place.resized, Image.Resampling.BICUBIC))
        line = resized[resized.shape[0] // 2] if axis == 0 else resized[:, resized.shape[1] // 2]
        margin = len(line) // 8  # near its edges the kernel is cut off
        index = np.arange(margin, len(line) - margin)
        error = affine[axis, axis] * line[index] + affine[axis, 2] - (index + place.offset[axis])
        # Pillow's kernel wavers by some hundredths of a pixel from place to place; a missing half pixel of the
        # convention would be 0.1 and more, everywhere.
        assert abs(error.mean()) < 1e-3
        assert np.abs(error).max() < 0.05


def test_only_a_crop_leaves_something_out():
    corners = np.array([[0.0, 0.0], [1295.0, 967.0], [648.0, 484.0]])
    for mode in ("squash", "letterbox"):
        assert Preprocess(224, mode, MEAN, STD).covers(corners, 1296, 968).all()
    crop = Preprocess(224, "crop", MEAN, STD)
    assert crop.covers(corners, 1296, 968).tolist() == [False, False, True]
    # 1296 × 968 resized to 300 × 224 (rounded as torchvision does): the input shows 38 to 262 of 299 pixels.
    edge = (38 - 0.5 + 0.5) * 1296 / 299 - 0.5
    at_edge = np.array([[edge - 0.01, 484.0], [edge + 0.01, 484.0], [np.nan, 484.0]])
    assert crop.covers(at_edge, 1296, 968).tolist() == [False, True, False]


def test_with_windows_the_whole_picture_is_seen_and_its_shorter_side_is_the_size():
    preprocess = Preprocess(336, "shortest", MEAN, STD, windows=Windows(224, 112, 16))
    image = np.random.default_rng(0).integers(0, 255, (968, 1296, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((448, 336), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(preprocess.pixels(image), expected)
    corners = np.array([[-0.5, -0.5], [1295.5, 967.5], [1296.0, 484.0], [648.0, 968.0]])
    assert preprocess.covers(corners, 1296, 968).tolist() == [True, True, False, False]
    # A cell of the 28 × 21 map is 16 pixels of the input: 1296 / 28 by 968 / 21 of the picture.
    affine = preprocess.image_to_map(1296, 968, (21, 28))
    cell = np.array([5, 20])
    position = (cell + 0.5) * [1296 / 28, 968 / 21] - 0.5
    np.testing.assert_allclose(affine[:, :2] @ position + affine[:, 2], cell)


@pytest.mark.parametrize("mode", OPEN_CLIP)
@pytest.mark.parametrize("size", [(1296, 968), (480, 640), (100, 37)])
def test_torch_resizes_as_pillow_but_for_a_level_here_and_there(mode, size):
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 255, (11, 13, 3), dtype=np.uint8)).resize(size)
    image = np.asarray(smooth)
    exact = Preprocess(224, mode, MEAN, STD).pixels(image).astype(int)
    close = Preprocess(224, mode, MEAN, STD, "torch").pixels(image).astype(int)
    assert close.shape == exact.shape
    assert np.abs(close - exact).max() <= 2
    assert (close != exact).mean() < 0.03
