import numpy as np
from numpy.testing import assert_array_equal

from clipfeat.camera import zbuffer
from clipfeat.camera.zbuffer import CELL_PX, ZBuffer, splat
from clipfeat.types import Camera, PointStatus, Projection


def test_splatting_equals_its_slow_twin():
    rng = np.random.default_rng(0)
    u, v = rng.integers(0, 30, 200), rng.integers(0, 20, 200)
    z, reach = rng.uniform(1, 5, 200), rng.integers(0, 4, 200)
    expected = np.full((20, 30), np.inf)
    for i in range(200):
        for row in range(max(v[i] - reach[i], 0), min(v[i] + reach[i], 19) + 1):
            for column in range(max(u[i] - reach[i], 0), min(u[i] + reach[i], 29) + 1):
                expected[row, column] = min(expected[row, column], z[i])
    assert_array_equal(splat(u, v, z, reach, (20, 30)), expected)


def grid(z, spacing=0.05, half=10):
    axis = np.arange(-half, half + 1) * spacing
    x, y = np.meshgrid(axis, axis)
    return np.stack((x.ravel(), y.ravel(), np.full(x.size, z)), 1)


def test_a_near_patch_hides_what_lies_behind_it_and_nothing_else():
    camera = Camera(np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]]), 640, 480)
    near, far = grid(1.0, half=4), grid(3.0, half=20)
    points = np.concatenate([near, far])
    uv = (points[:, :2] / points[:, 2:] * 400 + (320, 240)).astype(np.float32)
    status = np.full(len(points), PointStatus.VISIBLE, np.uint8)
    projection = Projection(uv, points[:, 2].astype(np.float32), status, np.ones(len(points), np.float32))
    hidden = ZBuffer(points).hidden(projection, camera, 0.03, 0.01)
    behind = np.abs(points[:, :2] / points[:, 2:]).max(1) < 0.2  # the near patch spans 0.2 to each side of the axis
    core = np.flatnonzero(behind & (points[:, 2] == 3.0))
    assert set(core) <= set(hidden)
    # Nothing of the near patch, and nothing that lies more than half a spacing and a cell beside its silhouette.
    outside = np.abs(points[:, :2] / points[:, 2:]).max(1) > 0.2 + 0.025 + 2 * CELL_PX / 400
    assert not set(hidden) & set(np.flatnonzero(points[:, 2] == 1.0))
    assert not set(hidden) & set(np.flatnonzero(outside))


def test_spacing_is_that_of_the_points_and_doubled_vertices_do_not_count():
    points = grid(2.0)
    assert abs(ZBuffer(points).spacing - 0.05) < 1e-9
    assert abs(ZBuffer(np.concatenate([points, points])).spacing - 0.0) < 0.051
    assert ZBuffer(points[:1]).spacing == 0


def test_the_spacing_of_a_scene_s_points_is_found_once_and_never_taken_for_that_of_others(monkeypatch):
    asked, real = [], zbuffer._spacing
    monkeypatch.setattr(zbuffer, "_spacing", lambda points: asked.append(len(points)) or real(points))
    for spacing in (0.05, 0.2, 0.1):  # the same memory may be given out again
        points = grid(2.0, spacing)
        assert abs(ZBuffer(points).spacing - spacing) < 1e-9
        assert abs(ZBuffer(points).spacing - spacing) < 1e-9
        del points
    assert len(asked) == 3
    assert not zbuffer._known
