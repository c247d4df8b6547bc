import dataclasses
import itertools

import numpy as np
import pytest

from clipfeat.camera.projection import build_uv_index, project_camera_points, unproject_depth, world_to_cam
from clipfeat.camera.visibility import VisibilityRule, lookup_depth, project_frame
from clipfeat.types import Camera, Distortion, Frame, Picture, PointStatus


def frame_of(depth, pose=None):
    """A frame whose colour picture is twice the size of its depth picture."""
    height, width = depth.shape
    camera = Camera(np.array([[60.0, 0, width / 2], [0, 60.0, height / 2], [0, 0, 1]]), width, height)
    color = camera.resized(2 * width, 2 * height)
    picture = Picture.of(np.zeros((2 * height, 2 * width, 3), np.uint8))
    return Frame("s", 0, picture, depth.astype(np.float32), color, camera, np.eye(4) if pose is None else pose)


def test_status_and_confidence_equal_a_slow_twin():
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 3, size=(30, 40))
    depth[rng.random(depth.shape) < 0.2] = 0
    frame = frame_of(depth)
    points = np.concatenate([rng.uniform(-2, 2, (3000, 2)), rng.uniform(-0.5, 4, (3000, 1))], 1)
    found = project_frame(points, frame, VisibilityRule(near=0.1, far=3.5, tolerance=0.3, tolerance_rel=0.1))
    k_color, k_depth = frame.color_camera.intrinsics, frame.depth_camera.intrinsics
    for i in range(3000):
        x, y, z = points[i]
        if z <= 0:
            expected, conf = PointStatus.BEHIND, 0.0
        else:
            u, v = k_color[0, 0] * x / z + k_color[0, 2], k_color[1, 1] * y / z + k_color[1, 2]
            if not (0 <= u <= 79 and 0 <= v <= 59 and 0.1 <= z <= 3.5):
                expected, conf = PointStatus.OUT_OF_VIEW, 0.0
            else:
                ud, vd = k_depth[0, 0] * x / z + k_depth[0, 2], k_depth[1, 1] * y / z + k_depth[1, 2]
                measured = float(frame.depth_m[int(np.floor(vd + 0.5)), int(np.floor(ud + 0.5))])
                allowed = max(0.3, 0.1 * z)
                if measured == 0:
                    expected, conf = PointStatus.NO_DEPTH, 0.0
                elif abs(z - measured) > allowed:
                    expected, conf = PointStatus.OCCLUDED, 0.0
                else:
                    expected = PointStatus.VISIBLE
                    conf = np.exp(-0.5 * ((z - measured) / (allowed / 3)) ** 2)
        assert found.status[i] == expected
        assert found.conf_2d[i] == pytest.approx(conf, abs=1e-4)
    assert len(set(found.status.tolist())) == 5


@pytest.mark.parametrize("other_lens", [False, True])
def test_confidence_is_multiplied_by_the_weight_of_the_pixel_that_judged_the_point(other_lens):
    rng = np.random.default_rng(1)
    frame = frame_of(np.full((30, 40), 2.0))
    if other_lens:
        camera = dataclasses.replace(frame.depth_camera, distortion=Distortion(fisheye=False, radial=(-0.05, 0, 0, 0)))
        frame = dataclasses.replace(frame, depth_camera=camera)
    weighed = dataclasses.replace(frame, depth_weight=rng.integers(0, 3, (30, 40)).astype(np.float32) / 2)
    points = np.concatenate([rng.uniform(-1, 1, (500, 2)), rng.uniform(1.95, 2.05, (500, 1))], 1)
    before, after = (project_frame(points, one, VisibilityRule(tolerance=0.1)) for one in (frame, weighed))
    np.testing.assert_array_equal(after.status, before.status)
    camera = frame.depth_camera
    for i in np.flatnonzero(before.visible):
        (u, v), _ = (a[0] for a in project_camera_points(points[i : i + 1], camera.intrinsics, camera.distortion))
        weight = weighed.depth_weight[int(np.floor(v + 0.5)), int(np.floor(u + 0.5))]
        assert after.conf_2d[i] == pytest.approx(weight * before.conf_2d[i], abs=1e-6)
    assert 0 < np.count_nonzero(after.conf_2d) < np.count_nonzero(before.conf_2d)


def test_a_frame_without_depth_sees_all_that_is_in_view():
    frame = dataclasses.replace(frame_of(np.ones((30, 40))), depth_m=None, depth_camera=None)
    found = project_frame(np.array([[0.0, 0.0, 5.0], [0.0, 0.0, -5.0]]), frame)
    assert found.status.tolist() == [PointStatus.VISIBLE, PointStatus.BEHIND]
    assert found.conf_2d.tolist() == [1.0, 0.0]


def test_depth_lookup_takes_the_nearest_pixel_up_to_the_picture_s_edge():
    depth = np.arange(1.0, 7.0).reshape(2, 3)
    uv = np.array([[0.4, 0.4], [0.6, 0.4], [-0.5, -0.5], [2.5, 1.5], [2.51, 1.0], [-0.51, 0.0], [np.nan, 0.0]])
    assert lookup_depth(depth, uv).tolist() == [1.0, 2.0, 1.0, 6.0, 0.0, 0.0, 0.0]


def test_a_frame_s_own_points_are_visible_on_their_own_pixels(demo_frames):
    """Depth pixels, lifted to the world and projected, land where they came from: the seed's acceptance test."""
    for frame in demo_frames:
        points, index = unproject_depth(frame.depth_m, frame.depth_camera.intrinsics, frame.cam_to_world)
        seen = project_frame(points, frame)
        assert seen.visible.all()
        height, width = frame.depth_m.shape
        v, u = np.divmod(index, width)
        sx, sy = frame.color_camera.width / width, frame.color_camera.height / height
        expected = np.stack(((u + 0.5) * sx - 0.5, (v + 0.5) * sy - 0.5), 1)
        assert np.abs(seen.uv - expected).max() < 0.01
        assert seen.conf_2d.min() > 0.999


def test_depth_carried_into_the_next_frame_agrees_and_with_inverted_poses_does_not(demo_frames):
    def median_error(frames):
        errors = []
        for a, b in itertools.pairwise(frames):
            points, _ = unproject_depth(a.depth_m, a.depth_camera.intrinsics, a.cam_to_world)
            size = b.depth_camera.width, b.depth_camera.height
            there = build_uv_index(points, b.depth_camera.intrinsics, world_to_cam(b.cam_to_world), size)
            measured = lookup_depth(b.depth_m, there.uv)
            both = there.visible & (measured > 0)
            errors.append(np.abs(there.depth_m - measured)[both])
        return np.median(np.concatenate(errors)) if sum(map(len, errors)) else np.inf

    assert median_error(demo_frames) < 0.005
    inverted = [dataclasses.replace(f, cam_to_world=np.linalg.inv(f.cam_to_world)) for f in demo_frames]
    assert median_error(inverted) > 0.05
