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


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_rows_of_panels_do_not_meet_and_are_read_line_by_line(rows):
    figure, axes = blank(rows=rows, dpi=100)
    fig.render(figure)
    assert len(axes) == 2 * rows
    boxes = [ax.get_window_extent() for ax in axes]
    for box in boxes:
        assert box.height / box.width == pytest.approx(0.75)
        assert box.width == pytest.approx(boxes[0].width)
    for left, right in zip(boxes[::2], boxes[1::2], strict=True):
        assert left.x1 < right.x0
        assert left.y0 == pytest.approx(right.y0)
    for above, below in zip(boxes[:-2:2], boxes[2::2], strict=True):
        assert above.y0 - below.y1 == pytest.approx(100 * (fig.GAP + fig.PANEL_TITLE))


@pytest.mark.parametrize(
    "title", ["scene", "a brown wooden chair beside the table · scene0000_00 · frame 1200", "w i " * 90]
)
@pytest.mark.parametrize("width_inches", [5, 10])
def test_a_title_stays_in_the_figure(title, width_inches):
    figure, _ = blank(title=title, width_inches=width_inches, dpi=100)
    fig.render(figure)
    written = figure.texts[0]
    assert written.get_window_extent().x1 <= 100 * width_inches
    assert fig.LEAST_TITLE_SIZE <= written.get_fontsize() <= 17
    assert written.get_text() == title or written.get_text().endswith("…")
    if title == "scene":
        assert written.get_fontsize() == 17


def test_a_color_bar_may_reach_down_over_all_rows():
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure, axes = blank(rows=3, side_inches=fig.COLOR_BAR, dpi=100)
    fig.color_bar(figure, axes[1], ScalarMappable(Normalize(0, 1), "viridis"), "cosine", lowest=axes[-1])
    fig.render(figure)
    bar = axes[1].child_axes[0].get_window_extent()
    assert bar.y1 == pytest.approx(axes[1].get_window_extent().y1)
    assert bar.y0 == pytest.approx(axes[-1].get_window_extent().y0)
    assert axes[1].get_tightbbox().x1 <= 800


@pytest.mark.parametrize("corners", [[], [(0, 0)], [(99, 74)], [(0, 0), (99, 74)]])
def test_a_mark_leaves_the_picture_where_it_is(corners):
    figure, axes = blank(dpi=100)
    fig.show_picture(axes[0], np.full((75, 100, 3), 128, np.uint8))
    before = axes[0].viewLim.bounds
    fig.mark(axes[0], np.reshape(np.array(corners, float), (-1, 2)))
    fig.render(figure)
    assert axes[0].viewLim.bounds == before
