import numpy as np
import pytest

from clipfeat.vis.overlay import close_gaps, coverage, fill_nearest, grey_of, paint, reach_px, soften


def fill_slowly(uv, colors, height, width, reach):
    filled = np.zeros((height, width, colors.shape[1]))
    distance = np.full((height, width), np.inf)
    for v in range(height):
        for u in range(width):
            for point, color in zip(uv, colors, strict=True):
                d = ((point[0] - u) ** 2 + (point[1] - v) ** 2) ** 0.5
                if d < min(reach, distance[v, u]):
                    distance[v, u], filled[v, u] = d, color
    return filled, distance


def scattered(count, height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.5, (width - 0.5, height - 0.5), size=(count, 2)), rng.random((count, 3))


@pytest.mark.parametrize("count", [0, 1, 7, 40])
@pytest.mark.parametrize("reach", [1.5, 4.0, 100.0])
def test_nearest_fill_equals_a_slow_twin(count, reach):
    height, width = 11, 17
    uv, colors = scattered(count, height, width)
    filled, distance = fill_nearest(uv, colors, height, width, reach)
    slow_filled, slow_distance = fill_slowly(uv, colors, height, width, reach)
    np.testing.assert_allclose(distance, slow_distance, rtol=1e-5)
    np.testing.assert_allclose(filled, slow_filled, rtol=1e-6)


def test_softening_sees_nothing_outside():
    filled = np.full((20, 20, 3), 9.0, np.float32)
    inside = np.zeros((20, 20), bool)
    inside[:, :8] = True
    filled[inside] = 0.25
    soft = soften(filled, inside, 2.0)
    np.testing.assert_allclose(soft[inside], 0.25, atol=1e-5)
    assert not soft[~inside].any()


def test_softening_mixes_only_near_a_border():
    filled = np.zeros((9, 60, 1), np.float32)
    filled[:, 30:] = 1
    row = soften(filled, np.ones((9, 60), bool), 2.0)[4, :, 0]
    np.testing.assert_allclose([row[10], row[50], (row[29] + row[30]) / 2], [0, 1, 0.5], atol=1e-3)
    assert (np.diff(row) >= -1e-6).all()


@pytest.mark.parametrize("reach", [1.0, 2.0, 8.0])
def test_nothing_is_covered_out_of_reach(reach):
    uv, colors = scattered(150, 60, 90)
    distance = fill_nearest(uv, colors, 60, 90, reach)[1]
    assert np.isinf(distance).any()
    assert not coverage(distance, reach)[np.isinf(distance)].any()


def test_coverage_stays_within_reach_and_closes_the_gaps():
    uv, colors = scattered(600, 60, 90)
    uv = uv[uv[:, 0] < 50]
    reach = 8.0
    distance = fill_nearest(uv, colors[: len(uv)], 60, 90, reach)[1]
    covered = coverage(distance, reach)
    assert not covered[~np.isfinite(distance)].any()
    assert (covered[10:50, 5:45] > 0.99).all()
    assert not covered[:, 55:].any()
    assert 0 <= covered.min() <= covered.max() <= 1


def test_paint_takes_the_color_of_the_points():
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    uv = np.mgrid[0:90:2, 0:60:2].reshape(2, -1).T
    left = uv[:, 0] < 45
    colors = np.where(left[:, None], (1.0, 0, 0), (0, 0, 1.0))
    painted = paint(picture, uv, colors, opacity=1.0)
    assert (painted[:, :40] == (255, 0, 0)).all()
    assert (painted[:, 50:] == (0, 0, 255)).all()
    half = paint(picture, uv, colors, opacity=0.5)[:, :40]
    grey = 255 * grey_of(picture)[:, :40]
    np.testing.assert_allclose(half, 0.5 * grey + 0.5 * np.array((255, 0, 0)), atol=1)


def test_each_point_may_have_an_opacity_of_its_own():
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    uv = np.mgrid[0:90:2, 0:60:2].reshape(2, -1).T
    colors = np.tile((1.0, 0.0, 0.0), (len(uv), 1))
    np.testing.assert_array_equal(paint(picture, uv, colors, np.full(len(uv), 0.75)), paint(picture, uv, colors))
    painted = paint(picture, uv, colors, np.where(uv[:, 0] < 45, 0.0, 1.0))
    np.testing.assert_array_equal(painted[:, :40], np.rint(255 * grey_of(picture)).repeat(3, axis=2)[:, :40])
    assert (painted[:, 50:] == (255, 0, 0)).all()


def test_the_picture_stays_grey_in_a_hole():
    picture = np.random.default_rng(0).integers(0, 256, (120, 180, 3), dtype=np.uint8)
    uv, _ = scattered(3000, 120, 180)
    hole = np.hypot(uv[:, 0] - 90, uv[:, 1] - 60) < 30
    painted = paint(picture, uv[~hole], np.tile((1.0, 0.0, 0.0), ((~hole).sum(), 1)))
    v, u = np.mgrid[:120, :180]
    from_centre = np.hypot(u - 90, v - 60)
    grey = np.rint(255 * grey_of(picture)).repeat(3, axis=2)
    np.testing.assert_array_equal(painted[from_centre < 26], grey[from_centre < 26])
    assert (painted[from_centre > 33][:, 0] > painted[from_centre > 33][:, 1]).all()


def test_a_gap_that_no_point_happened_to_fall_into_is_no_grey_disc():
    """A few points that lack in a lattice leave a speck out of reach; where many lack is a hole, and stays one."""
    picture = np.random.default_rng(0).integers(0, 256, (120, 180, 3), dtype=np.uint8)
    uv = np.mgrid[0:180:4, 0:120:4].reshape(2, -1).T
    reach = reach_px(len(uv), 120, 180)
    from_centre = np.hypot(uv[:, 0] - 90, uv[:, 1] - 60)
    v, u = np.mgrid[:120, :180]
    for radius, is_grey in ((reach, False), (3 * reach, True)):
        there = uv[from_centre > radius]
        painted = paint(picture, there, np.tile((1.0, 0.0, 0.0), (len(there), 1)), opacity=1.0)
        middle = painted[np.hypot(u - 90, v - 60) < 2]
        assert (middle == (255, 0, 0)).all() != is_grey
        distance = fill_nearest(there, there, 120, 180, 2 * reach)[1]
        assert (distance > reach).any()
        assert close_gaps(distance, reach).all() != is_grey


@pytest.mark.parametrize("count", [0, 1, 5])
def test_few_points_are_dots(count):
    picture = np.full((240, 360, 3), 100, np.uint8)
    uv = np.array([[30, 40], [300, 50], [180, 120], [60, 200], [330, 210]], np.float32)[:count]
    painted = paint(picture, uv, np.tile((1.0, 0.0, 0.0), (count, 1)))
    red = painted[..., 0] > painted[..., 1]
    assert all(red[int(v), int(u)] for u, v in uv)
    assert 30 * count <= red.sum() <= 500 * count


def test_the_reach_closes_random_gaps_and_grows_no_further_than_a_dot():
    uv, colors = scattered(2000, 120, 180)
    reach = reach_px(2000, 120, 180)
    assert np.isfinite(fill_nearest(uv, colors, 120, 180, reach)[1]).mean() > 0.995
    assert reach_px(1, 480, 720) == reach_px(0, 480, 720) == 45
    assert reach_px(10**9, 480, 720) == 1
