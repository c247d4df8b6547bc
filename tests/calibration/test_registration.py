"""Colour beside the depth that it belongs to is seen, on rendered and on real frames."""

import dataclasses
import itertools

import numpy as np
import pytest

from clipfeat.calibration.agreement import make_pair
from clipfeat.calibration.registration import color_pair, correlations, judge_color
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.types import Camera, Picture


def frames_of(root):
    dataset = ScanNetDataset(root)
    scene = dataset.scenes()[0]
    return [dataset.load(scene, i) for i in dataset.frame_ids(scene)[:8]]


@pytest.fixture(scope="module", params=["demo", "office"])
def frames(request, demo_root):
    return frames_of(demo_root if request.param == "demo" else request.getfixturevalue("office"))


@pytest.fixture(scope="module")
def demo(demo_root):
    return frames_of(demo_root)


def judged(frames, change=lambda frame: frame):
    changed = [change(frame) for frame in frames]
    return judge_color([make_pair(a, b, 6000) for a, b in itertools.pairwise(changed)], {"color_intrinsics_size": None})


def rolled(right, down):
    return lambda frame: dataclasses.replace(frame, picture=Picture.of(np.roll(frame.image, (down, right), (0, 1))))


def test_registered_colour_is_well(frames):
    report = judged(frames)
    assert (report.verdict, report.cause) == ("ok", "")
    assert report.correlation > 0.9
    assert report.gray_difference < 0.3 * report.gray_difference_random


@pytest.mark.parametrize(("right", "down"), [(8, 0), (0, 8), (-8, 0)])
def test_colour_moved_by_eight_pixels_is_named(frames, right, down):
    report = judged(frames, rolled(right, down))
    assert report.verdict == "warning"
    assert report.cause.startswith("unregistered colour: moved by (")
    np.testing.assert_allclose(report.shift_px, (right, down), atol=3)


def test_exposure_is_no_mistake(demo):
    def darker(frame):
        share = 0.5 if frame.frame_id % 40 else 0.6
        return dataclasses.replace(frame, picture=Picture.of((frame.image * share).astype(np.uint8)))

    assert judged(demo, darker).verdict == "ok"


def with_color_k(change):
    def changed(frame):
        camera = frame.color_camera
        return dataclasses.replace(frame, color_camera=Camera(change(camera), camera.width, camera.height))

    return changed


def test_a_colour_k_of_another_resolution_is_named(demo):
    report = judged(demo, with_color_k(lambda camera: camera.resized(1296, 968).intrinsics))
    assert report.cause == "colour K of another resolution: as that of 1296×968 pictures it agrees"
    assert report.advice == "set data.color_intrinsics_size=[1296,968]"


def test_the_k_of_the_depth_used_for_colour_is_named(demo):
    depth = demo[0].depth_camera
    report = judged(demo, with_color_k(lambda camera: depth.intrinsics))
    assert report.advice == f"set data.color_intrinsics_size=[{depth.width},{depth.height}]"


def test_a_focal_length_of_colour_is_named(frames):
    report = judged(frames, with_color_k(lambda camera: camera.intrinsics * [[1.1, 1, 1], [1, 1.1, 1], [1, 1, 1]]))
    assert report.verdict == "warning"
    assert report.cause.startswith("colour K: focal length: fx and fy × 0.9")


def test_frames_that_do_not_meet_say_nothing(demo):
    away = demo[1].cam_to_world.copy()
    away[:3, 3] += 100
    pair = make_pair(demo[0], dataclasses.replace(demo[1], cam_to_world=away))
    assert color_pair(pair) is None
    assert judge_color([pair]).verdict == "unknown"


def test_correlation_is_that_of_the_values_at_the_points(demo):
    pair = color_pair(make_pair(demo[0], demo[1], 2000))
    flat = dataclasses.replace(pair, gray_b=np.full_like(pair.gray_b, 7))
    same = dataclasses.replace(pair, gray_b=pair.gray_a, uv_b=pair.uv_a)
    np.testing.assert_allclose(correlations([same, flat]), (1, -1))
    inside = np.rint(pair.uv_a).clip(0, np.array(pair.gray_a.shape[::-1]) - 1)
    at = dataclasses.replace(pair, uv_a=inside, uv_b=inside)
    u, v = inside.astype(int).T
    expected = np.corrcoef(pair.gray_a[v, u], pair.gray_b[v, u])[0, 1]
    np.testing.assert_allclose(correlations([at]), [expected], atol=1e-4)


def test_two_pairs_are_too_few(demo):
    report = judged(demo[:3], rolled(8, 0))
    assert (report.verdict, report.cause) == ("unknown", "colour: 2 pairs of frames are too few")
