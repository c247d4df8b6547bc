import numpy as np
import pytest

from clipfeat.data.matching import ClocksError, match_times


def match(times_s, others_s, max_dt=0.5):
    return match_times("pose", "poses.txt", dict(enumerate(times_s)), np.array(others_s, dtype=float), max_dt)


def slowly(times_s, others_s, max_dt):
    """All pairs, sorted by gap: each is taken whose two entries are free. What TUM's associate.py does."""
    pairs = sorted((round(abs(b - a), 6), i, j) for i, a in enumerate(times_s) for j, b in enumerate(others_s))
    rows, taken = {}, set()
    for gap_s, i, j in pairs:
        if gap_s <= max_dt and i not in rows and j not in taken:
            rows[i] = j
            taken.add(j)
    return rows


def test_it_agrees_with_a_sort_of_all_pairs():
    rng = np.random.default_rng(0)
    for _ in range(60):
        times_s, others_s = (np.sort(rng.uniform(0, 4, rng.integers(1, 25)).round(2)) for _ in range(2))
        others_s = np.append(others_s, 9.0)
        expected = slowly(times_s.tolist(), others_s.tolist(), 0.2)
        if expected:
            assert match(times_s, others_s, 0.2).rows == expected


def test_each_goes_with_one_and_the_nearer_picture_gets_it():
    matched = match([0.0, 1.0, 1.4], [0.1, 1.3, 9.0])
    assert matched.rows == {0: 0, 2: 1}
    assert matched.ties == []
    assert matched.told() == "poses.txt: 1 of 3 pictures have no pose of their own within data.max_dt=0.5 s: frame 1"
    assert matched.why_none(1) == (
        "poses.txt: no pose for frame 1 at 1.000000 s, the nearest, 0.300 s away, is that of frame 2, and each goes "
        "with one picture only"
    )
    assert match([0.0, 3.0], [0.1]).why_none(1).endswith("the nearest is 2.900 s away and data.max_dt=0.5")


@pytest.mark.parametrize(
    ("times_s", "others_s", "rows", "tied"),
    [
        ([1.0], [0.9, 1.1], {0: 0}, [0]),  # two rows are equally near
        ([0.9, 1.1], [1.0], {0: 0}, [1]),  # one row is equally near to two pictures
        ([0.0, 1.0], [0.1, 1.1], {0: 0, 1: 1}, []),
    ],
)
def test_ties_go_to_the_earlier_and_are_told(times_s, others_s, rows, tied):
    matched = match(times_s, others_s)
    assert (matched.rows, matched.ties) == (rows, tied)
    assert ("of equally near ones the earlier went with the earlier: frame" in matched.told()) == bool(tied)


def test_the_bound_itself_counts_at_times_since_1970():
    assert match([1305031102.175], [1305031102.180], 0.005).rows == {0: 0}
    with pytest.raises(ClocksError):
        match([1305031102.175], [1305031102.181], 0.005)


def test_clocks_that_never_meet_are_told():
    with pytest.raises(ClocksError) as caught:
        match([1.0, 2.0], [100.0, 200.0])
    assert str(caught.value) == (
        "poses.txt: no pose is within data.max_dt=0.5 s of a picture; pictures are from 1.000 to 2.000 s, these from "
        "100.000 to 200.000 s: another clock, or another unit?"
    )
    assert match([], [100.0]).rows == {}
