"""NaFlex at the picture's own aspect, held against timm's own sequences of patches."""

import numpy as np
import pytest
import torch
from PIL import Image

from clipfeat.errors import ConfigError
from clipfeat.model.config import ModelConfig
from clipfeat.model.load import load_model
from clipfeat.model.preprocess import Preprocess

CPU = torch.device("cpu")
NAME = "naflexvit_base_patch16_siglip.v2_webli"
SIZES = [(1296, 968), (968, 1296), (640, 480), (300, 900), (1296, 968)]


def picture(width, height):
    return np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_is_resized_as_timm_resizes_it(size):
    from timm.data.naflex_transforms import ResizeToSequence

    preprocess = Preprocess(384, "aspect", (0.5,) * 3, (0.5,) * 3, patch_size=16)
    found = preprocess.pixels(picture(*size))
    expected = np.asarray(ResizeToSequence(16, 24 * 24, interpolation="bicubic")(Image.fromarray(picture(*size))))
    np.testing.assert_array_equal(found, expected)
    height, width = found.shape[:2]
    assert preprocess.input_size(*size) == (width, height)
    corners = np.array([[-0.5, -0.5], [size[0] - 0.5, size[1] - 0.5]])
    affine = preprocess.image_to_map(*size, (height // 16, width // 16))
    np.testing.assert_allclose(
        corners @ affine[:, :2].T + affine[:, 2], [[-0.5, -0.5], [width // 16 - 0.5, height // 16 - 0.5]]
    )
    assert preprocess.covers(np.array([[0, 0], [size[0] - 1, size[1] - 1]]), *size).all()


def test_squares_alone_are_refused_in_a_line(tiny_arch):
    with pytest.raises(ConfigError, match="model.resize_mode=aspect: .* takes squares alone; take squash"):
        load_model(ModelConfig(arch=tiny_arch, pretrained=None, resize_mode="aspect"), CPU, 0)
    with pytest.raises(ConfigError, match="windows see the whole picture in its own aspect ratio"):
        ModelConfig(resize_mode="aspect", input_size=448, window=224)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [NAME, "naflexvit_base_patch16_radio_v3.c_radio"])
def test_pictures_of_all_aspects_in_one_batch_give_what_timm_gives_for_each(arch):
    from timm.models.naflexvit import batch_patchify

    model = load_model(ModelConfig("timm", arch, None, resize_mode="aspect", input_size=96), CPU, 0)
    trunk = model.encoder.visual.trunk
    inputs = [model.preprocess.pixels(picture(*size)) for size in SIZES]
    for found, pixels in zip(model.feature_maps(inputs, SIZES), inputs, strict=True):
        patches, (rows, columns) = batch_patchify(
            model.preprocess.normalize(torch.from_numpy(pixels.copy()))[None], (16, 16), pad=False, channels_last=True
        )
        places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)
        with torch.inference_mode():
            out = trunk.forward_features(
                patches.flatten(2), places.reshape(1, -1, 2), torch.ones(1, rows * columns, dtype=torch.bool)
            )
            valid = out["patch_valid"]
            whole = trunk.forward_head(out["patches"], pre_logits=True, patch_valid=valid)[0]
        tokens = out["patches"][0, trunk.num_prefix_tokens :].T.reshape(-1, rows, columns)
        torch.testing.assert_close(found.values, tokens, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.clip_global, whole, atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="model.backend=openvino: computes squares alone"):
        load_model(ModelConfig("timm", arch, None, resize_mode="aspect", input_size=96, backend="openvino"), CPU, 0)
