import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from clipfeat.vis.page import (  # fmt: skip
    PICTURE_SIDE,
    Bar,
    Markup,
    bar_chart,
    folded,
    histogram,
    joined,
    page,
    pairs,
    picture,
    section,
    table,
    tag,
)

NASTY = "</td><script>alert('x')</script>&\"\x00\ud800\n2"
SAFE = "&lt;/td&gt;&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&amp;&quot;?? 2"


def test_text_is_escaped_and_markup_is_not():
    assert tag("td", NASTY) == f"<td>{SAFE}</td>"
    assert tag("p", tag("b", 3), " & ", Markup("<i>x</i>")) == "<p><b>3</b> &amp; <i>x</i></p>"
    assert joined(["<", Markup("<p>")]) == "&lt;\n<p>"


def test_attributes_are_escaped_and_those_of_none_left_out():
    assert tag("img", alt=NASTY, class_="a", aria_label=None) == f'<img alt="{SAFE}" class="a">'


@pytest.mark.parametrize(
    "made",
    [
        lambda text: bar_chart([Bar(text, 1, text)]),
        lambda text: folded(text, tag("p", text)),
        lambda text: pairs([(text, text)], "tiles"),
        lambda text: picture(np.zeros((2, 2, 3), np.uint8), text, text),
        lambda text: section(text, text),
        lambda text: table([text], [[text, text]]),
        lambda text: page(text, text),
    ],
)
def test_no_text_gets_anywhere_unescaped(made):
    assert "<script" in NASTY
    assert "<script" not in made(NASTY)
    assert SAFE in made(NASTY)


def test_very_long_text_loses_its_middle():
    assert len(tag("p", "a" * 100_000)) < 1100


def test_bars_are_as_long_as_their_values():
    bars = [Bar("a", 2, "2 s"), Bar("b", 1, "1 s", low=True), Bar("c", 0, "0 s")]
    assert re.findall(r'rect width="([\d.]+)%"', bar_chart(bars)) == ["100.00", "50.00", "0.00"]
    assert re.findall(r'rect width="([\d.]+)%"', bar_chart(bars, 4)) == ["50.00", "25.00", "0.00"]
    assert bar_chart(bars).count('class="low"') == 1
    assert "width" not in bar_chart([])
    assert 'width="0.00%"' in bar_chart(bars[2:])


def test_a_histogram_counts_and_marks_the_low_parts():
    drawn = histogram([0.0, 0.05, 0.55, 0.6, 0.65, 0.99, 1.0, 1.0], bins=10, low=0.6)
    assert 'aria-label="2 from 0 %, 1 from 50 %, 2 from 60 %, 3 from 90 %"' in drawn
    heights = re.findall(r'height="([\d.]+)%"( class="low")?', drawn)
    assert [float(h) for h, _ in heights] == pytest.approx([160 / 3, 0, 0, 0, 0, 80 / 3, 160 / 3, 0, 0, 80], abs=0.01)
    assert [bool(low) for _, low in heights] == [True] * 6 + [False] * 4
    assert 'aria-label="empty"' in histogram([], bins=10, low=0.6)


@pytest.mark.parametrize("size", [(900, 300), (300, 900), (60, 40)])
def test_a_picture_lies_in_the_page_and_is_small(size):
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    made = picture(image, "a · frame 0", "./a/vis_0.png")
    shown = Image.open(BytesIO(b64decode(re.search(r"data:image/jpeg;base64,([^\"]+)", made)[1])))
    scale = min(1, PICTURE_SIDE / max(size))
    assert shown.size == (round(size[0] * scale), round(size[1] * scale))
    assert f'width="{shown.width}" height="{shown.height}"' in made
    assert 'href="./a/vis_0.png"' in made


class Tags(HTMLParser):
    """Fails where a tag is closed that is not open."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_page_is_whole_and_lets_nothing_in():
    content = section("A", table(["s", "n"], [["a", 1]]), folded("more", tag("p", "x"))) + section("B", Markup())
    tags = Tags()
    tags.feed(page("t", Markup(content)))
    assert tags.open == []
    names = [name for name, _ in tags.seen]
    assert names[:3] == ["html", "head", "meta"]
    assert names.count("h2") == 1  # a part without content has no heading
    policy = next(a["content"] for _, a in tags.seen if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "url(" not in page("t")
    assert "@import" not in page("t")


def test_one_long_bar_does_not_flatten_the_others():
    chart = bar_chart([Bar("model", 400.0, "400 s"), Bar("read", 10.0, "10 s"), Bar("write", 5.0, "5 s")])
    assert re.findall(r'width="([0-9.]+)%"', chart) == ["100.00", "50.00", "25.00"]
    assert ">400 s, cut short<" in chart
    chart = bar_chart([Bar("model", 40.0, "40 s"), Bar("read", 10.0, "10 s")])
    assert re.findall(r'width="([0-9.]+)%"', chart) == ["100.00", "25.00"]
    assert "cut short" not in chart
