import numpy as np
import pytest
import torch
from planted import PlantedPatches

from clipfeat.camera.config import CameraConfig
from clipfeat.camera.rules import build_rules
from clipfeat.data.config import DataConfig
from clipfeat.errors import DataError
from clipfeat.evaluate.candidates import Conv256Head
from clipfeat.evaluate.metrics import likeness
from clipfeat.extraction.config import ExtractConfig
from clipfeat.fusion.head_fit import ClipConsFit
from clipfeat.model.heads import build_head, head_map
from clipfeat.sampling.bilinear import sample_img_feat
from clipfeat.sampling.config import SamplingConfig
from clipfeat.sampling.locate import build_locator
from clipfeat.types import FeatureMap

WIDTH = 64


def tokens_of(root, frames):
    """Planted tokens with noise, in which what all have in common is larger than what tells them apart."""
    model = PlantedPatches(root, WIDTH, sub_cells=False)
    rng = torch.Generator().manual_seed(0)
    for frame in frames:
        size = frame.color_camera.width, frame.color_camera.height
        found = model.feature_maps([model.network_input(frame)], [size])[0]
        noise = torch.randn(found.values.shape, generator=rng)
        yield frame, FeatureMap(found.values + noise + 4, found.image_to_map)


def fitted(seen, head, steps, change=lambda values: values):
    run = ExtractConfig(DataConfig("scannet", "x"), sampling=SamplingConfig(num_points=400))
    fit = ClipConsFit(build_locator(run), build_rules(CameraConfig())[0], steps=steps, seed=0)
    for frame, tokens in seen:
        fit.add(frame, FeatureMap(change(tokens.values), tokens.image_to_map))
    return fit, fit.fit(head)


def separation(head, fit):
    """How well two views of a point are told from two points, over the sightings of a fit."""
    features = {}
    for one in fit._seen:
        made = head.to_points(sample_img_feat(head_map(head, one.tokens), one.uv))
        unit = torch.nn.functional.normalize(made, dim=1).numpy()
        for point, row in zip(one.point_id.tolist(), unit, strict=True):
            features.setdefault(point, []).append(row)
    first, second = np.array([views[:2] for views in features.values() if len(views) > 1]).transpose(1, 0, 2)
    other = np.random.default_rng(0).permutation(len(first))
    return likeness((first * second).sum(1), (first * second[other]).sum(1)).separation


@pytest.mark.parametrize("kind", ["proj128", "conv256", pytest.param("tinysa256", marks=pytest.mark.slow)])
def test_training_makes_a_point_alike_in_two_frames(demo_root, demo_frames, kind):
    torch.manual_seed(0)
    head = build_head("proj128", WIDTH, None, 0)
    head = head if kind == "proj128" else Conv256Head(WIDTH, attends=kind == "tinysa256").requires_grad_(False)
    seen = list(tokens_of(demo_root, demo_frames))
    fit, _ = fitted(seen, build_head("proj128", WIDTH, None, 0), 1)
    before = separation(head, fit)
    _, about = fitted(seen, head, 25)
    assert about["points_seen_twice"] > 100
    assert about["loss_clip"][1] < about["loss_clip"][0] - 0.1
    assert about["loss_views"][1] < about["loss_views"][0] - 0.1
    assert separation(head, fit) > before + 0.02
    assert not any(weights.requires_grad for weights in head.parameters())


def test_what_tokens_have_in_common_goes_into_the_convolution(demo_root, demo_frames):
    seen = list(tokens_of(demo_root, demo_frames))
    heads = [build_head("proj128", WIDTH, None, 0) for _ in range(2)]
    fitted(seen, heads[0], 10)
    fitted(seen, heads[1], 10, lambda values: 2 * values - 8)  # what float16 holds as well
    tokens = seen[0][1]
    uv = np.random.default_rng(0).uniform(20, 100, (50, 2)).astype(np.float32)
    made = head_map(heads[0], tokens), head_map(heads[1], FeatureMap(2 * tokens.values - 8, tokens.image_to_map))
    first, second = (head.to_points(sample_img_feat(one, uv)) for head, one in zip(heads, made, strict=True))
    torch.testing.assert_close(second, first, atol=0.02 * float(first.abs().max()), rtol=0)


def test_frames_that_share_no_point_still_train(demo_root, demo_frames):
    _, about = fitted(list(tokens_of(demo_root, demo_frames[:1])), build_head("proj128", WIDTH, None, 0), 2)
    assert (about["points_seen_twice"], about["loss_views"]) == (0, [0, 0])
    with pytest.raises(DataError, match="no frame could be read that a head could be trained on"):
        fitted([], build_head("proj128", WIDTH, None, 0), 2)
