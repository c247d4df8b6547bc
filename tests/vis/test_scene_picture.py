import numpy as np
import pytest

from clipfeat.vis.scene_picture import HEIGHT, WIDTH, scene_picture, up_axis


def test_up_is_where_cameras_have_it():
    level = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], float)  # looks along y: z is up
    assert up_axis([level, level]) == [0, 0, 1]
    assert up_axis([np.eye(4)]) == [0, -1, 0]
    assert up_axis([]) == [0, 0, 1]


def room(rng):
    """A floor in green, a red box on it that hides some of it, a blue ceiling: points 5 cm apart."""
    floor = np.stack([*(axis.ravel() for axis in np.mgrid[0:4:0.05, 0:5:0.05]), np.zeros(8000)], 1)
    ceiling = floor + np.array([0, 0, 2.6])
    box = rng.uniform([1.5, 2, 0], [2.5, 3, 1.0], (4000, 3))
    box[:, 2] = np.where(rng.random(4000) < 0.5, 1.0, box[:, 2])
    xyz = np.concatenate([floor, box, ceiling])
    colors = np.repeat(np.array([[0, 200, 0], [200, 0, 0], [0, 0, 200]], np.uint8), [8000, 4000, 8000], axis=0)
    return xyz, colors


@pytest.mark.parametrize(
    "turn", [pytest.param(np.eye(3), marks=pytest.mark.slow), np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])]
)
def test_a_scene_is_shown_from_above_without_its_ceiling_and_the_nearest_in_front(turn):
    xyz, rgb = room(np.random.default_rng(0))
    picture = scene_picture(xyz @ turn.T, rgb, turn @ [0.0, 0, 1])
    assert picture.shape == (HEIGHT, WIDTH, 3)
    found, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    shares = {tuple(color): count / counts.sum() for color, count in zip(found.tolist(), counts, strict=True)}
    assert set(shares) == {(0, 200, 0), (200, 0, 0), (255, 255, 255)}
    assert shares[0, 200, 0] > 0.15
    assert 0.01 < shares[200, 0, 0] < shares[0, 200, 0]
    red = (picture == [200, 0, 0]).all(2)
    v, u = np.nonzero(red)
    inner = red[int(np.percentile(v, 30)) : int(np.percentile(v, 60)), int(np.median(u)) - 20 : int(np.median(u)) + 20]
    assert inner.mean() > 0.95  # the floor behind the box does not shine through


def test_nothing_is_a_white_picture():
    assert (scene_picture(np.empty((0, 3)), np.empty((0, 3), np.uint8), [0, 0, 1]) == 255).all()


def test_a_note_stands_in_the_corner_and_changes_nothing_else():
    rng = np.random.default_rng(0)
    xyz, rgb = rng.uniform(0, 3, (500, 3)), rng.integers(0, 255, (500, 3), dtype=np.uint8)
    plain, noted = (
        scene_picture(xyz, rgb, [0, 0, 1], width=640, note=note) for note in ("", "ViT-B-16 · none · weights=random")
    )
    changed = np.argwhere((plain != noted).any(-1))
    assert len(changed) > 100
    assert changed[:, 0].min() > 0.95 * len(plain)
    assert changed[:, 1].max() < 0.5 * plain.shape[1]
    nothing = scene_picture(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), [0, 0, 1], note="weights=random")
    assert (nothing != 255).any()
