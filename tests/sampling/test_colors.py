"""Colours of points, from the picture that shows them."""

import numpy as np
import pytest

from clipfeat.camera.projection import unproject_depth
from clipfeat.camera.visibility import project_frame
from clipfeat.sampling.colors import depth_pixel_colors, picture_colors
from clipfeat.types import Camera, Frame, Picture

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def frame(depth_k=(30.0, 30.0, 19.5, 14.5)):
    fx, fy, cx, cy = depth_k
    depth_m = np.random.default_rng(1).uniform(1, 2, (30, 40)).astype(np.float32)
    return Frame(
        "s", 0, Picture.of(IMAGE), depth_m, Camera(np.array([[50.0, 0, 31], [0, 52, 24], [0, 0, 1]]), 64, 48),
        Camera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), 40, 30), np.eye(4),
    )  # fmt: skip


def test_a_point_has_the_colour_of_the_nearest_pixel():
    uv = np.array([[0, 0], [-1e-3, 47.0005], [62.6, 10.4], [63.001, 47]], np.float32)
    rgb, inside = picture_colors(frame(), uv)
    np.testing.assert_array_equal(rgb, IMAGE[[0, 47, 10, 47], [0, 0, 63, 63]])
    assert inside.all()
    assert rgb.dtype == np.uint8
    rgb, inside = picture_colors(frame(), np.array([[-0.6, 3], [3, 47.6], [np.nan, 3], [3, 3]]))
    assert inside.tolist() == [False, False, False, True]
    assert not rgb[:3].any()


@pytest.mark.parametrize("depth_k", [(30.0, 30.0, 19.5, 14.5), (20.0, 22.0, 12.0, 20.0)])
def test_a_depth_pixel_has_the_colour_of_what_it_measured(depth_k):
    own = frame(depth_k)
    xyz, pixels = unproject_depth(own.depth_m, own.depth_camera.intrinsics, own.cam_to_world)
    rgb, inside = depth_pixel_colors(own, pixels)
    uv = project_frame(xyz, own).uv
    expected, in_view = picture_colors(own, uv)
    edge = np.abs(np.abs(uv - np.floor(uv)) - 0.5).min(1) < 1e-4  # between two pixels rounding decides
    np.testing.assert_array_equal(rgb[~edge], expected[~edge])
    np.testing.assert_array_equal(inside[~edge], in_view[~edge])
    assert inside.any()
