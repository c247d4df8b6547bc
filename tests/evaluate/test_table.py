from itertools import combinations

import numpy as np
import pytest

from clipfeat.evaluate.table import _apart, advice, brief, uncrossed


def test_names_beside_the_plot_keep_apart_and_move_no_more_than_they_must():
    assert _apart([0.1, 0.5, 0.9], 0.1) == [0.1, 0.5, 0.9]
    assert _apart([0.3, 0.3, 0.32], 0.1) == pytest.approx([0.3, 0.4, 0.5])
    assert _apart([0.2, 0.97, 0.98, 1.0], 0.1) == pytest.approx([0.2, 0.8, 0.9, 1.0])
    assert _apart([1.0] * 5, 0.25) == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert _apart([], 0.1) == []


def cross(one, other):
    (a, b), (c, d) = one, other

    def side(p, q, r):
        return np.sign((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


@pytest.mark.parametrize("seed", range(5))
def test_no_line_to_a_name_crosses_another(seed):
    places = np.random.default_rng(seed).random((20, 2))
    heights = np.linspace(0, 1, 20).tolist()
    found = uncrossed(places, heights)
    assert sorted(found) == heights
    lines = [(place, (1.04, height)) for place, height in zip(places, found, strict=True)]
    assert not any(cross(one, other) for one, other in combinations(lines, 2))


def row(name, miou, *, megabytes=0.3, rate=2.0, zero_shot=None, offered=True, ahead=None):
    """``ahead``: of the first candidate, with the ends of its interval."""
    return {
        "linear_miou_minus_first": ahead and dict(zip(("value", "low", "high"), ahead, strict=True)),
        "candidate": name, "offered": offered, "weights": "laion2b", "linear_miou": {"value": miou},
        "zero_shot_miou": None if zero_shot is None else {"value": zero_shot}, "map_bytes": megabytes * 1e6,
        "frames_per_s": rate,
    }  # fmt: skip


def test_the_advice_is_what_to_use_when():
    assert advice([row("none", 0.3), row("quarter", 0.1, megabytes=0.1)]) == "Use none (mIoU 0.300)."
    rows = [
        row("none", 0.295, rate=3), row("tinysa256", 0.5, megabytes=0.01, rate=9, offered=False),
        row("none+input336", 0.3, megabytes=0.7, ahead=(0.005, 0.001, 0.01)),
        row("text", 0.291, megabytes=0.2, zero_shot=0.1),
        row("text+naclip", 0.2, zero_shot=0.15), row("proj128", 0.289, megabytes=0.1),
    ]  # fmt: skip
    assert advice(rows) == (
        "Best by the linear probe: tinysa256 (mIoU 0.500), which clipfeat-extract does not offer. "
        "Use none+input336 (mIoU 0.300). Where bytes matter, text (mIoU 0.291): 0.20 MB a frame. "
        "Where time matters, none (mIoU 0.295): 3.00 frames/s. For texts, text+naclip (zero-shot mIoU 0.150)."
    )
    rows[2] = row("none+input336", 0.3, megabytes=0.7, ahead=(0.005, -0.001, 0.01))
    assert advice(rows) == (
        "Best by the linear probe: tinysa256 (mIoU 0.500), which clipfeat-extract does not offer. "
        "Nothing beats none clearly: none+input336 (mIoU 0.300) is ahead by +0.005 [-0.001, +0.010]. "
        "Use none (mIoU 0.295). Where bytes matter, proj128 (mIoU 0.289): 0.10 MB a frame. "
        "For texts, text+naclip (zero-shot mIoU 0.150)."
    )
    assert advice([row("none", None)]) == "Nothing can be said: no held-out point has a class."


def test_a_terminal_gets_few_columns_that_stand_below_each_other():
    rows = [
        row("none", 0.3, ahead=(0.0, 0.0, 0.0)) | {"neighbours_miou": {"value": 0.2}},
        row("text+naclip", 0.35, ahead=(0.05, -0.01, 0.1)) | {"neighbours_miou": None},
    ]
    for one in rows:
        one["linear_miou"] |= {"low": one["linear_miou"]["value"] - 0.02, "high": 0.4}
    assert brief(rows) == (
        "candidate    linear mIoU           more than none           kNN mIoU  MB a frame  frames/s\n"
        "none         0.300 [0.280, 0.400]  +0.000 [+0.000, +0.000]  0.200     0.30        2.00\n"
        "text+naclip  0.350 [0.330, 0.400]  +0.050 [-0.010, +0.100]  –         0.30        2.00\n\n"
        "Nothing beats none clearly: text+naclip (mIoU 0.350) is ahead by +0.050 [-0.010, +0.100]. Use none\n"
        "(mIoU 0.300)."
    )
