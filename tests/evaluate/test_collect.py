import dataclasses

import numpy as np
import pytest
import torch

from clipfeat.errors import WeightsError
from clipfeat.evaluate.candidates import parse_candidates
from clipfeat.evaluate.collect import build_candidates
from clipfeat.evaluate.views import build_views
from clipfeat.model.config import HeadConfig, ModelConfig
from clipfeat.model.heads import build_head, head_file
from clipfeat.types import FeatureMap

CPU = torch.device("cpu")


def ready(words, model):
    (candidate,) = parse_candidates([words], model)
    (view,) = build_views([candidate.view], CPU, 0)
    return build_candidates([candidate], [(candidate.view, view)], model.head, CPU, 0, 1)[0]


@pytest.mark.parametrize("words", ["none", "pixelshuffle", "proj128", "conv256", "tinysa256"])
def test_tokens_that_wait_on_the_host_come_to_the_head(tiny_arch, words):
    """As on a GPU of little memory; its place is taken by the device that computes nothing."""
    one = ready(words, ModelConfig(arch=tiny_arch, pretrained=None))
    elsewhere = one.head.to("meta")
    found = one.feature_map(FeatureMap(torch.zeros(64, 14, 14), np.eye(2, 3)), elsewhere)
    assert found.values.device.type == ("meta" if list(one.head.parameters()) else "cpu")


def test_a_head_of_another_encoder_is_no_candidate(tiny_arch, tmp_path):
    path = tmp_path / "head.safetensors"
    model = ModelConfig(arch=tiny_arch, pretrained=None, head=HeadConfig("proj128", str(path)))
    about = build_views([dataclasses.replace(model, head=HeadConfig())], CPU, 0)[0].model.describe()
    path.write_bytes(head_file(build_head("proj128", 64, None, 0).state_dict(), about))
    assert ready("proj128", model).from_file
    with pytest.raises(WeightsError, match="fitted to another encoder, .* attention=vanilla, and this is .*=naclip"):
        ready("proj128+naclip", model)
