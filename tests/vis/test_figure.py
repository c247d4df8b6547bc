import numpy as np
import pytest

from clipfeat.vis import figure as fig

pytestmark = pytest.mark.filterwarnings("error")


def blank(**changes):
    given = {"width_inches": 8, "dpi": 50, "aspect": 0.75, "title": "scene · frame 3", "notes": ("left", "right")}
    return fig.new_figure(2, **(given | changes))


def dark(pixels):
    return (pixels < 150).any(axis=2)


@pytest.mark.parametrize(("width_inches", "dpi"), [(8, 50), (10, 110), (15, 33)])
def test_the_width_is_inches_times_dpi(width_inches, dpi):
    pixels = fig.render(blank(width_inches=width_inches, dpi=dpi)[0])
    assert pixels.shape[1:] == (width_inches * dpi, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("aspect", [0.01, 0.75, 30.0])
def test_the_height_follows_the_panels_but_stays_on_a_slide(aspect):
    height, width = fig.render(blank(aspect=aspect)[0]).shape[:2]
    assert 0.2 * width < height < 1.3 * width


def test_panels_have_the_aspect_of_the_picture_and_no_ticks():
    figure, axes = blank()
    fig.render(figure)
    for ax in axes:
        box = ax.get_window_extent()
        assert box.height / box.width == pytest.approx(0.75)
        assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_notes_are_shown(side):
    plain = fig.render(blank(notes=("", ""))[0])
    noted = fig.render(blank(notes=("weights=random", "") if side == "left" else ("", "weights=random"))[0])
    rows, columns = np.nonzero(dark(noted) & ~dark(plain))
    assert len(rows) > 20
    assert rows.min() > 0.85 * len(plain)
    assert columns.max() < 200 if side == "left" else columns.min() > 200


def test_long_notes_do_not_meet():
    figure, _ = blank(notes=("m" * 90, "w" * 60), dpi=100)
    fig.render(figure)
    left, right = (t.get_window_extent() for t in figure.texts[1:])
    assert left.x0 >= 0
    assert right.x1 <= 800
    ordinary, _ = blank(
        notes=("PCA colours shared by the 50 frames of this scene", "ViT-B-16 · weights=" + "laion2b " * 9)
    )
    fig.render(ordinary)
    left, right = (t.get_window_extent() for t in ordinary.texts[1:])
    assert left.x1 < right.x0


def test_odd_letters_and_dollar_signs_neither_warn_nor_fail():
    assert fig.printable("é · 室 $x_1$") == "é · ? $x_1$"
    fig.render(blank(title="室$x^{2$ \N{ROCKET}", notes=("$\\frac{1}{", "x"))[0])


def test_a_picture_fills_its_panel():
    figure, axes = blank(dpi=100)
    fig.show_picture(axes[1], np.full((75, 100, 3), (200, 30, 30), np.uint8))
    pixels = fig.render(figure)
    box = axes[1].get_window_extent()
    red = (pixels == (200, 30, 30)).all(axis=2)
    assert red.sum() > 0.98 * box.width * box.height


def test_a_color_bar_stays_in_the_figure():
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure, axes = blank(side_inches=fig.COLOR_BAR, dpi=100)
    fig.color_bar(figure, axes[1], ScalarMappable(Normalize(-0.999, -0.991), "viridis"), "cosine")
    fig.render(figure)
    assert axes[1].get_tightbbox().x1 <= 800
