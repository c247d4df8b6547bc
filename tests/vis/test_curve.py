import numpy as np
from PIL import Image

from clipfeat.vis.curve import draw_curve


def history(steps, falls):
    records = [{"step": i + 1, "loss": 3 - falls * i / steps} for i in range(steps)]
    records[-1] |= {"miou": 0.2, "accuracy": 0.6}
    return records


def picture(path, records):
    draw_curve(path, records, "both, 2 scenes held out", "weights=random")
    return np.asarray(Image.open(path).convert("L")).astype(int)


def test_the_curve_shows_the_loss_and_the_axes_have_numbers(tmp_path):
    falling, flat = picture(tmp_path / "a.png", history(50, 2)), picture(tmp_path / "b.png", history(50, 0))
    assert falling.shape == flat.shape
    left = np.s_[100:400, 60:540]
    # A falling line goes through most rows of its panel, a flat one through few.
    ink = [(image[left] < 80).any(1).mean() for image in (falling, flat)]
    assert ink[0] > 0.6
    assert ink[1] < 0.4
    numbers = falling[100:400, 560:600]
    assert (numbers < 120).sum() > 30


def test_one_step_is_a_curve_too(tmp_path):
    assert picture(tmp_path / "a.png", history(1, 0)).min() < 80
