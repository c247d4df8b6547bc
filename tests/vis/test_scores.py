import numpy as np
import pytest

from clipfeat.vis import figure as fig
from clipfeat.vis.overlay import grey_of
from clipfeat.vis.scores import ScoredFrame, ScorePainter, painted_shades, score_rgb, score_shades

pytestmark = pytest.mark.filterwarnings("error")
NOTES = ("score: cosine", "ViT-B-16 · text · weights=random")
LIMITS = (0.2, 0.6)


def painter(prompt="a chair", dpi=50):
    return ScorePainter(prompt, LIMITS, "cosine", NOTES, dpi)


def frame_of(name="scene · frame 3", size=(120, 160), best=0.5, example=()):
    """A frame whose left half scores low and whose right half scores high."""
    height, width = size
    v, u = np.mgrid[0:height:2, 0:width:2]
    scores = np.where(u < width / 2, *LIMITS).ravel().astype(np.float32)
    thumbnail = np.random.default_rng(0).integers(60, 200, (height, width, 3), dtype=np.uint8)
    painted = painter().paint(thumbnail, np.stack([u.ravel(), v.ravel()], axis=1), scores)
    return ScoredFrame(name, thumbnail, painted, best, np.reshape(np.array(example, float), (-1, 2)))


def test_what_scores_high_takes_the_color_of_the_bar_and_what_scores_low_stays_a_picture():
    frame = frame_of()
    grey = 255 * grey_of(frame.thumbnail)
    low, high = score_rgb(np.array(LIMITS), LIMITS).astype(float)
    np.testing.assert_allclose(frame.painted[:, :70], (0.9 * grey + 0.1 * low)[:, :70], atol=2)
    np.testing.assert_allclose(frame.painted[:, 90:], (0.1 * grey + 0.9 * high)[:, 90:], atol=2)


def test_scores_beyond_the_limits_have_the_colors_of_the_ends():
    rgb = score_rgb(np.array([-1, 0.2, 0.4, 0.6, 0.9]), LIMITS)
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb[[0, 4]], rgb[[1, 3]])
    assert len(np.unique(rgb, axis=0)) == 3


def test_a_heat_map_shows_the_picture_and_its_scores():
    frame = frame_of()
    pixels = painter(dpi=100).heat_map(frame)
    assert pixels.shape[1:] == (1000, 3)
    row = pixels[len(pixels) // 2].astype(float)
    yellow = (row[:, 0] > 180) & (row[:, 2] < 120)
    assert not yellow[:650].any()  # the picture, and the half of the scores that is low
    assert yellow[690:870].all()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7])
def test_a_sheet_has_three_columns_at_most_and_as_many_rows_as_it_needs(count):
    frames = [frame_of(f"scene · frame {i}") for i in range(count)]
    pixels = painter().sheet(frames)
    columns = min(count, 3)
    assert pixels.shape[1] == {1: 250, 2: 425, 3: 600}[columns]
    panel = (pixels.shape[1] / 50 - fig.COLOR_BAR - 2 * fig.MARGIN - (columns - 1) * fig.GAP) / columns * 0.75
    rows = -(-count // 3)
    expected = fig.TITLE + fig.FOOTER + rows * (panel + fig.PANEL_TITLE) + (rows - 1) * fig.GAP
    assert len(pixels) == pytest.approx(50 * expected, abs=1)


def test_a_sheet_shows_its_frames_in_order_and_leaves_the_rest_white(monkeypatch):
    shown, titled = [], []
    monkeypatch.setattr(fig, "show_picture", lambda ax, picture: shown.append(picture))
    monkeypatch.setattr(fig, "panel_title", lambda ax, text: titled.append(text))
    frames = [frame_of(f"scene · frame {i}", best=0.9 - i / 10) for i in range(4)]
    pixels = painter().sheet(frames)
    assert all(a is b.painted for a, b in zip(shown, frames, strict=True))
    assert titled == [f"scene · frame {i} · {0.9 - i / 10:.3f}" for i in range(4)]
    assert (pixels[len(pixels) * 3 // 4, 220:540] == 255).all()


def test_prompt_score_and_weights_are_written(monkeypatch):
    seen = []
    new_figure = fig.new_figure
    monkeypatch.setattr(fig, "new_figure", lambda *args, **given: (seen.append(given), new_figure(*args, **given))[1])
    painter().heat_map(frame_of())
    painter().sheet([frame_of()])
    assert [given["title"] for given in seen] == ["a chair · scene · frame 3", "a chair"]
    assert all(given["notes"] == NOTES for given in seen)


@pytest.mark.parametrize("example", [(80, 60), (20, 20, 70, 90)])
def test_the_place_of_an_example_is_marked(example):
    plain, marked = painter(dpi=100).heat_map(frame_of()), painter(dpi=100).heat_map(frame_of(example=example))
    rows, columns = np.nonzero((plain != marked).any(axis=2))
    assert len(rows) > 100
    # In both panels, around the place: a panel is 430.5 pixels wide.
    scale, left, top = 430.5 / 160, 10, 80
    for offset in (left, left + 444.5):
        u = (columns[(columns > offset) & (columns < offset + 430.5)] - offset) / scale
        assert u.min() == pytest.approx(example[0] - (0 if len(example) == 4 else 4), abs=3)
        assert u.max() == pytest.approx(example[-2] + (0 if len(example) == 4 else 4), abs=3)
    v = (rows - top) / scale
    assert v.min() == pytest.approx(example[1] - (0 if len(example) == 4 else 4), abs=3)


def test_a_prompt_of_any_length_and_letters_can_be_drawn():
    for prompt in ("x", "a chair " * 60, "椅子 $x^{2$", "\N{ROCKET}"):
        painter(prompt).sheet([frame_of()])


def test_the_colour_bar_shows_colours_as_they_look_over_the_picture():
    bar, shades = painted_shades((0.2, 0.6)), score_shades((0.2, 0.6))
    low, high = bar.to_rgba([0.2, 0.6])[:, :3]
    np.testing.assert_allclose(low, 0.1 * np.array(shades.to_rgba(0.2)[:3]) + 0.9 * np.full(3, 0.6), atol=0.01)
    np.testing.assert_allclose(high, 0.9 * np.array(shades.to_rgba(0.6)[:3]) + 0.1 * np.full(3, 0.6), atol=0.01)
