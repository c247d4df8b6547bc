import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clipfeat.errors import WeightsError
from clipfeat.model.config import HEADS
from clipfeat.model.heads import build_head, check_head, head_file, point_channels


def test_pixelshuffle_places_four_channels_as_four_sub_cells():
    tokens = torch.arange(2 * 8 * 3 * 5, dtype=torch.float32).reshape(2, 8, 3, 5)
    shuffled = build_head("pixelshuffle", 8, None, 0).to_map(tokens)
    assert shuffled.shape == (2, 2, 6, 10)
    for c in range(2):
        for y in range(6):
            for x in range(10):
                assert shuffled[1, c, y, x] == tokens[1, 4 * c + 2 * (y % 2) + x % 2, y // 2, x // 2]


def test_shapes_of_the_seed():
    tokens = torch.randn(1, 768, 14, 14)
    assert build_head("none", 768, None, 0).to_map(tokens).shape == (1, 768, 14, 14)
    assert build_head("pixelshuffle", 768, None, 0).to_map(tokens).shape == (1, 192, 28, 28)
    proj = build_head("proj128", 768, None, 0)
    assert proj.to_map(tokens).shape == (1, 256, 56, 56)
    assert proj.to_points(torch.randn(9, 256)).shape == (9, 128)
    assert not any(p.requires_grad for p in proj.parameters())


def test_text_leaves_the_map_as_it_is_and_makes_unit_vectors_of_points():
    head = build_head("text", 768, None, 0)
    tokens = torch.randn(1, 512, 14, 14)
    assert head.projected
    assert torch.equal(head.to_map(tokens), tokens)
    sampled = torch.tensor([[3.0, 4.0], [0.0, -2.0], [0.0, 0.0]])
    torch.testing.assert_close(head.to_points(sampled), torch.tensor([[0.6, 0.8], [0.0, -1.0], [0.0, 0.0]]))
    assert not head.state_dict()


@pytest.mark.parametrize("name", HEADS)
def test_how_many_numbers_a_point_gets(name):
    head = build_head(name, 64, None, 0)
    feature_map = head.to_map(torch.randn(1, 64, 3, 3))
    assert point_channels(head, 64) == head.to_points(feature_map[0].flatten(1).T).shape[1]


@pytest.mark.parametrize("name", HEADS)
def test_heads_say_whether_means_may_be_taken_before_them(name):
    head = build_head(name, 64, None, 0)
    sampled = torch.randn(2, 256)
    mean = 0.3 * sampled[:1] + 0.7 * sampled[1:]
    after = 0.3 * head.to_points(sampled[:1]) + 0.7 * head.to_points(sampled[1:])
    assert torch.allclose(head.to_points(mean), after, atol=1e-5) == head.affine


def test_proj128_equals_its_slow_twin():
    rng = np.random.default_rng(0)
    head = build_head("proj128", 16, None, 3)
    tokens = rng.normal(size=(1, 16, 3, 4)).astype(np.float32)
    found = head.to_map(torch.from_numpy(tokens))[0].numpy()
    weight, bias = head.conv.weight.numpy()[:, :, 0, 0].astype(np.float64), head.conv.bias.numpy()
    shuffled = tokens[0].reshape(4, 2, 2, 3, 4).transpose(0, 3, 1, 4, 2).reshape(4, 6, 8)
    mixed = np.einsum("oc,chw->ohw", weight, shuffled) + bias[:, None, None]
    for y in range(12):
        for x in range(16):
            # Edges map to edges: the centre of a fine cell in coarse cells, clamped at the border.
            v, u = min(max((y + 0.5) / 2 - 0.5, 0), 5), min(max((x + 0.5) / 2 - 0.5, 0), 7)
            v0, u0 = int(v), int(u)
            v1, u1 = min(v0 + 1, 5), min(u0 + 1, 7)
            a, b = u - u0, v - v0
            expected = (1 - b) * ((1 - a) * mixed[:, v0, u0] + a * mixed[:, v0, u1]) + b * (
                (1 - a) * mixed[:, v1, u0] + a * mixed[:, v1, u1]
            )
            np.testing.assert_allclose(found[:, y, x], expected, atol=1e-5)


def test_weights_are_seeded_and_a_file_brings_them_back(tmp_path):
    first, same, other = (build_head("proj128", 64, None, seed) for seed in (1, 1, 2))
    assert torch.equal(first.linear.weight, same.linear.weight)
    assert not torch.equal(first.linear.weight, other.linear.weight)
    save_file(first.state_dict(), tmp_path / "head.safetensors")
    loaded = build_head("proj128", 64, tmp_path / "head.safetensors", 2)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


def test_seeding_a_head_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    build_head("proj128", 64, None, 5)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e30])
def test_a_number_that_is_no_weight_is_named(tmp_path, value):
    state = build_head("proj128", 64, None, 0).state_dict()
    state["linear.bias"][3] = value
    save_file(state, tmp_path / "head.safetensors")
    message = r"head.safetensors: holds inf, NaN or weights above 1e\+06: damaged; copy it again"
    with pytest.raises(WeightsError, match=message):
        build_head("proj128", 64, tmp_path / "head.safetensors", 0)


def test_weights_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"none.safetensors: no such file"):
        build_head("proj128", 64, tmp_path / "none.safetensors", 0)
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 10)
    with pytest.raises(WeightsError, match=r"junk.safetensors: not a safetensors file of this head"):
        build_head("proj128", 64, tmp_path / "junk.safetensors", 0)
    save_file(build_head("proj128", 128, None, 0).state_dict(), tmp_path / "wide.safetensors")
    with pytest.raises(WeightsError, match=r"wide.safetensors: not a safetensors file of this head"):
        build_head("proj128", 64, tmp_path / "wide.safetensors", 0)
    with pytest.raises(WeightsError, match="head pixelshuffle has no weights"):
        build_head("pixelshuffle", 64, tmp_path / "wide.safetensors", 0)
    with pytest.raises(WeightsError, match="multiple of 4, this encoder's is 6"):
        build_head("pixelshuffle", 6, None, 0)


DESCRIBED = {
    "arch": "ViT-B-32", "arch_sha256": "a", "weights": "laion", "weights_sha256": "w", "attention": "vanilla",
    "input_size": 224, "resize_mode": "squash", "window": None, "stride": None, "interpolation": "bicubic",
    "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2], "precision": "fp32", "refine": "none",
}  # fmt: skip


@pytest.fixture
def fitted(tmp_path):
    """A head's file that says it was fitted to ``DESCRIBED``."""
    path = tmp_path / "head.safetensors"
    path.write_bytes(head_file(build_head("proj128", 64, None, 0).state_dict(), DESCRIBED))
    return path


@pytest.mark.parametrize("other", [{"arch_sha256": "b"}, {"weights_sha256": "x"}, {"attention": "naclip"}])
def test_a_head_of_another_encoder_is_refused(fitted, other):
    build_head("proj128", 64, fitted, 0)
    message = (
        r"model.head.weights=.*head.safetensors: fitted to another encoder, ViT-B-32 weights=laion \(w\) "
        r"attention=vanilla, and this is ViT-B-16 .*; take that encoder, or fit a head to this one"
    )
    with pytest.raises(WeightsError, match=message):
        check_head(fitted, DESCRIBED | {"arch": "ViT-B-16"} | other)


@pytest.mark.parametrize("other", [{"precision": "fp16"}, {"arch": "local-dir:mine"}, {"weights": "same.pt"}])
def test_a_precision_or_another_name_makes_no_other_encoder(fitted, other, caplog):
    check_head(fitted, DESCRIBED | other)
    assert not caplog.records


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"input_size": 336}, "input_size 224 there, 336 here"),
        ({"interpolation": "bilinear"}, "interpolation bicubic there, bilinear here"),
        ({"resize_mode": "letterbox"}, "resize_mode squash there, letterbox here"),
        ({"window": 224, "stride": 112}, "window None there, 224 here; stride None there, 112 here"),
        ({"refine": "self_similarity"}, "refine none there, self_similarity here"),
    ],
)
def test_another_use_of_the_encoder_is_told(fitted, other, said, caplog):
    check_head(fitted, DESCRIBED | other)
    assert [record.getMessage() for record in caplog.records] == [
        f"WARNING model.head.weights={fitted}: fitted to the same encoder, used otherwise: {said}"
    ]


def test_a_head_from_before_maps_could_be_refined_is_one_of_maps_that_are_not(tmp_path, caplog):
    path, before = tmp_path / "head.safetensors", {k: v for k, v in DESCRIBED.items() if k != "refine"}
    save_file(build_head("proj128", 64, None, 0).state_dict(), path, {"encoder": json.dumps(before)})
    check_head(path, DESCRIBED)
    assert not caplog.records


def test_a_head_that_does_not_say_whose_it_is_is_taken_with_one_line(tmp_path, caplog):
    save_file(build_head("proj128", 64, None, 0).state_dict(), tmp_path / "old.safetensors")
    check_head(tmp_path / "old.safetensors", DESCRIBED)
    assert len(caplog.records) == 1
    assert "old.safetensors: does not say which encoder it was fitted to" in caplog.text
