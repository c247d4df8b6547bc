import dataclasses

import numpy as np
import pytest

from clipfeat.errors import FrameError
from clipfeat.sampling.points import choose, depth_points


def test_a_choice_is_without_replacement_in_order_and_seeded():
    candidates = np.arange(100, 600)
    chosen = choose(candidates, 50, np.random.default_rng(3))
    assert len(set(chosen.tolist())) == 50
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, choose(candidates, 50, np.random.default_rng(3)))
    assert choose(candidates, 50, np.random.default_rng(4)).tolist() != chosen.tolist()
    assert choose(candidates, None, np.random.default_rng(0)) is candidates
    assert choose(candidates, 5000, np.random.default_rng(0)) is candidates


def test_points_come_from_measured_pixels_only(demo_frames):
    frame = demo_frames[0]
    depth = frame.depth_m.copy()
    depth[:, :64] = 0
    points = depth_points(dataclasses.replace(frame, depth_m=depth), 300, np.random.default_rng(0))
    rows = points.idx
    assert points.xyz.shape == (300, 3)
    assert (rows % depth.shape[1] >= 64).all()
    assert len(set(rows.tolist())) == 300


def test_no_depth_and_no_measurement_are_bad_frames(demo_frames):
    rng = np.random.default_rng(0)
    without = dataclasses.replace(demo_frames[0], depth_m=None, depth_camera=None)
    with pytest.raises(FrameError, match="frame 0: no depth file, and sampling=depth takes its points from it"):
        depth_points(without, 10, rng)
    empty = dataclasses.replace(demo_frames[0], depth_m=np.zeros_like(demo_frames[0].depth_m))
    with pytest.raises(FrameError, match="frame 0: no depth pixel holds a measurement"):
        depth_points(empty, 10, rng)
