import pytest

from clipfeat.evaluate.table import _apart, advice


def test_names_beside_the_plot_keep_apart_and_move_no_more_than_they_must():
    assert _apart([0.1, 0.5, 0.9], 0.1) == [0.1, 0.5, 0.9]
    assert _apart([0.3, 0.3, 0.32], 0.1) == pytest.approx([0.3, 0.4, 0.5])
    assert _apart([0.2, 0.97, 0.98, 1.0], 0.1) == pytest.approx([0.2, 0.8, 0.9, 1.0])
    assert _apart([1.0] * 5, 0.25) == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert _apart([], 0.1) == []


def row(name, miou, *, megabytes=0.3, rate=2.0, zero_shot=None, offered=True):
    return {
        "candidate": name, "offered": offered, "weights": "laion2b", "linear_miou": {"value": miou},
        "zero_shot_miou": None if zero_shot is None else {"value": zero_shot}, "map_bytes": megabytes * 1e6,
        "frames_per_s": rate,
    }  # fmt: skip


def test_the_advice_is_what_to_use_when():
    assert advice([row("none", 0.3), row("quarter", 0.1, megabytes=0.1)]) == "Use none (mIoU 0.300)."
    rows = [
        row("none", 0.295, rate=3), row("tinysa256", 0.5, megabytes=0.01, rate=9, offered=False),
        row("none+input336", 0.3, megabytes=0.7), row("text", 0.291, megabytes=0.2, zero_shot=0.1),
        row("text+naclip", 0.2, zero_shot=0.15), row("proj128", 0.289, megabytes=0.1),
    ]  # fmt: skip
    assert advice(rows) == (
        "Best by the linear probe: tinysa256 (mIoU 0.500), which clipfeat-extract does not offer. "
        "Use none+input336 (mIoU 0.300). Where bytes matter, text (mIoU 0.291): 0.20 MB a frame. "
        "Where time matters, none (mIoU 0.295): 3.00 frames/s. For texts, text+naclip (zero-shot mIoU 0.150)."
    )
    assert advice([row("none", None)]) == "Nothing can be said: no held-out point has a class."
