import numpy as np
import pytest
from PIL import Image

from clipfeat.model import resize
from clipfeat.model.resize import resize_pillow

WIDE = [(1296, 968), (640, 480), (300, 224), (100, 37), (9, 1)]
TALL = [(480, 640), (333, 1001), (224, 300), (2, 3)]
SIZES = [*WIDE, *TALL, (224, 224)]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("new", [(224, 224), (224, 167), (336, 336), (50, 448), (1, 1), (7, 3)])
@pytest.mark.parametrize("size", SIZES)
def test_every_bit_is_pillow_s(size, new, interpolation):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    extremes = np.where(noise > 127, 255, 0).astype(np.uint8)  # where the kernel's negative lobes overshoot
    for image in (noise, extremes, np.full_like(noise, 255)):
        expected = np.asarray(Image.fromarray(image).resize(new, Image.Resampling[interpolation.upper()]))
        np.testing.assert_array_equal(resize_pillow(image, new, interpolation), expected)


def test_a_picture_that_is_not_contiguous_will_do():
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    turned = image[::-1, ::2]
    expected = np.asarray(Image.fromarray(turned).resize((32, 48), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize_pillow(turned, (32, 48)), expected)


def test_the_usual_sizes_are_resized_by_the_compiled_loops():
    for interpolation in ("bicubic", "bilinear"):
        assert resize.pillow_s_order((1296, 968), (224, 224), interpolation) is True
        assert resize.pillow_s_order((480, 640), (336, 336), interpolation) is not None
    assert resize.pillow_s_order((9, 1), (224, 224), "bicubic") is None


def test_a_pillow_that_resizes_in_another_way_is_left_to_do_it(monkeypatch):
    """Such as a version of it that is not known yet."""
    resize.pillow_s_order.cache_clear()
    monkeypatch.setattr(resize, "_by_pillow", lambda _image, size, _way: np.full((size[1], size[0], 3), 7, np.uint8))
    image = np.zeros((48, 64, 3), np.uint8)
    assert (resize.resize_pillow(image, (20, 15)) == 7).all()
    resize.pillow_s_order.cache_clear()
