"""The check must name what is wrong, on rendered and on real frames, and keep still where nothing is."""

import dataclasses
import itertools
import re

import conftest
import numpy as np
import pytest
from PIL import Image

from clipfeat.calibration.agreement import agreement, carry_depth, make_pair, pair_agreement, parallax
from clipfeat.calibration.hypotheses import (
    candidate_sizes,
    invert,
    of_size,
    with_depth_scaled,
    with_focal_scaled,
    with_principal_point_moved,
)
from clipfeat.calibration.verdict import judge
from clipfeat.data.demo import scans as rendering
from clipfeat.data.demo.render import cast_rays
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.types import Camera, Frame, Picture


def neighbours(frames):
    return [make_pair(a, b, 2000) for a, b in itertools.pairwise(frames)]


KEYS = {"depth_scale": 1000.0, "depth_intrinsics_size": None}


def judged(frames, change=lambda frame: frame):
    return judge(neighbours([change(frame) for frame in frames]), KEYS)


@pytest.fixture(scope="module")
def demo(demo_root):
    dataset = ScanNetDataset(demo_root)
    return [dataset.load(scene, i) for scene in dataset.scenes()[:1] for i in dataset.frame_ids(scene)]


@pytest.fixture(scope="module")
def office_frames(office):
    dataset = ScanNetDataset(office)
    scene = dataset.scenes()[0]
    return [dataset.load(scene, i) for i in dataset.frame_ids(scene)[1:5]]


@pytest.fixture(scope="module")
def open3d():
    """First and last of five frames that hardly move: they overlap by 98 %."""
    root = conftest.SHARED / "open3d_rgbd"
    if not root.is_dir():
        pytest.skip("the real recordings are not here")
    rows = [line.split() for line in (root / "trajectory.log").read_text().splitlines()]
    camera = Camera(np.array([[525, 0, 319.5], [0, 525, 239.5], [0, 0, 1]]), 640, 480)
    colors, depths = sorted((root / "color").iterdir()), sorted((root / "depth").iterdir())
    return [
        Frame(
            "open3d", i, Picture.of(np.asarray(Image.open(colors[i]))),
            np.asarray(Image.open(depths[i])).astype(np.float32) / 1000,
            camera, camera, np.array(rows[5 * i + 1 : 5 * i + 5], float),
        )
        for i in (0, 4)
    ]  # fmt: skip


def of_pictures(size):
    """K brought to pictures of another size and then used as if it belonged to these."""

    def change(frame):
        camera = frame.depth_camera
        other = camera.resized(*size)
        return dataclasses.replace(frame, depth_camera=Camera(other.intrinsics, camera.width, camera.height))

    return change


def degraded(frame, noise_m, holes):
    rng = np.random.default_rng(frame.frame_id)
    depth = frame.depth_m + rng.normal(0, noise_m, frame.depth_m.shape)
    depth[(rng.random(depth.shape) < holes) | (frame.depth_m == 0)] = 0
    return dataclasses.replace(frame, depth_m=depth.astype(np.float32))


MISTAKES = [
    (invert, "pose inverted", "invert the pose files"),
    (with_focal_scaled(1.1), "focal length: fx and fy × 0.909 agree", "focal lengths of the depth camera's K"),
    (with_focal_scaled(0.9), "focal length: fx and fy × 1.1", "focal lengths of the depth camera's K"),
    (
        with_depth_scaled(2.0),
        "depth scale: depths × 0.5 agree",
        "set data.depth_scale=2000, or multiply the translations of",
    ),
    (
        with_depth_scaled(0.5),
        "depth scale: depths × 2 agree",
        "set data.depth_scale=500, or multiply the translations of",
    ),
    (
        with_depth_scaled(0.2),
        "depth scale: depths × 5 agree",
        "set data.depth_scale=200, or multiply the translations of",
    ),
    (with_depth_scaled(1000.0), "depth scale: depths × 0.001 agree", "set data.depth_scale=1000000"),
    (of_pictures((1296, 968)), "K of another resolution: K as that of 1296×968", "intrinsics_size=[1296,968]"),
]


def test_a_right_calibration_is_well(demo):
    report = judged(demo)
    assert (report.verdict, report.cause, report.advice) == ("ok", "", "")
    assert report.error < 0.002
    assert report.can_tell == {"pose direction": True, "focal length": True, "depth scale": True}
    for pair in report.pairs:
        assert pair.depth_error_m < 0.01
        assert pair.visible > 0.85


@pytest.mark.parametrize(("mistake", "cause", "advice"), MISTAKES)
def test_a_mistake_is_named(demo, mistake, cause, advice):
    report = judged(demo, mistake)
    assert report.verdict == "warning"
    assert report.cause.startswith(cause)
    assert advice in report.advice


def test_a_k_of_half_the_resolution_is_named(demo):
    report = judged(demo, of_pictures((64, 48)))
    assert report.cause == "K of another resolution: K as that of 64×48 pictures agrees"
    assert report.advice == "set data.depth_intrinsics_size=[64,48]"


def test_a_principal_point_far_off_is_named(demo):
    report = judged(demo, with_principal_point_moved(6.4, 0.0))
    assert report.cause == "principal point: cx -6.4, cy +0 px agrees"


def test_noise_and_holes_are_no_mistake(demo):
    report = judged(demo, lambda frame: degraded(frame, 0.02, 0.3))
    assert report.verdict == "ok"
    assert report.error > 0.004


def test_noise_that_grows_with_depth_hides_things_but_is_no_mistake(demo):
    def noisy(frame):
        rng = np.random.default_rng(frame.frame_id)
        noise = rng.normal(0, 0.02, frame.depth_m.shape) * frame.depth_m**2
        return dataclasses.replace(frame, depth_m=(frame.depth_m + noise).astype(np.float32))

    report = judged(demo, noisy)
    assert report.verdict == "ok"
    assert report.can_tell["pose direction"]
    assert not report.can_tell["focal length"]


@pytest.fixture(scope="module")
def room():
    return rendering.build_room(0, 0)


def rendered(room, poses):
    """Frames of depth alone from chosen poses."""
    camera = Camera(np.array([[115.0, 0, 63], [0, 115, 48], [0, 0, 1]]), 128, 96)
    image = Picture.of(np.zeros((96, 128, 3), np.uint8))
    return [
        Frame(
            "s",
            i,
            image,
            cast_rays(room.faces, camera, pose).depth_m.astype(np.float32),
            camera,
            camera,
            pose,
        )
        for i, pose in enumerate(poses)
    ]


def turned(pose, degrees, axis):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(4)
    turn[np.ix_(axis, axis)] = [[c, -s], [s, c]]
    return pose @ turn


@pytest.fixture(scope="module")
def turning(room):
    """A camera that turns about its own centre."""
    start = room.camera_pose(0, 4, (0, 0, 1))
    return rendered(room, [turned(turned(start, 9 * i, (0, 2)), 3 * i, (1, 2)) for i in range(4)])


def test_a_turning_camera_raises_no_alarm_and_says_nothing_of_the_depth_scale(turning):
    report = judged(turning)
    assert report.verdict == "ok"
    assert report.can_tell == {"pose direction": True, "focal length": True, "depth scale": False}
    doubled = judged(turning, with_depth_scaled(2.0))
    assert doubled.verdict == "ok"
    assert not doubled.can_tell["depth scale"]


def test_a_turning_camera_still_shows_the_pose_and_the_focal_length(turning):
    assert judged(turning, invert).cause.startswith("pose inverted")
    assert judged(turning, with_focal_scaled(1.1)).cause.startswith("focal length: fx and fy × 0.9")


def test_a_still_camera_says_nothing(demo, room):
    assert judged([demo[0], dataclasses.replace(demo[0], frame_id=1)]).verdict == "unknown"
    start = room.camera_pose(0, 4, (0, 0, 1))
    still = [degraded(frame, 0.02, 0.1) for frame in rendered(room, [start, turned(start, 0.02, (0, 2))])]
    report = judged(still, with_focal_scaled(1.2))
    assert report.verdict == "unknown"
    assert "hardly move" in report.cause
    assert not any(report.can_tell.values())


def test_poses_of_other_frames_are_a_warning_without_a_guess(demo):
    mixed = [
        dataclasses.replace(a, cam_to_world=b.cam_to_world)
        for a, b in zip(demo, [demo[2], demo[0], demo[3], demo[1]], strict=True)
    ]
    report = judged(mixed)
    assert report.verdict == "warning"
    assert report.error > 0.03


def test_there_must_be_something_to_judge(demo):
    with pytest.raises(ValueError, match="no pair of frames to judge"):
        judge([])
    bare = dataclasses.replace(demo[0], depth_m=None, depth_camera=None)
    with pytest.raises(ValueError, match="frames 0 and 20: both need depth"):
        make_pair(bare, demo[1])
    empty = dataclasses.replace(demo[0], depth_m=np.zeros_like(demo[0].depth_m))
    with pytest.raises(ValueError, match="frame 0: no pixel has depth"):
        make_pair(empty, demo[1])


def test_depth_is_carried_as_by_hand(demo):
    pair = make_pair(demo[0], demo[1], 40)
    k = pair.a.depth_camera.intrinsics
    by_hand = []
    for index in pair.pixels:
        v, u = divmod(int(index), 128)
        ray = np.linalg.solve(k, (u, v, 1.0)) * pair.a.depth_m[v, u]
        there = np.linalg.solve(pair.b.cam_to_world, pair.a.cam_to_world @ (*ray, 1.0))[:3]
        x, y, z = k @ there
        if z > 0 and 0 <= x / z <= 127 and 0 <= y / z <= 95:
            by_hand.append((there[2], pair.b.depth_m[int(y / z + 0.5), int(x / z + 0.5)]))
    expected, measured, hit = carry_depth(pair)
    assert hit.sum() == len(by_hand)
    np.testing.assert_allclose(np.stack((expected, measured), 1), by_hand, atol=1e-5)


def test_too_little_overlap_has_no_error(demo):
    away = dataclasses.replace(demo[0], cam_to_world=turned(demo[0].cam_to_world, 120, (0, 2)))
    assert agreement([make_pair(demo[0], away)]) == (np.inf, 0)
    assert agreement([make_pair(demo[0], demo[1], 150)])[0] == np.inf
    for degrees in np.arange(40, 70, 0.25):
        aside = dataclasses.replace(demo[0], cam_to_world=turned(demo[0].cam_to_world, degrees, (0, 2)))
        error, overlap = agreement([make_pair(demo[0], aside, 20000)])
        if overlap < 0.03:
            break
    assert overlap * 128 * 96 > 200
    assert error == np.inf


def test_a_hypothesis_under_which_frames_hardly_meet_has_nothing_to_say(demo):
    given, inverted = agreement(neighbours(demo)), agreement(neighbours(demo), invert)
    assert inverted[1] < 0.5 * given[1]
    assert "pose inverted" not in {finding.family for finding in judged(demo).findings}


def test_motion_is_measured(demo):
    a = dataclasses.replace(demo[0], cam_to_world=np.eye(4))
    pose = turned(np.eye(4), 30, (0, 2))
    pose[:3, 3] = (0.3, 0.0, 0.4)
    found = pair_agreement(make_pair(a, dataclasses.replace(demo[1], cam_to_world=pose)))
    assert (found.motion_m, found.rotation_deg) == (0.5, 30.0)
    assert parallax(a, dataclasses.replace(a, cam_to_world=pose)) == pytest.approx(0.5 / np.median(a.depth_m))


def test_candidate_sizes_are_those_whose_middle_is_the_principal_point():
    k = np.array([[578.0, 0, 318], [0, 579, 242], [0, 0, 1]])
    sizes = candidate_sizes(Camera(k, 1296, 968), Camera(k, 640, 480))
    assert sizes[0] == (640, 480)
    assert (1296, 968) not in sizes
    assert (320, 240) not in sizes
    change = of_size((640, 480))
    frame = Frame(
        "s", 0, Picture.of(np.zeros((2, 2, 3), np.uint8)), None, Camera(k, 1296, 968), Camera(k, 1296, 968), np.eye(4)
    )
    np.testing.assert_allclose(change(frame).depth_camera.intrinsics[0, 0], 578 * 1296 / 640)


def test_the_office_is_well(office_frames):
    report = judged(office_frames)
    assert report.verdict == "ok"
    assert report.error < 0.005
    assert all(report.can_tell.values())
    assert judged(office_frames, lambda frame: degraded(frame, 0.02, 0.3)).verdict == "ok"


@pytest.mark.parametrize(("mistake", "cause"), [(m, c) for m, c, _ in MISTAKES])
def test_a_mistake_in_the_office_is_named(office_frames, mistake, cause):
    assert judged(office_frames, mistake).cause.startswith(cause[:27])


def test_two_frames_that_hardly_move_are_well(open3d):
    report = judged(open3d)
    assert report.verdict == "ok"
    assert report.can_tell["pose direction"]
    assert report.can_tell["depth scale"]


def test_two_frames_that_hardly_move_show_the_pose_and_the_depth_scale(open3d):
    assert judged(open3d, invert).cause.startswith("pose inverted")
    assert re.match(r"depth scale: depths × 0\.(49|50?|51)\d* agree", judged(open3d, with_depth_scaled(2.0)).cause)
    assert judged(open3d, of_pictures((320, 240))).cause.startswith("K of another resolution: K as that of 320×240")


def test_two_frames_that_hardly_move_do_not_show_a_focal_length_off_by_a_tenth_and_say_so(open3d):
    report = judged(open3d, with_focal_scaled(1.1))
    assert report.verdict == "ok"
    assert not report.can_tell["focal length"]
