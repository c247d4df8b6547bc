import numpy as np
import pytest

from clipfeat.protocols.transfer import NONE, UNSEEN, votes, voxels


def slow_votes(xyz, predicted, asked, neighbours, reach):
    found = []
    for point in asked:
        distance = np.sqrt(((xyz - point) ** 2).sum(1))
        near = [predicted[i] for i in np.argsort(distance)[:neighbours] if distance[i] < reach]
        count = {k: near.count(k) for k in near}
        best = [k for k, often in count.items() if often == max(count.values())]
        found.append(min(best, key=lambda k: (k == NONE, k)) if best else UNSEEN)
    return found


@pytest.mark.parametrize(
    ("neighbours", "reach"), [(1, np.inf), (1, 0.1), (5, np.inf), (5, 0.15), (4, 0.3), (90, np.inf)]
)
def test_votes_are_those_of_a_slow_twin(neighbours, reach):
    rng = np.random.default_rng(neighbours)
    xyz, asked = rng.random((60, 3)), rng.random((80, 3))
    predicted = rng.integers(-1, 4, 60)
    assert votes(xyz, predicted, asked, neighbours, reach).tolist() == slow_votes(
        xyz, predicted, asked, neighbours, reach
    )


def test_without_a_point_that_votes_nothing_is_seen():
    assert votes(np.empty((0, 3)), np.empty(0, int), np.zeros((2, 3)), 5, np.inf).tolist() == [UNSEEN, UNSEEN]


def test_voxels_take_the_label_that_most_of_their_points_have():
    rng = np.random.default_rng(0)
    xyz, classes = rng.random((500, 3)) - 0.5, rng.integers(-1, 3, 500)
    cells = {}
    for point, own in zip(xyz, classes.tolist(), strict=True):
        cells.setdefault(tuple(np.rint(point / 0.25).astype(int).tolist()), []).append(own)
    centres, found = voxels(xyz, classes, 0.25)
    assert len(found) == len(cells)
    for centre, own in zip(centres, found, strict=True):
        there = cells[tuple(np.rint(centre / 0.25).astype(int).tolist())]
        often = max(there.count(k) for k in there)
        assert own == min(k for k in there if there.count(k) == often)
