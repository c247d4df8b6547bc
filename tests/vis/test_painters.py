from pathlib import Path

import numpy as np
import pytest

from clipfeat.vis import figure as fig
from clipfeat.vis import painters
from clipfeat.vis.painters import HeatmapPainter, PcaPainter, TsnePainter, draw_scatter, fit_scene_colors
from clipfeat.vis.pictures import SampledFrame

pytestmark = pytest.mark.filterwarnings("error")
CLASSES = np.random.default_rng(5).normal(size=(2, 16))
PAINTERS = [
    PcaPainter(40, "weights=random"),
    HeatmapPainter(40, "weights=random"),
    TsnePainter(40, "weights=random", 20, 10.0, 0),
]


def frame_of(frame_id, counts, size=(48, 72)):
    """A frame whose left half is of the first class and whose right half is of the second."""
    rng = np.random.default_rng(frame_id)
    height, width = size
    kinds = rng.permutation(np.repeat([0, 1], counts))
    u = rng.uniform(0, width / 2 - 1, len(kinds)) + kinds * width / 2
    features = CLASSES[kinds] + 0.02 * rng.normal(size=(len(kinds), 16))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return SampledFrame(
        frame_id=frame_id,
        thumbnail=np.full((height, width, 3), 128, np.uint8),
        directions=unit.astype(np.float16),
        uv=np.stack([u, rng.uniform(0, height - 1, len(kinds))], axis=1).astype(np.float32),
        path=Path(f"{frame_id}.png"),
    ), kinds


def test_a_class_has_one_color_in_all_frames_of_a_scene():
    (first, first_kinds), (second, second_kinds) = frame_of(0, (150, 150)), frame_of(1, (30, 200))
    colors_of = fit_scene_colors([first, second])
    a, b = colors_of.colors(first.directions), colors_of.colors(second.directions)
    for kind in (0, 1):
        np.testing.assert_allclose(a[first_kinds == kind].mean(axis=0), b[second_kinds == kind].mean(axis=0), atol=0.05)
    assert np.abs(a[first_kinds == 0].mean(axis=0) - a[first_kinds == 1].mean(axis=0)).max() > 0.5


def test_the_colors_are_fitted_to_all_frames():
    (first, _), (second, _) = frame_of(0, (150, 0)), frame_of(1, (0, 150))
    colors_of = fit_scene_colors([first, second])
    a, b = colors_of.colors(first.directions), colors_of.colors(second.directions)
    assert max(a.std(axis=0).max(), b.std(axis=0).max()) < 0.1
    assert np.abs(a.mean(axis=0) - b.mean(axis=0)).max() > 0.9


def test_the_two_classes_are_told_apart_in_the_pixels():
    pixels = next(PcaPainter(60, "").draw("scene", [frame_of(0, (400, 400), (240, 360))[0]])).astype(float)
    middle = len(pixels) // 2
    strip = pixels[middle - 20 : middle + 20]
    left, right = strip[:, 330:430].mean(axis=(0, 1)), strip[:, 480:580].mean(axis=(0, 1))
    assert np.abs(left - right).max() > 80


@pytest.mark.parametrize("painter", PAINTERS, ids=lambda p: type(p).__name__)
def test_a_picture_a_frame_of_the_stated_width(painter):
    frames = [frame_of(i, (30, 30))[0] for i in (4, 9)]
    pictures = list(painter.draw("scene", frames))
    assert len(pictures) == 2
    inches = 15 if isinstance(painter, TsnePainter) else 10
    assert {p.shape for p in pictures} == {(len(pictures[0]), inches * 40, 3)}
    assert not np.array_equal(*pictures)


@pytest.mark.parametrize("painter", PAINTERS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("counts", [(0,), (1,), (5,), (0, 0), (0, 1, 5, 40)])
def test_few_points(painter, counts):
    frames = [frame_of(i, (n // 2, n - n // 2))[0] for i, n in enumerate(counts)]
    assert len(list(painter.draw("scene", frames))) == len(frames)


@pytest.mark.parametrize("painter", PAINTERS, ids=lambda p: type(p).__name__)
def test_frames_without_points_say_so(painter, monkeypatch):
    said = []
    monkeypatch.setattr(fig, "say", lambda ax, text: said.append(text))
    frames = [frame_of(0, (9, 9))[0], frame_of(1, (0, 0))[0]]
    list(painter.draw("scene", frames))
    assert said == ["no visible points"] * (2 if isinstance(painter, TsnePainter) else 1)


@pytest.mark.parametrize("painter", PAINTERS, ids=lambda p: type(p).__name__)
def test_title_notes_and_weights_are_handed_on(painter, monkeypatch):
    seen = []
    new_figure = fig.new_figure
    monkeypatch.setattr(fig, "new_figure", lambda *args, **given: (seen.append(given), new_figure(*args, **given))[1])
    list(painter.draw("scene0000_00", [frame_of(i, (9, 9))[0] for i in (15, 21)]))
    assert [given["title"] for given in seen] == ["scene0000_00 · frame 15", "scene0000_00 · frame 21"]
    for given in seen:
        assert given["notes"][0].endswith("shared by the 2 frames of this scene")
        assert given["notes"][1] == "weights=random"
    list(painter.draw("scene0000_00", [frame_of(3, (9, 9))[0]]))
    assert seen[-1]["notes"][0].endswith("of this frame")


def test_one_embedding_a_scene_of_so_many_points_a_frame(monkeypatch):
    calls = []
    embed = painters.embed
    monkeypatch.setattr(painters, "embed", lambda x, *rest: (calls.append(len(x)), embed(x, *rest))[1])
    scattered = []
    monkeypatch.setattr(painters, "draw_scatter", lambda ax, xy, colors, own: scattered.append(np.flatnonzero(own)))
    frames = [frame_of(i, (n, n))[0] for i, n in enumerate((30, 5, 15))]
    list(TsnePainter(40, "", 20, 10.0, 0).draw("scene", frames))
    assert calls == [20 + 10 + 20]
    assert [own.tolist() for own in scattered] == [list(range(20)), list(range(20, 30)), list(range(30, 50))]


def test_this_frames_points_are_larger_and_stronger_than_the_others():
    _, axes = fig.new_figure(1, width_inches=4, dpi=50, aspect=1, title="", notes=("", ""))
    own = np.array([True, False, False])
    draw_scatter(axes[0], np.eye(3, 2, dtype=np.float32), np.tile(np.float32((1, 0, 0)), (3, 1)), own)
    others, this = axes[0].collections
    assert len(this.get_offsets()) == 1
    assert len(others.get_offsets()) == 2
    assert this.get_sizes()[0] > 2 * others.get_sizes()[0]
    np.testing.assert_allclose(this.get_facecolor()[0][:3], (1, 0, 0))
    np.testing.assert_allclose(others.get_facecolor()[0][:3], (1, 0.6, 0.6), atol=1e-6)
