"""The library's own functions on a real recording; skipped where it is missing."""

import itertools

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from twins import slow_sample

from clipfeat.camera.projection import build_uv_index, unproject_depth, world_to_cam
from clipfeat.camera.visibility import VisibilityRule, lookup_depth, project_frame
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.model.clip_model import ClipModel
from clipfeat.model.encoder import load_encoder
from clipfeat.model.heads import build_head
from clipfeat.model.preprocess import Preprocess
from clipfeat.sampling.bilinear import sample_img_feat


@pytest.fixture(scope="module")
def frames(office):
    dataset = ScanNetDataset(office)
    return [[dataset.load(scene, i) for i in dataset.frame_ids(scene)] for scene in dataset.scenes()]


def test_all_frames_are_read(frames):
    assert [len(scene) for scene in frames] == [21, 21, 21]
    for frame in itertools.chain(*frames):
        assert frame.image.shape == (360, 540, 3)
        assert frame.depth_m.shape == (360, 540)


def test_points_come_back_to_their_pixels(frames):
    worst = 0.0
    for frame in itertools.chain(*frames):
        points, index = unproject_depth(frame.depth_m, frame.depth_camera.intrinsics, frame.cam_to_world)
        seen = project_frame(points.astype(np.float32).astype(np.float64), frame, VisibilityRule(near=0, far=100))
        assert seen.visible.all()
        pixel = np.stack((index % 540, index // 540), 1)
        worst = max(worst, np.abs(seen.uv - pixel).max())
    assert worst < 0.01


def median_depth_error(scene, poses):
    errors = []
    for (a, pose_a), (b, pose_b) in itertools.pairwise(zip(scene, poses, strict=True)):
        points, _ = unproject_depth(a.depth_m, a.depth_camera.intrinsics, pose_a)
        there = build_uv_index(points, b.depth_camera.intrinsics, world_to_cam(pose_b), (540, 360))
        measured = lookup_depth(b.depth_m, there.uv)
        both = there.visible & (measured > 0)
        errors.append(np.abs(there.depth_m - measured)[both])
    return float(np.median(np.concatenate(errors)))


def test_depth_carried_into_the_next_frame_agrees_and_with_the_pose_inverted_it_does_not(frames):
    right = [median_depth_error(scene, [f.cam_to_world for f in scene]) for scene in frames]
    wrong = [median_depth_error(scene, [np.linalg.inv(f.cam_to_world) for f in scene]) for scene in frames]
    assert max(right) < 0.010
    assert min(wrong) > 0.1


@pytest.fixture(scope="module")
def model():
    encoder = load_encoder("ViT-B-16", None)
    preprocess = Preprocess(224, "squash", encoder.mean, encoder.std)
    head = build_head("pixelshuffle", encoder.width, None, 0)
    return ClipModel("ViT-B-16", encoder, preprocess, head, "pixelshuffle", torch.device("cpu"), "fp32")


def test_input_tokens_and_sampled_features_are_right(frames, model):
    frame = frames[0][3]
    transform = image_transform(
        224,
        is_train=False,
        mean=model.encoder.mean,
        std=model.encoder.std,
        resize_mode="squash",
        interpolation="bicubic",
    )
    expected_input = transform(Image.fromarray(frame.image))
    pixels = model.preprocess.pixels(frame.image)
    assert torch.equal(model.preprocess.normalize(torch.from_numpy(pixels.copy())), expected_input)

    visual = model.encoder.visual
    visual.output_tokens = True
    try:
        with torch.no_grad():
            _, tokens = visual(expected_input[None])
    finally:
        visual.output_tokens = False
    found = model.encoder.tokens(expected_input[None])
    assert (found[0].permute(1, 2, 0).reshape(196, 768) - tokens[0]).abs().max() < 1e-5

    feature_map = model.feature_maps([pixels], [(540, 360)])[0]
    uv = np.random.default_rng(0).uniform((0, 0), (539, 359), (3000, 2)).astype(np.float32)
    shuffled = tokens[0].double().numpy().T.reshape(192, 2, 2, 14, 14).transpose(0, 3, 1, 4, 2).reshape(192, 28, 28)
    position = (uv.astype(np.float64) + 0.5) * (28 / 540, 28 / 360) - 0.5
    np.testing.assert_allclose(sample_img_feat(feature_map, uv), slow_sample(shuffled, position), atol=1e-4)
