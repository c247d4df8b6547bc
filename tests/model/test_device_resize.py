import numpy as np
import pytest
import torch

from clipfeat.model import preprocess as preprocess_module
from clipfeat.model.device_resize import can_resize_there, resize_there
from clipfeat.model.preprocess import Preprocess
from clipfeat.model.resize import resize_pillow
from clipfeat.model.windows import Windows
from clipfeat.types import Picture

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = [(1296, 968), (480, 640), (333, 1001), (224, 300), (100, 37), (9, 5), (224, 224)]
NEW = [(224, 224), (336, 51), (1, 1)]


def pictures(size):
    """Noise, and extremes where the kernel's negative lobes overshoot: two are resized at once."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return [noise, np.where(noise > 127, 255, 0).astype(np.uint8)]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", SIZES)
def test_every_bit_is_pillow_s(size, interpolation):
    both = pictures(size)
    for new in NEW:
        if can_resize_there(size, new, interpolation):
            found = resize_there(torch.from_numpy(np.stack(both)), new, interpolation)
            for one, image in zip(found.numpy(), both, strict=True):
                np.testing.assert_array_equal(one, resize_pillow(image, new, interpolation))
        else:
            assert min(*size, *new) < 10


def test_a_part_of_a_batch_will_do():
    """Though its memory begins anywhere."""
    batch = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 9, 40, 3), dtype=np.uint8))
    whole = resize_there(batch, (8, 8), "bilinear")
    assert whole.is_contiguous()
    assert torch.equal(resize_there(batch[1:2], (8, 8), "bilinear"), whole[1:2])
    assert torch.equal(
        resize_there(batch[:, 1:], (8, 8), "bilinear"), resize_there(batch[:, 1:].clone(), (8, 8), "bilinear")
    )


WAYS = {
    "squash": {},
    "letterbox": {"mode": "letterbox"},
    "crop": {"mode": "crop", "interpolation": "bilinear"},
    "windows": {"mode": "shortest", "windows": Windows(224, 112, 16)},
    "aspect": {"mode": "aspect", "patch_size": 16},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [(1296, 968), (333, 1001), (160, 120), (336, 336), (224, 224)])
def test_the_input_is_the_same_wherever_it_is_made(way, size):
    preprocess = Preprocess(**{"size": 224, "mode": "squash", "mean": MEAN, "std": STD, "there": True} | WAYS[way])
    both = pictures(size)
    assert preprocess.network_input(Picture.of(both[0])) is both[0]
    found = preprocess.pixels_there(torch.from_numpy(np.stack(both)))
    for one, image in zip(found.numpy(), both, strict=True):
        np.testing.assert_array_equal(one, preprocess.pixels(image))
    made = found[0].shape
    assert not preprocess.is_original(made, size)
    assert preprocess.is_original(both[0].shape, size) == (both[0].shape != made)


def test_the_host_resizes_what_only_pillow_can_what_is_too_large_and_what_it_is_told_to(monkeypatch):
    there = Preprocess(224, "squash", MEAN, STD, there=True)
    few, usual = Picture.of(np.zeros((1, 9, 3), np.uint8)), Picture.of(np.zeros((48, 64, 3), np.uint8))
    assert there.network_input(few).shape == (224, 224, 3)
    assert Preprocess(224, "squash", MEAN, STD).network_input(usual).shape == (224, 224, 3)
    assert there.network_input(usual) is usual.pixels
    monkeypatch.setattr(preprocess_module, "_LARGEST_THERE", usual.pixels.nbytes - 1)
    assert there.network_input(usual).shape == (224, 224, 3)
