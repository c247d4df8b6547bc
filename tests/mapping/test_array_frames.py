"""Frames of arrays are checked as those of files are."""

import numpy as np
import pytest

from clipfeat.errors import ConfigError, FrameError
from clipfeat.mapping import FeatureMap3D
from clipfeat.mapping.array_frames import arrays_frame

RGB, DEPTH = np.zeros((12, 16, 3), np.uint8), np.full((6, 8), 2.0)
K = np.array([[15, 0, 7.5], [0, 15, 5.5], [0, 0, 1]])
ARRAYS = {"rgb": RGB, "depth": DEPTH, "k": K, "pose": np.eye(4), "depth_k": None, "distortion": None}


def test_arrays_become_a_frame():
    frame = arrays_frame(**ARRAYS, scene_id="map", frame_id=7)
    np.testing.assert_array_equal(frame.image, RGB)
    assert (frame.frame_id, frame.depth_m.dtype) == (7, np.float32)
    np.testing.assert_allclose(frame.depth_camera.intrinsics, [[7.5, 0, 3.5], [0, 7.5, 2.5], [0, 0, 1]])
    own = arrays_frame(**ARRAYS | {"depth_k": K / [[2], [2], [1]]}, scene_id="map", frame_id=7)
    assert own.depth_camera.intrinsics[0, 2] == 3.75


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ({"rgb": RGB[:0]}, r"rgb must be \(H, W, 3\) uint8, got \(0, 16, 3\) uint8"),
        ({"rgb": RGB / 255}, r"rgb must be \(H, W, 3\) uint8, got \(12, 16, 3\) float64"),
        ({"k": K[:2]}, r"K: intrinsics must be \(3, 3\), got \(2, 3\)"),
        ({"k": "K"}, "K is K, expected numbers"),
        ({"k": K / [[16], [12], [1]]}, "K: K.s principal point .* is far from the middle of 16×12 pixels"),
        ({"depth_k": np.array([[15, 0, 90], [0, 15, 5.5], [0, 0, 1]])}, "depth_K: principal point"),
        ({"depth": DEPTH[0]}, r"depth must be \(h, w\) metres as floats, got \(8,\) float64"),
        ({"depth": DEPTH[:0]}, r"depth must be \(h, w\) metres as floats, got \(0, 8\)"),
        (
            {"depth": (1000 * DEPTH).astype(np.uint16)},
            "depth must be .* got .* uint16; of whole millimetres give depth / 1000",
        ),
        ({"pose": np.full((4, 4), -np.inf)}, "pose: the pose holds inf or NaN"),
        ({"pose": np.zeros((4, 4))}, "pose: the upper left 3×3 is no rotation"),
        ({"pose": np.eye(4)[:3]}, r"pose: pose of shape \(3, 4\), expected 4×4 camera-to-world"),
        ({"pose": [[1, 0], [0]]}, r"pose is \[\[1, 0\], \[0\]\], expected numbers"),
    ],
)
def test_arrays_that_are_none_of_a_frame_are_named(array, message):
    with pytest.raises(FrameError, match=f"map frame 0:? {message}"):
        arrays_frame(**ARRAYS | array, scene_id="map", frame_id=0)


def test_what_is_no_frame_number_or_no_question_is_named():
    with pytest.raises(ConfigError, match="map: asked by a list; expected texts, or an array of vectors"):
        FeatureMap3D().query([0.5, 1.0])
    with pytest.raises(FrameError, match="map: frame_id='a': expected a whole number"):
        FeatureMap3D().add(RGB, DEPTH, K, np.eye(4), frame_id="a")
