import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from twins import random_pose

from clipfeat.errors import ConfigError
from clipfeat.fusion.bi_fusion import BiFusionEncoder
from clipfeat.fusion.inputs import Maps
from clipfeat.model.cache import MapCache
from clipfeat.model.config import HeadConfig, ModelConfig
from clipfeat.model.load import load_model
from clipfeat.model.windows import Windows

SIZE = (48, 36)
K = torch.tensor([[40.0, 0, 24], [0, 40, 18], [0, 0, 1]])


@pytest.fixture
def clip(tiny_arch):
    cfg = ModelConfig(arch=tiny_arch, pretrained=None, head=HeadConfig("pixelshuffle"))
    return load_model(cfg, torch.device("cpu"), 0)


def scene(count, seed):
    """Random points before a camera, and a picture: arguments of the encoder for one sample."""
    rng = np.random.default_rng(seed)
    pose = random_pose(rng)
    cam = np.concatenate((rng.uniform(-1.5, 1.5, (count, 2)), rng.uniform(1, 3, (count, 1))), 1)
    xyz = cam @ pose[:3, :3].T + pose[:3, 3]
    image = torch.from_numpy(rng.integers(0, 256, (3, *SIZE[::-1]), np.uint8))
    return {
        "points": torch.from_numpy(np.concatenate((xyz, rng.random((count, 3))), 1)).float(),
        "images": image,
        "intrinsics": K,
        "cam_to_world": torch.from_numpy(pose),
        "previous_cam_to_world": torch.from_numpy(random_pose(rng)),
        "visible": torch.from_numpy(rng.random(count) < 0.8),
    }


def lists(*counts):
    scenes = [scene(count, seed) for seed, count in enumerate(counts)]
    return {name: [one[name] for one in scenes] for name in scenes[0]}


def padded(batch, extra):
    """The same samples as tensors, with more padding, which holds what may not be looked at."""
    total = max(map(len, batch["points"])) + extra
    count = torch.tensor([len(p) for p in batch["points"]])
    full = torch.full((len(count), total, 6), torch.nan)
    visible = torch.ones(len(count), total, dtype=torch.bool)
    for i, (points, seen) in enumerate(zip(batch["points"], batch["visible"], strict=True)):
        full[i, : len(points)], visible[i, : len(points)] = points, seen
    own = {name: torch.stack(values) for name, values in batch.items() if name not in ("points", "visible")}
    return own | {"points": full, "visible": visible, "mask": torch.arange(total)[None] < count[:, None]}


@pytest.mark.parametrize("neck", [False, True])
def test_a_batch_is_its_samples_whatever_the_padding(clip, neck):
    torch.manual_seed(0)
    encoder = BiFusionEncoder(clip, use_tiny_sa_2d=neck).eval()
    batch = lists(90, 37, 1, 60)
    with torch.no_grad():
        together, wide = encoder(**batch), encoder(**padded(batch, 23))
        for i, count in enumerate((90, 37, 1, 60)):
            alone = encoder(**{name: values[i : i + 1] for name, values in batch.items()})
            for name in ("feat_fusion", "conf_2d", "pe_xyz", "clip_feat", "has_pixel"):
                expected = getattr(alone, name)[0]
                for found in (together, wide):
                    torch.testing.assert_close(getattr(found, name)[i, :count], expected, atol=1e-5, rtol=0)
                    assert not getattr(found, name)[i, count:].any()
            torch.testing.assert_close(together.clip_global[i], alone.clip_global[0], atol=1e-5, rtol=0)
    assert together.feat_fusion.shape == (4, 90, 96)
    assert together.pe_xyz.shape == (4, 90, 32)
    assert 0.1 < float(together.has_pixel[0].float().mean()) < 0.9
    assert not together.conf_2d[~together.has_pixel].any()


def test_pictures_of_uneven_sizes_are_one_batch(clip):
    torch.manual_seed(0)
    encoder, batch = BiFusionEncoder(clip).eval(), lists(30, 20)
    batch["images"][1] = batch["images"][1][:, :30, :40]
    with torch.no_grad():
        together = encoder(**batch)
        alone = encoder(**{name: values[1:] for name, values in batch.items()})
    torch.testing.assert_close(together.feat_fusion[1, :20], alone.feat_fusion[0], atol=1e-5, rtol=0)


def test_features_from_disk_give_what_pictures_give(clip):
    """Pictures, their maps, and the features sampled at the points: one result."""
    torch.manual_seed(0)
    live, batch = BiFusionEncoder(clip).eval(), lists(50, 20)
    offline = BiFusionEncoder(clip_channels=16, offline_clip_feat=True).eval()
    state = live.state_dict()
    offline.load_state_dict({name: state[name] for name in offline.state_dict()})
    images = batch.pop("images")
    with torch.no_grad():
        first = live(images=images, **batch)
        maps = clip.feature_maps([clip.preprocess.pixels(i.permute(1, 2, 0).numpy()) for i in images], [SIZE] * 2)
        second = offline(maps=Maps.of(maps, [SIZE] * 2, torch.device("cpu")), **batch)
        batch["visible"] = [seen[: len(points)] for seen, points in zip(first.has_pixel, batch["points"], strict=True)]
        third = offline(clip_feat=first.clip_feat, clip_global=first.clip_global, **batch)
    torch.testing.assert_close(second.feat_fusion, first.feat_fusion, atol=0.02, rtol=0)  # resized by another filter
    torch.testing.assert_close(third.feat_fusion, first.feat_fusion, atol=1e-5, rtol=0)
    assert torch.equal(third.clip_global, first.clip_global)


@pytest.mark.parametrize(("freeze", "blocks"), [(True, 0), (True, 1), (False, 0)])
def test_gradients_are_finite_and_reach_no_frozen_weight(clip, freeze, blocks):
    torch.manual_seed(0)
    encoder = BiFusionEncoder(clip, freeze_clip=freeze, freeze_blocks=blocks, use_tiny_sa_2d=True).train()
    assert not encoder.clip.visual.training
    out = encoder(**lists(60, 20))
    (out.feat_fusion.square().sum() + out.conf_2d.sum()).backward()
    got = {name for name, weights in encoder.named_parameters() if weights.grad is not None}
    assert all(bool(torch.isfinite(w.grad).all()) for w in encoder.parameters() if w.grad is not None)
    tower = {name for name in got if name.startswith("clip.")}
    last = {name for name in tower if ".resblocks.1." in name or "ln_post" in name}
    assert {"conv.weight", "align_3d.weight", "geo_mlp.0.weight", "neck.layers.0.attend.weight"} <= got
    assert tower == (set() if freeze and not blocks else last if freeze else tower)
    assert bool(tower) == (not freeze or blocks > 0)
    if not freeze:
        assert "clip.visual.conv1.weight" in tower
    trained = {name for name, weights in encoder.named_parameters() if weights.requires_grad}
    assert trained - got <= {"clip.visual.proj"}  # tokens are taken before it


def test_a_branch_alone_is_that_branch(clip):
    torch.manual_seed(0)
    batch = lists(40)
    for branches, missing in (("2d", "backbone"), ("3d", "align_2d")):
        encoder = BiFusionEncoder(clip, branches=branches).eval()
        assert not hasattr(encoder, missing)
        assert not hasattr(encoder, "gate")
        out = encoder(**batch)
        assert out.feat_fusion.abs().max() > 0
        assert out.conf_2d.unique().tolist() == ([0.0, 1.0] if branches == "2d" else [0.0])
        assert (out.feat_fusion[~out.has_pixel] == 0).all() == (branches == "2d")


def test_a_backbone_of_one_s_own(clip):
    class Mine(nn.Module):
        out_channels = 5

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 5)

        def forward(self, points, mask):
            assert mask.shape == points.shape[:2]
            return self.linear(points)

    encoder = BiFusionEncoder(clip, backbone=Mine())
    encoder(**lists(12, 7)).feat_fusion.sum().backward()
    assert encoder.backbone.linear.weight.grad.abs().max() > 0


def test_what_clip_features_have_in_common_is_taken_off():
    torch.manual_seed(0)
    encoder = BiFusionEncoder(clip_channels=4, offline_clip_feat=True, branches="2d").eval()
    points, features = torch.rand(1, 20, 6), torch.randn(1, 20, 4)
    plain = encoder(points, clip_feat=features).feat_fusion
    encoder.set_clip_statistics(torch.full((4,), 100.0), torch.full((4,), 7.0))
    torch.testing.assert_close(encoder(points, clip_feat=features * 7 + 100).feat_fusion, plain, atol=1e-4, rtol=0)


def test_maps_are_kept_and_found_again(clip, tmp_path, monkeypatch):
    cache = MapCache.open(tmp_path / "cache")
    encoder = BiFusionEncoder(clip, cache=cache).eval()
    batch, keys = lists(30, 20), [("a", 0), ("a", 20)]
    with torch.no_grad():
        first = encoder(**batch, keys=keys)
        assert (cache.counts.missing, cache.counts.stored) == (2, 2)
        monkeypatch.setattr(type(encoder.clip), "_run", None)
        again = encoder(**batch, keys=keys)
        assert torch.equal(first.feat_fusion, again.feat_fusion)
        monkeypatch.undo()
        batch["images"][1] = 255 - batch["images"][1]
        encoder(**batch, keys=keys)  # another picture under the same name
    assert cache.counts.stored == 3
    cache.close()
    with pytest.raises(ConfigError, match="a cache keeps maps of a tower that does not change"):
        BiFusionEncoder(clip, freeze_blocks=1, cache=cache)


def test_the_wrong_arguments_are_named(clip):
    with pytest.raises(ConfigError, match="freeze_blocks=3: expected 0 to 2, the blocks of the tower"):
        BiFusionEncoder(clip, freeze_blocks=3)
    with pytest.raises(ValueError, match="branches=1d: expected one of both, 2d, 3d"):
        BiFusionEncoder(clip, branches="1d")
    with pytest.raises(ValueError, match="offline_clip_feat=True takes clip_channels and no model"):
        BiFusionEncoder(clip, offline_clip_feat=True)
    encoder, batch = BiFusionEncoder(clip_channels=4, offline_clip_feat=True), lists(5)
    with pytest.raises(ValueError, match="offline_clip_feat=True: expected clip_feat or maps of a FeatureStore"):
        encoder(**batch)
    with pytest.raises(ValueError, match=r"points must be \(B, N, 6\) and mask \(B, N\), got \[1, 5, 3\]"):
        encoder(torch.rand(1, 5, 3))
    with pytest.raises(ValueError, match="expected images, maps or clip_feat"):
        BiFusionEncoder(clip)(batch["points"])
    with pytest.raises(ValueError, match="maps and images need intrinsics and cam_to_world"):
        BiFusionEncoder(clip)(batch["points"], batch["images"])
    windows = dataclasses.replace(clip, preprocess=dataclasses.replace(clip.preprocess, windows=Windows(112, 112, 16)))
    with pytest.raises(ConfigError, match="the encoder takes whole pictures; leave it out"):
        BiFusionEncoder(windows)


@pytest.mark.gpu
def test_gradients_are_finite_under_amp(tiny_arch, gpu):
    cfg = ModelConfig(arch=tiny_arch, pretrained=None, precision="fp32")
    encoder = BiFusionEncoder(load_model(cfg, gpu, 0), freeze_blocks=1, use_tiny_sa_2d=True).to(gpu)
    batch = {name: [value.to(gpu) for value in values] for name, values in lists(3000, 500).items()}
    scaler = torch.amp.GradScaler(gpu.type)
    with torch.autocast(gpu.type, dtype=torch.float16):
        out = encoder(**batch)
    scaler.scale(out.feat_fusion.float().square().mean() + out.conf_2d.mean()).backward()
    grads = {name: weights.grad for name, weights in encoder.named_parameters() if weights.grad is not None}
    assert all(bool(torch.isfinite(grad).all()) for grad in grads.values())
    assert not any(name.startswith("clip.") and ".resblocks.0." in name for name in grads)


@pytest.mark.parametrize("training", [{"freeze_blocks": 1}, {"freeze_clip": False}])
def test_a_tower_in_half_precision_is_trained_in_float32(tiny_arch, training):
    """As precision=auto makes it on a GPU: AdamW's steps would make NaN of weights in half precision."""
    half = load_model(ModelConfig(arch=tiny_arch, pretrained=None, precision="fp16"), torch.device("cpu"), 0)
    encoder = BiFusionEncoder(half, **training)
    trained = [weights for weights in encoder.parameters() if weights.requires_grad]
    assert {weights.dtype for weights in trained} == {torch.float32}
    assert any(weights is own for weights in trained for own in encoder.clip.visual.parameters())
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        encoder(**lists(30)).feat_fusion.square().mean().backward()
        optimizer.step()
    assert all(bool(weights.isfinite().all()) for weights in encoder.parameters())
    # The model that was given is as it was.
    assert half.encoder.visual.conv1.weight.dtype == torch.float16
    assert half.feature_maps([np.zeros((224, 224, 3), np.uint8)], [SIZE])[0].values.isfinite().all()
    assert BiFusionEncoder(half).clip.visual is half.encoder.visual


def test_autocast_on_a_gpu_is_in_the_cache_s_key(clip, tmp_path):
    cache = MapCache(tmp_path / "cache")
    on_gpu = dataclasses.replace(clip, device=torch.device("cuda"))
    keys = [
        BiFusionEncoder(model, cache=cache, use_amp=use_amp).clip._fingerprint
        for model in (clip, on_gpu) for use_amp in (False, True)
    ]  # fmt: skip
    assert keys[0] == keys[1] == keys[2] != keys[3]
